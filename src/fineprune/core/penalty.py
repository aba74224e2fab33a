"""lambda_t of a pool: steered by feedback, so that the run ends at the density asked for; and the proximal step it may take."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from torch import Tensor

from ..methods.base import PenalisedMethod
from ..methods.controller import Ranking, density_above, penalty_unit, scores_at
from ..methods.penalised import PenalisedWeights
from ..selection.counts import groups_of, kept_of
from .pool import Pool, surviving_of
from .site import Site

SAMPLE = 1 << 16
"""About how many scores are looked at, spread evenly over all sites; all of them where there are no more."""


def steer(pool: Pool, step: int, rate: float) -> None:
    """Sets lambda of a pool for a step, where a density is asked for.

    Args:
        pool: with a controller; others stay as they are.
        step: the step about to be taken.
        rate: the learning rate of the scores or weights that the penalty acts on.
    """
    if pool.controller is not None and isinstance(pool.method, PenalisedMethod) and pool.value(step) != 1.0:
        pool.method.steer(pool.controller, PoolRanking(pool, step, pool.controller.horizon), rate)


class PoolRanking(Ranking):
    """The scores of a pool at a step, sampled."""

    def __init__(self, pool: Pool, step: int, horizon: float) -> None:
        self.density = pool.value(step)
        self.density_ahead = pool.value(min(step + round(horizon), pool.total_steps))
        self.finished = pool.finished(step)
        self._pool = pool
        self._scores = pool.scores()
        self._samples = [self._sampled(site, scores) for site, scores in zip(pool.sites, self._scores, strict=True)]
        numbers = groups_of(self._scores, pool.processes)
        self._weights = [number * pool.cost(site) for number, site in zip(numbers, pool.sites, strict=True)]

    def at(self, *densities: float) -> list[float]:
        return scores_at(self._samples, self._weights, densities)

    def share_above(self, cut: float) -> tuple[float, float]:
        total = sum(self._weights)
        above = kept_of([scores > cut for scores in self._scores], self._pool.processes)
        counted = np.dot(above, [self._pool.cost(site) for site in self._pool.sites]) / total
        return density_above(self._samples, self._weights, cut), max(counted, 1 / total)

    def typical_penalty(self, slope: Callable[[Tensor], Tensor], low: float, high: float) -> float:
        pool = self._pool
        near = [(sample >= low) & (sample <= high) for sample in self._samples]
        moments = [
            None if site.scores is None else site.scores.second_moment(partial(self._sampled_surviving, site, surviving))
            for site, surviving in zip(pool.sites, pool.surviving, strict=True)
        ]
        return penalty_unit(
            (slope(sample[mask]), moment[mask], pool.mean_divisor(site))
            for sample, moment, mask, site in zip(self._samples, moments, near, pool.sites, strict=True)
            if moment is not None  # as long as no gradient has come
        )

    def _sampled(self, site: Site, tensor: Tensor) -> Tensor:
        """The share of one site in a sample of all sites, always at the same places."""
        stride = sum(other.groups for other in self._pool.sites) // SAMPLE
        stride += 1 - stride % 2  # odd: not always the same columns
        first = -site.rows_before * math.prod(site.shape[1:]) % stride
        return self._pool.processes.joined(tensor.flatten()[first::stride].float())

    def _sampled_surviving(self, site: Site, surviving: Tensor | None, tensor: Tensor) -> Tensor:
        return self._sampled(site, surviving_of(tensor, surviving))


def shrink_weights(pool: Pool, site: Site, step: int, rate: float) -> None:
    """Takes the proximal step of a penalty on the dense weights of a site, after the optimizer's.

    Args:
        pool: whose method penalises weights; the site is one of its.
        site: whose weights shrink.
        step: the step just taken.
        rate: the learning rate of the site's weights at it.
    """
    assert isinstance(pool.method, PenalisedWeights)
    factors = pool.method.contraction(site.magnitude(), rate * max(pool.penalty(step), 0.0))
    for weight, groups in site.grouping.items():
        weight.dense.mul_(groups.expand(factors, weight.dense.shape).to(weight.dense.device))
    site.restore()
