"""Steering a penalty by feedback, so that a run ends at the density it was asked for."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Controller:
    """A proportional-integral controller in the units of the scores, so that one tuning fits all tasks and rates.

    Let q be the score at the asked rank and c the cut, where it should be. Adam moves a score by about
    its rate a step, whatever the loss. So the pull k that takes q to c within `horizon` steps is

        k = (q - c) / (horizon * rate) + integral,    between -strongest and strongest

    and lambda is k times the penalty whose gradient equals the typical gradient of the scores around q
    (square root of Adam's second moment; Adam divides by it, so the pull is the speed in units of the
    rate). The integral makes good a steady drift of the scores, which is never faster than the rate; it
    grows only while q is near, and so does not wind up on the way. lambda may be negative: it is the
    multiplier of an equation, as in a Lagrangian (CoFi, Xia et al. 2022).

    Args:
        horizon: steps.
        strongest: the hardest pull. Up to 1 the optimizer can follow for ever; a harder one lasts until Adam's
            second moment has caught up, a few hundred steps, and outweighs the loss meanwhile.
        penalty: lambda in force.
        integral: the pull that holds q still, as found so far.
    """

    horizon: float
    strongest: float
    penalty: float = 0.0
    integral: float = 0.0

    def steer(self, error: float, rate: float, unit: float) -> None:
        """Sets lambda for the next step.

        Args:
            error: q - c.
            rate: the scores' learning rate at this step.
            unit: the lambda whose penalty equals a typical gradient of the scores.
        """
        if rate <= 0 or unit <= 0 or not math.isfinite(error):
            return
        proportional = error / (self.horizon * rate)
        self.penalty = _within(self.strongest, proportional + self.integral) * unit
        if abs(proportional) < 1:  # further away it would wind up; and no drift is faster than the optimizer
            self.integral = _within(1.0, self.integral + proportional / (4 * self.horizon))


class Ranking(ABC):
    """The scores of all sites that share a budget, as a steered method sees them: sampled, with the density asked for."""

    density: float
    """The density asked for at this step."""
    density_ahead: float
    """The density asked for one horizon later."""
    finished: bool
    """Whether the schedule's final value is in force."""

    @abstractmethod
    def at(self, *densities: float) -> list[float]:
        """Returns for each density a score: the groups at or above it hold that fraction of all weights, by the sample."""

    @abstractmethod
    def share_above(self, cut: float) -> tuple[float, float]:
        """Returns the fraction of the weights whose groups' scores lie above a cut: read off the sample, and counted."""

    @abstractmethod
    def typical_penalty(self, slope: Callable[[Tensor], Tensor], low: float, high: float) -> float:
        """Returns the lambda whose penalty equals the typical gradient of the scores between two values.

        Args:
            slope: R'(S) of each score, before the means are taken.
            low, high: the scores to look at.
        """


def _within(bound: float, value: float) -> float:
    return min(max(value, -bound), bound)


def scores_at(samples: Sequence[Tensor], weights: Sequence[int], densities: Sequence[float]) -> list[float]:
    """Returns, for each density, about the score at or above which groups with that fraction of all weights lie.

    Args:
        samples: a sample of the scores of each site.
        weights: how many weights each site holds.
        densities: each above 0.
    """
    values, order = torch.cat(list(samples)).sort(descending=True)
    shares = [torch.full_like(sample, weight / len(sample)) for sample, weight in zip(samples, weights, strict=True)]
    covered = torch.cat(shares)[order].cumsum(0, dtype=torch.float64) / sum(weights)
    places = torch.searchsorted(covered, torch.tensor(densities, dtype=torch.float64, device=covered.device))
    found: list[float] = values[places.clamp(max=len(values) - 1)].tolist()
    return found


def density_above(scores: Sequence[Tensor], weights: Sequence[int], cut: float) -> float:
    """Returns the fraction of all weights whose groups' scores lie above a cut; `scores` and `weights` as in `scores_at`."""
    counts = [(tensor > cut).count_nonzero() / tensor.numel() for tensor in scores]
    shares: list[float] = torch.stack(counts).tolist()
    return sum(share * weight for share, weight in zip(shares, weights, strict=True)) / sum(weights)


def penalty_unit(sites: Iterable[tuple[Tensor, Tensor, float]]) -> float:
    """Returns the median over scores of the lambda at which the penalty equals a score's typical gradient; 0 for no scores.

    Args:
        sites: of each site R'(S) of some scores before the means are taken, Adam's second moment in the same
            places, bias corrected, and the divisor of the means: the number of sites times that of its scores.
    """
    lambdas = [moment.sqrt() * share / slope for slope, moment, share in sites]
    if not lambdas:
        return 0.0
    finite = torch.cat(lambdas)
    finite = finite[finite.isfinite() & (finite > 0)]
    return float(finite.median()) if len(finite) else 0.0
