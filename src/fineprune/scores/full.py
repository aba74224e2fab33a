"""Scores in the precision of float32 at least, trained by the method's own optimizer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..methods.base import LearnedMethod, Method
from .base import ALL, ScoreForm, Scores, Trained, held, saved


@dataclass(frozen=True)
class FullScores(ScoreForm):
    """One score a group in float32, in float64 for weights in float64, and the method's own optimizer: with Adam 12 bytes
    a group."""

    def check(self, method: Method) -> None:
        """Every method's scores can be kept so."""

    def initialised(
        self, method: Method, magnitude: Tensor, generator: torch.Generator, seed: int, place: int, rows: slice = ALL
    ) -> "FullStore | None":
        scores = method.init_scores(magnitude, generator)
        return None if scores is None else FullStore(method, held(scores, rows))


class FullStore(Scores):
    """S as one tensor."""

    def __init__(self, method: Method, scores: Tensor) -> None:
        self.method = method
        self.learns = isinstance(method, LearnedMethod)
        self._scores = Trained(method, scores)

    def value(self, magnitude: Callable[[], Tensor]) -> Tensor:
        return self._scores.tensor

    def gradients(self, gradient: Tensor) -> list[Tensor]:
        return [gradient]

    def learn(self, gradients: Sequence[Tensor], rate: float) -> None:
        (gradient,) = gradients
        self._scores.learn(gradient, rate)

    def second_moment(self, select: Callable[[Tensor], Tensor]) -> Tensor | None:
        return self._scores.second_moment(select)

    def tensors(self) -> dict[str, Tensor]:
        return self._scores.tensors()

    def like_saved(self, tensors: Mapping[str, Tensor]) -> "FullStore":
        resumed = FullStore(self.method, saved(tensors, "scores", self._scores.tensor))
        resumed._scores.take_moments(tensors)
        return resumed
