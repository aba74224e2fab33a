"""Structures whose groups lie within one weight."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..errors import InvalidInputError
from ..selection.scopes import Select, SelectNofM
from .base import Grouping, Structure


@dataclass(frozen=True)
class Unstructured(Structure):
    """Each weight is a group of its own."""

    def groups(self, shape: torch.Size) -> torch.Size:
        return shape

    def reduce(self, tensor: Tensor) -> Tensor:
        return tensor

    def expand(self, groups: Tensor, shape: torch.Size) -> Tensor:
        return groups

    def magnitude(self, weight: Tensor) -> Tensor:
        return weight.abs()

    def link(self, model: nn.Module, weights: Mapping[str, Tensor]) -> list[Grouping]:
        return [{name: self} for name in weights]


@dataclass(frozen=True)
class Blocks(Structure):
    """Rectangles of `rows` x `cols` weights of a matrix. The matrix must be made of whole ones.

    Args:
        rows: output features in a block.
        cols: input features in a block.
    """

    rows: int
    cols: int

    def __post_init__(self) -> None:
        for name in ("rows", "cols"):
            _check_count(self, name, getattr(self, name))

    def groups(self, shape: torch.Size) -> torch.Size:
        if len(shape) != 2 or shape[0] % self.rows or shape[1] % self.cols:
            raise InvalidInputError(
                f"Blocks({self.rows}, {self.cols}) do not fill a weight of shape {_text(shape)}: this must be a matrix whose "
                f"rows are a multiple of {self.rows} and whose columns are one of {self.cols}. Choose blocks that divide it, "
                "or leave it out with exclude_modules."
            )
        return torch.Size([shape[0] // self.rows, shape[1] // self.cols])

    def reduce(self, tensor: Tensor) -> Tensor:
        rows, cols = tensor.shape
        return tensor.reshape(rows // self.rows, self.rows, cols // self.cols, self.cols).sum((1, 3))

    def expand(self, groups: Tensor, shape: torch.Size) -> Tensor:
        return groups[:, None, :, None].expand(-1, self.rows, -1, self.cols).reshape(shape)


class _Slices(Structure):
    """All weights with the same index along one axis."""

    axis: ClassVar[int]

    def groups(self, shape: torch.Size) -> torch.Size:
        return shape[self.axis : self.axis + 1]

    def reduce(self, tensor: Tensor) -> Tensor:
        return tensor.sum([axis for axis in range(tensor.dim()) if axis != self.axis])

    def expand(self, groups: Tensor, shape: torch.Size) -> Tensor:
        return groups.view([-1 if axis == self.axis else 1 for axis in range(len(shape))]).expand(shape)


@dataclass(frozen=True)
class Rows(_Slices):
    """All weights of one output feature: a row of a matrix, a filter of a convolution."""

    axis: ClassVar[int] = 0


@dataclass(frozen=True)
class Columns(_Slices):
    """All weights of one input feature: a column of a matrix, an input channel of a convolution."""

    axis: ClassVar[int] = 1


@dataclass(frozen=True)
class NofM(Unstructured):
    """Single weights, of which n are kept out of every m neighbours in a row; n / m is the density.

    While the schedule falls from 1 to n / m at value v, floor(v * m) of every m are kept. Fits what
    hardware multiplies fast: 2 of 4 on recent GPUs. The scope has no effect.

    Args:
        n: how many are kept, below m.
        m: neighbours among the inputs. The row must be made of whole runs of m.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        for name in ("n", "m"):
            _check_count(self, name, getattr(self, name))
        if self.n >= self.m:
            raise InvalidInputError(f"n must be below m, as in NofM(2, 4), got NofM({self.n}, {self.m}).")

    def density(self) -> float:
        return self.n / self.m

    def groups(self, shape: torch.Size) -> torch.Size:
        if len(shape) != 2 or shape[1] % self.m:
            raise InvalidInputError(
                f"NofM({self.n}, {self.m}) does not fit a weight of shape {_text(shape)}: this must be a matrix whose columns "
                f"are a multiple of {self.m}. Leave it out with exclude_modules."
            )
        return shape

    def select(self, scope: Select) -> Select:
        return SelectNofM(scope.scope, scope.kinds, scope.processes, self.n, self.m)

    def link(self, model: nn.Module, weights: Mapping[str, Tensor]) -> list[Grouping]:
        return Structure.link(self, model, weights)


def _check_count(owner: object, name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidInputError(f"{name} of {type(owner).__name__} must be a whole number from 1, got {value!r}.")


def _text(shape: torch.Size) -> str:
    return " x ".join(map(str, shape))
