"""The base of all structures: how the weights of one or several parameters are divided into groups."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..models import targets
from ..models.layers import is_transposed
from ..models.targets import Patterns
from ..selection.scopes import Select


class Structure(ABC):
    """Divides a weight into groups that are pruned together.

    A new structure is a frozen dataclass that sums over its groups, and gives each weight the value of its group. A weight is
    outputs x inputs (x height x width for a convolution).
    """

    linked: ClassVar[bool] = False
    """Whether its groups span several matrices, so that whole ones can be removed from the model."""

    @abstractmethod
    def groups(self, shape: torch.Size) -> torch.Size:
        """Returns the shape of the scores of a weight of this shape: one entry a group.

        Raises:
            InvalidInputError: if the groups do not fit a weight of this shape.
        """

    @abstractmethod
    def reduce(self, tensor: Tensor) -> Tensor:
        """Sums a tensor of the weight's shape over each group."""

    @abstractmethod
    def expand(self, groups: Tensor, shape: torch.Size) -> Tensor:
        """Gives each weight of `shape` the value of its group."""

    def size(self, shape: torch.Size) -> int:
        """Returns how many entries of a weight of this shape one group holds."""
        return math.prod(shape) // max(1, math.prod(self.groups(shape)))  # a process may hold none

    def magnitude(self, weight: Tensor) -> Tensor:
        """Returns each group's L2 norm over the square root of its size."""
        return (self.reduce(weight.square()) / self.size(weight.shape)).sqrt()

    def flops(self, shape: torch.Size, tokens: int) -> int:
        """Returns the floating-point operations that one group takes for each token of a text of this many tokens."""
        return 2 * self.size(shape)

    def density(self) -> float | None:
        """Returns the density that the structure fixes by itself; None where it is free."""
        return None

    def find(
        self, model: nn.Module, target_modules: Patterns | None, exclude_modules: Patterns | None
    ) -> dict[str, nn.Parameter]:
        """Returns the parameters that it prunes, by name: here those of `targets.find`."""
        return targets.find(model, target_modules, exclude_modules)

    def select(self, scope: Select) -> Select:
        """Returns the rule that chooses the groups to keep: here the scope's."""
        return scope

    def link(self, model: nn.Module, weights: Mapping[str, Tensor]) -> "list[Grouping]":
        """Divides the weights into sites; the weights of one site share one tensor of scores.

        Here each weight is a site of its own, grouped in the same way where a layer keeps it transposed. A structure that
        spans several matrices, as the heads of an attention, puts them into one site.

        Returns:
            The grouping of each site.
        """
        owners = {f"{name}.weight": module for name, module in model.named_modules()}
        return [{name: Transposed(self) if is_transposed(owners.get(name, model)) else self} for name in weights]


Grouping = dict[str, Structure]
"""Name of each weight of a site -> how it is divided into groups: all into the same number."""


class Transposed(Structure):
    """Groups a weight that lies as inputs x outputs as its transpose would be grouped."""

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
