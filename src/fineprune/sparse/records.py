"""Matrices and jobs as records for compiled code: sizes and addresses, and the arrays behind them kept alive."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InvalidInputError
from .format import Activations, BFloat16, SparseMatrix, starts_of
from .kernels import launch
from .kernels.matmul import JOB, MATRIX, PIECES
from .kernels.simd import BYTES, LANES, NARROW, ROWS_TOGETHER, WIDEST
from .kernels.work import counters

Array = NDArray[np.generic]

ROW_COST = 4
"""The cost of a row beside its entries, counted in entries."""


@dataclass(frozen=True, eq=False)
class Tiles:
    """How the tokens of a batch lie in memory: features x tokens, in tiles that rows of a product are accumulated over.

    The tokens of a batch are counted in vectors of `LANES`. Each sequence begins with a new vector, and is padded with
    zeros; `WIDEST` vectors in a row make a tile, the last one may be narrower. In a tile the tokens of one feature lie
    side by side, then come those of the next. In bfloat16 two neighbouring vectors share words: the second has the upper
    halves.

    Args:
        sequences, length: of the batch.
        each: vectors of one sequence.
        step: vectors that are counted together: 1, or 2 in bfloat16.
        queries: groups of vectors of one sequence and one tile that attend together: sequence, first vector, how many; int64.
    """

    sequences: int
    length: int
    each: int
    step: int
    queries: NDArray[np.int64]

    @property
    def vectors(self) -> int:
        """Of all sequences."""
        return self.sequences * self.each

    @property
    def tokens(self) -> int:
        """Tokens with the padding."""
        return self.vectors * LANES


@functools.lru_cache(maxsize=256)
def tiles_of(sequences: int, length: int, step: int) -> Tiles:
    """Returns how the tokens of a batch lie in tiles; see `Tiles`."""
    each = step * -(-length // (step * LANES))
    vector = np.arange(sequences * each)
    sequence, tile = vector // max(each, 1), vector // WIDEST
    start = np.maximum(sequence * each, tile * WIDEST)
    first = np.flatnonzero((vector - start) % NARROW == 0)
    queries = np.stack([sequence[first], first, np.diff(first, append=len(vector))], axis=1).astype(np.int64)
    return Tiles(sequences, length, each, step, queries)


def step_of(activations: Activations) -> int:
    """Returns how many vectors are counted together: bfloat16 inputs are pairs in 32 bits."""
    return 2 if isinstance(activations, BFloat16) else 1


def buffer(tokens: int, features: int, step: int = 1) -> Tensor:
    """Returns a buffer for inputs. PyTorch's memory begins at a cache line, which speeds up vectors."""
    return torch.empty(max(tokens * features // step, 1), dtype=torch.float32, device="cpu")


def run_job(
    run: Callable[[Any, Any, Any], None],
    values: torch.dtype,
    tiles: Tiles,
    arrays: Mapping[str, Tensor | Array],
    **numbers: int,
) -> None:
    """Makes a JOB and runs it.

    Args:
        run: an `entry_point`.
        values: the type of the stored values.
        tiles: the batch.
        arrays, numbers: its other fields, and the arrays of those that are addresses.
    """
    alive = {**arrays, "queries": tiles.queries, "counters": counters()}
    numbers |= {name: address(array) for name, array in alive.items()}
    numbers |= {"sequences": tiles.sequences, "length": tiles.length, "each": tiles.each, "vectors": tiles.vectors}
    numbers |= {"step": tiles.step, "vector_bytes": BYTES // tiles.step, "groups": len(tiles.queries)}
    job = np.zeros(1, dtype=JOB)
    for name, number in numbers.items():
        job[name] = number
    inputs = np.dtype(np.uint32 if tiles.step == 2 else np.float32)
    launch.run(launch.entry(run, JOB, values, inputs), job, tuple(alive.values()))


class MatrixRecord:
    """A matrix and its bias, and their record for the kernels.

    A deep copy gets addresses of its own.

    Args:
        weight: the matrix.
        bias: of each row, or None.
        bands: into how many its columns are cut.

    Raises:
        InvalidInputError: if the kernels cannot compute that number of rows together, or the bias has another length.
    """

    def __init__(self, weight: SparseMatrix, bias: Tensor | None, bands: int = 1) -> None:
        if weight.together not in (1, ROWS_TOGETHER) or (bias is not None and bias.shape != (weight.rows,)):
            raise InvalidInputError(
                f"Rows must be stored 1 or {ROWS_TOGETHER} together, and a bias must have one number for each row; got "
                f"{weight.rows} rows, {weight.together} together, and a bias of {None if bias is None else tuple(bias.shape)}. "
                f"Store the matrix by `SparseMatrix.from_dense(dense)` or `.grouped({ROWS_TOGETHER})`."
            )
        self.weight, self.bias, self.bands = weight, bias, bands
        groups, together = len(weight.starts) - 1, weight.together
        self.scales = _padded(weight.scales, groups * together, 1.0)
        self.biases = _padded(bias, groups * together, 0.0)
        self.zeros = torch.zeros_like(self.biases)
        self.starts, self.cuts = banded(weight, bands), cut(weight)
        arrays = (self.starts, weight.columns, weight.values, self.scales, self.biases, self.zeros, self.cuts)
        self.record = np.array([(weight.rows, weight.cols, together, bands, *map(address, arrays))], dtype=MATRIX)

    def __reduce__(self) -> tuple[type["MatrixRecord"], tuple[SparseMatrix, Tensor | None, int]]:
        return MatrixRecord, (self.weight, self.bias, self.bands)


def _padded(given: Tensor | None, size: int, neutral: float) -> Tensor:
    padded = torch.full((size,), neutral, dtype=torch.float32, device="cpu")
    if given is not None:
        padded[: len(given)] = given.detach()
    return padded


def address(array: Tensor | Array) -> int:
    """Returns where the numbers of a contiguous array begin."""
    if isinstance(array, Tensor):
        assert array.is_contiguous()
        return array.data_ptr()
    return array.ctypes.data


def banded(weight: SparseMatrix, bands: int) -> Tensor:
    """Returns where the entries of each band of each group begin, and where the last ones end; int64, groups * bands + 1."""
    if bands == 1:
        return weight.starts
    group, column = weight.kept()
    band = torch.div(column * bands, max(weight.cols, 1), rounding_mode="floor")
    return starts_of(group * bands + band, (len(weight.starts) - 1) * bands)


def cut(weight: SparseMatrix) -> Tensor:
    """Returns the groups where pieces of about the same cost begin, and the end; int64, PIECES + 1."""
    groups = len(weight.starts) - 1
    costs = weight.starts[1:] + ROW_COST * torch.arange(1, groups + 1)
    cuts = torch.zeros(PIECES + 1, dtype=torch.int64)
    if groups:
        cuts[1:] = torch.searchsorted(costs, costs[-1] * torch.arange(1, PIECES + 1) // PIECES)
    cuts[-1] = groups
    return cuts
