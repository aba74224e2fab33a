"""Pruned parameters and the scores they share: what a pruner holds for each of them."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .ranks import Ranks, local
from .scores import Scores
from .structures import Structure

PROBE = 64
"""How many values of each weight are compared at each step to notice a change that PyTorch does not count."""

SPREAD = math.sqrt(math.pi / 2 - 1)
"""Standard deviation of abs(W) over its mean, where W is normally distributed."""

INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def zero_where_pruned(tensor: Tensor, mask: Tensor) -> None:
    """Sets a tensor to +0.0 where the mask is False, in place, as tensor.masked_fill_(~mask, 0.0) does.

    The bits are and-ed with all ones or all zeros, which is faster on a CPU (benchmarks/primitives.py).
    """
    integer = INTEGERS[tensor.element_size()]
    tensor.detach().view(integer).bitwise_and_(mask.to(integer).neg_())


def times_mask(tensor: Tensor, mask: Tensor) -> None:
    """Multiplies a tensor by M in place, with +0.0 where M is 0."""
    if mask.dtype is torch.bool:
        zero_where_pruned(tensor, mask)
    else:
        tensor.detach().mul_(mask).add_(0.0)  # -0.0 + 0.0 is +0.0


def both(first: Tensor, second: Tensor) -> Tensor:
    """Returns what two masks of the same weights keep together."""
    return first & second if first.dtype is second.dtype is torch.bool else first * second


@dataclass(eq=False)
class Weight:
    """One pruned parameter p, its dense weight W and its mask M. Between steps p = W * M.

    Where processes share the parameter out by rows, W, M and the gradient are those of the rows that this one holds.

    Args:
        name: in `named_parameters`.
        parameter: p, a DTensor where it is sharded.
        dense: W.
        base_rate: the learning rate of p before any scheduling.
        rows_before: how many rows other processes hold before those of this one.
        frozen: whether it stays as it is, and only scores learn.
    """

    name: str
    parameter: nn.Parameter
    dense: Tensor
    base_rate: float
    rows_before: int = 0
    frozen: bool = False
    mask: Tensor = field(init=False)
    version: tuple[int, int] = field(init=False)

    @property
    def held(self) -> Tensor:
        """What this process holds of the parameter."""
        return local(self.parameter)

    @property
    def gradient(self) -> Tensor | None:
        """What this process holds of the parameter's gradient."""
        return None if self.parameter.grad is None else local(self.parameter.grad)

    @property
    def rows(self) -> slice:
        """Which rows of the whole this process holds."""
        return slice(self.rows_before, self.rows_before + len(self.dense))

    def score_dtype(self) -> torch.dtype:
        """Scores are float32 for weights of lower precision."""
        return torch.promote_types(self.parameter.dtype, torch.float32)

    def wide(self) -> Tensor:
        """W in the scores' precision, where the parameter lies."""
        return self.dense.to(self.held.device, self.score_dtype())

    def movement(self) -> Tensor | None:
        """G * W, in the scores' precision; None without a gradient."""
        gradient, dtype = self.gradient, self.score_dtype()
        return None if gradient is None else gradient.to(dtype) * self.wide()

    def effective(self, mask: Tensor) -> Tensor:
        """W' = W * M, with +0.0 where pruned."""
        held = self.dense.to(mask.device, copy=True)
        times_mask(held, mask)
        return held

    def take_step(self) -> None:
        """Lets W be what the optimiser has made of it; a frozen weight stays, whatever that is."""
        if self.frozen:
            self.held.copy_(self.dense)
        else:
            self.dense.copy_(self.held)

    def end_gradient(self) -> None:
        """Leaves G * M to the optimiser; of a frozen weight nothing, so that it has no moments for it either."""
        if self.frozen:
            self.parameter.grad = None
        elif self.gradient is not None:
            times_mask(self.gradient, self.mask)

    def apply(self, mask: Tensor) -> None:
        """Lets the parameter, which holds W, hold W' = W * M, in place."""
        self.mask = mask
        times_mask(self.held, mask)
        self.version = self.current_version()

    def current_version(self) -> tuple[int, int]:
        """PyTorch counts the in-place changes of a tensor; its address tells when `.data` was replaced."""
        return self.held._version, self.held.data_ptr()

    def probe(self) -> Tensor:
        """A few values, spread over the parameter."""
        held = self.held.detach().flatten()
        return held[:: max(1, held.numel() // PROBE)]

    def was_changed(self) -> bool:
        """Whether the parameter holds anything but W * M."""
        held, expected = self.held, self.effective(self.mask)
        return (held.dtype, held.device) != (expected.dtype, expected.device) or not torch.equal(held, expected)


@dataclass
class Site:
    """The weights that share one tensor of scores: one matrix, or several whose groups are linked.

    Args:
        cuts: how each weight is cut into groups, all into as many.
        scores: S and what makes it learn; None where it is made anew from the weights at each step.
        key: what its scores are saved under.
    """

    cuts: dict[Weight, Structure]
    scores: Scores | None
    key: str
    mask: Tensor = field(init=False)
    """M of each group."""

    @property
    def weights(self) -> list[Weight]:
        return list(self.cuts)

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
        weight, cut = next(iter(self.cuts.items()))
        return cut.groups(weight.parameter.shape)

    def whole(self, ranks: Ranks) -> "Site":
        """Returns the site with the dense weights of all processes, for what must be known of the whole before training."""
        cuts = {
            Weight(w.name, w.parameter, ranks.joined(w.dense.to(w.held.device)), w.base_rate): cut
            for w, cut in self.cuts.items()
        }
        return Site(cuts, None, self.key)

    @property
    def rows(self) -> slice:
        """Which rows of the scores this process holds."""
        weight, cut = next(iter(self.cuts.items()))
        return slice(self.rows_before, self.rows_before + cut.groups(weight.dense.shape)[0])

    @property
    def rows_before(self) -> int:
        """How many rows of its scores other processes hold before those of this one."""
        weight, cut = next(iter(self.cuts.items()))
        before = torch.Size([weight.rows_before, *weight.parameter.shape[1:]])
        return cut.groups(before)[0] if weight.rows_before else 0

    @property
    def groups(self) -> int:
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Weights per group, over all its matrices."""
        return sum(weight.parameter.numel() for weight in self.cuts) // self.groups

    def flops(self, tokens: int) -> int:
        """Operations per group, for each token of a text of so many tokens."""
        return sum(cut.flops(weight.parameter.shape, tokens) for weight, cut in self.cuts.items())

    def spread(self, mask: Tensor) -> dict[Weight, Tensor]:
        """Gives each weight its group's M."""
        spread = {weight: cut.expand(mask, weight.dense.shape) for weight, cut in self.cuts.items()}
        return {weight: each if each.dtype is torch.bool else each.to(weight.dense.dtype) for weight, each in spread.items()}

    def restore(self) -> None:
        """Lets the parameters hold W."""
        for weight in self.cuts:
            weight.held.copy_(weight.dense)

    def magnitude(self) -> Tensor:
        """Each group's magnitude, from the dense weights."""
        if len(self.cuts) == 1:
            ((weight, cut),) = self.cuts.items()
            return cut.magnitude(weight.wide())
        squares = [cut.reduce(weight.wide().square()) for weight, cut in self.cuts.items()]
        return (torch.stack(squares).sum(0) / self.size).sqrt()

    def stretched_magnitude(self) -> Tensor:
        """Each group's magnitude, spread about its mean as single weights are.

        The norms of groups lie close together, the closer the larger the groups. Scores born from them as they are would be
        overturned by the first steps of movement.
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
        for weight, cut in self.cuts.items():
            movement = weight.movement()
            if movement is not None:
                for other in others:
                    if weight in other.cuts:
                        movement *= other.cuts[weight].expand(other.mask, weight.dense.shape)
                sums.append(cut.reduce(movement))
        return sum(sums[1:], start=sums[0]) if sums else None

    def left(self, masks: Mapping[Weight, Tensor]) -> Tensor | None:
        """Which groups have a weight left under masks of some weights; None where none of its weights is masked."""
        left = [cut.reduce(masks[weight].to(weight.score_dtype())) for weight, cut in self.cuts.items() if weight in masks]
        return torch.stack(left).sum(0) > 0 if left else None

    def tensors(self) -> dict[str, Tensor]:
        """What must be saved: W of each weight, S and its optimiser's moments."""
        saved = {f"dense.{weight.name}": weight.dense for weight in self.cuts}
        for name, tensor in {} if self.scores is None else self.scores.tensors().items():
            kind, _, rest = name.partition(".")
            saved[f"{kind}.{self.key}{rest and '.'}{rest}"] = tensor
        return saved
