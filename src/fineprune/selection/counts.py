"""Numbers of groups and weights, over all processes, and the budget that a density is."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..distributed.process_group import ProcessGroup


def budget_of(count: int, density: float) -> int:
    """Returns floor(density * count), in float64 and without an epsilon."""
    return math.floor(density * count)


def least_of(groups: int, share: float) -> int:
    """Returns floor(share * groups) + 1, the least that soft movement keeps of a matrix (Sanh et al.'s released example)."""
    return math.floor(share * groups) + 1


def groups_of(scores: Sequence[Tensor], processes: ProcessGroup) -> list[int]:
    """Returns the number of groups of each matrix."""
    return processes.totals([tensor.numel() for tensor in scores])


def weights_of(scores: Sequence[Tensor], sizes: Sequence[int], processes: ProcessGroup) -> int:
    """Returns the number of weights of all matrices, given the weights per group of each."""
    return sum(number * size for number, size in zip(groups_of(scores, processes), sizes, strict=True))


def kept_of(masks: Sequence[Tensor], processes: ProcessGroup) -> list[int]:
    """Returns for each mask, boolean or of gates, the number of entries that are not 0."""
    counts: list[int] = processes.total(torch.stack([mask.count_nonzero() for mask in masks])).tolist()
    return counts
