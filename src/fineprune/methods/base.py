"""The bases of methods: how scores start, learn and become a mask (Sanh et al. 2020, table 1).

A new method is a frozen dataclass that derives from what it needs:

    Method             scores to masks
    LearnedMethod      and the scores learn: an optimizer, a gradient
    PenalisedMethod    and a penalty pulls groups down: how far they are from where they should be
    StochasticMethod   and the mask is sampled for the forward passes of each step
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import InvalidInputError, is_number
from ..selection.scopes import Select
from .controller import Controller, Ranking
from .inits import ScoreInit, check_positive


class Method(ABC):
    """Turns scores into masks. The pruner owns the scores of each site (a matrix, or linked matrices)."""

    ranks: ClassVar[bool] = True
    """Whether M is the top of a ranking, so that every structure and scope can divide its budget."""

    @property
    def decides_density(self) -> bool:
        """Whether the method itself settles how much is kept, so that it takes no density."""
        return False

    def values(self, density: float | None) -> tuple[float, float]:
        """Returns the initial and the final value of the schedule: here the density kept.

        Raises:
            InvalidInputError: if the method needs a density and there is none.
        """
        if density is None:
            raise InvalidInputError(f"{type(self).__name__} needs a density: the fraction of weights to keep, as density=0.1.")
        return 1.0, density

    @abstractmethod
    def init_scores(self, magnitude: Tensor, generator: torch.Generator) -> Tensor | None:
        """Returns the scores with which a site starts; None if they are the magnitude of its weights at each step."""

    def masks(self, scores: Sequence[Tensor], sizes: Sequence[int], value: float, select: Select) -> list[Tensor]:
        """Returns M of every site: here the top v of the scores, within the scope that `select` stands for."""
        return select(scores, sizes, value)


class LearnedMethod(Method):
    """A method whose scores learn, by default by Adam without decay, at a rate that follows that of the weights."""

    init: ScoreInit
    score_lr: float

    def __post_init__(self) -> None:
        if not isinstance(self.init, ScoreInit):
            raise InvalidInputError(
                f"init must be a score initialisation, got {self.init!r}. Take Constant(0.0), or FromMagnitude()."
            )
        check_positive(self, "score_lr", self.score_lr)

    def init_scores(self, magnitude: Tensor, generator: torch.Generator) -> Tensor:
        return self.init.scores(magnitude, generator)

    def score_gradient(self, scores: Tensor, movement: Tensor, mask: Tensor) -> Tensor:
        """Returns dL/dS of one site, without the penalty: here straight through.

        Args:
            scores: S.
            movement: sum(G * W) over each group, in the shape of S; may be changed in place and returned.
            mask: M of the forward pass, in the shape of S.
        """
        return movement

    def optimizer(self, scores: Tensor) -> torch.optim.Optimizer:
        """Returns the optimizer of one tensor of scores; the pruner sets its learning rate at each step."""
        fused = scores.device.type in ("cpu", "cuda")
        return torch.optim.Adam([scores], lr=self.score_lr, weight_decay=0.0, fused=fused)

    def score_rate(self, factor: float) -> float:
        """Returns the learning rate of the scores when the weights' own rate is `factor` of its base."""
        return self.score_lr * factor


class PenalisedMethod(Method):
    """A method with a penalty lambda_t * R that pulls groups down: here on their scores.

        R(S) = mean over sites of mean over scores of sigmoid(S - shift)
        dL/dS = the method's own gradient + lambda_t / (sites * scores) * sigmoid'(S - shift)

    With `penalty` given, lambda_t follows the schedule (the paper's form) and the density follows from it. With a density
    in the config, a controller sets lambda_t at each step, see `Controller`.
    """

    penalty: float | None

    strongest: ClassVar[float] = 0.5
    """How hard the penalty may pull where a density is asked for, see `Controller`."""

    @property
    def last(self) -> float:
        """The final value of the schedule in the paper's form, where lambda_t = penalty."""
        return 1.0

    @property
    def shift(self) -> float:
        """The number that R takes from the scores."""
        return 0.0

    def slope(self, scores: Tensor) -> Tensor:
        """Returns sigmoid'(S - shift)."""
        sigmoid = torch.sigmoid(scores - self.shift) if self.shift else torch.sigmoid(scores)
        slope: Tensor = torch.ops.aten.sigmoid_backward(sigmoid.new_ones(()).expand_as(sigmoid), sigmoid)
        return slope

    @abstractmethod
    def steer(self, controller: Controller, ranking: Ranking, rate: float) -> None:
        """Tells the controller how far the scores are from where they should be.

        Args:
            controller: sets lambda_t by it.
            ranking: the scores of all sites, and the density asked for.
            rate: the learning rate of the scores or weights that the penalty acts on.
        """

    @property
    def decides_density(self) -> bool:
        return self.penalty is not None

    def values(self, density: float | None) -> tuple[float, float]:
        name = type(self).__name__
        if density is None and self.penalty is None:
            raise InvalidInputError(
                f"{name} needs a density or a penalty. Set density to the fraction of weights to keep, as 0.1, or "
                f"{name}(penalty=...) to the paper's lambda."
            )
        if density is not None and self.penalty is not None:
            raise InvalidInputError(
                f"{name} takes a density or a penalty, got density={density} and penalty={self.penalty}: each decides how much "
                "is kept. Give one."
            )
        return (0.0, self.last) if density is None else (1.0, density)

    def penalty_at(self, value: float) -> float:
        """Returns lambda_t for a value of the schedule, in the paper's form."""
        return 0.0 if self.penalty is None else self.penalty * value / self.last

    def check_penalty(self) -> None:
        """Raises InvalidInputError unless the penalty is lambda or None."""
        if self.penalty is not None and (not is_number(self.penalty) or not 0 <= self.penalty < math.inf):
            raise InvalidInputError(f"penalty must be lambda, 0 or above, or None for a density, got {self.penalty!r}.")


class StochasticMethod(Method):
    """A method whose mask is sampled for the forward passes of each step. Between steps `masks` holds, without noise."""

    @abstractmethod
    def sample(self, scores: Tensor, noise: Callable[[Tensor], Tensor]) -> Tensor:
        """Returns M of one site for the forward passes of one step.

        Args:
            scores: S.
            noise: makes a tensor like its argument of logit(u), u drawn uniformly from 1e-4 to 1 - 1e-4.
        """
