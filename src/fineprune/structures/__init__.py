"""Which weights are pruned together."""

from .across_matrices import EmbeddingColumns, Heads, HiddenFeatures, Layers, Neurons, Together
from .base import Structure
from .within_matrix import Blocks, Columns, NofM, Rows, Unstructured

__all__ = [
    "Blocks",
    "Columns",
    "EmbeddingColumns",
    "Heads",
    "HiddenFeatures",
    "Layers",
    "Neurons",
    "NofM",
    "Rows",
    "Structure",
    "Together",
    "Unstructured",
]
