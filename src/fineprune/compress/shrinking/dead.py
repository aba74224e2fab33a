"""Which heads and neurons change nothing: read from zeros in the weights, with the constants that they leave behind.

In a feed-forward layer y = W2 f(W1 x + b1) + b2, neuron j is dead if column j of W2 is zero: it adds nothing. If row j of W1
is zero it adds the constant W2[:, j] f(b1[j]), which b2 can hold. In an attention y = sum over heads of Wo A (Wv x + bv) + bo,
where the rows of A sum to 1, a head is dead if its Wo is zero, or if its Wv is zero: it adds the constant Wo bv. A head of
which only Wq or Wk is zero is not dead: it takes the mean of its values.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...models.anatomy import Attention, FeedForward
from ..resizing.weights import Weights


@dataclass(frozen=True)
class GroupsKept:
    """Positions of the heads or neurons of one layer that are kept, in order."""

    kept: Tensor
    constant: Tensor | None
    """The sum that the others added to the output, in float64; None if they added nothing."""


def neurons(weights: Weights, layer: FeedForward, multiple: int) -> GroupsKept:
    """Finds the neurons that are needed; their number is a multiple of the one given, or all there are."""
    second = weights.matrix(layer.second)
    values, known = _values(weights, layer)
    added = torch.where(known, values, 0.0) * second.double()
    return _kept(second.count_nonzero(dim=0) > 0, known, added, weights.bias(layer.second) is not None, multiple)


def _values(weights: Weights, layer: FeedForward) -> tuple[Tensor, Tensor]:
    """The value of each neuron, if it is the same for every input, in float64; and whether it is."""
    values, known = zip(*(_rows(weights, name) for name in layer.first), strict=True)
    factors = [layer.activation(values[0]), *values[1:]]
    zero = torch.stack([same & (factor == 0) for same, factor in zip(known, factors, strict=True)]).any(0)
    return torch.where(zero, 0.0, torch.stack(factors).prod(0)), zero | torch.stack(known).all(0)


def _rows(weights: Weights, linear: str) -> tuple[Tensor, Tensor]:
    """The bias of each output, in float64, and whether it is all that the output is."""
    weight, bias = weights.matrix(linear), weights.bias(linear)
    zeros = torch.zeros(len(weight), dtype=torch.float64, device=weight.device)
    return zeros if bias is None else bias.double(), weight.count_nonzero(dim=1) == 0


def heads(weights: Weights, attention: Attention) -> GroupsKept:
    """Finds the key and value heads that are needed; each is removed with the query heads that it serves."""
    groups, size = attention.groups, attention.head_size
    serves = attention.heads // groups
    output = weights.matrix(attention.output)
    output = output.reshape(len(output), groups, serves, size)
    projection = attention.value
    value, bias = weights.matrix(projection.module).chunk(projection.parts), weights.bias(projection.module)
    same = value[projection.place].reshape(groups, size, -1).count_nonzero(dim=(1, 2)) == 0
    gives = torch.zeros_like(same, dtype=torch.float64)[:, None].expand(-1, size)
    if bias is not None:
        gives = bias.chunk(projection.parts)[projection.place].view(groups, size)
    added = torch.einsum("ogqs,gs->og", output.double(), torch.where(same[:, None], gives.double(), 0.0))
    folds = attention.constant and weights.bias(attention.output) is not None
    return _kept(output.count_nonzero(dim=(0, 2, 3)) > 0, same, added, folds, multiple=1)


def _kept(reads: Tensor, same: Tensor, added: Tensor, folds: bool, multiple: int) -> GroupsKept:
    """Decides which groups are kept; their number is rounded up to a multiple, by keeping the first that could go.

    Args:
        reads: whether anything reads a group.
        same: whether a group gives the same for every input.
        added: outputs x groups, the constant that it adds then.
        folds: whether a constant has a bias to go to.
    """
    nothing = added.count_nonzero(dim=0) == 0
    dead = ~reads | (same & (nothing | folds))
    kept = at_least(~dead, multiple)
    folded = (dead & reads & ~nothing).index_fill(0, kept, False)
    return GroupsKept(kept, added[:, folded].sum(1) if bool(folded.any()) else None)


def at_least(needed: Tensor, multiple: int) -> Tensor:
    """Returns the positions that are needed, and the first others, until their number is a multiple or all are taken."""
    number = math.ceil(int(needed.sum()) / multiple) * multiple
    order = torch.argsort(needed.logical_not(), stable=True)  # the needed ones first, each in its order
    return order[: min(number, len(needed))].sort().values
