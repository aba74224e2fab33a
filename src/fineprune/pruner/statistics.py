"""Figures to log of a masked model, and warnings at the end of a run."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ..core.masked_model import MaskedModel
from ..core.pool import Pool, surviving_of
from ..distributed.process_group import ProcessGroup
from ..errors import enumeration
from ..methods.base import PenalisedMethod, StochasticMethod
from ..methods.penalised import PenalisedScores
from ..selection.counts import groups_of, kept_of


def figures(masked: MaskedModel) -> dict[str, float]:
    """Returns the density, the mean, standard deviation and range of the scores, and the figures of each pool."""
    processes = masked.processes
    scores = [tensor for pool in masked.pools for tensor in pool.scores()]
    count = sum(groups_of(scores, processes))
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
        found |= {f"{name}{suffix}": figure for name, figure in _figures_of(pool, masked.step).items()}
    return found


def warnings(masked: MaskedModel) -> Iterator[str]:
    """Yields a sentence where nothing is kept of a matrix, and where a penalty had no time to reach the density."""
    counts = kept_of([weight.mask for weight in masked.weights], masked.processes)
    emptied = [weight.name for weight, number in zip(masked.weights, counts, strict=True) if not number]
    if emptied:
        yield f"Nothing is left of {enumeration(emptied)}. Choose scope='local', or a higher density."
    for pool in masked.pools:
        # Other methods keep exactly the groups of the budget, as whole ones; gates are opened by the penalty alone.
        steered_gates = pool.controller is not None and isinstance(pool.method, StochasticMethod)
        if not steered_gates or not pool.finished(masked.step):
            continue
        share, asked = share_kept(pool, pool.masks(masked.step)), pool.value(masked.step)
        if abs(share - asked) > 0.05 * asked:
            yield (
                f"The density is {share:.4f}, and {asked:.4f} was asked for: the scores had no time to get there. "
                "Train longer, or raise score_lr."
            )


def _figures_of(pool: Pool, step: int) -> dict[str, float]:
    """Figures to log: the density asked for where one is, lambda_t, and the cut on sigmoid(S) where there is one."""
    figures = {} if pool.method.decides_density else {"density_asked": pool.value(step)}
    if not isinstance(pool.method, PenalisedMethod):
        return figures
    figures["penalty"] = pool.penalty(step)
    if not isinstance(pool.method, PenalisedScores):
        return figures
    masks = [surviving_of(site.mask, surviving) for site, surviving in zip(pool.sites, pool.surviving, strict=True)]
    threshold = pool.method.threshold_in_force(pool.scores(), masks, pool.value(step), pool.processes)
    return figures if threshold is None else {**figures, "threshold": threshold}


def share_kept(pool: Pool, masks: Sequence[Tensor]) -> float:
    """The fraction of the budget that masks keep, of the surviving groups: the density asks for this."""
    costs = [pool.cost(site) for site in pool.sites]
    surviving = [
        site.groups if groups is None else int(groups.count_nonzero())
        for site, groups in zip(pool.sites, pool.surviving, strict=True)
    ]
    return float(np.dot(kept_of(masks, pool.processes), costs) / max(np.dot(surviving, costs), 1))


def _total(values: Sequence[Tensor], processes: ProcessGroup) -> float:
    """The sum of the values of each site on each process."""
    return float(processes.total(torch.stack([value.cpu() for value in values]).sum()))


def _extremes(scores: Tensor) -> Tensor:
    """Returns the negative lowest and the highest; of none, minus infinity twice."""
    return torch.stack([-scores.amin(), scores.amax()]) if scores.numel() else scores.new_full((2,), -math.inf)
