"""Where compiled code runs: on the threads that PyTorch has, so that no second pool takes their processors away."""

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
"""How compiled code knows the stored values; bfloat16 by its bits."""


@functools.cache
def entry(
    part: Callable[[np.dtype[Any], np.dtype[Any], str], Callable[[Any], None]],
    job: np.dtype[Any],
    values: torch.dtype,
    inputs: np.dtype[Any],
) -> int:
    """Returns the address of compiled code that does its part of a job; compiles it at the first call, or finds it kept.

    Args:
        part: gives for the types of W and X, and a digest of all the sources, the function to compile, of a pointer to the job.
        job: the record that it takes.
        values: of W.
        inputs: of X.
    """
    signature = types.void(types.CPointer(numba.from_dtype(job)))
    function = part(np.dtype(WEIGHTS[values]), inputs, sources())
    try:
        code = numba.cfunc(signature, cache=True)(function)
    except RuntimeError:  # no folder to keep it in can be written
        code = numba.cfunc(signature)(function)
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
        alive: what the job holds addresses of.
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
        """Begins threads until there are so many."""
        with self.lock:
            for number in range(self.count, count):
                threading.Thread(target=self.serve, name=f"fineprune-{number}", daemon=True).start()
            self.count = max(self.count, count)

    def serve(self) -> None:
        """Does what is asked for, for ever."""
        while True:
            code, alive = self.work.get()
            _CODE(code)(alive[0].ctypes.data)
            del alive


_CODE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_helpers = Helpers()


def _with_helpers(others: int, code: int, alive: tuple[Any, ...]) -> None:
    """Runs the code here and on helping threads; what is alive stays so until the last of them has returned."""
    global _helpers
    if _helpers.process != os.getpid():  # threads do not survive a fork
        _helpers = Helpers()
    _helpers.ensure(others)
    for _ in range(others):
        _helpers.work.put((code, alive))
    _CODE(code)(alive[0].ctypes.data)


class _Compiling(event.Listener):  # type: ignore[misc]
    """Says, once a process, that code is being compiled: it takes a while, and the next process finds it done."""

    def __init__(self) -> None:
        self.said = False

    def on_start(self, event: Any) -> None:
        """Is called by numba before it compiles anything."""
        package = __name__.rpartition(".")[0]
        if not self.said and event.data["dispatcher"].py_func.__module__.startswith(package):
            self.said = True
            LOG.warning("Compiling the sparse kernels for this processor, once: this takes some seconds.")

    def on_end(self, event: Any) -> None:
        """Is called by numba afterwards."""


event.register("numba:compile", _Compiling())
