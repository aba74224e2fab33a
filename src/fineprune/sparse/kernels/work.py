"""Work that threads divide among themselves without a barrier: who comes first takes the next task, who comes late finds none.

A phase is over when all its tasks are done; so nobody ever waits for a thread that has not begun.
"""

import sys
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import register_jitable
from numpy.typing import NDArray

from .simd import INT32, WORD, Builder, Value, pointer, written_in_llvm

DONE = 64
"""Bytes between the two counters: tasks taken and tasks done, of all phases so far, on cache lines of their own."""

PATIENCE = 200
"""How often a thread looks whether the others are done before it offers its processor to them."""

OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": {"contract"}, "error_model": "numpy"}


def compiled(function: Callable[..., Any]) -> Any:
    """Compiles a function that runs beside other threads. What is kept for the next process is the code that calls it."""
    return numba.njit(**OPTIONS)(function)


def entry_point(function: Callable[..., Any]) -> Any:
    """Marks a function that `launch.entry` compiles: of a job, and of two empty arrays of the types of W and X.

    It stays a Python function, since numba finds kept code by the pickle of what it calls: that of a compiled function is
    another in each process.
    """
    return register_jitable(**OPTIONS)(function)


@written_in_llvm(types.int64, types.int64, types.int64)
def count_up(builder: Builder, address: Value, seen: Value) -> Value:
    """Adds 1 to the int64 at an address if it is still what was seen there, for all threads; returns what it was."""
    place = pointer(builder, WORD, address)
    return builder.extract_value(builder.cmpxchg(place, seen, builder.add(seen, WORD(1)), "seq_cst", "seq_cst"), 0)


@written_in_llvm(types.void, types.int64)
def finish_task(builder: Builder, address: Value) -> None:
    """Adds 1 to the int64 at an address, for all threads."""
    builder.atomic_rmw("add", pointer(builder, WORD, address), WORD(1), "seq_cst")


@written_in_llvm(types.int64, types.int64)
def load_shared(builder: Builder, address: Value) -> Value:
    """Returns the int64 at an address that other threads add to; what they wrote before is visible after it."""
    return builder.load_atomic(pointer(builder, WORD, address), "acquire", 8)


@written_in_llvm(types.void)
def let_others_run(builder: Builder) -> None:
    """Gives the processor to another thread that wants it."""
    name = "SwitchToThread" if sys.platform == "win32" else "sched_yield"
    builder.call(cgutils.get_or_insert_function(builder.module, ir.FunctionType(INT32, []), name), [])


def counters() -> NDArray[np.int64]:
    """Returns the counters of a run that has not begun."""
    return np.zeros(2 * DONE // 8, dtype=np.int64)


@compiled
def take(counters: Any, end: Any) -> Any:
    """Takes the next task, if it is before `end`, and returns its number; -1 once all tasks before `end` are done."""
    task = load_shared(counters)
    while task < end:
        seen, task = task, count_up(counters, task)
        if task == seen:
            return task
    looked = 0
    while load_shared(counters + DONE) < end:
        looked += 1
        if looked > PATIENCE:
            let_others_run()
    return -1


@numba.njit(inline="always", **OPTIONS)  # its callers pass it compiled functions, and can still be kept
def run_phase(counters: Any, first: Any, tasks: Any, run_task: Any, context: Any) -> Any:
    """Runs tasks of a phase until none is left, and returns once all are done: the first task of the next phase.

    Args:
        counters: their address.
        first, tasks: the number of its first task, among those of all phases, and how many it has.
        run_task: a compiled function of the number of a task within the phase, and the context.
        context: of this thread.
    """
    task = take(counters, first + tasks)
    while task >= 0:
        run_task(task - first, context)
        finish_task(counters + DONE)
        task = take(counters, first + tasks)
    return first + tasks
