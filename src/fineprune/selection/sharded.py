"""The highest scores among several processes, found by adding counts; the scores themselves never travel.

A score becomes an integer in the same order (Knuth 1998, section 5.2.5). The cut, the integer at which the budget ends, is
found digit by digit, 11 bits each, from the highest: every process counts the weights of its groups at each digit, the counts
are added, and the digit at which the budget ends is the cut's. A float32 takes three rounds. Groups that equal the cut are
kept in the order of matrices, then of ranks, then of the flat index.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..distributed.process_group import ProcessGroup

DIGIT = 11
"""Bits in a digit."""

INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}


def keep_across(
    scores: Sequence[Tensor], sizes: Sequence[int], pools: Sequence[int], budgets: Sequence[int], processes: ProcessGroup
) -> list[Tensor]:
    """Keeps, in each pool of matrices, the longest ranked prefix of the groups whose weights fit in its budget.

    Args:
        scores: the shards that this process holds, one a matrix, flat, all float32 or all float64, none NaN.
        sizes: weights per group, one number a matrix.
        pools: the number of each matrix's pool, from 0: the matrices of one share its budget.
        budgets: in weights, one a pool.
        processes: the group that holds the other shards.

    Returns:
        A boolean tensor for each tensor of scores, True where the group is kept.
    """
    numbers = [ordered(tensor) for tensor in scores]
    cuts, remaining = _cuts(numbers, sizes, pools, budgets, processes)
    masks = [tensor > cuts[pool] for tensor, pool in zip(numbers, pools, strict=True)]
    tied = [tensor == cuts[pool] for tensor, pool in zip(numbers, pools, strict=True)]
    of_ranks = processes.stacked(torch.stack([equal.count_nonzero() for equal in tied])).t().tolist()
    closed = [False] * len(budgets)
    for mask, equal, size, pool, counts in zip(masks, tied, sizes, pools, of_ranks, strict=True):
        taken = 0 if closed[pool] else min(sum(counts), remaining[pool] // size)
        closed[pool] |= taken < sum(counts)  # a prefix ends at the first group that does not fit
        remaining[pool] -= taken * size
        here = min(max(taken - sum(counts[: processes.rank]), 0), counts[processes.rank])
        mask[equal.nonzero().flatten()[:here]] = True
    return masks


def ordered(scores: Tensor) -> Tensor:
    """Returns integers in the order of the scores, float32 or float64; equal ones for equal scores, as -0.0 and 0.0."""
    bits = (scores + 0.0).view(INTEGERS[scores.dtype])
    return bits ^ ((bits >> (8 * bits.element_size() - 1)) & torch.iinfo(bits.dtype).max)


def _cuts(
    numbers: Sequence[Tensor], sizes: Sequence[int], pools: Sequence[int], budgets: Sequence[int], processes: ProcessGroup
) -> tuple[Tensor, list[int]]:
    """Returns the cut of each pool, and the budget that remains after the groups above it.

    If everything fits, the cut is below every number.
    """
    integer, device = torch.iinfo(numbers[0].dtype), numbers[0].device
    cuts = torch.zeros(len(budgets), dtype=torch.int64, device=device)
    """The digits found so far."""
    remaining = torch.tensor(budgets, device=device)
    fits = torch.zeros(len(budgets), dtype=torch.bool, device=device)
    unknown = integer.bits
    while unknown:
        width = min(DIGIT, unknown)
        lowest = cuts << width if unknown < integer.bits else torch.full_like(cuts, -1 << (width - 1))  # the first has the sign
        counts = torch.zeros(len(budgets), 1 << width, dtype=torch.int64, device=device)
        for tensor, size, pool in zip(numbers, sizes, pools, strict=True):
            near = tensor if unknown == integer.bits else tensor[(tensor >> unknown) == cuts[pool]]
            counts[pool] += torch.bincount((near >> (unknown - width)) - lowest[pool], minlength=1 << width) * size
        above = processes.total(counts).flip(1).cumsum(1)
        passed = (above <= remaining[:, None]).sum(1, keepdim=True)  # the number of digits, from the highest, that fit whole
        fits |= passed[:, 0] == 1 << width
        remaining -= torch.where(passed > 0, above.gather(1, (passed - 1).clamp(min=0)), 0)[:, 0]
        cuts = lowest + (1 << width) - 1 - passed[:, 0]
        unknown -= width
    return cuts.where(~fits, integer.min), remaining.tolist()
