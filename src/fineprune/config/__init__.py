"""What a user asks for: method, density, structure, schedule, budget, scores."""

from .budgets import InFlops, InWeights
from .config import PruningConfig, Rule
from .schedules import CubicSchedule, Schedule

__all__ = ["CubicSchedule", "InFlops", "InWeights", "PruningConfig", "Rule", "Schedule"]
