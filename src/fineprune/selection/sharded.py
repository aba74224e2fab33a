"""The cut among scores that lie on several processes, found by adding counts; the scores themselves never travel.

A score becomes a whole number in the same order (Knuth 1998, section 5.2.5). Its digits, 11 bits each, are settled from the
highest down: every process counts how much weight its groups have at each digit, the counts are added, and the digit at which
the budget ends is the cut's. Three rounds settle a float32. Groups that equal the cut are taken in the order of matrices, then
of ranks, then of the flat index.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..distributed.process_group import ProcessGroup

DIGIT = 11
"""Bits in a digit."""

WHOLE = {torch.float32: torch.int32, torch.float64: torch.int64}


def ordered(scores: Tensor) -> Tensor:
    """Returns whole numbers in the order of the scores, float32 or float64; equal ones for equal scores, as -0.0 and 0.0."""
    bits = (scores + 0.0).view(WHOLE[scores.dtype])
    return bits ^ ((bits >> (8 * bits.element_size() - 1)) & torch.iinfo(bits.dtype).max)


def keep_across(
    scores: Sequence[Tensor], sizes: Sequence[int], pools: Sequence[int], budgets: Sequence[int], processes: ProcessGroup
) -> list[Tensor]:
    """Keeps, in each pool of matrices, the longest ranked prefix of the groups whose weights fit in its budget.

    Args:
        scores: of each matrix those that this process holds, flat, all float32 or all float64, none NaN.
        sizes: weights per group, one number a matrix.
        pools: the number of each matrix's pool, from 0: the matrices of one share its budget.
        budgets: of each pool, in weights.
        ranks: that hold the others.

    Returns:
        A boolean tensor for each tensor of scores, True where the group is kept.
    """
    cuts, rooms = _cuts(scores, sizes, pools, budgets, processes)
    masks = [ordered(tensor) > cuts[pool] for tensor, pool in zip(scores, pools, strict=True)]
    tied = [ordered(tensor) == cuts[pool] for tensor, pool in zip(scores, pools, strict=True)]
    of_ranks = processes.stacked(torch.stack([equal.count_nonzero() for equal in tied])).t().tolist()
    closed = [False] * len(budgets)
    for mask, equal, size, pool, counts in zip(masks, tied, sizes, pools, of_ranks, strict=True):
        taken = 0 if closed[pool] else min(sum(counts), rooms[pool] // size)
        closed[pool] |= taken < sum(counts)  # a prefix ends at the first group that does not fit
        rooms[pool] -= taken * size
        here = min(max(taken - sum(counts[: processes.place]), 0), counts[processes.place])
        mask[equal.nonzero().flatten()[:here]] = True
    return masks


def _cuts(
    scores: Sequence[Tensor], sizes: Sequence[int], pools: Sequence[int], budgets: Sequence[int], processes: ProcessGroup
) -> tuple[Tensor, list[int]]:
    """Returns for each pool the number of the score at which its budget ends, and what is left of the budget above that score.

    Where everything fits, the number is below that of every score.
    """
    whole, device = torch.iinfo(WHOLE[scores[0].dtype]), scores[0].device
    cuts = torch.zeros(len(budgets), dtype=torch.int64, device=device)
    """The digits settled so far."""
    rooms = torch.tensor(budgets, device=device)
    fits = torch.zeros(len(budgets), dtype=torch.bool, device=device)
    unsettled = whole.bits
    while unsettled:
        width = min(DIGIT, unsettled)
        lowest = cuts << width if unsettled < whole.bits else torch.full_like(cuts, -1 << (width - 1))  # the first has the sign
        counts = torch.zeros(len(budgets), 1 << width, dtype=torch.int64, device=device)
        for tensor, size, pool in zip(scores, sizes, pools, strict=True):
            numbers = ordered(tensor)
            near = numbers if unsettled == whole.bits else numbers[(numbers >> unsettled) == cuts[pool]]
            counts[pool] += torch.bincount((near >> (unsettled - width)) - lowest[pool], minlength=1 << width) * size
        above = processes.total(counts).flip(1).cumsum(1)
        passed = (above <= rooms[:, None]).sum(1, keepdim=True)  # so many digits fit whole, from the highest
        fits |= passed[:, 0] == 1 << width
        rooms -= torch.where(passed > 0, above.gather(1, (passed - 1).clamp(min=0)), 0)[:, 0]
        cuts = lowest + (1 << width) - 1 - passed[:, 0]
        unsettled -= width
    return cuts.where(~fits, whole.min), rooms.tolist()
