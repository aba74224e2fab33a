"""Pruned parameters and the scores they share: what a pruner holds for each of them."""

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
        cuts: how each weight is cut into groups, all into as many.
        scores: S and what makes it learn; None where it is made anew from the weights at each step.
        key: what its scores are saved under.
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
        """What it shares with its like in other blocks: its name without numbers, and its groups."""
        return f"{re.sub(r'[0-9]+', '*', self.name)}, {self.groups} of {self.size}"

    @property
    def learns(self) -> bool:
        """Whether its scores have a gradient."""
        return self.scores is not None and self.scores.learns

    def value(self) -> Tensor:
        """S; may be what is kept, so not to be changed."""
        assert self.scores is not None
        return self.scores.value(self.stretched_magnitude)

    @property
    def shape(self) -> torch.Size:
        """The shape of its scores, on all processes together."""
        weight, cut = next(iter(self.grouping.items()))
        return cut.groups(weight.parameter.shape)

    def whole(self, processes: ProcessGroup) -> "Site":
        """Returns the site with the dense weights of all processes, for what must be known of the whole before training."""
        grouping = {
            Weight(w.name, w.parameter, processes.joined(w.dense.to(w.held.device)), w.base_rate): cut
            for w, cut in self.grouping.items()
        }
        return Site(grouping, None, self.key)

    @property
    def rows(self) -> slice:
        """Which rows of the scores this process holds."""
        weight, cut = next(iter(self.grouping.items()))
        return slice(self.rows_before, self.rows_before + cut.groups(weight.dense.shape)[0])

    @property
    def rows_before(self) -> int:
        """How many rows of its scores other processes hold before those of this one."""
        weight, cut = next(iter(self.grouping.items()))
        before = torch.Size([weight.rows_before, *weight.parameter.shape[1:]])
        return cut.groups(before)[0] if weight.rows_before else 0

    @property
    def groups(self) -> int:
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Weights per group, over all its matrices."""
        return sum(weight.parameter.numel() for weight in self.grouping) // self.groups

    def flops(self, tokens: int) -> int:
        """Operations per group, for each token of a text of so many tokens."""
        return sum(cut.flops(weight.parameter.shape, tokens) for weight, cut in self.grouping.items())

    def spread(self, mask: Tensor) -> dict[Weight, Tensor]:
        """Gives each weight its group's M."""
        spread = {weight: cut.expand(mask, weight.dense.shape) for weight, cut in self.grouping.items()}
        return {weight: each if each.dtype is torch.bool else each.to(weight.dense.dtype) for weight, each in spread.items()}

    def restore(self) -> None:
        """Lets the parameters hold W."""
        for weight in self.grouping:
            weight.held.copy_(weight.dense)

    def magnitude(self) -> Tensor:
        """Each group's magnitude, from the dense weights."""
        if len(self.grouping) == 1:
            ((weight, cut),) = self.grouping.items()
            return cut.magnitude(weight.wide())
        squares = [cut.reduce(weight.wide().square()) for weight, cut in self.grouping.items()]
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

        Where other sites hold some of its weights too, W is what their masks leave of it: W' = W * M * (their M).
        """
        sums = []
        for weight, cut in self.grouping.items():
            movement = weight.movement()
            if movement is not None:
                for other in others:
                    if weight in other.grouping:
                        movement *= other.grouping[weight].expand(other.mask, weight.dense.shape)
                sums.append(cut.reduce(movement))
        return sum(sums[1:], start=sums[0]) if sums else None

    def surviving(self, masks: Mapping[Weight, Tensor]) -> Tensor | None:
        """Which groups have a weight left under masks of some weights; None where none of its weights is masked."""
        surviving = [
            cut.reduce(masks[weight].to(weight.score_dtype())) for weight, cut in self.grouping.items() if weight in masks
        ]
        return torch.stack(surviving).sum(0) > 0 if surviving else None

    def tensors(self) -> dict[str, Tensor]:
        """What must be saved: W of each weight, S and its optimizer's moments."""
        saved = {f"dense.{weight.name}": weight.dense for weight in self.grouping}
        for name, tensor in {} if self.scores is None else self.scores.tensors().items():
            kind, _, rest = name.partition(".")
            saved[f"{kind}.{self.key}{rest and '.'}{rest}"] = tensor
        return saved
