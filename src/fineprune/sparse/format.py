"""A sparse matrix in memory: the entries that it keeps, and their values."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import InvalidInputError

MOST_COLS = 1 << 16
"""A column's number is held in two bytes."""

LARGEST_INT8 = 127


@dataclass(frozen=True)
class Float32:
    """Values in float32, 4 bytes each."""

    dtype = torch.float32


@dataclass(frozen=True)
class BFloat16:
    """Values rounded to the nearest bfloat16, in 2 bytes."""

    dtype = torch.bfloat16


@dataclass(frozen=True)
class Int8:
    """Values as whole numbers from -127 to 127, in 1 byte, times one float32 scale for each row: its largest value / 127."""

    dtype = torch.int8


Values = Float32 | BFloat16 | Int8
"""How the values of a sparse matrix are stored."""

Activations = Float32 | BFloat16
"""How the inputs of its products are stored."""


@dataclass(frozen=True, eq=False)
class SparseMatrix:
    """A matrix of which only some entries are stored, row by row, or by groups of rows that keep the same columns.

    Args:
        rows, cols: its shape.
        starts: where each group of rows starts among the entries, and where the last one ends; int64, groups + 1.
        columns: of each entry, rising within a group; uint16.
        values: entries x rows of a group; float32, bfloat16 or int8. Rows beyond the last one of the matrix are 0.
        scales: of each row, float32; for int8 values only.
    """

    rows: int
    cols: int
    starts: Tensor
    columns: Tensor
    values: Tensor
    scales: Tensor | None = None

    @property
    def together(self) -> int:
        """Rows of a group."""
        return self.values.shape[1]

    @property
    def density(self) -> float:
        """Stored values other than 0 / all entries."""
        return int(self.values.count_nonzero()) / max(self.rows * self.cols, 1)

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        tensors = [self.starts, self.columns, self.values, *([] if self.scales is None else [self.scales])]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    @classmethod
    def from_dense(cls, dense: Tensor, values: Values | None = None) -> "SparseMatrix":
        """Stores the entries of a matrix that are not 0. Multiplying by a mask can leave -0.0; `to_dense` gives +0.0 there.

        Args:
            dense: rows x cols, floating point, on the CPU.
            values: how they are stored; None: `Float32()`.

        Raises:
            InvalidInputError: if it is no matrix, has more than 65,536 columns, or NaN or infinite values.
        """
        if dense.ndim != 2 or not dense.is_floating_point() or dense.shape[1] > MOST_COLS:
            raise InvalidInputError(
                f"A sparse matrix must be made of a floating-point matrix with at most {MOST_COLS:,} columns, got a tensor of "
                f"shape {tuple(dense.shape)} of {dense.dtype}."
            )
        dense = dense.detach().to(torch.float32)
        if not bool(dense.isfinite().all()):
            raise InvalidInputError(
                "A sparse matrix must have finite values, got NaN or infinite ones. Find their cause first."
            )
        row, column = (dense != 0).nonzero(as_tuple=True)
        scales = row_scales(dense) if isinstance(values, Int8) else None
        kept = dense[row, column] if scales is None else (dense[row, column] / scales[row]).round()
        stored = kept.to(torch.float32 if values is None else values.dtype)
        columns = torch.from_numpy(column.numpy().astype(np.uint16))
        rows, cols = dense.shape
        return cls(rows, cols, starts_of(row, rows), columns, stored[:, None], scales)

    def kept(self) -> tuple[Tensor, Tensor]:
        """Returns the group and the column of each entry, int64."""
        groups = torch.repeat_interleave(torch.arange(len(self.starts) - 1), self.starts.diff())
        return groups, torch.from_numpy(self.columns.numpy().astype(np.int64))

    def grouped(self, together: int) -> "SparseMatrix":
        """Returns the same matrix, stored by groups of that number of rows: a column that one of them keeps is stored for all.

        It must be stored row by row.
        """
        assert self.together == 1
        row, column = self.kept()
        groups = -(-self.rows // together)
        places, entry = torch.unique(row // together * self.cols + column, return_inverse=True)
        values = torch.zeros(len(places), together, dtype=self.values.dtype)
        values[entry, row % together] = self.values[:, 0]
        columns = torch.from_numpy((places % max(self.cols, 1)).numpy().astype(np.uint16))
        starts = starts_of(places // max(self.cols, 1), groups)
        return SparseMatrix(self.rows, self.cols, starts, columns, values, self.scales)

    def to_dense(self) -> Tensor:
        """Returns the matrix with its zeros, float32: the one that it was made from, if the values are float32."""
        group, column = self.kept()
        grouped = torch.zeros(len(self.starts) - 1, self.together, self.cols, dtype=torch.float32)
        grouped[group, :, column] = self.values.to(torch.float32)
        dense = grouped.flatten(0, 1)[: self.rows]
        return dense if self.scales is None else dense * self.scales[:, None]


def starts_of(group: Tensor, groups: int) -> Tensor:
    """Returns where each group starts among entries that are sorted by it, and where the last one ends."""
    starts = torch.zeros(groups + 1, dtype=torch.int64)
    torch.cumsum(torch.bincount(group, minlength=groups), 0, out=starts[1:])
    return starts


def row_scales(dense: Tensor) -> Tensor:
    """Returns for each row its largest magnitude / 127, or 1 for a row of zeros; float32."""
    largest = dense.abs().amax(dim=1) if dense.shape[1] else torch.zeros(dense.shape[0])
    scales = largest / LARGEST_INT8
    return torch.where(scales > 0, scales, 1.0)  # the smallest magnitudes underflow to 0
