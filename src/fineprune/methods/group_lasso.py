"""Group lasso: a penalty on the weights themselves, by whole groups, applied as a proximal step."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..selection.scopes import Select
from .controller import Controller, Ranking
from .penalised import PenalisedWeights


@dataclass(frozen=True)
class GroupLasso(PenalisedWeights):
    """Zeroth order with a group-sparsity penalty on the weights (Yuan & Lin 2006).

        minimise  L(W) + lambda_t * sum over groups g of sqrt(|g|) * ||W_g||
        after the optimizer's step:  W_g <- max(0, 1 - eta * lambda_t * sqrt(|g|) / ||W_g||) * W_g

    eta is the weights' learning rate. The second line is the exact proximal step of the penalty: every group shrinks by the
    same amount (eta * lambda_t, in root mean square), and one that is smaller becomes exactly 0. A group of zeros stays 0.

    With `penalty`, lambda_t rises from 0 to it by the schedule, and groups that are not 0 are kept: the density follows. With
    a density in the config, the groups of the largest root mean square are kept, and lambda_t is set by the same controller as
    for the other penalties, so that groups are nearly 0 when they are pruned; once the last is pruned there is no penalty.

    Args:
        penalty: lambda. None: the config gives a density.
    """

    penalty: float | None = None

    def __post_init__(self) -> None:
        self.check_penalty()

    @property
    def ranks(self) -> bool:  # type: ignore[override]
        return self.penalty is None

    def init_scores(self, magnitude: Tensor, generator: torch.Generator) -> None:
        return None

    def masks(self, scores: Sequence[Tensor], sizes: Sequence[int], value: float, select: Select) -> list[Tensor]:
        return [score > 0 for score in scores] if self.penalty is not None else select(scores, sizes, value)

    def contraction(self, magnitude: Tensor, amount: float) -> Tensor:
        return (1 - amount / magnitude).clamp(min=0).nan_to_num(0.0)  # 0 / 0 where a group is 0 and so is the amount

    def steer(self, controller: Controller, ranking: Ranking, rate: float) -> None:
        (score,) = ranking.at(ranking.density_ahead)  # groups that are pruned by then should be 0
        controller.steer(score, rate, unit=1.0)
        controller.integral = 0.0  # weights have no drift to compensate
        controller.penalty *= not ranking.finished  # the groups that are kept now stay
