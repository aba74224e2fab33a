"""Schedules: pure functions from the optimizer step to a density or a threshold."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from ..errors import InvalidInputError


class Schedule(ABC):
    """A path from an initial value to a final one over a run of `total_steps` optimizer steps."""

    @abstractmethod
    def value(self, step: int, total_steps: int, initial: float, final: float) -> float:
        """Returns the value under which the forward pass of optimizer step `step` (from 0) runs."""

    @abstractmethod
    def check(self, total_steps: int) -> None:
        """Raises InvalidInputError if a run of `total_steps` is too short for this schedule."""


@dataclass(frozen=True)
class CubicSchedule(Schedule):
    """Falls fast at first and slowly at the end (Zhu & Gupta 2017; Sanh et al. 2020, equation 2).

        v_t = v_f + (v_0 - v_f) * (1 - (t - t_i) / (T - t_i - t_f))^3    for t_i < t <= T - t_f

    and v_0 before, v_f after. With T = 10, warmup 2, cooldown 3, from 1.0 to 0.1:

        t    0    1    2    3      4      5      6      7    8    9    10
        v    1    1    1    0.561  0.294  0.158  0.107  0.1  0.1  0.1  0.1

    Args:
        warmup: steps at the start during which nothing is pruned yet (t_i). An int counts optimizer
            steps, a float from 0 to 1 is a fraction of the run, rounded to the nearest step.
        cooldown: steps at the end that run under the final value (t_f), given in the same way.

    Raises:
        InvalidInputError: for a negative number or a fraction of 1 or more.
    """

    warmup: int | float = 0.1
    cooldown: int | float = 0.3

    def __post_init__(self) -> None:
        for name in ("warmup", "cooldown"):
            length = getattr(self, name)
            if isinstance(length, bool) or not isinstance(length, int | float):
                raise InvalidInputError(
                    f"{name} must be an int (optimizer steps) or a float (fraction of the run), got {length!r}."
                )
            if isinstance(length, int) and length < 0:
                raise InvalidInputError(f"{name} must be 0 steps or more, got {length}.")
            if isinstance(length, float) and not 0 <= length < 1:
                raise InvalidInputError(
                    f"{name} must be at least 0 and below 1 as a fraction of the run, got {length}. For a number of optimizer "
                    "steps give an int."
                )

    def steps(self, total_steps: int) -> tuple[int, int]:
        """Returns (t_i, t_f), warmup and cooldown in optimizer steps."""
        lengths = (self.warmup, self.cooldown)
        warmup, cooldown = (length if isinstance(length, int) else round(length * total_steps) for length in lengths)
        return warmup, cooldown

    def check(self, total_steps: int) -> None:
        warmup, cooldown = self.steps(total_steps)
        if warmup + cooldown >= total_steps:
            raise InvalidInputError(
                f"warmup and cooldown must be shorter than the run, which has {total_steps} optimizer steps, got {warmup} and "
                f"{cooldown}. Train longer, or shorten them."
            )

    def value(self, step: int, total_steps: int, initial: float, final: float) -> float:
        warmup, cooldown = self.steps(total_steps)
        if step <= warmup:
            return initial
        if step > total_steps - cooldown:
            return final
        progress = (step - warmup) / (total_steps - warmup - cooldown)
        return final + (initial - final) * (1 - progress) ** 3
