"""Penalties on scores, which push them down by lambda_t * R(S), and on weights, which shrink them."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from ..distributed.process_group import ALONE, ProcessGroup
from .base import LearnedMethod, PenalisedMethod
from .controller import Controller, Ranking


class PenalisedScores(LearnedMethod, PenalisedMethod):
    """Scores that are pushed down by a penalty; the cut lies at a fixed score.

    Where a density is asked for, the optimizer of the scores must have Adam's second moment.
    """

    ranks: ClassVar[bool] = False

    LEAST: ClassVar[float] = 0.005
    """Share of each matrix that is always kept, as in Sanh et al.'s released example."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_penalty()

    @property
    @abstractmethod
    def cut(self) -> float:
        """The score at or below which a group is pruned at the end."""

    def aim(self, ranking: Ranking) -> float:
        """Returns the density whose score is to lie at the cut."""
        return ranking.density

    def steer(self, controller: Controller, ranking: Ranking, rate: float) -> None:
        density = self.aim(ranking)
        low, score, high = ranking.at(2 * density, density, density / 2)
        controller.steer(score - self.cut, rate, ranking.typical_penalty(self.slope, low, high))

    def threshold_in_force(
        self, scores: Sequence[Tensor], masks: Sequence[Tensor], value: float, processes: ProcessGroup = ALONE
    ) -> float | None:
        """Returns the cut on sigmoid(S); None for a method without one."""
        return None


class PenalisedWeights(PenalisedMethod):
    """Weights that a penalty shrinks, by whole groups, after the optimizer's step."""

    @abstractmethod
    def contraction(self, magnitude: Tensor, amount: float) -> Tensor:
        """Returns the factor of each group's weights.

        Args:
            magnitude: root mean square of the weights of each group.
            amount: the learning rate of the weights times lambda_t.
        """


def logit(probability: float) -> float:
    """Returns ln(p / (1 - p)); minus infinity for 0."""
    return math.log(probability / (1 - probability)) if probability > 0 else -math.inf
