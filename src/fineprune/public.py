"""Every public name, `fineprune.Pruner` and its siblings: loaded when the first of them is used, as they need PyTorch."""

from .compress.loading import from_pretrained, load
from .compress.shrinking.shrink import shrink
from .compress.vocabulary.select import select_vocabulary
from .config import CubicSchedule, InFlops, InWeights, PruningConfig, Rule, Schedule
from .distillation import Distillation
from .errors import FileError, FinepruneError, InvalidInputError, MissingExtraError, TrainingError
from .masks import AppliedMask, apply_mask
from .methods import (
    L0,
    Constant,
    FromMagnitude,
    GroupLasso,
    KaimingUniform,
    LearnedMethod,
    Magnitude,
    Method,
    Movement,
    PenalisedMethod,
    Random,
    ScoreInit,
    SoftMovement,
    StochasticMethod,
    Uniform,
)
from .models.inspection import Inspection, inspect
from .pruner import Pruner
from .scores import BFloat16Scores, FullScores, LowRankScores
from .sparse import BFloat16, Float32, Int8, to_dense, to_sparse
from .structures import (
    Blocks,
    Columns,
    EmbeddingColumns,
    Heads,
    HiddenFeatures,
    Layers,
    Neurons,
    NofM,
    Rows,
    Structure,
    Together,
    Unstructured,
)
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
