"""Whether a layer is faster sparse or dense, and in which form: by a measurement on this machine."""

import functools
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from .format import SparseMatrix, Values
from .linear import SparseLinear
from .memory import Activations
from .vectors import ROWS_TOGETHER

TOKENS = 128
"""How many tokens the layers are measured with."""

ROUNDS = 5

MOST_DENSITY = 0.5
"""A layer that keeps more than this stays dense without a measurement."""

BLOCK_GAIN = 1.6
"""Rows that are computed together load each input once for all of them: about twice as fast for each stored value."""


def stored(dense: Tensor, values: Values) -> SparseMatrix:
    """Returns a matrix in the form that suits its pattern: by groups of rows where these keep mostly the same columns."""
    kept = dense != 0
    rows = dense.shape[0]
    missing = -rows % ROWS_TOGETHER
    padded = functional.pad(kept, (0, 0, 0, missing)) if missing else kept
    together = ROWS_TOGETHER * int(padded.view(-1, ROWS_TOGETHER, dense.shape[1]).any(dim=1).sum())
    return SparseMatrix.from_dense(dense, values, ROWS_TOGETHER if together <= BLOCK_GAIN * int(kept.sum()) else 1)


def is_faster(weight: SparseMatrix, activations: Activations) -> bool:
    """Whether a layer of this shape and number of stored values is faster sparse here, by a measurement that is made once."""
    share = round(weight.values.numel() / max(weight.rows * weight.cols, 1), 2)
    return _is_faster(weight.rows, weight.cols, weight.together, share, activations, torch.get_num_threads())


@functools.cache
def _is_faster(rows: int, cols: int, together: int, share: float, activations: Activations, threads: int) -> bool:
    generator = torch.Generator().manual_seed(0)
    kept = torch.rand(-(-rows // together), cols, generator=generator) < share
    weight = torch.randn(rows, cols, generator=generator)
    pruned = weight * kept.repeat_interleave(together, dim=0)[:rows]
    layer = SparseLinear(SparseMatrix.from_dense(pruned, together=together), activations=activations)
    inputs = torch.randn(TOKENS, cols, generator=generator)
    sparse, dense = _times(lambda: layer(inputs), lambda: functional.linear(inputs, weight))
    return sparse < dense


@torch.inference_mode()
def _times(*ways: Callable[[], Tensor]) -> list[float]:
    """Returns the median seconds of each way; they take turns, after one round that warms up."""
    taken: list[list[float]] = [[] for _ in ways]
    for number in range(ROUNDS + 1):
        for seconds, way in zip(taken, ways, strict=True):
            start = time.perf_counter()
            way()
            if number:
                seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in taken]
