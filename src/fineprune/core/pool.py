"""One rule at work: the sites that share a config, and so a budget, a schedule and a penalty."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..config.config import PruningConfig
from ..distributed.process_group import ALONE, ProcessGroup
from ..errors import InvalidInputError, enumeration
from ..methods import controller as steering
from ..methods.base import Method
from ..methods.penalised import Penalised
from ..scores.philox import logit_noise
from ..selection.counts import budget_of, groups_of, kept_of, least_of
from ..selection.scopes import Select
from .site import Site
from .weight import Weight, both


@dataclass
class Pool:
    """The sites under one config without rules.

    Args:
        config: what holds for them.
        sites: the weights and their scores.
        total_steps: optimizer steps of the run.
        seed: of the noise.
        place: number of the first site among all of the pruner's.
        ranks: the processes among which the weights are shared out.
        controller: what sets the penalty where a density is asked for; None for other methods.
        left: of each site, the groups that earlier pools have left something of; None where they share no weight.
    """

    config: PruningConfig
    sites: list[Site]
    total_steps: int
    seed: int
    place: int
    processes: ProcessGroup = ALONE
    controller: steering.Controller | None = None
    surviving: list[Tensor | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.surviving = self.surviving or [None] * len(self.sites)

    @property
    def method(self) -> Method:
        return self.config.method

    def with_controller(self) -> "Pool":
        """Returns this pool with a new controller, if its method needs one."""
        if not self.method.steers or self.method.decides_density:
            return self
        return replace(self, controller=steering.Controller(max(20.0, self.total_steps / 20), self.method.strongest))

    def value(self, step: int) -> float:
        """The schedule's value for a step."""
        return self.config.schedule.value(step, self.total_steps, *self.config.values())

    def finished(self, step: int) -> bool:
        """Whether the schedule's final value is in force."""
        return self.value(step) == self.config.values()[1]

    def cost(self, site: Site) -> int:
        """What one group of a site takes of the budget."""
        return self.config.budget.cost(site.size, site.flops)

    # Scores and masks.

    def scores(self) -> list[Tensor]:
        """What ranks the groups of each site now, of those that are left."""
        return [self._ranking(place) for place in range(len(self.sites))]

    def _ranking(self, place: int) -> Tensor:
        site = self.sites[place]
        scores = self.method.current(None if site.scores is None else site.value(), site.magnitude)
        return _of_left(scores, self.surviving[place])

    def masks(self, step: int) -> list[Tensor]:
        """M of each site for a step, without noise."""
        every = list(range(len(self.sites)))
        one_by_one = self.config.scores.made_anew and self.config.scope == "local" and self.method.ranks
        shares = [[place] for place in every] if one_by_one else [every]
        return [mask for places in shares for mask in self._masks(places, step)]

    def _masks(self, places: Sequence[int], step: int) -> list[Tensor]:
        """M of some sites that share a budget, or of one that has its own."""
        scores = {place: self._ranking(place) for place in places}
        open_ = [place for place in places if scores[place].numel() or self.surviving[place] is None]
        scope = Select(self.config.scope, [self.sites[place].kind for place in open_], self.processes)
        costs = [self.cost(self.sites[place]) for place in open_]
        select = self.config.structure.select(scope)
        found = self.method.masks([scores[place] for place in open_], costs, self.value(step), select) if open_ else []
        chosen = dict(zip(open_, found, strict=True))
        return [self._among_all(place, chosen.get(place)) for place in places]

    def _among_all(self, place: int, mask: Tensor | None) -> Tensor:
        """Puts the mask of the groups that are left among those of all groups of a site."""
        surviving = self.surviving[place]
        if surviving is None:
            assert mask is not None
            return mask
        whole = torch.zeros_like(surviving, dtype=torch.bool if mask is None else mask.dtype)
        return whole if mask is None else whole.masked_scatter_(surviving, mask)

    def share_kept(self, masks: Sequence[Tensor]) -> float:
        """The fraction of the budget that masks keep, of the groups that are left: what the density asks for."""
        costs = [self.cost(site) for site in self.sites]
        surviving = [
            site.groups if surviving is None else int(surviving.count_nonzero())
            for site, surviving in zip(self.sites, self.surviving, strict=True)
        ]
        return float(np.dot(kept_of(masks, self.processes), costs) / max(np.dot(surviving, costs), 1))

    def gates(self, step: int) -> list[Tensor]:
        """M of each site for the forward passes of a step, drawn anew."""
        gates = []
        for place, site in enumerate(self.sites, self.place):
            start = site.rows_before * math.prod(site.shape[1:])
            gates.append(
                self.method.gate(site.value(), partial(logit_noise, seed=self.seed, step=step, place=place, start=start))
            )
        return gates

    # Learning.

    def penalty(self, step: int) -> float:
        """lambda_t in force."""
        return self.method.penalty_at(self.value(step)) if self.controller is None else self.controller.penalty

    def score_gradient(self, site: Site, movement: Tensor, step: int) -> Tensor:
        """dL/dS of a site whose scores learn; may change the movement."""
        return self.method.score_gradient(site.value(), movement, site.mask, self.penalty(step) / self._share(site))

    def _share(self, site: Site) -> float:
        """What R divides sigmoid(S) by: the mean over sites of means over scores; a linked group counts by what it takes."""
        if not self.config.structure.linked:
            return len(self.sites) * site.groups
        return sum(other.groups * self.cost(other) for other in self.sites) / self.cost(site)

    def contract(self, site: Site, step: int, rate: float) -> None:
        """Takes the proximal step of a penalty on the dense weights of a site, after the optimizer's.

        Args:
            site: one of this pool's.
            step: the step just taken.
            rate: the learning rate of the site's weights at it.
        """
        factors = self.method.contraction(site.magnitude(), rate * max(self.penalty(step), 0.0))
        for weight, cut in site.grouping.items():
            weight.dense.mul_(cut.expand(factors, weight.dense.shape).to(weight.dense.device))

    def steer(self, step: int, rate: float) -> None:
        """Sets the penalty for a step, where a density is asked for.

        Args:
            step: the step about to be taken.
            rate: the learning rate of what the penalty acts on, scores or weights.
        """
        value, method = self.value(step), self.method
        if self.controller is None or value == 1.0:
            return
        scores = self.scores()
        samples = [self._sampled(site, of_site) for site, of_site in zip(self.sites, scores, strict=True)]
        numbers = groups_of(scores, self.processes)
        weights = [number * self.cost(site) for number, site in zip(numbers, self.sites, strict=True)]
        if not isinstance(method, Penalised):
            ahead = self.value(min(step + round(self.controller.horizon), self.total_steps))  # what falls by then is to be 0
            self.controller.steer(steering.scores_at(samples, weights, [ahead])[0], rate, unit=1.0)
            self.controller.integral = 0.0  # weights have no drift to make good
            self.controller.penalty *= not self.finished(step)  # what is kept now stays
            return
        if method.cuts and self.finished(step):  # what the sample is wrong by at the cut is known, and taken out
            above = kept_of([tensor > method.cut for tensor in scores], self.processes)
            true = np.dot(above, [self.cost(site) for site in self.sites]) / sum(weights)
            value *= steering.density_above(samples, weights, method.cut) / max(true, 1 / sum(weights))
        low, where, high = steering.scores_at(samples, weights, [2 * value, value, value / 2])
        near = [(sample >= low) & (sample <= high) for sample in samples]
        moments = [
            None if site.scores is None else site.scores.second_moment(partial(self._sampled_left, site, surviving))
            for site, surviving in zip(self.sites, self.surviving, strict=True)
        ]
        unit = steering.penalty_unit(
            (method.slope(sample[mask]), moment[mask], self._share(site))
            for sample, moment, mask, site in zip(samples, moments, near, self.sites, strict=True)
            if moment is not None  # as long as no gradient has come
        )
        self.controller.steer(where - method.cut, rate, unit)

    def _sampled(self, site: Site, tensor: Tensor) -> Tensor:
        """About 65,536 values of all sites together, each by its share, always the same ones."""
        stride = sum(other.groups for other in self.sites) // steering.SAMPLE
        stride += 1 - stride % 2  # odd: not always the same columns
        first = -site.rows_before * math.prod(site.shape[1:]) % stride
        return self.processes.joined(tensor.flatten()[first::stride].float())

    def _sampled_left(self, site: Site, surviving: Tensor | None, tensor: Tensor) -> Tensor:
        return self._sampled(site, _of_left(tensor, surviving))

    def figures(self, step: int) -> dict[str, float]:
        """What there is to log: the density asked for where one is, lambda_t, and the cut on sigmoid(S) where there is one."""
        figures = {} if self.method.decides_density else {"density_asked": self.value(step)}
        if not self.method.steers:
            return figures
        figures["penalty"] = self.penalty(step)
        if not isinstance(self.method, Penalised):
            return figures
        masks = [_of_left(site.mask, surviving) for site, surviving in zip(self.sites, self.surviving, strict=True)]
        threshold = self.method.threshold_in_force(self.scores(), masks, self.value(step), self.processes)
        return figures if threshold is None else {**figures, "threshold": threshold}

    # What is refused.

    def check_costs(self) -> None:
        """Raises if groups take nothing of the budget."""
        idle = [site.name for site in self.sites if self.cost(site) == 0]
        if idle:
            raise InvalidInputError(
                f"budget was given as {self.config.budget}, and the groups of {enumeration(idle)} take no operations. "
                "Count them in weights, with InWeights()."
            )

    def check_budget(self, surviving: Mapping[Weight, float]) -> None:
        """Raises if the final density keeps nothing of a matrix, or everything.

        Args:
            left: which fraction of a weight the pools before this one leave at their end; those not named are left whole.
        """
        if self.method.decides_density or self.config.structure.density() is not None:
            return
        final = self.config.values()[1]
        if final == 1:
            raise InvalidInputError("density 1.0 would prune nothing. Ask for less than 1, or train without a Pruner.")
        numbers = [int(site.groups * min(surviving.get(weight, 1.0) for weight in site.grouping)) for site in self.sites]
        weights = sum(number * self.cost(site) for number, site in zip(numbers, self.sites, strict=True))
        counts = {site.name: (number, 1) for number, site in zip(numbers, self.sites, strict=True)}
        if isinstance(self.method, Penalised):
            each = (least_of(number, self.method.LEAST) * self.cost(s) for number, s in zip(numbers, self.sites, strict=True))
            least = sum(each)
            counts = {"some matrix, though at least 0.5 % of each and one more are to be kept": (weights, least)}
        elif self.config.scope == "global":  # counts weights, and its best group may be one of the largest
            counts = {"all matrices together": (weights, max(self.cost(site) for site in self.sites))}
        for name, (count, least) in counts.items():
            if budget_of(count, final) < least:
                enough = math.ceil(1e6 * least / max(count, 1)) / 1e6
                enough += 1e-6 * (budget_of(count, enough) < least)  # where rounding falls short
                raise InvalidInputError(
                    f"density {final} would keep nothing of {name}: {final} of {count:,} is less than {least:,}. Ask for at "
                    f"least {enough:.6g}, or leave some out with exclude_modules."
                )


def _of_left(tensor: Tensor, surviving: Tensor | None) -> Tensor:
    """The values of the groups that are left."""
    return tensor if surviving is None else tensor[surviving]


def share_weights(pools: Sequence[Pool]) -> bool:
    """Whether a weight stands under several sites, so that their masks hold for it together."""
    held = [weight for pool in pools for site in pool.sites for weight in site.grouping]
    return len(set(held)) < len(held)


def masks_of(pools: Sequence[Pool], step: int) -> list[list[Tensor]]:
    """Returns M of each site of each pool for a step, without noise. Where pools share weights, each shares out what those
    before it leave."""
    shared = share_weights(pools)
    kept: dict[Weight, Tensor] = {}
    found = []
    for pool in pools:
        pool.surviving = [site.surviving(kept) for site in pool.sites]
        found.append(pool.masks(step))
        if shared:
            _join(kept, pool, found[-1])
    return found


def spread_masks(pools: Sequence[Pool], masks: Sequence[Sequence[Tensor]]) -> dict[Weight, Tensor]:
    """Returns M of each weight: what the masks of all its sites keep together."""
    found: dict[Weight, Tensor] = {}
    for pool, of_pool in zip(pools, masks, strict=True):
        _join(found, pool, of_pool)
    return found


def _join(found: dict[Weight, Tensor], pool: Pool, masks: Sequence[Tensor]) -> None:
    """Adds what the masks of a pool's sites keep to what others do."""
    for site, mask in zip(pool.sites, masks, strict=True):
        for weight, each in site.spread(mask).items():
            found[weight] = both(found[weight], each) if weight in found else each


def density_of(pools: Sequence[Pool], masks: Sequence[Sequence[Tensor]]) -> float:
    """Returns the fraction of the weights of all pools that masks keep."""
    sites = [site for pool in pools for site in pool.sites]
    weights = {weight for site in sites for weight in site.grouping}
    total = sum(weight.parameter.numel() for weight in weights)
    if share_weights(pools):
        return sum(kept_of(list(spread_masks(pools, masks).values()), pools[0].processes)) / total
    counts = kept_of(list(itertools.chain(*masks)), pools[0].processes)
    return sum(count * site.size for count, site in zip(counts, sites, strict=True)) / total
