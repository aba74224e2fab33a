"""One rule at work: the sites that share a config, and so a budget, a schedule and a penalty."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from . import control
from .config import PruningConfig
from .errors import InvalidInputError
from .methods import Method, Penalised
from .noise import logit_noise
from .selection import SCOPES, budget, least_of
from .sites import Site


@dataclass
class Part:
    """The sites under one config without rules.

    Args:
        config: what holds for them.
        sites: the weights and their scores.
        total_steps: optimiser steps of the run.
        seed: of the noise.
        place: number of the first site among all of the pruner's.
        controller: what sets the penalty where a density is asked for; None for other methods.
    """

    config: PruningConfig
    sites: list[Site]
    total_steps: int
    seed: int
    place: int
    controller: control.Controller | None = None

    @property
    def method(self) -> Method:
        return self.config.method

    def with_controller(self) -> "Part":
        """Returns this part with a new controller, if its method needs one."""
        if not isinstance(self.method, Penalised) or self.method.decides_density:
            return self
        return replace(self, controller=control.Controller(max(20.0, self.total_steps / 20), self.method.strongest))

    def value(self, step: int) -> float:
        """The schedule's value for a step."""
        return self.config.schedule.value(step, self.total_steps, *self.config.values())

    def finished(self, step: int) -> bool:
        """Whether the schedule's final value is in force."""
        return self.value(step) == self.config.values()[1]

    # Scores and masks.

    def scores(self) -> list[Tensor]:
        """What ranks the groups of each site now."""
        return [self.method.current(site.scores, site.magnitude) for site in self.sites]

    def masks(self, step: int) -> list[Tensor]:
        """M of each site for a step, without noise."""
        scope = partial(SCOPES[self.config.scope], kinds=[site.kind for site in self.sites])
        select = self.config.structure.select(scope)
        return self.method.masks(self.scores(), [site.size for site in self.sites], self.value(step), select)

    def draw(self, step: int) -> None:
        """Lets the parameters hold W' = W * M for the forward passes of a step, with M drawn anew."""
        for place, site in enumerate(self.sites, self.place):
            assert site.scores is not None
            site.hold(self.method.gate(site.scores, partial(logit_noise, seed=self.seed, step=step, place=place)))

    def undraw(self, step: int) -> None:
        """Lets the parameters hold W' = W * M without noise."""
        for site, mask in zip(self.sites, self.masks(step), strict=True):
            site.hold(mask)

    # Learning.

    def penalty(self, step: int) -> float:
        """lambda_t in force."""
        return self.method.penalty_at(self.value(step)) if self.controller is None else self.controller.penalty

    def score_gradient(self, site: Site, movement: Tensor, step: int) -> Tensor:
        """dL/dS of a site whose scores learn; may change the movement."""
        assert site.scores is not None
        share = len(self.sites) * site.groups
        return self.method.score_gradient(site.scores, movement, site.mask, self.penalty(step) / share)

    def steer(self, step: int, rate: float) -> None:
        """Sets the penalty for a step, where a density is asked for.

        Args:
            step: the step about to be taken.
            rate: the learning rate of the scores at it.
        """
        value, method = self.value(step), self.method
        if self.controller is None or value == 1.0:
            return
        assert isinstance(method, Penalised)
        scores = [site.scores for site in self.sites if site.scores is not None]
        moments = [site.second_moment(self._sampled) for site in self.sites]
        samples, weights = [self._sampled(s) for s in scores], [site.groups * site.size for site in self.sites]
        if method.cuts and self.finished(step):  # what the sample is wrong by at the cut is known, and taken out
            sampled = control.density_above(samples, weights, method.cut)
            value *= sampled / max(control.density_above(scores, weights, method.cut), 1 / sum(weights))
        low, where, high = control.scores_at(samples, weights, [2 * value, value, value / 2])
        near = [(sample >= low) & (sample <= high) for sample in samples]
        unit = control.penalty_unit(
            (method.slope(sample[mask]), moment[mask], len(self.sites) * site.groups)
            for sample, moment, mask, site in zip(samples, moments, near, self.sites, strict=True)
            if moment is not None  # as long as no gradient has come
        )
        self.controller.steer(where - method.cut, rate, unit)

    def _sampled(self, tensor: Tensor) -> Tensor:
        """About 65,536 values of all sites together, each by its share, always the same ones."""
        stride = sum(site.groups for site in self.sites) // control.SAMPLE
        return tensor.flatten()[:: stride + 1 - stride % 2].float()  # odd: not always the same columns

    def figures(self, step: int) -> dict[str, float]:
        """What there is to log: the density asked for where one is, lambda_t, and the cut on sigmoid(S) where there is one."""
        figures = {} if self.method.decides_density else {"density_asked": self.value(step)}
        if not isinstance(self.method, Penalised):
            return figures
        figures["penalty"] = self.penalty(step)
        threshold = self.method.threshold_in_force(self.scores(), [site.mask for site in self.sites], self.value(step))
        return figures if threshold is None else {**figures, "threshold": threshold}

    # What is refused.

    def refuse_empty_budget(self) -> None:
        """Raises if the final density keeps nothing of a matrix, or everything."""
        if self.method.decides_density or self.config.structure.density() is not None:
            return
        final = self.config.values()[1]
        if final == 1:
            raise InvalidInputError("density 1.0 would prune nothing. Ask for less than 1, or train without a Pruner.")
        weights = sum(site.groups * site.size for site in self.sites)
        counts = {site.name: (site.groups, 1) for site in self.sites}
        if isinstance(self.method, Penalised):
            least = sum(least_of(site.groups, self.method.LEAST) * site.size for site in self.sites)
            counts = {"some matrix, though at least 0.5 % of each and one more are to be kept": (weights, least)}
        elif self.config.scope == "global":  # counts weights, and its best group may be one of the largest
            counts = {"all matrices together": (weights, max(site.size for site in self.sites))}
        for name, (count, least) in counts.items():
            if budget(count, final) < least:
                enough = math.ceil(1e6 * least / count) / 1e6
                enough += 1e-6 * (budget(count, enough) < least)  # where rounding falls short
                raise InvalidInputError(
                    f"density {final} would keep nothing of {name}: {final} of {count:,} is less than {least:,}. Ask for at "
                    f"least {enough:.6g}, or leave some out with exclude_modules."
                )


def density(parts: Sequence[Part], masks: Sequence[Sequence[Tensor]]) -> float:
    """Returns the fraction of the weights of all parts that masks keep."""
    sites = [site for part in parts for site in part.sites]
    counts: list[int] = torch.stack([mask.count_nonzero() for of_part in masks for mask in of_part]).tolist()
    kept = sum(count * site.size for count, site in zip(counts, sites, strict=True))
    return kept / sum(site.groups * site.size for site in sites)
