"""The settings of pruning: method, density, structure, schedule, budget and the storage of scores."""

from .budgets import InFlops, InWeights
from .config import PruningConfig, Rule
from .schedules import CubicSchedule, Schedule

__all__ = ["CubicSchedule", "InFlops", "InWeights", "PruningConfig", "Rule", "Schedule"]
