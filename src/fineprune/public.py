"""Every public name, `fineprune.Pruner` and its siblings: loaded when the first of them is used, as they need PyTorch."""

from .compress.loading import from_pretrained, load
from .compress.shrinking.shrink import shrink
from .compress.vocabulary.select import select_vocabulary
from .config.budgets import InFlops, InWeights
from .config.config import PruningConfig, Rule
from .config.schedules import CubicSchedule, Schedule
from .distillation import Distillation
from .errors import FileError, FinepruneError, InvalidInputError, MissingExtraError, TrainingError
from .masks.apply import AppliedMask, apply_mask
from .methods.base import LearnedMethod, Method, PenalisedMethod, StochasticMethod
from .methods.group_lasso import GroupLasso
from .methods.inits import Constant, FromMagnitude, KaimingUniform, ScoreInit, Uniform
from .methods.l0 import L0
from .methods.magnitude import Magnitude, Random
from .methods.movement import Movement, SoftMovement
from .models.inspection import Inspection, inspect
from .pruner.pruner import Pruner
from .scores.bfloat16 import BFloat16Scores
from .scores.full import FullScores
from .scores.low_rank import LowRankScores
from .sparse.convert import to_dense, to_sparse
from .sparse.format import BFloat16, Float32, Int8
from .structures.across_matrices import EmbeddingColumns, Heads, HiddenFeatures, Layers, Neurons, Together
from .structures.base import Structure
from .structures.within_matrix import Blocks, Columns, NofM, Rows, Unstructured
from .version import VERSION

__version__ = VERSION

__all__ = [
    "L0",
    "AppliedMask",
    "BFloat16",
    "BFloat16Scores",
    "Blocks",
    "Columns",
    "Constant",
    "CubicSchedule",
    "Distillation",
    "EmbeddingColumns",
    "FileError",
    "FinepruneError",
    "Float32",
    "FromMagnitude",
    "FullScores",
    "GroupLasso",
    "Heads",
    "HiddenFeatures",
    "InFlops",
    "InWeights",
    "Inspection",
    "Int8",
    "InvalidInputError",
    "KaimingUniform",
    "Layers",
    "LearnedMethod",
    "LowRankScores",
    "Magnitude",
    "Method",
    "MissingExtraError",
    "Movement",
    "Neurons",
    "NofM",
    "PenalisedMethod",
    "Pruner",
    "PruningConfig",
    "Random",
    "Rows",
    "Rule",
    "Schedule",
    "ScoreInit",
    "SoftMovement",
    "StochasticMethod",
    "Structure",
    "Together",
    "TrainingError",
    "Uniform",
    "Unstructured",
    "__version__",
    "apply_mask",
    "from_pretrained",
    "inspect",
    "load",
    "select_vocabulary",
    "shrink",
    "to_dense",
    "to_sparse",
]
