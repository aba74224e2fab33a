"""Steering a penalty by feedback, so that a run ends at the density it was asked for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SAMPLE = 1 << 16
"""About so many scores are looked at, spread evenly over all sites; all of them where there are no more."""

STRONGEST = 0.7
"""The penalty pulls at a typical score with at most this fraction of the speed that its optimiser allows."""


@dataclass
class Controller:
    """A proportional-integral controller in the units of the scores, so that one tuning fits all tasks and rates.

    Let q be the score at the asked rank and c the cut, where it should be. Adam moves a score by about
    its rate a step, whatever the loss. So the pull k that takes q to c within `horizon` steps is

        k = (q - c) / (horizon * rate) + integral,    between -0.7 and 0.7

    and lambda is k times the penalty at which a typical score's penalty equals its typical gradient
    (square root of Adam's second moment; Adam divides by it, so the pull is the speed in units of the
    rate). The integral grows while q is off and makes good a steady drift. lambda may be
    negative: it is the multiplier of an equation, as in a Lagrangian (CoFi, Xia et al. 2022).

    Args:
        horizon: steps.
        penalty: lambda in force.
        integral: the pull that holds q still, as found so far.
    """

    horizon: float
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
        pull = min(max(proportional + self.integral, -STRONGEST), STRONGEST)
        if pull == proportional + self.integral:  # otherwise it would wind up
            self.integral += proportional / (4 * self.horizon)
        self.penalty = pull * unit


def score_at(samples: Sequence[Tensor], weights: Sequence[int], density: float) -> float:
    """Returns about the score at or above which groups with `density` of all weights lie.

    Args:
        samples: some scores of each site.
        weights: how many weights each site holds.
        density: above 0 and below 1.
    """
    values, order = torch.cat(list(samples)).sort(descending=True)
    shares = [torch.full_like(part, weight / len(part)) for part, weight in zip(samples, weights, strict=True)]
    covered = torch.cat(shares)[order].cumsum(0, dtype=torch.float64) / sum(weights)
    return float(values[(covered < density).sum().clamp(max=len(values) - 1)])


def penalty_unit(slopes: Sequence[Tensor], moments: Sequence[Tensor], numbers: Sequence[int]) -> float:
    """Returns the median over scores of the lambda at which the penalty's gradient equals the score's typical one.

    Args:
        slopes: samples of R'(S) of each site, before the means are taken.
        moments: samples of Adam's second moment in the same places, bias corrected.
        numbers: how many scores each site has.
    """
    lambdas = [m.sqrt() * number * len(slopes) / s for s, m, number in zip(slopes, moments, numbers, strict=True)]
    finite = torch.cat(lambdas)
    finite = finite[finite.isfinite() & (finite > 0)]
    return float(finite.median()) if len(finite) else 0.0
