"""Methods whose scores are pushed down by a penalty."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ..distributed.process_group import ALONE, ProcessGroup
from ..errors import InvalidInputError
from .base import _Learned, check_penalty


class Penalised(_Learned):
    """A method whose scores are pushed down by lambda_t * R(S), and whose cut lies at a fixed score.

        R(S) = mean over sites of mean over scores of sigmoid(S - shift)
        dL/dS = the method's own gradient + lambda_t / (sites * scores) * sigmoid'(S - shift)

    With `penalty` given, lambda_t follows the schedule (the paper's form) and the density is what comes
    out. With a `density` in the config, a controller sets lambda_t, see `control`; it needs an optimizer of the
    scores with Adam's second moment.
    """

    penalty: float | None

    ranks: ClassVar[bool] = False
    steers: ClassVar[bool] = True

    cuts: ClassVar[bool] = True
    """Whether M is cut at `cut` also where a density is asked for; otherwise where the density is."""

    strongest: ClassVar[float] = 6.0
    """How hard the penalty may pull where a density is asked for, see `control.Controller`."""

    LEAST: ClassVar[float] = 0.005
    """Share of each matrix that is always kept, as in Sanh et al.'s released example."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_penalty(self, self.penalty)

    @property
    @abstractmethod
    def last(self) -> float:
        """The final value of the schedule in the paper's form, where lambda_t = penalty."""

    @property
    @abstractmethod
    def cut(self) -> float:
        """The score at or below which a group is pruned at the end."""

    @property
    def shift(self) -> float:
        """What is taken from the scores inside R."""
        return 0.0

    @property
    def decides_density(self) -> bool:
        return self.penalty is not None

    def values(self, density: float | None) -> tuple[float, float]:
        name = type(self).__name__
        if density is None and self.penalty is None:
            raise InvalidInputError(
                f"{name} was given neither a density nor a penalty. Set density to the fraction of weights to keep, as 0.1, "
                f"or {name}(penalty=...) to the paper's lambda."
            )
        if density is not None and self.penalty is not None:
            raise InvalidInputError(
                f"{name} was given density={density} and penalty={self.penalty}: each decides how much is kept. Give one."
            )
        return (0.0, self.last) if density is None else (1.0, density)

    def penalty_at(self, value: float) -> float:
        return 0.0 if self.penalty is None else self.penalty * value / self.last

    def threshold_in_force(
        self, scores: Sequence[Tensor], masks: Sequence[Tensor], value: float, processes: ProcessGroup = ALONE
    ) -> float | None:
        """Returns the cut on sigmoid(S); None for a method without one."""
        return None

    def slope(self, scores: Tensor) -> Tensor:
        """Returns sigmoid'(S - shift)."""
        sigmoid = torch.sigmoid(scores - self.shift) if self.shift else torch.sigmoid(scores)
        slope: Tensor = torch.ops.aten.sigmoid_backward(sigmoid.new_ones(()).expand_as(sigmoid), sigmoid)
        return slope

    def score_gradient(self, scores: Tensor, movement: Tensor, mask: Tensor, penalty: float) -> Tensor:
        return movement.add_(self.slope(scores), alpha=penalty) if penalty else movement
