"""The products of the layers: a piece of the rows, on one tile of tokens."""

from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types
from numba.extending import overload

from .activations import activate
from .memory import load_word, pack_bfloat16, transpose
from .products import sparse_row, sparse_rows
from .simd import BYTES, HOST, ROWS_TOGETHER, floats_at, pointers_to
from .work import compiled, entry_point, run_phase

LANES, WIDEST, NARROW = HOST.lanes, HOST.accumulators, HOST.together
CACHE_LINE = 64
"""Bytes."""

PIECES = 16
"""Into how many pieces the rows of a matrix are cut, each with about the same number of entries."""

LINE_ROWS = max(LANES, ROWS_TOGETHER)
"""Rows that are stored at once where tokens lie row by row."""

MATRIX = np.dtype(
    [
        (name, np.int64)
        for name in ("rows", "together", "bands", "starts", "columns", "values", "scales", "biases", "zeros", "cuts")
    ]
)
"""A matrix.

    rows, together: its rows, and the rows of a group.
    bands: into how many its columns are cut, so that the inputs of one band stay in the cache.
    starts: address of where the entries of each band of each group begin.
    columns, values, scales, biases: addresses.
    zeros: address of as many zeros as there are biases, to be added by all bands but the first.
    cuts: address of the groups where its pieces begin.
"""

LINEAR = np.dtype(
    [
        (name, np.int64)
        for name in (
            *("source", "target", "tokens", "vectors", "tiles", "vector_bytes", "step", "inputs", "activation", "matrix"),
            "counters",
        )
    ]
)
"""A linear layer applied to tokens x features that lie row by row in memory.

    source, target: addresses of the float32 tokens x features, before and after.
    tokens, vectors: number of tokens, and of vectors with the padding.
    tiles: address for the tokens as features x tokens.
    vector_bytes: of a vector in these tiles.
    step: vectors that are loaded by one task.
    inputs: number of features before.
    activation: its number.
    matrix, counters: addresses.
"""


matrices_at = pointers_to(numba.from_dtype(MATRIX))


@compiled
def width_of(vectors: Any, tile: Any) -> Any:
    """Returns the vectors of a tile."""
    return min(WIDEST, vectors - tile * WIDEST)


def put(row: Any, address: Any, like: Any) -> None:
    """Writes the float32 numbers of a row in the type of `like`; compiled code only."""
    raise NotImplementedError


@overload(put)
def _put(row: Any, address: Any, like: Any) -> Any:
    return _put_floats if like.dtype == types.float32 else _put_words


def _put_floats(row: Any, address: Any, like: Any) -> None:
    target = numba.carray(floats_at(address), len(row))
    for i in range(len(row)):
        target[i] = row[i]


def _put_words(row: Any, address: Any, like: Any) -> None:
    for pair in range(len(row) // (2 * LANES)):
        pack_bfloat16(row.ctypes.data + 2 * pair * BYTES, address + pair * BYTES)


@compiled
def scratch(size: Any) -> Any:
    """Returns a float32 buffer that begins at a cache line: a vector across two lines is loaded at half the speed."""
    buffer = np.empty(size + CACHE_LINE // 4, dtype=np.float32)
    skipped = -buffer.ctypes.data % CACHE_LINE // 4
    return buffer[skipped : skipped + size]


@compiled
def multiply(
    matrix: Any,
    first: Any,
    groups: Any,
    band: Any,
    inputs: Any,
    vectors: Any,
    vector_bytes: Any,
    results: Any,
    adds: Any,
    weights_like: Any,
    inputs_like: Any,
) -> None:
    """Computes groups of rows on one tile: W X, times the scales, plus the biases.

    Args:
        matrix: a MATRIX.
        first, groups: the first group, and how many.
        band: of its columns.
        inputs: address of the tile.
        vectors: its width.
        vector_bytes: of one vector of the inputs.
        results: address of rows x vectors * LANES float32 numbers.
        adds: 0 to overwrite them, else the result is added.
        weights_like, inputs_like: arrays of the types of W and X.
    """
    together, step = matrix.together, 8 * matrix.bands
    starts = matrix.starts + step * first + 8 * band
    scales = matrix.scales + 4 * first * together
    biases = (matrix.zeros if band else matrix.biases) + 4 * first * together
    stride, width = vectors * vector_bytes, vectors * BYTES
    if together == 1:
        entries = (groups, starts, step, matrix.columns, matrix.values, 0, 1, 0)
        operands = entries + (inputs, stride, results, width, scales, biases, 4, vectors, adds)  # noqa: RUF005
        sparse_row(operands, weights_like, inputs_like)
        return
    entries = (groups, starts, step, matrix.columns, matrix.values, 0, ROWS_TOGETHER, 1)
    for vector in range(0, vectors, NARROW):
        narrow = min(NARROW, vectors - vector)
        tile, target = inputs + vector * vector_bytes, results + vector * BYTES
        operands = entries + (tile, stride, target, width, scales, biases, 4 * ROWS_TOGETHER, narrow, adds)  # noqa: RUF005
        sparse_rows(operands, weights_like, inputs_like)


@compiled
def multiply_piece(
    matrix: Any,
    piece: Any,
    band: Any,
    inputs: Any,
    vectors: Any,
    vector_bytes: Any,
    target: Any,
    adds: Any,
    block: Any,
    weights_like: Any,
    inputs_like: Any,
) -> None:
    """Computes a piece of the rows on one tile; the result is float32 and lies as its inputs do.

    Args:
        matrix, band, inputs, vectors, vector_bytes, adds, weights_like, inputs_like: see `multiply`.
        piece: which.
        target: address of the first row of the result, of all pieces.
        block: float32 numbers for one group of rows.
    """
    together, width = matrix.together, vectors * LANES
    first, last = load_word(matrix.cuts + 8 * piece), load_word(matrix.cuts + 8 * (piece + 1))
    whole = max(min(last, matrix.rows // together) - first, 0)
    results = target + 4 * first * together * width
    multiply(matrix, first, whole, band, inputs, vectors, vector_bytes, results, adds, weights_like, inputs_like)
    if first + whole < last:  # the last group has rows that the matrix has not
        row = (last - 1) * together
        multiply(matrix, last - 1, 1, band, inputs, vectors, vector_bytes, block.ctypes.data, 0, weights_like, inputs_like)
        rest = numba.carray(floats_at(target + 4 * row * width), (matrix.rows - row) * width)
        for i in range(len(rest)):
            rest[i] = block[i] + (rest[i] if adds else np.float32(0))


@compiled
def activate_piece(matrix: Any, piece: Any, vectors: Any, target: Any, activation: Any) -> None:
    """Applies an activation, by its number, to what `multiply_piece` has computed."""
    first, last = load_word(matrix.cuts + 8 * piece), load_word(matrix.cuts + 8 * (piece + 1))
    rows = min(last * matrix.together, matrix.rows) - first * matrix.together
    start = target + first * matrix.together * vectors * BYTES
    activate(activation, numba.carray(floats_at(start), max(rows, 0) * vectors * LANES))


@compiled
def load_tokens(source: Any, tokens: Any, features: Any, target: Any, stride: Any) -> None:
    """Transposes up to LANES tokens x features into features x LANES.

    Args:
        source: address of the first token.
        tokens: how many there are; the others are 0.
        features: of each.
        target: address of the first feature.
        stride: bytes from one feature to the next.
    """
    first = 0
    if tokens == LANES:
        while first + LANES <= features:
            transpose(source + 4 * first, 4 * features, target + first * stride, stride)
            first += LANES
    given = numba.carray(floats_at(source), (tokens, features))
    for feature in range(first, features):
        row = numba.carray(floats_at(target + feature * stride), LANES)
        for token in range(LANES):
            row[token] = given[token, feature] if token < tokens else np.float32(0)


@compiled
def store_tokens(block: Any, held: Any, stride: Any, tokens: Any, target: Any, features: Any) -> None:
    """Transposes features x tokens into tokens x features.

    Args:
        block: address of the features that are held.
        held: how many.
        stride: bytes from one to the next.
        tokens: to be stored.
        target: address of the first one's first feature.
        features: of a token, all of them.
    """
    first = 0
    if held == LANES:
        while first + LANES <= tokens:
            transpose(block + 4 * first, stride, target + 4 * first * features, 4 * features)
            first += LANES
    for number in range(held):
        given = numba.carray(floats_at(block + number * stride), tokens)
        for token in range(first, tokens):
            numba.carray(floats_at(target + 4 * (token * features + number)), 1)[0] = given[token]


class LinearContext(NamedTuple):
    """What a task of one thread works on: the LINEAR, its MATRIX, and a buffer and types of its own."""

    job: Any
    matrix: Any
    buffer: Any
    weights_like: Any
    inputs_like: Any


@entry_point
def run_product(job: Any, weights_like: Any, inputs_like: Any) -> None:
    """Runs tasks of a LINEAR whose inputs lie in tiles, as its outputs will; its source is not used."""
    matrix = numba.carray(matrices_at(job.matrix), 1)[0]
    context = LinearContext(job, matrix, scratch(ROWS_TOGETHER * WIDEST * LANES), weights_like, inputs_like)
    run_phase(job.counters, 0, PIECES * (-(-job.vectors // WIDEST)), _multiply_tile, context)


@entry_point
def run_linear(job: Any, weights_like: Any, inputs_like: Any) -> None:
    """Runs tasks of a LINEAR until none is left; any number of threads may run it at once."""
    matrix = numba.carray(matrices_at(job.matrix), 1)[0]
    context = LinearContext(job, matrix, scratch(job.inputs * job.step * LANES), weights_like, inputs_like)
    run_phase(job.counters, 0, job.vectors // job.step, _load, context)
    context = LinearContext(job, matrix, scratch(LINE_ROWS * WIDEST * LANES), weights_like, inputs_like)
    run_phase(job.counters, 1, PIECES * (-(-job.vectors // WIDEST)), _multiply, context)


@compiled
def _multiply_tile(task: Any, context: Any) -> None:
    """Computes a piece of the rows on one tile, which stays features x tokens."""
    job, matrix, block, weights_like, inputs_like = context
    tile, piece = task // PIECES, task % PIECES
    inputs, width = job.tiles + tile * WIDEST * job.inputs * job.vector_bytes, width_of(job.vectors, tile)
    target = job.target + tile * WIDEST * matrix.rows * BYTES
    multiply_piece(matrix, piece, 0, inputs, width, job.vector_bytes, target, 0, block, weights_like, inputs_like)
    activate_piece(matrix, piece, width, target, job.activation)


@compiled
def _load(task: Any, context: Any) -> None:
    """Transposes vectors of tokens into their tile."""
    job, _, pair, _, inputs_like = context
    vector = task * job.step
    tile = vector // WIDEST
    width = width_of(job.vectors, tile)
    for number in range(job.step):
        token = (vector + number) * LANES
        tokens = max(min(LANES, job.tokens - token), 0)
        source = job.source + 4 * token * job.inputs
        load_tokens(source, tokens, job.inputs, pair.ctypes.data + number * BYTES, job.step * BYTES)
    base = job.tiles + (tile * WIDEST * job.inputs + vector - tile * WIDEST) * job.vector_bytes
    size = job.step * LANES
    for feature in range(job.inputs):
        put(pair[feature * size : (feature + 1) * size], base + feature * width * job.vector_bytes, inputs_like)


@compiled
def _multiply(task: Any, context: Any) -> None:
    """Computes a piece of the rows on one tile, and stores it as tokens x features."""
    job, matrix, block, weights_like, inputs_like = context
    tile, piece = task // PIECES, task % PIECES
    width = width_of(job.vectors, tile)
    token = tile * WIDEST * LANES
    tokens = min(width * LANES, job.tokens - token)
    rows, together = matrix.rows, matrix.together
    inputs = job.tiles + tile * WIDEST * job.inputs * job.vector_bytes
    first, last = load_word(matrix.cuts + 8 * piece), load_word(matrix.cuts + 8 * (piece + 1))
    start = held = 0
    for group in range(first, last):
        if not held:
            start = group * together
        results = block.ctypes.data + held * width * BYTES
        multiply(matrix, group, 1, 0, inputs, width, job.vector_bytes, results, 0, weights_like, inputs_like)
        held += min(together, rows - group * together)
        if held == LINE_ROWS or group == last - 1:
            activate(job.activation, block[: held * width * LANES])
            store_tokens(block.ctypes.data, held, width * BYTES, tokens, job.target + 4 * (token * rows + start), rows)
            held = 0
