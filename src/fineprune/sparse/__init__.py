"""The CPU runtime: models whose weights are mostly zero, run without multiplying by the zeros."""

from .converting import to_dense, to_sparse
from .format import BFloat16, Float32, Int8

__all__ = ["BFloat16", "Float32", "Int8", "to_dense", "to_sparse"]
