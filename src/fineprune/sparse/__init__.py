"""The CPU runtime: products with sparse matrices, compiled by numba."""

from .convert import to_dense, to_sparse
from .format import BFloat16, Float32, Int8

__all__ = ["BFloat16", "Float32", "Int8", "to_dense", "to_sparse"]
