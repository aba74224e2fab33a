"""Matrices as records for compiled code: sizes and addresses, and the arrays behind them kept alive."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InvalidInputError
from .format import BFloat16, Float32, SparseMatrix
from .kernels.matmul import MATRIX, PIECES
from .kernels.simd import BYTES, ROWS_TOGETHER

Array = NDArray[np.generic]

Activations = Float32 | BFloat16
"""How the inputs of the products are stored."""

ROW_COST = 4
"""The cost of a row beside its entries, counted in entries."""


def inputs_like(activations: Activations) -> Array:
    """Returns an array of the type that inputs are stored in; bfloat16 ones are pairs in 32 bits."""
    return np.empty(0, np.uint32 if isinstance(activations, BFloat16) else np.float32)


def buffer(size: int, activations: Activations) -> Tensor:
    """Returns a buffer for `size` inputs. PyTorch's memory begins at a cache line, which speeds up vectors."""
    kind = torch.int32 if isinstance(activations, BFloat16) else torch.float32
    return torch.empty(max(size // step(activations), 1), dtype=kind, device="cpu")


def step(activations: Activations) -> int:
    """Returns how many vectors are counted together."""
    return 2 if isinstance(activations, BFloat16) else 1


def vector_bytes(activations: Activations) -> int:
    """Returns the bytes of a vector of inputs."""
    return BYTES // step(activations)


class MatrixRecord:
    """A matrix and its bias, and their record for the kernels.

    A deep copy gets addresses of its own.

    Args:
        weight: the matrix.
        bias: of each row, or None.
        bands: into how many its columns are cut.

    Raises:
        InvalidInputError: if the kernels cannot compute that number of rows together, or the bias has another length.
    """

    def __init__(self, weight: SparseMatrix, bias: Tensor | None, bands: int = 1) -> None:
        if weight.together not in (1, ROWS_TOGETHER) or (bias is not None and bias.shape != (weight.rows,)):
            raise InvalidInputError(
                f"Rows must be stored 1 or {ROWS_TOGETHER} together, and a bias must have one number for each row; got "
                f"{weight.rows} rows, {weight.together} together, and a bias of {None if bias is None else tuple(bias.shape)}. "
                f"Store the matrix by `SparseMatrix.from_dense(dense)` or `.grouped({ROWS_TOGETHER})`."
            )
        self.weight, self.bias, self.bands = weight, bias, bands
        groups, together = len(weight.starts) - 1, weight.together
        self.scales = _padded(weight.scales, groups * together, 1.0)
        self.biases = _padded(bias, groups * together, 0.0)
        self.zeros = torch.zeros_like(self.biases)
        self.starts, self.cuts = banded(weight, bands), cut(weight)
        arrays = (self.starts, weight.columns, weight.values, self.scales, self.biases, self.zeros, self.cuts)
        self.record = np.array([(weight.rows, together, bands, *(address(array) for array in arrays))], dtype=MATRIX)

    def __reduce__(self) -> tuple[type["MatrixRecord"], tuple[SparseMatrix, Tensor | None, int]]:
        return MatrixRecord, (self.weight, self.bias, self.bands)


def _padded(given: Tensor | None, size: int, neutral: float) -> Tensor:
    padded = torch.full((size,), neutral, dtype=torch.float32, device="cpu")
    if given is not None:
        padded[: len(given)] = given.detach()
    return padded


def address(array: Tensor | Array) -> int:
    """Returns where the numbers of a contiguous array begin."""
    if isinstance(array, Tensor):
        assert array.is_contiguous()
        return array.data_ptr()
    return array.ctypes.data


def banded(weight: SparseMatrix, bands: int) -> Tensor:
    """Returns where the entries of each band of each group begin, and where the last ones end; int64, groups * bands + 1."""
    if bands == 1:
        return weight.starts
    group, column = weight.kept()
    band = torch.div(column * bands, max(weight.cols, 1), rounding_mode="floor")
    counts = torch.bincount(group * bands + band, minlength=(len(weight.starts) - 1) * bands)
    return torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])


def cut(weight: SparseMatrix) -> Tensor:
    """Returns the groups where pieces of about the same cost begin, and the end; int64, PIECES + 1."""
    groups = len(weight.starts) - 1
    costs = weight.starts[1:] + ROW_COST * torch.arange(1, groups + 1)
    cuts = torch.zeros(PIECES + 1, dtype=torch.int64)
    if groups:
        cuts[1:] = torch.searchsorted(costs, costs[-1] * torch.arange(1, PIECES + 1) // PIECES)
    cuts[-1] = groups
    return cuts
