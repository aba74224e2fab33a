"""Which weights fall together: cutting a weight into groups that share one score."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from . import targets
from .errors import InvalidInputError
from .layers import is_transposed
from .selection import Select, SelectNofM


class Structure(ABC):
    """Cuts a weight into groups. A new structure is a frozen dataclass that says how to sum over
    its groups and how to spread a value per group back over the weight.

    A weight is outputs x inputs (x height x width for a convolution).
    """

    linked: ClassVar[bool] = False
    """Whether its groups span several matrices, so that a whole one can be taken out of the model."""

    @abstractmethod
    def groups(self, shape: torch.Size) -> torch.Size:
        """Returns the shape of the scores of a weight of this shape: one entry a group.

        Raises InvalidInputError if a weight of this shape cannot be cut so.
        """

    @abstractmethod
    def reduce(self, tensor: Tensor) -> Tensor:
        """Sums a tensor of the weight's shape over each group."""

    @abstractmethod
    def expand(self, groups: Tensor, shape: torch.Size) -> Tensor:
        """Gives each weight of `shape` the value of its group."""

    def size(self, shape: torch.Size) -> int:
        """Returns how many weights of this shape one group holds."""
        return math.prod(shape) // max(1, math.prod(self.groups(shape)))  # a process may hold none

    def magnitude(self, weight: Tensor) -> Tensor:
        """Returns each group's L2 norm over the square root of its size."""
        return (self.reduce(weight.square()) / self.size(weight.shape)).sqrt()

    def flops(self, shape: torch.Size, tokens: int) -> int:
        """Returns the floating-point operations that one group takes for each token of a text of so many tokens."""
        return 2 * self.size(shape)

    def density(self) -> float | None:
        """Returns the density that the structure fixes by itself; None where it is free."""
        return None

    def find(
        self, model: nn.Module, target_modules: list[str] | str | None, exclude_modules: list[str] | str | None
    ) -> dict[str, nn.Parameter]:
        """Returns the parameters that it cuts, by name: here what `targets.find` does."""
        return targets.find(model, target_modules, exclude_modules)

    def select(self, scope: Select) -> Select:
        """Returns what chooses the groups to keep: here the scope."""
        return scope

    def link(self, model: nn.Module, weights: Mapping[str, Tensor]) -> list[dict[str, "Structure"]]:
        """Shares the weights out into sites: the weights of one site have one tensor of scores.

        Returns, for each site, the name of each of its weights with the cut of that weight. By
        default each weight is a site of its own, cut the same way for a layer that keeps its weight
        transposed; a structure that spans several matrices (the heads of an attention block, say)
        puts them into one site and cuts each its own way, all with the same number of groups.
        """
        owners = {f"{name}.weight": module for name, module in model.named_modules()}
        return [{name: Transposed(self) if is_transposed(owners.get(name, model)) else self} for name in weights]


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

    def link(self, model: nn.Module, weights: Mapping[str, Tensor]) -> list[dict[str, Structure]]:
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
            _refuse_unless_count(self, name, getattr(self, name))

    def groups(self, shape: torch.Size) -> torch.Size:
        if len(shape) != 2 or shape[0] % self.rows or shape[1] % self.cols:
            raise InvalidInputError(
                f"Blocks({self.rows}, {self.cols}) do not fill a weight of shape {_shape(shape)}: it takes a matrix whose "
                f"rows are a multiple of {self.rows} and whose columns are one of {self.cols}. Choose blocks that divide it, "
                "or leave it out with exclude_modules."
            )
        return torch.Size([shape[0] // self.rows, shape[1] // self.cols])

    def reduce(self, tensor: Tensor) -> Tensor:
        rows, cols = tensor.shape
        return tensor.reshape(rows // self.rows, self.rows, cols // self.cols, self.cols).sum((1, 3))

    def expand(self, groups: Tensor, shape: torch.Size) -> Tensor:
        spread = groups[:, None, :, None].expand(groups.shape[0], self.rows, groups.shape[1], self.cols)
        return spread.reshape(shape)


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
    hardware multiplies fast: 2 of 4 on recent GPUs. The scope has no say.

    Args:
        n: how many are kept, below m.
        m: neighbours among the inputs. The row must be made of whole runs of m.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        for name in ("n", "m"):
            _refuse_unless_count(self, name, getattr(self, name))
        if self.n >= self.m:
            raise InvalidInputError(f"NofM was given n={self.n} and m={self.m}; n is below m, as NofM(2, 4).")

    def density(self) -> float:
        return self.n / self.m

    def groups(self, shape: torch.Size) -> torch.Size:
        if len(shape) != 2 or shape[1] % self.m:
            raise InvalidInputError(
                f"NofM({self.n}, {self.m}) does not fit a weight of shape {_shape(shape)}: it takes a matrix whose columns "
                f"are a multiple of {self.m}. Leave it out with exclude_modules."
            )
        return shape

    def select(self, scope: Select) -> Select:
        return SelectNofM(scope.scope, scope.kinds, scope.ranks, self.n, self.m)

    def link(self, model: nn.Module, weights: Mapping[str, Tensor]) -> list[dict[str, Structure]]:
        return Structure.link(self, model, weights)


class Transposed(Structure):
    """Cuts a weight that lies as inputs x outputs as its transpose would be cut."""

    def __init__(self, structure: Structure) -> None:
        self.structure = structure

    def groups(self, shape: torch.Size) -> torch.Size:
        return self.structure.groups(torch.Size(reversed(shape)))

    def reduce(self, tensor: Tensor) -> Tensor:
        return self.structure.reduce(tensor.t())

    def expand(self, groups: Tensor, shape: torch.Size) -> Tensor:
        return self.structure.expand(groups, torch.Size(reversed(shape))).t()

    def magnitude(self, weight: Tensor) -> Tensor:
        return self.structure.magnitude(weight.t())

    def flops(self, shape: torch.Size, tokens: int) -> int:
        return self.structure.flops(torch.Size(reversed(shape)), tokens)


def _refuse_unless_count(owner: object, name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidInputError(f"{type(owner).__name__} was given {name}={value!r}; it takes a number of weights, 1 or more.")


def _shape(shape: torch.Size) -> str:
    return " x ".join(map(str, shape))
