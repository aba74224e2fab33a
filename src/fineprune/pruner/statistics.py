"""Figures to log of a masked model, and warnings at the end of a run."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..core.masked_model import MaskedModel
from ..distributed.process_group import ProcessGroup
from ..errors import enumeration
from ..selection.counts import groups, kept


def figures(masked: MaskedModel) -> dict[str, float]:
    """Returns the density, the mean, standard deviation and range of the scores, and the figures of each pool."""
    processes = masked.processes
    scores = [tensor for pool in masked.pools for tensor in pool.scores()]
    count = sum(groups(scores, processes))
    mean = _total([score.sum(dtype=torch.float64) for score in scores], processes) / count
    variance = _total([(score - mean).square().sum(dtype=torch.float64) for score in scores], processes) / count
    extremes = torch.stack([_extremes(score) for score in scores])
    lowest, highest = processes.highest(extremes.amax(0)).tolist()
    found = {
        "density": masked.density(),
        "score_mean": mean,
        "score_std": math.sqrt(variance),
        "score_min": -lowest,
        "score_max": highest,
    }
    for number, pool in enumerate(masked.pools):
        suffix = f"_{number}" if len(masked.pools) > 1 else ""
        found |= {f"{name}{suffix}": figure for name, figure in pool.figures(masked.step).items()}
    return found


def warnings(masked: MaskedModel) -> Iterator[str]:
    """Yields a sentence where nothing is kept of a matrix, and where a penalty had no time to reach the density."""
    counts = kept([weight.mask for weight in masked.weights], masked.processes)
    emptied = [weight.name for weight, number in zip(masked.weights, counts, strict=True) if not number]
    if emptied:
        yield f"Nothing is left of {enumeration(emptied)}. Choose scope='local', or a higher density."
    for pool in masked.pools:
        if pool.controller is None or not pool.finished(masked.step):
            continue
        share, asked = pool.share_kept(pool.masks(masked.step)), pool.value(masked.step)
        if abs(share - asked) > 0.05 * asked:
            yield (
                f"The density is {share:.4f}, and {asked:.4f} was asked for: the scores had no time to get there. "
                "Train longer, or raise score_lr."
            )


def _total(values: Sequence[Tensor], processes: ProcessGroup) -> float:
    """The sum of the values of each site on each process."""
    return float(processes.total(torch.stack([value.cpu() for value in values]).sum()))


def _extremes(scores: Tensor) -> Tensor:
    """Returns the negative lowest and the highest; of none, minus infinity twice."""
    return torch.stack([-scores.amin(), scores.amax()]) if scores.numel() else scores.new_full((2,), -math.inf)
