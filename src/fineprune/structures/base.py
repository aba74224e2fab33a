"""Which weights are pruned together: what a structure answers."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..models import targets
from ..models.layers import is_transposed
from ..selection.scopes import Select


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


def _shape(shape: torch.Size) -> str:
    return " x ".join(map(str, shape))
