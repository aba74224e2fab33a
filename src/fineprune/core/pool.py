"""A pool: the sites that share one config, and so a budget, a schedule and a penalty."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from ..config.config import PruningConfig
from ..distributed.process_group import ALONE, ProcessGroup
from ..methods.base import LearnedMethod, Method, PenalisedMethod, StochasticMethod
from ..methods.controller import Controller
from ..scores.philox import logit_noise
from ..selection.counts import kept_of
from ..selection.scopes import Select
from .site import Site
from .weight import Weight, intersection


@dataclass
class Pool:
    """The sites under one config without rules.

    Args:
        config: their settings.
        sites: the weights and their scores.
        total_steps: optimizer steps of the run.
        seed: of the noise.
        place: number of the first site among all of the pruner's.
        processes: those over which the weights are sharded.
        controller: sets the penalty where a density is asked for; None for other methods.
        surviving: of each site, the groups in which earlier pools leave a weight; None where they share no weight.
    """

    config: PruningConfig
    sites: list[Site]
    total_steps: int
    seed: int
    place: int
    processes: ProcessGroup = ALONE
    controller: Controller | None = None
    surviving: list[Tensor | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.surviving = self.surviving or [None] * len(self.sites)

    @property
    def method(self) -> Method:
        return self.config.method

    def value(self, step: int) -> float:
        """The schedule's value for a step."""
        return self.config.schedule.value(step, self.total_steps, *self.config.values())

    def finished(self, step: int) -> bool:
        """Whether the schedule's final value is in force."""
        return self.value(step) == self.config.values()[1]

    def cost(self, site: Site) -> int:
        """The share of the budget that one group of a site takes."""
        return self.config.budget.cost(site.size, site.flops)

    # Scores and masks.

    def scores(self) -> list[Tensor]:
        """The scores that rank the groups of each site now, of the surviving ones."""
        return [self._ranking(place) for place in range(len(self.sites))]

    def _ranking(self, place: int) -> Tensor:
        site = self.sites[place]
        return surviving_of(site.magnitude() if site.scores is None else site.value(), self.surviving[place])

    def masks(self, step: int) -> list[Tensor]:
        """M of each site for a step, without noise."""
        every = list(range(len(self.sites)))
        one_by_one = self.config.scores.on_demand and self.config.scope == "local" and self.method.ranks
        shares = [[place] for place in every] if one_by_one else [every]
        return [mask for places in shares for mask in self._masks(places, step)]

    def _masks(self, places: Sequence[int], step: int) -> list[Tensor]:
        """M of sites that share a budget, or of one that has its own."""
        scores = {place: self._ranking(place) for place in places}
        open_ = [place for place in places if scores[place].numel() or self.surviving[place] is None]
        scope = Select(self.config.scope, [self.sites[place].kind for place in open_], self.processes)
        costs = [self.cost(self.sites[place]) for place in open_]
        select = self.config.structure.select(scope)
        found = self.method.masks([scores[place] for place in open_], costs, self.value(step), select) if open_ else []
        chosen = dict(zip(open_, found, strict=True))
        return [self._among_all(place, chosen.get(place)) for place in places]

    def _among_all(self, place: int, mask: Tensor | None) -> Tensor:
        """Puts the mask of the surviving groups among all groups of a site."""
        surviving = self.surviving[place]
        if surviving is None:
            assert mask is not None
            return mask
        whole = torch.zeros_like(surviving, dtype=torch.bool if mask is None else mask.dtype)
        return whole if mask is None else whole.masked_scatter_(surviving, mask)

    def samples(self, step: int) -> list[Tensor]:
        """M of each site for the forward passes of a step: sampled, where the method does."""
        if not isinstance(self.method, StochasticMethod):
            return [site.mask for site in self.sites]
        samples = []
        for place, site in enumerate(self.sites, self.place):
            start = site.rows_before * math.prod(site.shape[1:])
            noise = partial(logit_noise, seed=self.seed, step=step, place=place, start=start)
            samples.append(self.method.sample(site.value(), noise))
        return samples

    # Learning.

    def penalty(self, step: int) -> float:
        """lambda_t in force; 0 without a penalty."""
        if self.controller is not None:
            return self.controller.penalty
        return self.method.penalty_at(self.value(step)) if isinstance(self.method, PenalisedMethod) else 0.0

    def score_gradient(self, site: Site, movement: Tensor, step: int) -> Tensor:
        """dL/dS of a site whose scores learn; may change the movement."""
        assert isinstance(self.method, LearnedMethod)
        S, penalty = site.value(), self.penalty(step) / self.mean_divisor(site)
        gradient = self.method.score_gradient(S, movement, site.mask)
        if penalty and isinstance(self.method, PenalisedMethod):
            gradient.add_(self.method.slope(S), alpha=penalty)
        return gradient

    def mean_divisor(self, site: Site) -> float:
        """The number by which R divides sigmoid(S): a mean over sites of means over scores; linked groups count their cost."""
        if not self.config.structure.linked:
            return len(self.sites) * site.groups
        return sum(other.groups * self.cost(other) for other in self.sites) / self.cost(site)


def surviving_of(tensor: Tensor, surviving: Tensor | None) -> Tensor:
    """Returns the values of the groups that earlier pools leave."""
    return tensor if surviving is None else tensor[surviving]


def share_weights(pools: Sequence[Pool]) -> bool:
    """Whether a weight stands under several sites, so that their masks hold for it jointly."""
    held = [weight for pool in pools for site in pool.sites for weight in site.grouping]
    return len(set(held)) < len(held)


def masks_of(pools: Sequence[Pool], step: int) -> list[list[Tensor]]:
    """Returns M of each site of each pool for a step, without noise. Where pools share weights, each divides its budget over
    the groups that survive those before it."""
    shared = share_weights(pools)
    kept: dict[Weight, Tensor] = {}
    found = []
    for pool in pools:
        pool.surviving = [site.surviving(kept) for site in pool.sites]
        found.append(pool.masks(step))
        if shared:
            _join(kept, pool, found[-1])
    return found


def masks_of_weights(pools: Sequence[Pool], masks: Sequence[Sequence[Tensor]]) -> dict[Weight, Tensor]:
    """Returns M of each weight: kept where the masks of all its sites keep it."""
    found: dict[Weight, Tensor] = {}
    for pool, of_pool in zip(pools, masks, strict=True):
        _join(found, pool, of_pool)
    return found


def _join(found: dict[Weight, Tensor], pool: Pool, masks: Sequence[Tensor]) -> None:
    """Intersects the masks of a pool's sites with those found so far."""
    for site, mask in zip(pool.sites, masks, strict=True):
        for weight, each in site.expand(mask).items():
            found[weight] = intersection(found[weight], each) if weight in found else each


def density_of(pools: Sequence[Pool], masks: Sequence[Sequence[Tensor]]) -> float:
    """Returns the fraction of the weights of all pools that masks keep."""
    sites = [site for pool in pools for site in pool.sites]
    weights = {weight for site in sites for weight in site.grouping}
    total = sum(weight.parameter.numel() for weight in weights)
    if share_weights(pools):
        return sum(kept_of(list(masks_of_weights(pools, masks).values()), pools[0].processes)) / total
    counts = kept_of(list(itertools.chain(*masks)), pools[0].processes)
    return sum(count * site.size for count, site in zip(counts, sites, strict=True)) / total
