"""The highest groups by a full sort, slow and obvious: the reference that the fast selection is held against."""

from collections.abc import Sequence

import torch
from torch import Tensor


def keep_highest_by_sorting(scores: Sequence[Tensor], sizes: Sequence[int], budget: int) -> list[Tensor]:
    """Does what `keep_highest` does: ranks all groups, then takes them while they fit."""
    _, order = torch.cat([tensor.flatten() for tensor in scores]).sort(descending=True, stable=True)
    weights = [size for tensor, size in zip(scores, sizes, strict=True) for _ in range(tensor.numel())]
    kept = torch.zeros(len(weights), dtype=torch.bool)
    for index in order.tolist():
        if weights[index] > budget:
            break
        budget -= weights[index]
        kept[index] = True
    masks = torch.split(kept, [tensor.numel() for tensor in scores])
    return [mask.view(tensor.shape) for mask, tensor in zip(masks, scores, strict=True)]
