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
    function = _at_pointer(run, np.dtype(WEIGHTS[values]), inputs, sources())
    try:
        code = numba.cfunc(signature, cache=True)(function)
    except RuntimeError:  # no folder to keep it in can be written
        code = numba.cfunc(signature)(function)
    _kept.append(code)
    return int(code.address)


def _at_pointer(
    run: Callable[[Any, Any, Any], None], weights: np.dtype[Any], inputs: np.dtype[Any], digest: str
) -> Callable[[Any], None]:
    """Returns a function of a pointer to a job; numba keeps its compiled code under all that it refers to."""

    def run_pointer(pointer: Any) -> None:
        assert digest
        run(numba.carray(pointer, 1)[0], np.empty(0, weights), np.empty(0, inputs))

    return run_pointer


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
    else:
        _with_helpers(threads - 1, code, (job, *alive))


class Helpers:
    """Threads that wait for work, where PyTorch's cannot be used."""

    def __init__(self) -> None:
        self.work: queue.SimpleQueue[tuple[int, tuple[Any, ...]]] = queue.SimpleQueue()
        self.count, self.process, self.lock = 0, os.getpid(), threading.Lock()

    def ensure(self, count: int) -> None:
        """Starts threads until there are `count`."""
        with self.lock:
            for number in range(self.count, count):
                threading.Thread(target=self.serve, name=f"fineprune-{number}", daemon=True).start()
            self.count = max(self.count, count)

    def serve(self) -> None:
        """Runs queued work, for ever."""
        while True:
            code, alive = self.work.get()
            _CODE(code)(alive[0].ctypes.data)
            del alive


_CODE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_helpers = Helpers()


def _with_helpers(others: int, code: int, alive: tuple[Any, ...]) -> None:
    """Runs the code here and on helper threads, and keeps `alive` until the last of them has returned."""
    global _helpers
    if _helpers.process != os.getpid():  # threads do not survive a fork
        _helpers = Helpers()
    _helpers.ensure(others)
    for _ in range(others):
        _helpers.work.put((code, alive))
    _CODE(code)(alive[0].ctypes.data)


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
