"""Where the budget is shared out: each matrix, all together, or by importance."""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..distributed.process_group import ALONE, ProcessGroup
from .counts import _weights, budget, groups, kept, least_of
from .topk import _keep, _keep_counts, check_no_nan, keep_highest, keep_n_of_m


def keep_local(
    scores: Sequence[Tensor], sizes: Sequence[int], density: float, kinds: Sequence[str] = (), processes: ProcessGroup = ALONE
) -> list[Tensor]:
    """Keeps floor(density * n) of the n groups of each matrix."""
    return _keep_counts(scores, [budget(number, density) for number in groups(scores, processes)], processes)


def keep_global(
    scores: Sequence[Tensor], sizes: Sequence[int], density: float, kinds: Sequence[str] = (), processes: ProcessGroup = ALONE
) -> list[Tensor]:
    """Keeps the best groups of all matrices together, as many as fit in floor(density * all weights)."""
    return keep_highest(scores, sizes, budget(_weights(scores, sizes, processes), density), processes)


def keep_adaptive(
    scores: Sequence[Tensor], sizes: Sequence[int], density: float, kinds: Sequence[str], processes: ProcessGroup = ALONE
) -> list[Tensor]:
    """Keeps of each matrix a share that follows the mean sigmoid of its scores among the matrices of its kind.

        v_k = v * R(S_k) / mean of R over the kind,    R(S) = mean of sigmoid(S)

    as SMP-S does (Jiang et al. 2022, "Pruning Pre-trained Language Models Without Fine-Tuning"). No matrix
    keeps more than all its groups; each kind keeps floor(v * its groups).

    Args:
        scores, sizes, ranks: as for `keep_highest`.
        density: v, the fraction of the groups of each kind that is kept.
        kinds: one name a matrix; those with the same name share a budget and have equally many groups.
    """
    check_no_nan(scores, processes)
    numbers = groups(scores, processes)
    sums = processes.total(torch.stack([tensor.sigmoid().sum(dtype=torch.float64) for tensor in scores])).tolist()
    importance = [total / number for total, number in zip(sums, numbers, strict=True)]
    counts = [0] * len(scores)
    for kind in dict.fromkeys(kinds):
        members = [index for index, name in enumerate(kinds) if name == kind]
        shares = share_out([importance[index] for index in members], [numbers[index] for index in members], density)
        for index, share in zip(members, shares, strict=True):
            counts[index] = share
    return _keep_counts(scores, counts, processes)


def share_out(importance: Sequence[float], groups: Sequence[int], density: float) -> list[int]:
    """Shares floor(density * all groups) out in proportion to importance * groups, to none more than it has.

    What is left after rounding down goes to the largest fractions, the first among equals.
    """
    importance = [max(value, sys.float_info.min) for value in importance]  # a sigmoid may underflow to 0
    left, counts = budget(sum(groups), density), [0] * len(groups)
    open_ = list(range(len(groups)))
    while open_:
        total = sum(importance[index] * groups[index] for index in open_)
        shares = {index: left * importance[index] * groups[index] / total for index in open_}
        full = [index for index in open_ if shares[index] >= groups[index]]
        if not full:
            break
        for index in full:
            counts[index] = groups[index]
            left -= groups[index]
        open_ = [index for index in open_ if index not in full]
    for index in open_:
        counts[index] = math.floor(shares[index])
    remainder = left - sum(counts[index] for index in open_)
    for index in sorted(open_, key=lambda index: counts[index] - shares[index])[:remainder]:
        counts[index] += 1
    return counts


Scope = Literal["local", "global", "adaptive"]
SCOPES: dict[str, Callable[..., list[Tensor]]] = {"local": keep_local, "global": keep_global, "adaptive": keep_adaptive}
"""Where the budget is shared out: within each matrix, over all of them, or within each kind by importance."""


@dataclass(frozen=True)
class Select:
    """How a budget is shared out among the matrices of a part.

    Args:
        scope: the name of one of the scopes.
        kinds: one name a matrix, as for `keep_adaptive`.
        ranks: the processes that hold the matrices.
    """

    scope: Scope
    kinds: Sequence[str] = ()
    processes: ProcessGroup = ALONE

    def __call__(self, scores: Sequence[Tensor], sizes: Sequence[int], density: float) -> list[Tensor]:
        """Returns the masks of all matrices, given their scores, the weights per group of each, and the density."""
        return SCOPES[self.scope](scores, sizes, density, self.kinds, self.processes)


@dataclass(frozen=True)
class SelectNofM(Select):
    """Keeps so many of every m neighbours; the scope has no say.

    Args:
        least: of every m, also where the density asks for fewer.
        m: neighbours in the last dimension.
    """

    least: int = 1
    m: int = 2

    def __call__(self, scores: Sequence[Tensor], sizes: Sequence[int], density: float) -> list[Tensor]:
        return keep_n_of_m(
            scores, max(self.least, budget(self.m, density)), self.m, self.processes
        )  # n / m * m may fall short of n


def keep_above(scores: Sequence[Tensor], cut: float, share: float, processes: ProcessGroup = ALONE) -> list[Tensor]:
    """Keeps the scores above a cut, and of each matrix of n at least the floor(share * n) + 1 highest."""
    check_no_nan(scores, processes)
    masks = [tensor > cut for tensor in scores]
    least = [least_of(number, share) for number in groups(scores, processes)]
    return [
        mask if count >= enough else _keep([tensor], [1], enough, processes)[0]
        for tensor, mask, count, enough in zip(scores, masks, kept(masks, processes), least, strict=True)
    ]


def keep_global_and_least(
    scores: Sequence[Tensor], sizes: Sequence[int], density: float, share: float, processes: ProcessGroup = ALONE
) -> list[Tensor]:
    """Keeps floor(density * all weights), as `keep_global` does, but of each matrix at least as many as `keep_above` does."""
    check_no_nan(scores, processes)
    least = [least_of(number, share) for number in groups(scores, processes)]
    masks: list[Tensor | None] = [None] * len(scores)
    room = budget(_weights(scores, sizes, processes), density)
    while True:
        free = [index for index, mask in enumerate(masks) if mask is None]
        if not free:
            break
        chosen = _keep([scores[index] for index in free], [sizes[index] for index in free], room, processes)
        short = [index for index, count in zip(free, kept(chosen, processes), strict=True) if count < least[index]]
        for index, mask in zip(free, chosen, strict=True):
            masks[index] = mask if not short else None
        if not short:
            break
        for index in short:
            masks[index] = _keep([scores[index]], [1], least[index], processes)[0]
            room = max(0, room - least[index] * sizes[index])
    return [mask for mask in masks if mask is not None]
