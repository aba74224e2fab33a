"""Runs compiled code on PyTorch's own threads, so that no second pool competes for their processors."""

import ctypes
import functools
import hashlib
import logging
import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from numba import types
from numba.core import event
from numpy.typing import NDArray

LOG = logging.getLogger(__name__)

WEIGHTS: dict[torch.dtype, str] = {torch.float32: "float32", torch.bfloat16: "uint16", torch.int8: "int8"}
"""The types of stored values in compiled code; bfloat16 as its bits."""


@functools.cache
def entry(run: Callable[[Any, Any, Any], None], job: np.dtype[Any], values: torch.dtype, inputs: np.dtype[Any]) -> int:
    """Returns the address of compiled code of a pointer to a job; compiles it at the first call, or loads what was kept.

    Args:
        run: an `entry_point`.
        job: the record that it takes.
        values: of W.
        inputs: of X.
    """
    signature = types.void(types.CPointer(numba.from_dtype(job)))
    weights, digest = np.dtype(WEIGHTS[values]), sources()

    def run_pointer(pointer: Any) -> None:
        assert digest  # numba keeps the code under all that this function refers to
        run(numba.carray(pointer, 1)[0], np.empty(0, weights), np.empty(0, inputs))

    try:
        code = numba.cfunc(signature, cache=True)(run_pointer)
    except RuntimeError:  # no folder to keep it in can be written
        code = numba.cfunc(signature)(run_pointer)
    _kept.append(code)
    return int(code.address)


@functools.cache
def sources() -> str:
    """Returns a digest of all the sources of the kernels; numba by itself looks at one file, and would keep stale code."""
    paths = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


_kept: list[Any] = []
"""Compiled code lives as long as its object."""


@functools.cache
def openmp() -> Any:
    """Returns the function by which PyTorch's own OpenMP library runs code on all its threads; None where it has none."""
    folder = Path(torch.__file__).parent / "lib"
    library = next((path for path in folder.glob("*torch_cpu.*") if path.suffix in (".so", ".dylib")), None)
    try:
        function = ctypes.CDLL(str(library)).GOMP_parallel if library else None
    except (OSError, AttributeError):
        return None
    if function is not None:
        function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    return function


def run(code: int, job: NDArray[Any], alive: tuple[Any, ...]) -> None:
    """Runs compiled code on as many threads as PyTorch uses.

    Args:
        code: address of a function of a job, that returns once all its tasks are done, whoever did them.
        job: one record.
        alive: the arrays whose addresses the job holds.
    """
    threads, parallel = torch.get_num_threads(), openmp()
    if threads > 1 and parallel is not None:
        parallel(code, job.ctypes.data, threads, 0)
        return
    for number in range(threads - 1):  # they keep the arrays until the last of them has returned
        _helper(os.getpid(), number).put((code, (job, *alive)))
    _CODE(code)(job.ctypes.data)


_CODE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@functools.cache
def _helper(process: int, number: int) -> "queue.SimpleQueue[tuple[int, tuple[Any, ...]]]":
    """Starts a thread that runs the work of the queue returned, once in each process: threads do not survive a fork."""
    work: queue.SimpleQueue[tuple[int, tuple[Any, ...]]] = queue.SimpleQueue()
    threading.Thread(target=_serve, args=(work,), name=f"fineprune-{number}", daemon=True).start()
    return work


def _serve(work: "queue.SimpleQueue[tuple[int, tuple[Any, ...]]]") -> None:
    while True:
        code, alive = work.get()
        _CODE(code)(alive[0].ctypes.data)
        del alive


class _Compiling(event.Listener):  # type: ignore[misc]
    """Logs, once a process, that code is being compiled: it takes seconds, and the next process loads it."""

    def __init__(self) -> None:
        self.logged = False

    def on_start(self, event: Any) -> None:
        """Is called by numba before it compiles a function."""
        package = __name__.rpartition(".")[0]
        if not self.logged and event.data["dispatcher"].py_func.__module__.startswith(package):
            self.logged = True
            LOG.warning("Compiling the sparse kernels for this processor, once: this takes some seconds.")

    def on_end(self, event: Any) -> None:
        """Is called by numba afterwards."""


event.register("numba:compile", _Compiling())
