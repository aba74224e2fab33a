"""fineprune: prune a transformer while you fine-tune it (movement pruning, Sanh, Wolf & Rush 2020)."""

from .config import PruningConfig
from .errors import FileError, FinepruneError, InvalidInputError, MissingExtraError, TrainingError
from .inspection import Inspection, inspect
from .methods import Constant, FromMagnitude, KaimingUniform, Magnitude, Movement, Random, Uniform
from .pruner import Pruner
from .schedules import CubicSchedule
from .structures import Unstructured

__all__ = [
    "Constant",
    "CubicSchedule",
    "FileError",
    "FinepruneError",
    "FromMagnitude",
    "Inspection",
    "InvalidInputError",
    "KaimingUniform",
    "Magnitude",
    "MissingExtraError",
    "Movement",
    "Pruner",
    "PruningConfig",
    "Random",
    "TrainingError",
    "Uniform",
    "Unstructured",
    "inspect",
]
