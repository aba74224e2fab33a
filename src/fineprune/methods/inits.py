"""How scores start. A new initialisation is a class here."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InvalidInputError, is_number


class ScoreInit(ABC):
    """How the scores S start."""

    @abstractmethod
    def scores(self, magnitude: Tensor, generator: torch.Generator) -> Tensor:
        """Returns new scores, given the magnitude of each group of one site: abs(W) for single weights; for larger groups their
        root mean square, stretched about its mean until it spreads as single weights do.

        Random numbers come from the generator, on the CPU, so that they are the same on every device.
        """


@dataclass(frozen=True)
class Constant(ScoreInit):
    """S = value, the paper's init (0 for movement). All scores tie, and the lower index is kept."""

    value: float = 0.0

    def __post_init__(self) -> None:
        if not is_number(self.value) or not math.isfinite(self.value):
            raise InvalidInputError(f"value of Constant must be a finite number, got {self.value!r}.")

    def scores(self, magnitude: Tensor, generator: torch.Generator) -> Tensor:
        return torch.full_like(magnitude, self.value)


@dataclass(frozen=True)
class Uniform(ScoreInit):
    """S is uniform from -bound to bound."""

    bound: float = 0.01

    def __post_init__(self) -> None:
        check_positive(self, "bound", self.bound)

    def scores(self, magnitude: Tensor, generator: torch.Generator) -> Tensor:
        return uniform(magnitude, generator).mul_(2 * self.bound).sub_(self.bound)


@dataclass(frozen=True)
class KaimingUniform(ScoreInit):
    """S is uniform within 1 / sqrt(the last dimension of the scores), as a linear layer is (a = sqrt 5)."""

    def scores(self, magnitude: Tensor, generator: torch.Generator) -> Tensor:
        return Uniform(1 / math.sqrt(magnitude.shape[-1])).scores(magnitude, generator)


@dataclass(frozen=True)
class FromMagnitude(ScoreInit):
    """S = scale * abs(W) / mean abs(W), per matrix: pruning starts as magnitude pruning, and movement corrects it.

    The scale is the exchange rate between magnitude and movement: the larger it is, the more evidence is needed to overturn
    the magnitude's order. The evidence that a score can gather is bounded by the sum of the score rates over the run,
    score_lr * steps / 2 where they decay to 0: a scale of 0.3 was settled at a sum of 4
    (docs/measurements/defaults.md). The scores of a matrix of zeros are 0. The magnitudes of groups of weights are stretched
    first, so that the same scale means as much as for single weights.
    """

    scale: float = 0.3

    def __post_init__(self) -> None:
        check_positive(self, "scale", self.scale)

    def scores(self, magnitude: Tensor, generator: torch.Generator) -> Tensor:
        mean = magnitude.mean()
        return self.scale * magnitude / mean if mean > 0 else torch.zeros_like(magnitude)


def uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    """Returns numbers from 0 to 1 in the shape, type and device of `like`."""
    return torch.rand(like.shape, generator=generator, dtype=like.dtype).to(like.device)


def check_positive(owner: object, name: str, value: float) -> None:
    """Raises InvalidInputError unless a setting is a number above 0."""
    if not is_number(value) or not 0 < value < math.inf:
        raise InvalidInputError(f"{name} of {type(owner).__name__} must be a number above 0, got {value!r}.")
