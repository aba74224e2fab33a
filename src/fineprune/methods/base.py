"""What a method is: how scores start, learn and become a mask. One class a method; the paper's table 1."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import InvalidInputError, is_number
from ..selection.scopes import Select
from .inits import ScoreInit, check_positive


def check_penalty(owner: object, penalty: float | None) -> None:
    """Raises InvalidInputError unless a penalty is lambda or None."""
    if penalty is not None and (not is_number(penalty) or not 0 <= penalty < math.inf):
        raise InvalidInputError(
            f"{type(owner).__name__} was given penalty={penalty!r}; it takes lambda, a number from 0, or None."
        )


class Method(ABC):
    """What ranks the groups. A new method is a frozen dataclass that overrides what differs.

    The pruner owns the scores of each site (a matrix, or linked matrices) and asks the method to
    let them be initialised, to turn movement into their gradient, and to turn all of them into masks.
    """

    learns: ClassVar[bool] = False
    """Whether the scores have a gradient and an optimizer."""

    draws: ClassVar[bool] = False
    """Whether M is drawn anew for the forward passes of each step, see `gate`."""

    ranks: ClassVar[bool] = True
    """Whether M is the top of a ranking, so that every structure and scope can share out its budget."""

    steers: ClassVar[bool] = False
    """Whether a density is reached with a penalty that a controller sets, see `control`. Its hardest pull is `strongest`."""

    strongest: ClassVar[float] = 0.0

    contracts: ClassVar[bool] = False
    """Whether its penalty shrinks the weights themselves, see `contraction`."""

    @property
    def decides_density(self) -> bool:
        """Whether the method itself settles how much is kept, so that it takes no density."""
        return False

    def values(self, density: float | None) -> tuple[float, float]:
        """Returns the initial and the final value of the schedule: here the density kept.

        Raises InvalidInputError if the method needs a density and there is none.
        """
        if density is None:
            raise InvalidInputError(
                f"{type(self).__name__} was given no density; set density to the fraction of weights to keep, as 0.1."
            )
        return 1.0, density

    def contraction(self, magnitude: Tensor, amount: float) -> Tensor:
        """Returns what each group's weights are multiplied with after the optimizer's step, for a method that shrinks them.

        Args:
            magnitude: root mean square of the weights of each group.
            amount: the learning rate of the weights times lambda_t.
        """
        raise NotImplementedError

    @abstractmethod
    def init_scores(self, magnitude: Tensor, generator: torch.Generator) -> Tensor | None:
        """Returns the scores with which a site starts; None if they are made anew from the weights at each step."""

    def current(self, scores: Tensor | None, magnitude: Callable[[], Tensor]) -> Tensor:
        """Returns the scores that rank the groups now."""
        return magnitude() if scores is None else scores

    def score_gradient(self, scores: Tensor, movement: Tensor, mask: Tensor, penalty: float) -> Tensor:
        """Returns dL/dS of one site, given sum(G * W) over each group.

        Args:
            scores: S.
            movement: reduce(G * W) in the shape of S; may be changed in place and returned.
            mask: M of the forward pass, in the shape of S.
            penalty: lambda_t over the number of sites and of this site's scores: what a sum over them
                is to be multiplied by, for a mean over sites of means over scores.
        """
        return movement

    def penalty_at(self, value: float) -> float:
        """Returns lambda_t, given the schedule's value; 0 for methods without a penalty."""
        return 0.0

    def optimizer(self, scores: Tensor) -> torch.optim.Optimizer:
        """Returns the optimizer of one tensor of scores; the pruner sets its learning rate at each step."""
        raise NotImplementedError

    def score_rate(self, factor: float) -> float:
        """Returns the learning rate of the scores when the weights' own rate is `factor` of its base."""
        raise NotImplementedError

    def masks(self, scores: Sequence[Tensor], sizes: Sequence[int], value: float, select: Select) -> list[Tensor]:
        """Returns M of every site: here the top v of the scores, within the scope that `select` stands for."""
        return select(scores, sizes, value)

    def gate(self, scores: Tensor, noise: Callable[[Tensor], Tensor]) -> Tensor:
        """Returns M of one site for the forward passes of one step, for a method that draws it.

        Args:
            scores: S.
            noise: makes a tensor like its argument of logit(u), u drawn uniformly from 1e-4 to 1 - 1e-4.
        """
        raise NotImplementedError


class _Learned(Method):
    """Scores that learn by Adam without decay, at a rate that follows that of the weights."""

    init: ScoreInit
    score_lr: float

    learns: ClassVar[bool] = True

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not isinstance(self.init, ScoreInit):
            raise InvalidInputError(f"{name} was given init={self.init!r}; it takes a init, as Constant(0.0).")
        check_positive(self, "score_lr", self.score_lr)

    def init_scores(self, magnitude: Tensor, generator: torch.Generator) -> Tensor:
        return self.init.scores(magnitude, generator)

    def optimizer(self, scores: Tensor) -> torch.optim.Optimizer:
        fused = scores.device.type in ("cpu", "cuda")
        return torch.optim.Adam([scores], lr=self.score_lr, weight_decay=0.0, fused=fused)

    def score_rate(self, factor: float) -> float:
        return self.score_lr * factor
