"""Which groups are kept: the longest ranked prefix that fits a budget, exactly, without sorting.

Groups are ranked by score, highest first; equal scores by matrix order, then by flat index, lower
first. `keep_highest` finds the cut by counting and partition; `keep_highest_by_sorting` is the same
in the slow, obvious way, and the tests hold the one against the other.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .errors import InvalidInputError

Select = Callable[[Sequence[Tensor], Sequence[int], float], list[Tensor]]
"""Scores of every site, weights per group of every site, density -> masks of every site."""

FEW = 4096
"""So many values are sorted; more are narrowed down first. Also the size of a sample."""

MANY = 1 << 22
"""So many values are partitioned at once, where every group has the same size; more are narrowed down first."""


def keep_highest(scores: Sequence[Tensor], sizes: Sequence[int], budget: int) -> list[Tensor]:
    """Keeps the longest ranked prefix of the groups whose weights fit in the budget.

    Args:
        scores: one tensor a matrix, of any shape, at least one element in all.
        sizes: weights per group, one number a matrix.
        budget: how many weights may be kept.

    Returns:
        A boolean tensor for each tensor of scores, True where the group is kept.

    Raises:
        InvalidInputError: if a score is NaN.
    """
    _refuse_nan(scores)
    widest = functools.reduce(torch.promote_types, (tensor.dtype for tensor in scores), torch.float32)
    flat = [tensor.flatten().to(widest) for tensor in scores]
    cut = _cut(flat, sizes, budget)
    if cut is None:
        return [torch.ones_like(tensor, dtype=torch.bool) for tensor in scores]
    masks = [_above(tensor, cut) for tensor in flat]
    room = budget - _weights(masks, sizes)
    for tensor, mask, size in zip(flat, masks, sizes, strict=True):
        if room < min(sizes):
            break
        tied = (tensor == cut).nonzero().squeeze(1)
        fitting = tied[: room // size]
        mask[fitting] = True
        room = room - len(fitting) * size if len(fitting) == len(tied) else 0
    return [mask.view(tensor.shape) for mask, tensor in zip(masks, scores, strict=True)]


def _refuse_nan(scores: Sequence[Tensor]) -> None:
    highest = torch.stack([tensor.amax() for tensor in scores if tensor.numel()])  # NaN goes through amax
    if bool(highest.isnan().any()):
        raise InvalidInputError("A score is NaN: scores must be numbers that can be ranked. Look for an overflow.")


def _above(tensor: Tensor, cut: float) -> Tensor:
    """Returns tensor > cut; on the CPU by NumPy, which is faster (benchmarks/primitives.py)."""
    return torch.from_numpy(np.greater(tensor.numpy(), cut)) if tensor.device.type == "cpu" else tensor > cut


def _weights(masks: Sequence[Tensor], sizes: Sequence[int]) -> int:
    counts = torch.stack([mask.count_nonzero() for mask in masks]).tolist()
    return sum(count * size for count, size in zip(counts, sizes, strict=True))


def _cut(candidates: list[Tensor], sizes: Sequence[int], room: int) -> float | None:
    """Finds the highest score c such that the groups with score >= c do not fit in the room; None if all fit.

    A strided sample brackets the cut; counting shows on which side of the bracket, or within it, the
    cut lies, and only those values stay candidates (Floyd & Rivest 1975). After the first round the
    bracket is one value, so that each round removes at least that value: it ends on any input.
    """
    if sum(tensor.numel() * size for tensor, size in zip(candidates, sizes, strict=True)) <= room:
        return None
    same_size = len(set(sizes)) == 1
    deviations = 3.0
    while sum(tensor.numel() for tensor in candidates) > (MANY if same_size else FEW):
        low, high = _bracket(candidates, sizes, room, deviations)
        above = _weights([tensor > high for tensor in candidates], sizes)
        if above > room:
            candidates = [tensor[tensor > high] for tensor in candidates]
            continue
        not_below = _weights([tensor >= low for tensor in candidates], sizes)
        if not_below <= room:
            candidates = [tensor[tensor < low] for tensor in candidates]
            room -= not_below
        elif low == high:
            return low
        else:
            candidates = [tensor[(tensor >= low) & (tensor <= high)] for tensor in candidates]
            room -= above
        deviations = 0.0
    if same_size:
        return _ranked(torch.cat(candidates), room // sizes[0])
    values, weights = _descending(candidates, sizes)
    return float(values[int((weights.cumsum(0) <= room).sum())])


def _ranked(values: Tensor, rank: int) -> float:
    """Returns the value of a rank, 0 for the highest, by partition: linear in the number of values."""
    from_below = values.numel() - 1 - rank
    if values.device.type == "cpu":
        return float(np.partition(values.numpy(), from_below)[from_below])
    return float(values.kthvalue(from_below + 1).values)


def _bracket(candidates: list[Tensor], sizes: Sequence[int], room: int, deviations: float) -> tuple[float, float]:
    """Estimates from a sample between which two scores the cut lies."""
    total = sum(tensor.numel() for tensor in candidates)
    stride = max(1, total // FEW)
    values, weights = _descending([tensor[::stride] for tensor in candidates], sizes)
    shares = weights.cumsum(0) / weights.sum()
    share = room / sum(tensor.numel() * size for tensor, size in zip(candidates, sizes, strict=True))
    position = int((shares <= share).sum())
    spread = math.ceil(deviations * math.sqrt(len(values) * share * (1 - share)))
    last = len(values) - 1
    return float(values[min(position + spread, last)]), float(values[min(max(position - spread, 0), last)])


def _descending(tensors: Sequence[Tensor], sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Sorts values from all tensors, highest first; beside each the weights of its group."""
    values, order = torch.cat(list(tensors)).sort(descending=True, stable=True)
    weights = torch.cat([torch.full_like(t, size, dtype=torch.int64) for t, size in zip(tensors, sizes, strict=True)])
    return values, weights[order]


def keep_highest_by_sorting(scores: Sequence[Tensor], sizes: Sequence[int], budget: int) -> list[Tensor]:
    """The slow reference of `keep_highest`: rank all groups, then take them while they fit."""
    _refuse_nan(scores)
    _, order = torch.cat([tensor.flatten() for tensor in scores]).sort(descending=True, stable=True)
    owners = [size for tensor, size in zip(scores, sizes, strict=True) for _ in range(tensor.numel())]
    kept = torch.zeros(len(owners), dtype=torch.bool)
    for index in order.tolist():
        if owners[index] > budget:
            break
        budget -= owners[index]
        kept[index] = True
    parts = torch.split(kept, [tensor.numel() for tensor in scores])
    return [part.view(tensor.shape) for part, tensor in zip(parts, scores, strict=True)]


def keep_local(scores: Sequence[Tensor], sizes: Sequence[int], density: float) -> list[Tensor]:
    """Keeps floor(density * n) of the n groups of each matrix."""
    return [keep_highest([tensor], [1], budget(tensor.numel(), density))[0] for tensor in scores]


def keep_global(scores: Sequence[Tensor], sizes: Sequence[int], density: float) -> list[Tensor]:
    """Keeps the best groups of all matrices together, as many as fit in floor(density * all weights)."""
    weights = sum(tensor.numel() * size for tensor, size in zip(scores, sizes, strict=True))
    return keep_highest(scores, sizes, budget(weights, density))


def budget(count: int, density: float) -> int:
    """Returns floor(density * count), in float64 and without an epsilon."""
    return math.floor(density * count)


Scope = Literal["local", "global"]
SCOPES: dict[str, Select] = {"local": keep_local, "global": keep_global}
"""Where the budget is shared out: within each matrix, or over all of them."""
