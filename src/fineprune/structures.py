"""Which weights fall together: cutting a weight into groups that share one score."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


class Structure(ABC):
    """Cuts a weight into groups. A new structure is a frozen dataclass that says how to sum over
    its groups and how to spread a value per group back over the weight."""

    @abstractmethod
    def groups(self, shape: torch.Size) -> torch.Size:
        """Returns the shape of the scores of a weight of this shape: one entry a group."""

    @abstractmethod
    def reduce(self, tensor: Tensor) -> Tensor:
        """Sums a tensor of the weight's shape over each group."""

    @abstractmethod
    def expand(self, groups: Tensor, shape: torch.Size) -> Tensor:
        """Gives each weight of `shape` the value of its group."""

    def size(self, shape: torch.Size) -> int:
        """Returns how many weights of this shape one group holds."""
        return math.prod(shape) // math.prod(self.groups(shape))

    def magnitude(self, weight: Tensor) -> Tensor:
        """Returns each group's L2 norm over the square root of its size."""
        return (self.reduce(weight.square()) / self.size(weight.shape)).sqrt()

    def link(self, model: nn.Module, weights: Mapping[str, Tensor]) -> list[dict[str, "Structure"]]:
        """Shares the weights out into sites: the weights of one site have one tensor of scores.

        Returns, for each site, the name of each of its weights with the cut of that weight. By
        default each weight is a site of its own; a structure that spans several matrices (the
        heads of an attention block, say) puts them into one site and cuts each its own way, all
        with the same number of groups.
        """
        return [{name: self} for name in weights]


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
