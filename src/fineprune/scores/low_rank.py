"""Scores as a product of two thin matrices."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import InvalidInputError
from ..methods.base import Method, PenalisedMethod
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
    on_demand: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise InvalidInputError(f"rank of LowRankScores must be a whole number, 1 or above, got {self.rank!r}.")

    def check(self, method: Method) -> None:
        check_learns(self, method)
        if _starts_at_random(method):
            raise InvalidInputError(
                f"{self} computes the initial scores again at each step, and those of {method} are random. Take an init that "
                "is not, as FromMagnitude() or Constant(0.0), or FullScores()."
            )
        if isinstance(method, PenalisedMethod) and not method.decides_density:
            raise InvalidInputError(
                f"{self} keeps no second moment of each score, by which {method} without a penalty reaches its density. "
                f"Give {type(method).__name__} a penalty instead of the density, or take Movement(), or BFloat16Scores()."
            )

    def initialised(
        self, method: Method, magnitude: Tensor, generator: torch.Generator, seed: int, place: int, rows: slice = ALL
    ) -> "LowRankStore":
        if magnitude.dim() != 2:
            raise InvalidInputError(
                f"{self} must have a matrix with one score a weight, got scores of shape {list(magnitude.shape)}. Take "
                "FullScores() or BFloat16Scores(): rows, columns and linked groups are few."
            )
        outputs, inputs = magnitude.shape
        noise = torch.randn((outputs, self.rank), generator=generator, dtype=magnitude.dtype)
        A = noise.div_(math.sqrt(self.rank)).to(magnitude.device)
        return LowRankStore(method, A, magnitude.new_zeros((self.rank, inputs)))


def _starts_at_random(method: Method) -> bool:
    """Whether a method initialises its scores from random numbers."""
    generator = torch.Generator()
    before = generator.get_state()
    method.init_scores(torch.ones(2, 2), generator)
    return not torch.equal(generator.get_state(), before)


class LowRankStore(Scores):
    """S = init(W) + A B."""

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

    def second_moment(self, select: Callable[[Tensor], Tensor]) -> None:
        return None

    def tensors(self) -> dict[str, Tensor]:
        return self._A.tensors() | self._B.tensors()

    def like_saved(self, tensors: Mapping[str, Tensor]) -> "LowRankStore":
        resumed = LowRankStore(self.method, *(saved(tensors, f"scores{each.name}", each.tensor) for each in (self._A, self._B)))
        for each in (resumed._A, resumed._B):
            each.take_moments(tensors)
        return resumed


def _in_full(tensor: Tensor) -> torch.autocast:
    """Keeps autocast, under which a forward pass may ask for S, from making a product of lower precision."""
    return torch.autocast(tensor.device.type, enabled=False)
