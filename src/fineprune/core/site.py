"""A site: the weights that share one tensor of scores."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..distributed.process_group import ProcessGroup
from ..scores.base import Scores
from ..structures.base import Structure
from .weight import Weight

SPREAD = math.sqrt(math.pi / 2 - 1)
"""Standard deviation of abs(W) over its mean, where W is normally distributed."""


@dataclass
class Site:
    """The weights that share one tensor of scores: one matrix, or several whose groups are linked.

    Args:
        grouping: how each weight is divided into groups, each into the same number.
        scores: S and its optimizer; None where S is the magnitude of the weights at each step.
        key: the name under which its scores are saved.
    """

    grouping: dict[Weight, Structure]
    scores: Scores | None
    key: str
    mask: Tensor = field(init=False)
    """M of each group."""

    @property
    def weights(self) -> list[Weight]:
        return list(self.grouping)

    @property
    def name(self) -> str:
        return self.weights[0].name

    @property
    def kind(self) -> str:
        """The same for its like in other blocks: its name without numbers, and its groups."""
        return f"{re.sub(r'[0-9]+', '*', self.name)}, {self.groups} of {self.size}"

    @property
    def learns(self) -> bool:
        """Whether its scores have a gradient."""
        return self.scores is not None and self.scores.learns

    def value(self) -> Tensor:
        """S; not to be changed, since it may be the stored tensor."""
        assert self.scores is not None
        return self.scores.value(self.stretched_magnitude)

    @property
    def shape(self) -> torch.Size:
        """The shape of its scores, over all processes."""
        weight, structure = next(iter(self.grouping.items()))
        return structure.groups(weight.parameter.shape)

    def whole(self, processes: ProcessGroup) -> "Site":
        """Returns the site with the dense weights of all processes, from which scores are initialised."""
        grouping = {
            Weight(w.name, w.parameter, processes.joined(w.dense.to(w.held.device)), w.base_rate): structure
            for w, structure in self.grouping.items()
        }
        return Site(grouping, None, self.key)

    @property
    def rows(self) -> slice:
        """Which rows of the scores this process holds."""
        weight, structure = next(iter(self.grouping.items()))
        return slice(self.rows_before, self.rows_before + structure.groups(weight.dense.shape)[0])

    @property
    def rows_before(self) -> int:
        """How many rows of its scores other processes hold before those of this one."""
        weight, structure = next(iter(self.grouping.items()))
        before = torch.Size([weight.rows_before, *weight.parameter.shape[1:]])
        return structure.groups(before)[0] if weight.rows_before else 0

    @property
    def groups(self) -> int:
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Weights per group, over all its matrices."""
        return sum(weight.parameter.numel() for weight in self.grouping) // self.groups

    def flops(self, tokens: int) -> int:
        """Operations per group, for each token of a text of this many tokens."""
        return sum(structure.flops(weight.parameter.shape, tokens) for weight, structure in self.grouping.items())

    def expand(self, mask: Tensor) -> dict[Weight, Tensor]:
        """Returns for each weight the M of its group."""
        expanded = {weight: structure.expand(mask, weight.dense.shape) for weight, structure in self.grouping.items()}
        return {weight: each if each.dtype is torch.bool else each.to(weight.dense.dtype) for weight, each in expanded.items()}

    def restore(self) -> None:
        """Writes W into the parameters."""
        for weight in self.grouping:
            weight.held.copy_(weight.dense)

    def magnitude(self) -> Tensor:
        """Each group's magnitude, from the dense weights."""
        if len(self.grouping) == 1:
            ((weight, structure),) = self.grouping.items()
            return structure.magnitude(weight.wide())
        squares = [structure.reduce(weight.wide().square()) for weight, structure in self.grouping.items()]
        return (torch.stack(squares).sum(0) / self.size).sqrt()

    def stretched_magnitude(self) -> Tensor:
        """Each group's magnitude, spread about its mean as single weights are.

        The norms of groups lie close together, the closer the larger the groups. Scores initialised from them as they are would
        be overturned by the first steps of movement.
        """
        magnitude = self.magnitude()
        if self.size == 1 or self.groups == 1:
            return magnitude
        mean, deviation = magnitude.mean(), magnitude.std()
        return mean + (magnitude - mean) * (SPREAD * mean / deviation).nan_to_num(1.0, posinf=1.0)

    def movement(self, others: Sequence["Site"] = ()) -> Tensor | None:
        """The sum of G * W over each group; None if no gradient has reached the site.

        Where other sites share its weights, W is masked by them: W * (their M).
        """
        sums = []
        for weight, structure in self.grouping.items():
            movement = weight.movement()
            if movement is not None:
                for other in others:
                    if weight in other.grouping:
                        movement *= other.grouping[weight].expand(other.mask, weight.dense.shape)
                sums.append(structure.reduce(movement))
        return sum(sums[1:], start=sums[0]) if sums else None

    def surviving(self, masks: Mapping[Weight, Tensor]) -> Tensor | None:
        """Which groups keep a weight under masks of some weights; None where no weight of it is masked."""
        surviving = [
            structure.reduce(masks[weight].to(weight.score_dtype()))
            for weight, structure in self.grouping.items()
            if weight in masks
        ]
        return torch.stack(surviving).sum(0) > 0 if surviving else None

    def tensors(self) -> dict[str, Tensor]:
        """The tensors to save: W of each weight, S and its optimizer's moments."""
        saved = {f"dense.{weight.name}": weight.dense for weight in self.grouping}
        for name, tensor in {} if self.scores is None else self.scores.tensors().items():
            kind, _, rest = name.partition(".")
            saved[f"{kind}.{self.key}{rest and '.'}{rest}"] = tensor
        return saved
