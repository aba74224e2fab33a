"""Scores as a product of two thin matrices."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import InvalidInputError
from ..methods.base import Method
from .base import ALL, ScoreForm, Scores, Trained, check_learns, saved


@dataclass(frozen=True)
class LowRankScores(ScoreForm):
    """S = init(W) + A B, of a matrix with one score a weight (PST, Li et al. 2022: S = abs(W) + A B).

    init(W) is what the method's init makes of the dense weights, computed again at each use, so that it takes no memory and
    follows them. A is outputs x rank, B is rank x inputs, and both learn by the method's optimizer, from the chain rule:

        dL/dA = dL/dS B^T,    dL/dB = A^T dL/dS

    A is initialised normal with variance 1 / rank, and B as 0, so that S starts as initialised. With Adam that takes
    12 * rank * (outputs + inputs) bytes a matrix, in place of 12 * outputs * inputs.

    Args:
        rank: of A B.
    """

    rank: int = 8

    shards: ClassVar[bool] = False
    made_anew: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise InvalidInputError(f"LowRankScores was given rank={self.rank!r}; it takes a whole number, 1 or more.")

    def check(self, method: Method) -> None:
        check_learns(self, method)
        if _draws_births(method):
            raise InvalidInputError(
                f"scores was given as {self}, which makes the init of the scores anew at each step, and {method} draws random "
                "numbers for it. Take a init that draws none, as FromMagnitude() or Constant(0.0), or FullScores()."
            )
        if method.steers and not method.decides_density:
            raise InvalidInputError(
                f"scores was given as {self}, and {method} without a penalty reaches its density by Adam's second moment of "
                f"each score, which is not kept. Give {type(method).__name__} a penalty instead of the density, or take "
                "Movement(), or BFloat16Scores()."
            )

    def initialised(
        self, method: Method, magnitude: Tensor, generator: torch.Generator, seed: int, place: int, rows: slice = ALL
    ) -> "LowRank":
        if magnitude.dim() != 2:
            raise InvalidInputError(
                f"scores was given as {self}, which is for a matrix with one score a weight, and here the scores are of shape "
                f"{list(magnitude.shape)}. Take FullScores() or BFloat16Scores(): rows, columns and linked groups are few."
            )
        outputs, inputs = magnitude.shape
        drawn = torch.randn((outputs, self.rank), generator=generator, dtype=magnitude.dtype)
        A = drawn.div_(math.sqrt(self.rank)).to(magnitude.device)
        return LowRank(method, A, magnitude.new_zeros((self.rank, inputs)))


def _draws_births(method: Method) -> bool:
    """Whether a method draws from the generator to let scores be initialised."""
    generator = torch.Generator()
    before = generator.get_state()
    method.init_scores(torch.ones(2, 2), generator)
    return not torch.equal(generator.get_state(), before)


class LowRank(Scores):
    """S = initialised(W) + A B."""

    learns = True

    def __init__(self, method: Method, A: Tensor, B: Tensor) -> None:
        self.method = method
        self._A = Trained(method, A, ".A")
        self._B = Trained(method, B, ".B")

    def value(self, magnitude: Callable[[], Tensor]) -> Tensor:
        initialised = self.method.init_scores(magnitude(), torch.Generator())
        assert initialised is not None
        with _in_full(initialised):
            return torch.addmm(initialised, self._A.tensor, self._B.tensor)

    def gradients(self, gradient: Tensor) -> list[Tensor]:
        with _in_full(gradient):
            return [gradient @ self._B.tensor.T, self._A.tensor.T @ gradient]

    def learn(self, gradients: Sequence[Tensor], rate: float) -> None:
        for each, gradient in zip((self._A, self._B), gradients, strict=True):
            each.learn(gradient, rate)

    def second_moment(self, part: Callable[[Tensor], Tensor]) -> None:
        return None

    def tensors(self) -> dict[str, Tensor]:
        return self._A.tensors() | self._B.tensors()

    def like_saved(self, tensors: Mapping[str, Tensor]) -> "LowRank":
        resumed = LowRank(self.method, *(saved(tensors, f"scores{each.name}", each.tensor) for each in (self._A, self._B)))
        for each in (resumed._A, resumed._B):
            each.take_moments(tensors)
        return resumed


def _in_full(tensor: Tensor) -> torch.autocast:
    """Keeps autocast, under which a forward pass may ask for S, from making a product of lower precision."""
    return torch.autocast(tensor.device.type, enabled=False)
