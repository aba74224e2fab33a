"""Measures on this machine whether a layer is faster sparse or dense, and chooses how its rows are stored."""

import functools
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from .format import Activations, SparseMatrix
from .kernels.simd import ROWS_TOGETHER
from .linear import SparseLinear

TOKENS = 128
"""Tokens that layers are measured with."""

ROUNDS = 5

MOST_DENSITY = 0.5
"""A layer that keeps more than this stays dense without a measurement."""

BLOCK_GAIN = 1.6
"""Rows that are computed together load each input once for all of them: about twice as fast for each stored value."""


def best_grouping(matrix: SparseMatrix) -> SparseMatrix:
    """Returns a matrix row by row as it is stored, or by groups of rows, if these keep mostly the same columns."""
    grouped = matrix.grouped(ROWS_TOGETHER)
    return grouped if grouped.values.numel() <= BLOCK_GAIN * matrix.values.numel() else matrix


def is_faster(weight: SparseMatrix, activations: Activations) -> bool:
    """Whether a layer of this shape and number of stored values is faster sparse here, by a measurement that is made once."""
    share = round(weight.values.numel() / max(weight.rows * weight.cols, 1), 2)
    return _is_faster(weight.rows, weight.cols, weight.together, share, activations, torch.get_num_threads())


@functools.cache
def _is_faster(rows: int, cols: int, together: int, share: float, activations: Activations, threads: int) -> bool:
    generator = torch.Generator().manual_seed(0)
    kept = torch.rand(-(-rows // together), cols, generator=generator) < share
    weight = torch.randn(rows, cols, generator=generator)
    pruned = SparseMatrix.from_dense(weight * kept.repeat_interleave(together, dim=0)[:rows])
    layer = SparseLinear(pruned if together == 1 else pruned.grouped(together), activations=activations)
    inputs = torch.randn(TOKENS, cols, generator=generator)
    sparse, dense = _times(lambda: layer(inputs), lambda: functional.linear(inputs, weight))
    return sparse < dense


@torch.inference_mode()
def _times(*runs: Callable[[], Tensor]) -> list[float]:
    """Returns the median seconds of each run; they take turns, after one warmup round."""
    taken: list[list[float]] = [[] for _ in runs]
    for number in range(ROUNDS + 1):
        for seconds, run in zip(taken, runs, strict=True):
            start = time.perf_counter()
            run()
            if number:
                seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in taken]
