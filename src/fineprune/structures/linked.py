"""The base of structures whose groups span several matrices, and how each of these is divided."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..errors import InvalidInputError, enumeration
from ..models import targets
from ..models.targets import Patterns
from .base import Grouping, Structure


class Runs(Structure):
    """A group is a run of neighbours along one axis; in a fused matrix, the same run of each of its parts.

    Args:
        axis: 0 for output features, 1 for input features.
        width: neighbours in a run.
        parts: equal parts of the axis.
        per_weight: operations for each weight and token: 2 in a linear layer, 0 in a bias or a table.
        attending: features of a run that attend to every token.
    """

    def __init__(self, axis: int, width: int = 1, parts: int = 1, per_weight: int = 2, attending: int = 0) -> None:
        self.axis, self.width, self.parts = axis, width, parts
        self.per_weight, self.attending = per_weight, attending

    def groups(self, shape: torch.Size) -> torch.Size:
        return torch.Size([shape[self.axis] // (self.width * self.parts)])

    def reduce(self, tensor: Tensor) -> Tensor:
        shape = tensor.shape
        parted = tensor.reshape(*shape[: self.axis], self.parts, -1, self.width, *shape[self.axis + 1 :])
        return parted.sum([axis for axis in range(parted.dim()) if axis != self.axis + 1])

    def expand(self, groups: Tensor, shape: torch.Size) -> Tensor:
        line = groups.repeat_interleave(self.width).repeat(self.parts)
        return line.view([-1 if axis == self.axis else 1 for axis in range(len(shape))]).expand(shape)

    def flops(self, shape: torch.Size, tokens: int) -> int:
        return self.per_weight * self.size(shape) + 4 * tokens * self.attending  # q k' and the sum over values


class Whole(Structure):
    """The parameter as a whole belongs to one of several groups.

    Args:
        place: which.
        groups: of how many.
    """

    def __init__(self, place: int, groups: int) -> None:
        self.place, self.of = place, groups

    def groups(self, shape: torch.Size) -> torch.Size:
        return torch.Size([self.of])

    def reduce(self, tensor: Tensor) -> Tensor:
        return nn.functional.pad(tensor.sum().view(1), (self.place, self.of - self.place - 1))

    def expand(self, groups: Tensor, shape: torch.Size) -> Tensor:
        return groups[self.place].expand(shape)


class Linked(Structure):
    """A structure whose groups span several matrices. A new one returns from `sites` which parameters share their scores."""

    linked: ClassVar[bool] = True

    @abstractmethod
    def sites(self, model: nn.Module) -> list[Grouping]:
        """Returns the grouping of each site of a model.

        Raises:
            InvalidInputError: for a model that has no such groups, or whose architecture is not known.
        """

    def find(
        self, model: nn.Module, target_modules: Patterns | None, exclude_modules: Patterns | None
    ) -> dict[str, nn.Parameter]:
        """Returns the parameters of the sites all of whose modules are targets.

        Raises:
            InvalidInputError: if some modules of a site are targets and others are not, or nothing is left.
        """
        parameters = dict(model.named_parameters())
        sites = [list(grouping) for grouping in self.sites(model)]
        modules = {name.rpartition(".")[0] for names in sites for name in names}
        if target_modules is not None:
            targets.check_matched(target_modules, modules, kind=f"module that {self} takes")
        if exclude_modules is not None:  # which may be meant for other rules
            targets.check_matched(exclude_modules, {name.rpartition(".")[0] for name in parameters})
        shared = [name for names in sites for name in names if name not in parameters]
        if shared:
            raise InvalidInputError(
                f"{enumeration(shared)} is shared with another layer under another name, so a group of one cannot be pruned "
                f"alone. {self} takes models whose layers have weights of their own."
            )
        kept = [name for names in sites if self._chosen(names, target_modules, exclude_modules) for name in names]
        if not kept:
            why = "the model has none left" if not sites else f"exclude_modules={exclude_modules!r} takes away all of {self}"
            raise InvalidInputError(f"Nothing is left to prune: {why}.")
        frozen = [name for name in kept if not parameters[name].requires_grad]
        if frozen:
            raise InvalidInputError(
                f"{self} takes {enumeration(frozen)}, frozen (requires_grad=False). Unfreeze them, or leave their sites out "
                "with exclude_modules."
            )
        return {name: parameters[name] for name in kept}

    def _chosen(self, names: list[str], target: Patterns | None, exclude: Patterns | None) -> bool:
        modules = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
        chosen = [
            module
            for module in modules
            if (target is None or targets.matches(module, target)) and (exclude is None or not targets.matches(module, exclude))
        ]
        if chosen and len(chosen) < len(modules):
            raise InvalidInputError(
                f"{self} links {enumeration(modules, most=8)}, and only {enumeration(chosen)} would be pruned. Name all "
                "of them in target_modules or exclude_modules, or none."
            )
        return bool(chosen)

    def link(self, model: nn.Module, weights: Mapping[str, Tensor]) -> list[Grouping]:
        return [grouping for grouping in self.sites(model) if set(grouping) <= set(weights)]

    def groups(self, shape: torch.Size) -> torch.Size:
        raise NotImplementedError(f"{self} groups no weight by itself: link() returns the grouping of each.")

    def reduce(self, tensor: Tensor) -> Tensor:
        raise NotImplementedError(f"{self} groups no weight by itself: link() returns the grouping of each.")

    def expand(self, groups: Tensor, shape: torch.Size) -> Tensor:
        raise NotImplementedError(f"{self} groups no weight by itself: link() returns the grouping of each.")
