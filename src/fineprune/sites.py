"""Pruned parameters and the scores they share: what a pruner holds for each of them."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .structures import Structure

PROBE = 64
"""How many values of each weight are compared at each step to notice a change that PyTorch does not count."""


INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def zero_where_pruned(tensor: Tensor, mask: Tensor) -> None:
    """Sets a tensor to +0.0 where the mask is False, in place, as tensor.masked_fill_(~mask, 0.0) does.

    The bits are and-ed with all ones or all zeros, which is faster on a CPU (benchmarks/primitives.py).
    """
    integer = INTEGERS[tensor.element_size()]
    tensor.detach().view(integer).bitwise_and_(mask.to(integer).neg_())


@dataclass
class Weight:
    """One pruned parameter p, its dense weight W and its mask M. Between steps p = W * M."""

    name: str
    parameter: nn.Parameter
    cut: Structure
    dense: Tensor
    base_rate: float
    mask: Tensor = field(init=False)
    version: tuple[int, int] = field(init=False)

    def score_dtype(self) -> torch.dtype:
        """Scores are float32 for weights of lower precision."""
        return torch.promote_types(self.parameter.dtype, torch.float32)

    def movement(self) -> Tensor | None:
        """reduce(G * W), summed in the scores' precision; None without a gradient."""
        if self.parameter.grad is None:
            return None
        dtype = self.score_dtype()
        return self.cut.reduce(self.parameter.grad.to(dtype) * self.dense.to(dtype))

    def effective(self, mask: Tensor) -> Tensor:
        """W' = W * M, with +0.0 where pruned."""
        return self.dense.masked_fill(~self.cut.expand(mask, self.parameter.shape), 0.0)

    def apply(self, mask: Tensor) -> None:
        """Lets the parameter hold W' = W * M, in place."""
        self.mask = self.cut.expand(mask, self.parameter.shape)
        zero_where_pruned(self.parameter, self.mask)
        self.version = self.current_version()

    def current_version(self) -> tuple[int, int]:
        """PyTorch counts the in-place changes of a tensor; its address tells when `.data` was replaced."""
        return self.parameter._version, self.parameter.data_ptr()

    def probe(self) -> Tensor:
        """A few values, spread over the parameter."""
        stride = max(1, self.parameter.numel() // PROBE)
        return self.parameter.detach().flatten()[::stride]

    def was_changed(self) -> bool:
        """Whether the parameter holds anything but W * M."""
        held, expected = self.parameter, self.dense.masked_fill(~self.mask, 0.0)
        return (held.dtype, held.device) != (expected.dtype, expected.device) or not torch.equal(held, expected)


@dataclass
class Site:
    """The weights that share one tensor of scores: one matrix, or several whose groups are linked."""

    weights: list[Weight]
    scores: Tensor | None
    optimizer: torch.optim.Optimizer | None

    @property
    def name(self) -> str:
        return self.weights[0].name

    @property
    def groups(self) -> int:
        first = self.weights[0]
        return math.prod(first.cut.groups(first.parameter.shape))

    @property
    def size(self) -> int:
        """Weights per group, over all its matrices."""
        return sum(weight.cut.size(weight.parameter.shape) for weight in self.weights)

    def magnitude(self) -> Tensor:
        """Each group's magnitude, from the dense weights."""
        dense = [weight.dense.to(weight.score_dtype()) for weight in self.weights]
        if len(dense) == 1:
            return self.weights[0].cut.magnitude(dense[0])
        squares = [weight.cut.reduce(tensor.square()) for weight, tensor in zip(self.weights, dense, strict=True)]
        return (torch.stack(squares).sum(0) / self.size).sqrt()

    def movement(self) -> Tensor | None:
        """The sum of G * W over each group; None if no gradient has reached the site."""
        movements = [movement for weight in self.weights if (movement := weight.movement()) is not None]
        return sum(movements[1:], start=movements[0]) if movements else None

    def learn(self, gradient: Tensor, rate: float) -> None:
        """Takes one step of the scores' optimiser."""
        assert self.scores is not None
        assert self.optimizer is not None
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.scores.grad = gradient
        self.optimizer.step()
        self.scores.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """What must be saved: W of each weight, S and its optimiser's moments."""
        saved = {f"dense.{weight.name}": weight.dense for weight in self.weights}
        if self.scores is not None:
            saved[f"scores.{self.name}"] = self.scores
        if self.scores is not None and self.optimizer is not None:
            saved |= {f"moments.{self.name}.{key}": moment for key, moment in self.optimizer.state[self.scores].items()}
        return saved
