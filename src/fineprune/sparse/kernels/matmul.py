"""Products on tiles of tokens, and how tokens get into the tiles; a linear layer is made of these."""

from typing import Any, NamedTuple

import numba
import numpy as np

from .activations import activate
from .products import sparse_row, sparse_rows
from .simd import BYTES, LANES, NARROW, ROWS_TOGETHER, WIDEST, floats_at, load_word, pack_bfloat16, pointers_to, transpose
from .work import compiled, entry_point, run_phase

CACHE_LINE = 64
"""Bytes."""

PIECES = 16
"""Into how many pieces the rows of a matrix are cut, each with about the same number of entries."""

LINE_ROWS = max(LANES, ROWS_TOGETHER)
"""Rows that are stored at once where tokens lie row by row."""


def words(*names: str, kind: type = np.int64) -> list[tuple[str, type]]:
    """Returns fields of a record: numbers, and addresses."""
    return [(name, kind) for name in names]


MATRIX = np.dtype(
    words("rows", "cols", "together", "bands", "starts", "columns", "values", "scales", "biases", "zeros", "cuts")
)
"""A matrix.

    rows, cols, together: its shape, and the rows of a group.
    bands: into how many its columns are cut, so that the inputs of one band stay in the cache.
    starts: address of where the entries of each band of each group begin.
    columns, values, scales, biases: addresses.
    zeros: address of as many zeros as there are biases, to be added by all bands but the first.
    cuts: address of the groups where its pieces begin.
"""

JOB = np.dtype(
    words("source", "target", "sequences", "length", "each", "vectors", "step", "vector_bytes", "hidden", "activation")
    + words("counters", "lowered", "matrix", "layers", "depth", "widest", "queries", "groups", "seen", "lengths")
    + words("positions", "stream", "projected", "inner", "context")
)
"""A linear layer or an encoder, applied to a batch. Buffers are features x tokens in tiles.

    source, target: addresses of float32 sequences x length x features, before and after.
    each, vectors, step: see `Tiles`.
    vector_bytes: of one vector of the inputs of a product.
    hidden: features of the source.
    activation: the number of the function applied after a linear layer, or after the first feed-forward matrix.
    counters: address.
    lowered: address of the source, or the residual stream of an encoder, as inputs of products are stored.

Of a linear layer: `matrix` is the address of its MATRIX. Of an encoder:

    layers, depth: address and number of its LAYERs.
    widest: features of the widest layer's queries, keys and values.
    queries, groups: address of the groups of queries, see `Tiles`, and how many there are.
    seen: address of one byte a token of sequences x length: whether it is attended to.
    lengths: address of how many tokens of each sequence can be attended to, up to the last that is seen.
    positions: address of float32 heads x keys x queries that are added to the scores, each row of each * LANES; 0 if none.
    stream, projected, inner, context: addresses of buffers: the residual stream, queries and keys and values, neurons, and the
        results of attention. Float32 products read the stream itself: it is also `lowered`.
"""


class Context(NamedTuple):
    """The work of one thread: the JOB, the LAYER or the MATRIX, a buffer of its own, and arrays of the types of W and X."""

    job: Any
    layer: Any
    buffer: Any
    weights_like: Any
    inputs_like: Any


matrices_at = pointers_to(numba.from_dtype(MATRIX))


@compiled
def place_of(job: Any, features: Any, vector: Any) -> Any:
    """Returns where the first feature of a vector of tokens lies in a buffer of tiles, and the distance to the next."""
    tile = vector // WIDEST
    return tile * WIDEST * features + vector % WIDEST, min(WIDEST, job.vectors - tile * WIDEST)


@compiled
def put(row: Any, address: Any, job: Any) -> None:
    """Writes the float32 numbers of a row as the inputs of products are stored."""
    if job.step == 1:
        target = numba.carray(floats_at(address), len(row))
        for i in range(len(row)):
            target[i] = row[i]
        return
    for pair in range(len(row) // (2 * LANES)):
        pack_bfloat16(row.ctypes.data + 2 * pair * BYTES, address + pair * BYTES)


@compiled
def scratch(size: Any) -> Any:
    """Returns a float32 buffer that begins at a cache line: a vector across two lines is loaded at half the speed."""
    buffer = np.empty(size + CACHE_LINE // 4, dtype=np.float32)
    skipped = -buffer.ctypes.data % CACHE_LINE // 4
    return buffer[skipped : skipped + size]


@compiled
def groups_of(matrix: Any, piece: Any) -> Any:
    """Returns the first group of rows of a piece, and the first after it."""
    return load_word(matrix.cuts + 8 * piece), load_word(matrix.cuts + 8 * (piece + 1))


@compiled
def multiply(
    context: Any, matrix: Any, first: Any, groups: Any, band: Any, inputs: Any, vectors: Any, results: Any, adds: Any
) -> None:
    """Computes groups of rows on one tile: W X, times the scales, plus the biases.

    Args:
        context: of this thread.
        matrix: a MATRIX.
        first, groups: the first group, and how many.
        band: of its columns.
        inputs: address of the tile.
        vectors: its width.
        results: address of rows x vectors * LANES float32 numbers.
        adds: 0 to overwrite them, else the result is added.
    """
    together, step, vector_bytes = matrix.together, 8 * matrix.bands, context.job.vector_bytes
    starts = matrix.starts + step * first + 8 * band
    scales = matrix.scales + 4 * first * together
    biases = (matrix.zeros if band else matrix.biases) + 4 * first * together
    stride, width = vectors * vector_bytes, vectors * BYTES
    if together == 1:
        entries = (groups, starts, step, matrix.columns, matrix.values, 0, 1, 0)
        operands = entries + (inputs, stride, results, width, scales, biases, 4, vectors, adds)  # noqa: RUF005
        sparse_row(operands, context.weights_like, context.inputs_like)
        return
    entries = (groups, starts, step, matrix.columns, matrix.values, 0, ROWS_TOGETHER, 1)
    for vector in range(0, vectors, NARROW):
        taken = min(NARROW, vectors - vector)
        tile, target = inputs + vector * vector_bytes, results + vector * BYTES
        operands = entries + (tile, stride, target, width, scales, biases, 4 * ROWS_TOGETHER, taken, adds)  # noqa: RUF005
        sparse_rows(operands, context.weights_like, context.inputs_like)


@compiled
def multiply_piece(context: Any, matrix: Any, tile: Any, piece: Any, band: Any, source: Any, target: Any, adds: Any) -> Any:
    """Computes a piece of the rows on one tile, float32, as its inputs lie; returns the address and the number of results.

    Args:
        context, matrix, band, adds: see `multiply`.
        tile, piece: which.
        source, target: addresses of the tiles of the inputs and of the result.
    """
    together, (place, vectors) = matrix.together, place_of(context.job, 1, tile * WIDEST)
    width, (first, last) = vectors * LANES, groups_of(matrix, piece)
    inputs, target = source + place * matrix.cols * context.job.vector_bytes, target + place * matrix.rows * BYTES
    whole = max(min(last, matrix.rows // together) - first, 0)
    results = target + 4 * first * together * width
    multiply(context, matrix, first, whole, band, inputs, vectors, results, adds)
    if first + whole < last:  # the last group has rows that the matrix has not
        row, block = (last - 1) * together, context.buffer
        multiply(context, matrix, last - 1, 1, band, inputs, vectors, block.ctypes.data, 0)
        rest = numba.carray(floats_at(target + 4 * row * width), (matrix.rows - row) * width)
        for i in range(len(rest)):
            rest[i] = block[i] + (rest[i] if adds else np.float32(0))
    rows = max(min(last * together, matrix.rows) - first * together, 0)
    return results, rows * width


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


@compiled
def tokens_of(job: Any, vector: Any) -> Any:
    """Returns the number of the first token of a vector among sequences x length, and how many it holds."""
    sequence, position = vector // job.each, vector % job.each * LANES
    return sequence * job.length + position, max(min(LANES, job.length - position), 0)


@compiled
def load_vectors(job: Any, vector: Any, target: Any, stride: Any) -> None:
    """Transposes `step` vectors of tokens of the source; see `load_tokens`."""
    for number in range(job.step):
        token, tokens = tokens_of(job, vector + number)
        load_tokens(job.source + 4 * token * job.hidden, tokens, job.hidden, target + number * BYTES, stride)


@compiled
def lower(job: Any, vector: Any, source: Any, stride: Any) -> None:
    """Stores `step` vectors of tokens, features x tokens at an address, as inputs of products, if these are not the stream."""
    if job.lowered == job.stream:
        return
    place, width = place_of(job, job.hidden, vector)
    for feature in range(job.hidden):
        row = numba.carray(floats_at(source + feature * stride), job.step * LANES)
        put(row, job.lowered + (place + feature * width) * job.vector_bytes, job)


@entry_point
def run_product(job: Any, weights_like: Any, inputs_like: Any) -> None:
    """Runs tasks of a linear layer whose inputs lie in tiles, as its outputs will; its source is not used."""
    matrix = numba.carray(matrices_at(job.matrix), 1)[0]
    context = Context(job, matrix, scratch(ROWS_TOGETHER * WIDEST * LANES), weights_like, inputs_like)
    run_phase(job.counters, 0, PIECES * (-(-job.vectors // WIDEST)), _multiply_tile, context)


@entry_point
def run_linear(job: Any, weights_like: Any, inputs_like: Any) -> None:
    """Runs tasks of a linear layer until none is left; any number of threads may run it at once."""
    matrix = numba.carray(matrices_at(job.matrix), 1)[0]
    buffer = scratch(max(job.hidden * job.step, LINE_ROWS * WIDEST) * LANES)
    context = Context(job, matrix, buffer, weights_like, inputs_like)
    loaded = run_phase(job.counters, 0, job.vectors // job.step, _load, context)
    run_phase(job.counters, loaded, PIECES * (-(-job.vectors // WIDEST)), _multiply, context)


@compiled
def _multiply_tile(task: Any, context: Any) -> None:
    """Computes a piece of the rows on one tile, which stays features x tokens."""
    job, tile, piece = context.job, task // PIECES, task % PIECES
    results, size = multiply_piece(context, context.layer, tile, piece, 0, job.lowered, job.target, 0)
    activate(job.activation, numba.carray(floats_at(results), size))


@compiled
def _load(task: Any, context: Any) -> None:
    """Transposes vectors of tokens into their tile."""
    job, buffer, vector = context.job, context.buffer.ctypes.data, task * context.job.step
    if job.step == 1:
        place, width = place_of(job, job.hidden, vector)
        load_vectors(job, vector, job.lowered + place * BYTES, width * BYTES)
        return
    load_vectors(job, vector, buffer, job.step * BYTES)
    lower(job, vector, buffer, job.step * BYTES)


@compiled
def _multiply(task: Any, context: Any) -> None:
    """Computes a piece of the rows on one tile, and stores it as tokens x features."""
    job, matrix, block = context.job, context.layer, context.buffer
    tile, piece = task // PIECES, task % PIECES
    place, width = place_of(job, job.hidden, tile * WIDEST)
    token = tile * WIDEST * LANES
    tokens = min(width * LANES, job.length - token)
    rows, together, most = matrix.rows, matrix.together, LINE_ROWS // matrix.together
    inputs = job.lowered + place * job.vector_bytes
    first, last = groups_of(matrix, piece)
    for group in range(first, last, most):
        groups, row = min(most, last - group), group * together
        held = min(groups * together, rows - row)
        multiply(context, matrix, group, groups, 0, inputs, width, block.ctypes.data, 0)
        activate(job.activation, block[: held * width * LANES])
        store_tokens(block.ctypes.data, held, width * BYTES, tokens, job.target + 4 * (token * rows + row), rows)
