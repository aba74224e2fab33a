"""Scopes: how a budget is divided among matrices, and the masks that follow from it."""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..distributed.process_group import ALONE, ProcessGroup
from .counts import budget_of, groups_of, kept_of, least_of, weights_of
from .topk import check_no_nan, keep_counts, keep_highest, keep_n_of_m, keep_prefix


def keep_local(
    scores: Sequence[Tensor], sizes: Sequence[int], density: float, kinds: Sequence[str] = (), processes: ProcessGroup = ALONE
) -> list[Tensor]:
    """Keeps floor(density * n) of the n groups of each matrix."""
    return keep_counts(scores, [budget_of(number, density) for number in groups_of(scores, processes)], processes)


def keep_global(
    scores: Sequence[Tensor], sizes: Sequence[int], density: float, kinds: Sequence[str] = (), processes: ProcessGroup = ALONE
) -> list[Tensor]:
    """Keeps the best groups of all matrices together, as many as fit in floor(density * all weights)."""
    return keep_highest(scores, sizes, budget_of(weights_of(scores, sizes, processes), density), processes)


def keep_adaptive(
    scores: Sequence[Tensor], sizes: Sequence[int], density: float, kinds: Sequence[str], processes: ProcessGroup = ALONE
) -> list[Tensor]:
    """Keeps of each matrix a share that follows the mean sigmoid of its scores among the matrices of its kind.

        v_k = v * R(S_k) / mean of R over the kind,    R(S) = mean of sigmoid(S)

    as SMP-S does (Jiang et al. 2022, "Pruning Pre-trained Language Models Without Fine-Tuning"). No matrix
    keeps more than all its groups; each kind keeps floor(v * its groups).

    Args:
        scores, sizes, processes: as for `keep_highest`.
        density: v, the fraction of the groups of each kind that is kept.
        kinds: one name a matrix; those with the same name share a budget and have the same number of groups.
    """
    check_no_nan(scores, processes)
    numbers = groups_of(scores, processes)
    sums = processes.total(torch.stack([tensor.sigmoid().sum(dtype=torch.float64) for tensor in scores])).tolist()
    importance = [total / number for total, number in zip(sums, numbers, strict=True)]
    counts = [0] * len(scores)
    for kind in dict.fromkeys(kinds):
        members = [index for index, name in enumerate(kinds) if name == kind]
        shares = apportion([importance[index] for index in members], [numbers[index] for index in members], density)
        for index, share in zip(members, shares, strict=True):
            counts[index] = share
    return keep_counts(scores, counts, processes)


def apportion(importance: Sequence[float], groups: Sequence[int], density: float) -> list[int]:
    """Divides floor(density * all groups) in proportion to importance * groups; no matrix gets more than its groups.

    The remainder after rounding down goes to the largest fractions, the first among equals.
    """
    importance = [max(value, sys.float_info.min) for value in importance]  # a sigmoid may underflow to 0
    remaining, counts = budget_of(sum(groups), density), [0] * len(groups)
    open_ = list(range(len(groups)))
    while open_:
        total = sum(importance[index] * groups[index] for index in open_)
        shares = {index: remaining * importance[index] * groups[index] / total for index in open_}
        full = [index for index in open_ if shares[index] >= groups[index]]
        if not full:
            break
        for index in full:
            counts[index] = groups[index]
            remaining -= groups[index]
        open_ = [index for index in open_ if index not in full]
    for index in open_:
        counts[index] = math.floor(shares[index])
    remainder = remaining - sum(counts[index] for index in open_)
    for index in sorted(open_, key=lambda index: counts[index] - shares[index])[:remainder]:
        counts[index] += 1
    return counts


Scope = Literal["local", "global", "adaptive"]
SCOPES: dict[str, Callable[..., list[Tensor]]] = {"local": keep_local, "global": keep_global, "adaptive": keep_adaptive}
"""The budget holds for each matrix, for all of them together, or is divided within each kind by importance."""


@dataclass(frozen=True)
class Select:
    """Makes the masks of the matrices of a pool, given a density.

    Args:
        scope: the name of one of the scopes.
        kinds: one name a matrix, as for `keep_adaptive`.
        processes: the group that holds the matrices.
    """

    scope: Scope
    kinds: Sequence[str] = ()
    processes: ProcessGroup = ALONE

    def __call__(self, scores: Sequence[Tensor], sizes: Sequence[int], density: float) -> list[Tensor]:
        """Returns the masks of all matrices, given their scores, the weights per group of each, and the density."""
        return SCOPES[self.scope](scores, sizes, density, self.kinds, self.processes)


@dataclass(frozen=True)
class SelectNofM(Select):
    """Keeps floor(density * m) of every m neighbours, whatever the scope.

    Args:
        least: the number kept of every m at least.
        m: neighbours in the last dimension.
    """

    least: int = 1
    m: int = 2

    def __call__(self, scores: Sequence[Tensor], sizes: Sequence[int], density: float) -> list[Tensor]:
        n = max(self.least, budget_of(self.m, density))  # n / m * m may be less than n
        return keep_n_of_m(scores, n, self.m, self.processes)


def keep_above(scores: Sequence[Tensor], cut: float, share: float, processes: ProcessGroup = ALONE) -> list[Tensor]:
    """Keeps the scores above a cut, and of each matrix of n groups at least the floor(share * n) + 1 highest."""
    check_no_nan(scores, processes)
    masks = [tensor > cut for tensor in scores]
    least = [least_of(number, share) for number in groups_of(scores, processes)]
    return [
        mask if count >= enough else keep_prefix([tensor], [1], enough, processes)[0]
        for tensor, mask, count, enough in zip(scores, masks, kept_of(masks, processes), least, strict=True)
    ]


def keep_global_and_least(
    scores: Sequence[Tensor], sizes: Sequence[int], density: float, share: float, processes: ProcessGroup = ALONE
) -> list[Tensor]:
    """Keeps floor(density * all weights), as `keep_global` does, but of each matrix at least as many as `keep_above` does."""
    check_no_nan(scores, processes)
    least = [least_of(number, share) for number in groups_of(scores, processes)]
    remaining = budget_of(weights_of(scores, sizes, processes), density)
    masks: dict[int, Tensor] = {}
    while free := [index for index in range(len(scores)) if index not in masks]:
        chosen = keep_prefix([scores[index] for index in free], [sizes[index] for index in free], remaining, processes)
        short = [index for index, count in zip(free, kept_of(chosen, processes), strict=True) if count < least[index]]
        if not short:
            masks |= zip(free, chosen, strict=True)
        for index in short:
            masks[index] = keep_prefix([scores[index]], [1], least[index], processes)[0]
            remaining = max(0, remaining - least[index] * sizes[index])
    return [masks[index] for index in range(len(scores))]
