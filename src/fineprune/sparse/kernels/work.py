"""Work shared out among threads without a barrier: who comes first takes the next task, who comes late finds none.

A phase is over when all its tasks are done; so nobody ever waits for a thread that has not begun.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from .simd import let_others_run, load_shared, next_task

LINE = 16
"""int64 numbers for the two counters of a phase: tasks taken at 0, tasks done at 8, on cache lines of their own."""

PATIENCE = 200
"""How often a thread looks whether the others are done before it offers its processor to them."""


def compiled(function: Callable[..., Any]) -> Any:
    """Compiles a function that runs beside other threads. What is kept for the next process is the code that calls it."""
    return numba.njit(nogil=True, fastmath={"contract"}, error_model="numpy")(function)


def counters(phases: int) -> NDArray[np.int64]:
    """Returns the counters of a run that has not begun."""
    return np.zeros(phases * LINE, dtype=np.int64)


@compiled
def take(counters: Any, phase: Any, tasks: Any) -> Any:
    """Returns the number of a task to do, or -1 once all tasks of the phase are done.

    Args:
        counters: their address.
        phase: which.
        tasks: how many it has.
    """
    task = next_task(counters + 8 * LINE * phase)
    if task < tasks:
        return task
    looked = 0
    while load_shared(counters + 8 * (LINE * phase + 8)) < tasks:
        looked += 1
        if looked > PATIENCE:
            let_others_run()
    return -1


@compiled
def done(counters: Any, phase: Any) -> None:
    """Says that a task of the phase is done."""
    next_task(counters + 8 * (LINE * phase + 8))
