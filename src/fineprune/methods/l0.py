"""L0 regularisation by hard concrete gates (Louizos et al. 2018)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..distributed.process_group import ProcessGroup
from ..selection.counts import groups_of, kept_of, least_of
from ..selection.scopes import Select
from ..selection.topk import check_no_nan, keep_highest
from .base import StochasticMethod
from .controller import Ranking
from .inits import Constant, ScoreInit
from .penalised import PenalisedScores, logit


@dataclass(frozen=True)
class L0(PenalisedScores, StochasticMethod):
    """L0 regularisation by hard concrete gates, first order (Louizos et al. 2018; Sanh et al. 2020, table 1).

        s = sigmoid((logit(u) + S) / b) in training, sigmoid(S) otherwise
        M = clamp(s * (r - l) + l, 0, 1),    l = -0.1, r = 1.1, b = 2/3
        dL/dS = G * W * dM/dS + lambda_t * R'(S),    R'(S) = sigmoid'(S - b * ln(-l / r))

    M is a continuous gate. u is sampled once for each optimizer step. Between steps, for evaluation and
    in saved models, the gate without noise holds. At least floor(0.005 n) + 1 of the n groups of a
    matrix are kept then: where fewer gates are open, the highest scores' gates are s. The scope has no say.

    With `penalty`, lambda_t rises from 0 to it by the schedule and the density follows from it. With a
    density in the config, the density decreases by the schedule, by a controller that sets lambda_t.

    Args:
        penalty: lambda. None: the config gives a density.
        init: how the scores start; by default so that the gates are 0.98.
        score_lr: the scores' base learning rate; it follows that of the weights.
    """

    penalty: float | None = None
    init: ScoreInit = Constant(2.197)
    score_lr: float = 1e-1

    strongest: ClassVar[float] = 6.0
    LOW: ClassVar[float] = -0.1
    HIGH: ClassVar[float] = 1.1
    TEMPERATURE: ClassVar[float] = 2 / 3

    @property
    def cut(self) -> float:
        return logit(-self.LOW / (self.HIGH - self.LOW))

    @property
    def shift(self) -> float:
        return self.TEMPERATURE * math.log(-self.LOW / self.HIGH)

    def masks(self, scores: Sequence[Tensor], sizes: Sequence[int], value: float, select: Select) -> list[Tensor]:
        check_no_nan(scores, select.processes)
        gates = [self._stretch(tensor.sigmoid()) for tensor in scores]
        least = [least_of(number, self.LEAST) for number in groups_of(scores, select.processes)]
        return [
            gate if count >= enough else self._with_least(gate, tensor, enough, select.processes)
            for gate, tensor, count, enough in zip(gates, scores, kept_of(gates, select.processes), least, strict=True)
        ]

    def _with_least(self, gate: Tensor, scores: Tensor, least: int, processes: ProcessGroup) -> Tensor:
        """M, with s in place of the closed gates of the scores that are kept in any case."""
        (chosen,) = keep_highest([scores], [1], least, processes)
        return gate.where(~chosen | (gate > 0), scores.sigmoid())

    def sample(self, scores: Tensor, noise: Callable[[Tensor], Tensor]) -> Tensor:
        return self._stretch(noise(scores).add_(scores).div_(self.TEMPERATURE).sigmoid_())

    def _stretch(self, sigmoid: Tensor) -> Tensor:
        """clamp(s * (r - l) + l, 0, 1), in place."""
        return sigmoid.mul_(self.HIGH - self.LOW).add_(self.LOW).clamp_(0, 1)

    def score_gradient(self, scores: Tensor, movement: Tensor, mask: Tensor) -> Tensor:
        # dM/dS = (r - l) * s * (1 - s) / b while 0 < M < 1, with s = (M - l) / (r - l)
        sigmoid = (mask - self.LOW).mul_(1 / (self.HIGH - self.LOW))
        through = torch.ops.aten.hardtanh_backward(torch.ops.aten.sigmoid_backward(movement, sigmoid), mask, 0.0, 1.0)
        gradient: Tensor = through.mul_((self.HIGH - self.LOW) / self.TEMPERATURE)
        return gradient

    def aim(self, ranking: Ranking) -> float:
        """At the end the error of the sample at the cut is known, and taken out."""
        if not ranking.finished:
            return ranking.density
        sampled, counted = ranking.share_above(self.cut)
        return ranking.density * (sampled / counted)
