"""fineprune: prune a transformer while you fine-tune it (movement pruning, Sanh, Wolf & Rush 2020)."""

from .budgets import InFlops, InWeights
from .config import PruningConfig, Rule
from .distillation import Distillation
from .errors import FileError, FinepruneError, InvalidInputError, MissingExtraError, TrainingError
from .inspection import Inspection, inspect
from .linked import EmbeddingColumns, Heads, HiddenFeatures, Layers, Neurons, Together
from .low_rank import LowRankScores
from .masks import AppliedMask, apply_mask
from .methods import L0, Constant, FromMagnitude, KaimingUniform, Magnitude, Movement, Random, SoftMovement, Uniform
from .packing import load
from .proximal import GroupLasso
from .pruner import Pruner
from .rounded import BFloat16Scores
from .schedules import CubicSchedule
from .scores import FullScores
from .shrinking import from_pretrained, shrink
from .sparse import BFloat16, Float32, Int8, to_dense, to_sparse
from .structures import Blocks, Columns, NofM, Rows, Unstructured
from .version import VERSION
from .vocabulary import select_vocabulary

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
    "LowRankScores",
    "Magnitude",
    "MissingExtraError",
    "Movement",
    "Neurons",
    "NofM",
    "Pruner",
    "PruningConfig",
    "Random",
    "Rows",
    "Rule",
    "SoftMovement",
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
