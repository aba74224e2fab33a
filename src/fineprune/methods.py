"""How scores are born, learn, and become a mask. One class a method; the paper's table 1."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .errors import InvalidInputError, is_number
from .selection import Select


class Birth(ABC):
    """How the scores S start."""

    @abstractmethod
    def scores(self, magnitude: Tensor, generator: torch.Generator) -> Tensor:
        """Returns new scores, given the magnitude of each group of one matrix, abs(W) for single weights.

        Random numbers are drawn on the CPU from the generator, so that they are the same on every device.
        """


@dataclass(frozen=True)
class Constant(Birth):
    """S = value, the paper's birth (0 for movement). All scores tie, and the lower index is kept."""

    value: float = 0.0

    def __post_init__(self) -> None:
        if not is_number(self.value) or not math.isfinite(self.value):
            raise InvalidInputError(f"Constant was given value={self.value!r}; scores are born as finite numbers.")

    def scores(self, magnitude: Tensor, generator: torch.Generator) -> Tensor:
        return torch.full_like(magnitude, self.value)


@dataclass(frozen=True)
class Uniform(Birth):
    """S is drawn uniformly from -bound to bound."""

    bound: float = 0.01

    def __post_init__(self) -> None:
        _refuse_unless_positive(self, "bound", self.bound)

    def scores(self, magnitude: Tensor, generator: torch.Generator) -> Tensor:
        return _uniform(magnitude, generator).mul_(2 * self.bound).sub_(self.bound)


@dataclass(frozen=True)
class KaimingUniform(Birth):
    """S is drawn uniformly within 1 / sqrt(the last dimension of the scores), as a linear layer is (a = sqrt 5)."""

    def scores(self, magnitude: Tensor, generator: torch.Generator) -> Tensor:
        return Uniform(1 / math.sqrt(magnitude.shape[-1])).scores(magnitude, generator)


@dataclass(frozen=True)
class FromMagnitude(Birth):
    """S = scale * abs(W) / mean abs(W), per matrix: pruning starts as magnitude pruning, and movement corrects it.

    The scale is the exchange rate between magnitude and movement: the larger it is, the more
    evidence it takes to overturn the magnitude's order. The scores of a matrix of zeros are 0.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        _refuse_unless_positive(self, "scale", self.scale)

    def scores(self, magnitude: Tensor, generator: torch.Generator) -> Tensor:
        mean = magnitude.mean()
        return self.scale * magnitude / mean if mean > 0 else torch.zeros_like(magnitude)


def _refuse_unless_positive(owner: object, name: str, value: float) -> None:
    if not is_number(value) or not 0 < value < math.inf:
        raise InvalidInputError(f"{type(owner).__name__} was given {name}={value!r}; it takes a number above 0.")


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    """Returns numbers from 0 to 1 in the shape, type and device of `like`."""
    return torch.rand(like.shape, generator=generator, dtype=like.dtype).to(like.device)


class Method(ABC):
    """What ranks the groups. A new method is a frozen dataclass that overrides what differs.

    The pruner owns the scores of each site (a matrix, or linked matrices) and asks the method to
    let them be born, to turn movement into their gradient, and to turn all of them into masks.
    """

    learns: ClassVar[bool] = False
    """Whether the scores have a gradient and an optimiser."""

    def values(self, density: float | None) -> tuple[float, float]:
        """Returns the initial and the final value of the schedule: here the density kept.

        Raises InvalidInputError if the method needs a density and there is none.
        """
        if density is None:
            raise InvalidInputError(
                f"{type(self).__name__} was given no density; set density to the fraction of weights to keep, as 0.1."
            )
        return 1.0, density

    @abstractmethod
    def birth_scores(self, magnitude: Tensor, generator: torch.Generator) -> Tensor | None:
        """Returns the scores with which a site starts; None if they are made anew from the weights at each step."""

    def current(self, scores: Tensor | None, magnitude: Callable[[], Tensor]) -> Tensor:
        """Returns the scores that rank the groups now."""
        return magnitude() if scores is None else scores

    def score_gradient(self, scores: Tensor, movement: Tensor, value: float, sites: int) -> Tensor:
        """Returns dL/dS of one site, given sum(G * W) over each group.

        Args:
            scores: S.
            movement: reduce(G * W) in the shape of S; may be changed in place and returned.
            value: the schedule's value in force.
            sites: over how many sites a penalty is averaged.
        """
        return movement

    def optimizer(self, scores: Tensor) -> torch.optim.Optimizer:
        """Returns the optimiser of one tensor of scores; the pruner sets its learning rate at each step."""
        raise NotImplementedError

    def score_rate(self, factor: float) -> float:
        """Returns the learning rate of the scores when the weights' own rate is `factor` of its base."""
        raise NotImplementedError

    def masks(self, scores: Sequence[Tensor], sizes: Sequence[int], value: float, select: Select) -> list[Tensor]:
        """Returns M of every site: here the top v of the scores, within the scope that `select` stands for."""
        return select(scores, sizes, value)


@dataclass(frozen=True)
class Magnitude(Method):
    """MaP, zeroth order: S = abs(W), the dense weight (Han et al. 2015; Zhu & Gupta 2017)."""

    def birth_scores(self, magnitude: Tensor, generator: torch.Generator) -> None:
        return None


@dataclass(frozen=True)
class Random(Method):
    """The control: S is random and never changes, so a random set is kept."""

    def birth_scores(self, magnitude: Tensor, generator: torch.Generator) -> Tensor:
        return _uniform(magnitude, generator)


@dataclass(frozen=True)
class Movement(Method):
    """MvP, hard movement pruning, first order (Sanh et al. 2020, section 4).

        M = top_v(S),    dL/dS = G * W    with G = dL/dW', W' = W * M

    The straight-through gradient reaches kept and pruned weights alike: a score falls while the
    weight moves toward zero and rises while it moves away. S learns by Adam without decay.

    Args:
        birth: how the scores start.
        score_lr: the scores' base learning rate. It follows the warm-up and the decay of the
            weights' own rate. With a constant birth it has no effect, since ranking is scale-free.
    """

    birth: Birth = Constant(0.0)
    score_lr: float = 1e-2

    learns: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.birth, Birth):
            raise InvalidInputError(f"Movement was given birth={self.birth!r}; it takes a birth, as Constant(0.0).")
        _refuse_unless_positive(self, "score_lr", self.score_lr)

    def birth_scores(self, magnitude: Tensor, generator: torch.Generator) -> Tensor:
        return self.birth.scores(magnitude, generator)

    def optimizer(self, scores: Tensor) -> torch.optim.Optimizer:
        fused = scores.device.type in ("cpu", "cuda")
        return torch.optim.Adam([scores], lr=self.score_lr, weight_decay=0.0, fused=fused)

    def score_rate(self, factor: float) -> float:
        return self.score_lr * factor
