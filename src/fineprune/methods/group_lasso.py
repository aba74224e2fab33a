"""Group lasso: a penalty on the weights themselves, by whole groups, applied as a proximal step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import InvalidInputError
from ..selection.scopes import Select
from .base import Method, check_penalty


@dataclass(frozen=True)
class GroupLasso(Method):
    """Zeroth order with a group-sparsity penalty on the weights (Yuan & Lin 2006).

        minimise  L(W) + lambda_t * sum over groups g of sqrt(|g|) * ||W_g||
        after the optimizer's step:  W_g <- max(0, 1 - eta * lambda_t * sqrt(|g|) / ||W_g||) * W_g

    eta is the weights' learning rate. The second line is the exact proximal step of the penalty: every group shrinks by the
    same amount (eta * lambda_t, in root mean square), and one that is smaller becomes exactly 0. A group of zeros stays 0.

    With `penalty`, lambda_t rises from 0 to it by the schedule, and what is not 0 is kept: the density is what comes out. With
    a density in the config, the groups of the largest root mean square are kept, and lambda_t is set by the same controller as
    for the other penalties, so that groups are nearly 0 when they fall; once the last has fallen there is no penalty.

    Args:
        penalty: lambda. None: the config gives a density.
    """

    penalty: float | None = None

    steers: ClassVar[bool] = True
    contracts: ClassVar[bool] = True
    strongest: ClassVar[float] = 0.5
    """How hard the penalty may pull where a density is asked for: shrinkage a step, in learning rates of the weights."""

    def __post_init__(self) -> None:
        check_penalty(self, self.penalty)

    @property
    def decides_density(self) -> bool:
        return self.penalty is not None

    @property
    def ranks(self) -> bool:  # type: ignore[override]
        return self.penalty is None

    def values(self, density: float | None) -> tuple[float, float]:
        if (density is None) == (self.penalty is None):
            raise InvalidInputError(
                f"GroupLasso was given density={density} and penalty={self.penalty}; it takes one of the two: the fraction of "
                "weights to keep, or GroupLasso(penalty=...) with lambda."
            )
        return (0.0, 1.0) if density is None else (1.0, density)

    def penalty_at(self, value: float) -> float:
        return 0.0 if self.penalty is None else self.penalty * value

    def init_scores(self, magnitude: Tensor, generator: torch.Generator) -> None:
        return None

    def masks(self, scores: Sequence[Tensor], sizes: Sequence[int], value: float, select: Select) -> list[Tensor]:
        return [score > 0 for score in scores] if self.penalty is not None else select(scores, sizes, value)

    def contraction(self, magnitude: Tensor, amount: float) -> Tensor:
        return (1 - amount / magnitude).clamp(min=0).nan_to_num(0.0)  # 0 / 0 where a group is 0 and so is the amount
