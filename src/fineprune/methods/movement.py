"""Movement pruning, hard and soft (Sanh et al. 2020, section 4)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..distributed.process_group import ALONE, ProcessGroup
from ..errors import InvalidInputError, is_number
from ..selection.scopes import Select, keep_above, keep_global_and_least
from .base import LearnedMethod
from .inits import Constant, FromMagnitude, ScoreInit
from .penalised import PenalisedScores, logit


@dataclass(frozen=True)
class Movement(LearnedMethod):
    """MvP, hard movement pruning, first order (Sanh et al. 2020, section 4).

        M = top_v(S),    dL/dS = G * W    with G = dL/dW', W' = W * M

    The straight-through gradient reaches kept and pruned weights alike: a score falls while the
    weight moves toward zero and rises while it moves away. S learns by Adam without decay.

    By default the scores are initialised from the magnitude, not as the paper's 0: in runs of 800 steps scores that start at 0
    lose to magnitude pruning, and scores from the magnitude do not (docs/measurements/defaults.md). The paper's form is
    `Movement(init=Constant(0.0))`.

    Args:
        init: how the scores start.
        score_lr: the scores' base learning rate. It follows the warmup and the decay of the
            weights' own rate. With a constant init it has no effect, since ranking is scale-free.
    """

    init: ScoreInit = FromMagnitude()
    score_lr: float = 1e-2


@dataclass(frozen=True)
class SoftMovement(PenalisedScores):
    """SMvP, soft movement pruning, first order (Sanh et al. 2020, section 4).

        M = sigmoid(S) > tau,    dL/dS = G * W + lambda_t * R'(S)

    At least floor(0.005 n) + 1 of the n groups of a matrix are kept. One threshold holds for all matrices, so
    that each keeps as much as its scores deserve, whatever the scope.

    With `penalty`, tau rises from 0 to `threshold` by the schedule, lambda_t = penalty * tau / threshold, and the
    density follows from it. With a density in the config, the density decreases by the schedule: tau is where it
    must be to keep exactly that many, and lambda_t is set so that tau ends near `threshold`.

    Args:
        penalty: lambda. None: the config gives a density.
        threshold: the cut tau on sigmoid(S) at the end.
        init: how the scores start. None: with a penalty at 0, as in the paper; with a density from the magnitude, which in
            short runs keeps more of the accuracy (measured: docs/measurements/defaults.md).
        score_lr: the scores' base learning rate; it follows that of the weights.
    """

    penalty: float | None = None
    threshold: float = 0.1
    init: ScoreInit | None = None  # type: ignore[assignment]  # None is replaced by what it stands for
    score_lr: float = 1e-2

    def __post_init__(self) -> None:
        if self.init is None:
            object.__setattr__(self, "init", FromMagnitude() if self.penalty is None else Constant(0.0))
        super().__post_init__()
        if not is_number(self.threshold) or not 0 < self.threshold < 1:
            raise InvalidInputError(f"threshold must be a cut on sigmoid(S), above 0 and below 1, got {self.threshold!r}.")

    @property
    def last(self) -> float:
        return self.threshold

    @property
    def cut(self) -> float:
        return logit(self.threshold)

    def masks(self, scores: Sequence[Tensor], sizes: Sequence[int], value: float, select: Select) -> list[Tensor]:
        if self.penalty is None:
            return keep_global_and_least(scores, sizes, value, self.LEAST, select.processes)
        return keep_above(scores, logit(value), self.LEAST, select.processes)

    def threshold_in_force(
        self, scores: Sequence[Tensor], masks: Sequence[Tensor], value: float, processes: ProcessGroup = ALONE
    ) -> float:
        """Returns tau: with a density, sigmoid of the highest score that is pruned, 0 while none is."""
        if self.penalty is not None:
            return value
        pairs = zip(scores, masks, strict=True)
        highest = [tensor.masked_fill(mask, -math.inf).amax() for tensor, mask in pairs if tensor.numel()]
        highest.append(scores[0].new_tensor(-math.inf))  # where this process holds none
        return float(processes.highest(torch.stack(highest).amax()).sigmoid())
