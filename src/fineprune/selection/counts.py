"""How many groups a density keeps, and counts over processes."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..distributed.process_group import ProcessGroup


def least_of(groups: int, share: float) -> int:
    """Returns floor(share * groups) + 1, as soft movement's floor counts (Sanh et al.'s released example)."""
    return math.floor(share * groups) + 1


def groups(scores: Sequence[Tensor], processes: ProcessGroup) -> list[int]:
    """Returns how many groups each matrix has."""
    return processes.totals([tensor.numel() for tensor in scores])


def kept(masks: Sequence[Tensor], processes: ProcessGroup) -> list[int]:
    """Returns how many entries of each mask, a boolean or a gate, are not 0."""
    counts: list[int] = processes.total(torch.stack([mask.count_nonzero() for mask in masks])).tolist()
    return counts


def _weights(scores: Sequence[Tensor], sizes: Sequence[int], processes: ProcessGroup) -> int:
    return sum(number * size for number, size in zip(groups(scores, processes), sizes, strict=True))


def budget(count: int, density: float) -> int:
    """Returns floor(density * count), in float64 and without an epsilon."""
    return math.floor(density * count)
