"""A whole encoder of the BERT family in compiled code: tokens stay features x tokens from its first layer to its last.

A layer is x = norm(x + W_o attention(x)), x = norm(x + W_2 activation(W_1 x)). Its steps are phases, see `tasks`.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba.extending import intrinsic

from .activations import ZERO, activate
from .matmul import (
    BYTES,
    LANES,
    NARROW,
    PIECES,
    WIDEST,
    activate_piece,
    load_tokens,
    matrices_at,
    multiply,
    multiply_piece,
    put,
    scratch,
    store_tokens,
)
from .simd import ROWS_TOGETHER, dense_row, dense_rows, floats_at, integers_at, layer_norm, load_word, pointer_to, softmax
from .work import compiled, done, take

QUERY, KEY, VALUE, OUTPUT, FIRST, SECOND, MATRICES = range(7)
"""The matrices of a layer, in order."""

LAYER = np.dtype(
    [(name, np.int64) for name in ("matrices", "attention_scale", "attention_shift", "scale", "shift", "heads", "head_size")]
    + [("features", np.int64), ("neurons", np.int64), ("scaling", np.int64)]
    + [("attention_epsilon", np.float32), ("epsilon", np.float32)]
)
"""One layer.

    matrices: address of its six matrices.
    attention_scale, attention_shift: addresses of the LayerNorm after its attention, `scale` and `shift` of the one after all.
    heads, head_size: of its attention; `features` is their product.
    neurons: of its feed-forward layer.
    scaling: address of 1 / sqrt(head size), for each row of a small product.
    attention_epsilon, epsilon: of its LayerNorms.
"""

ENCODE = np.dtype(
    [
        (name, np.int64)
        for name in (
            *("source", "target", "sequences", "length", "each", "vectors", "step", "vector_bytes"),
            *("layers", "depth", "hidden", "activation", "queries", "groups", "seen", "lengths", "positions"),
            *("stream", "projected", "inner", "lowered", "context", "widest", "ones", "zeros", "counters"),
        )
    ]
)
"""An encoder applied to a batch.

    source, target: addresses of float32 sequences x length x hidden, before and after.
    each, vectors, step, queries: see `Tiles`; `groups` is the number of groups of queries.
    vector_bytes: of one vector of the inputs of a product.
    layers, depth: address and number of the LAYERs.
    hidden, activation: features of the residual stream, and the number of what follows the first feed-forward matrix.
    seen: address of one byte a token of sequences x length: whether it is attended to.
    lengths: address of how many tokens of each sequence can be attended to, up to the last that is seen.
    positions: address of float32 heads x keys x queries that are added to the scores, each row of each * LANES; 0 if none.
    stream, projected, inner, lowered, context: addresses of buffers, features x tokens in tiles: the residual stream, queries
        and keys and values, neurons, the stream as the inputs of products are stored, and what attention gives.
    widest: features of the widest layer's queries, keys and values.
    ones, zeros: addresses of numbers for each row of a small product.
    counters: address.
"""


@intrinsic
def layers_at(typing_context: Any, address: Any) -> Any:
    """Returns the pointer to layers of an address, for `numba.carray`."""
    return pointer_to(numba.from_dtype(LAYER))


LOAD, PROJECT, ATTEND, ADD, ADD_NORM, EXPAND, CONTRACT, CONTRACT_REST, NORM, STORE = range(10)
"""The phases: LOAD and STORE once, those between in each layer."""
IN_LAYER = 8


def phases(depth: int) -> int:
    """Returns how many phases an encoder of so many layers has."""
    return 2 + IN_LAYER * depth


@compiled
def run_encoder(job: Any, weights_like: Any, inputs_like: Any) -> None:
    """Does what it finds to do of an ENCODE; any number of threads may run it at once."""
    layers = numba.carray(layers_at(job.layers), max(job.depth, 1))
    scores = scratch(max(job.each, 1) * LANES * NARROW * LANES)
    block = scratch((max(ROWS_TOGETHER, job.widest, job.hidden) + 2) * WIDEST * LANES)
    tiles = -(-job.vectors // WIDEST)
    units = job.vectors // job.step
    last = IN_LAYER * job.depth + 1
    for phase in range(last + 1):
        layer = layers[max((phase - 1) // IN_LAYER, 0) % max(job.depth, 1)]
        kind = LOAD if phase == 0 else STORE if phase == last else PROJECT + (phase - 1) % IN_LAYER
        tasks = units
        if kind == ATTEND:
            tasks = job.groups * layer.heads
        elif kind == PROJECT:
            tasks = 3 * PIECES * tiles
        elif kind in (ADD, EXPAND, CONTRACT, CONTRACT_REST):
            tasks = PIECES * tiles
        task = take(job.counters, phase, tasks)
        while task >= 0:
            if kind == LOAD:
                _load(job, task * job.step, block, inputs_like)
            elif kind == PROJECT:
                _project(job, layer, task, block, weights_like, inputs_like)
            elif kind == ATTEND:
                _attend(job, layer, task, scores, block, inputs_like)
            elif kind == ADD:
                _add(job, layer, OUTPUT, 0, task, job.context, layer.features, block, weights_like, inputs_like)
            elif kind == EXPAND:
                _expand(job, layer, task, block, weights_like, inputs_like)
            elif kind == CONTRACT:
                _add(job, layer, SECOND, 0, task, job.inner, layer.neurons, block, weights_like, inputs_like)
            elif kind == CONTRACT_REST:
                _add(job, layer, SECOND, 1, task, job.inner, layer.neurons, block, weights_like, inputs_like)
            elif kind == ADD_NORM:
                first = layer.attention_scale, layer.attention_shift, layer.attention_epsilon
                _norm(job, first, task * job.step, inputs_like)
            elif kind == NORM:
                _norm(job, (layer.scale, layer.shift, layer.epsilon), task * job.step, inputs_like)
            else:
                _store(job, task * job.step)
            done(job.counters, phase)
            task = take(job.counters, phase, tasks)


def encoder_part(weights: np.dtype[Any], inputs: np.dtype[Any], sources: str) -> Callable[[Any], None]:
    """Returns the function of a pointer to an ENCODE that does its part, to be compiled; see `threads.entry`."""

    def part(pointer: Any) -> None:
        assert sources  # it belongs to what compiled code is kept under
        run_encoder(numba.carray(pointer, 1)[0], np.empty(0, weights), np.empty(0, inputs))

    return part


@compiled
def _width(job: Any, tile: Any) -> Any:
    """Vectors of a tile."""
    return min(WIDEST, job.vectors - tile * WIDEST)


@compiled
def _token(job: Any, vector: Any) -> Any:
    """Returns the number of the first token of a vector among sequences x length, and how many it holds."""
    sequence, position = vector // job.each, vector % job.each * LANES
    return sequence * job.length + position, max(min(LANES, job.length - position), 0)


@compiled
def _load(job: Any, vector: Any, block: Any, inputs_like: Any) -> None:
    """Takes vectors of tokens into the stream."""
    tile = vector // WIDEST
    width, inside = _width(job, tile), vector % WIDEST
    base = tile * WIDEST * job.hidden
    for number in range(job.step):
        token, tokens = _token(job, vector + number)
        source = job.source + 4 * token * job.hidden
        load_tokens(source, tokens, job.hidden, job.stream + (base + inside + number) * BYTES, width * BYTES)
    _lower(job, base, inside, width, inputs_like)


@compiled
def _lower(job: Any, base: Any, inside: Any, width: Any, inputs_like: Any) -> None:
    """Writes vectors of the stream as inputs of products, where these are stored otherwise."""
    if job.lowered == job.stream:
        return
    for feature in range(job.hidden):
        place = base + feature * width + inside
        row = numba.carray(floats_at(job.stream + place * BYTES), job.step * LANES)
        put(row, job.lowered + place * job.vector_bytes, inputs_like)


@compiled
def _store(job: Any, vector: Any) -> None:
    """Gives vectors of tokens back from the stream."""
    tile = vector // WIDEST
    width, inside = _width(job, tile), vector % WIDEST
    for number in range(job.step):
        token, tokens = _token(job, vector + number)
        target = job.target + 4 * token * job.hidden
        for feature in range(0, job.hidden, LANES):
            place = (tile * WIDEST * job.hidden + feature * width + inside + number) * BYTES
            some = min(LANES, job.hidden - feature)
            store_tokens(job.stream + place, some, width * BYTES, tokens, target + 4 * feature, job.hidden)


@compiled
def _matrix(layer: Any, number: Any) -> Any:
    return numba.carray(matrices_at(layer.matrices), MATRICES)[number]


@compiled
def _project(job: Any, layer: Any, task: Any, block: Any, weights_like: Any, inputs_like: Any) -> None:
    """Computes a piece of the queries, the keys or the values of a tile."""
    tile, piece = task // (3 * PIECES), task % PIECES
    number = task // PIECES % 3
    matrix, width = _matrix(layer, number), _width(job, tile)
    inputs = job.lowered + tile * WIDEST * job.hidden * job.vector_bytes
    target = job.projected + (tile * WIDEST * 3 * layer.features + number * layer.features * width) * BYTES
    multiply_piece(matrix, piece, 0, inputs, width, job.vector_bytes, target, 0, block, weights_like, inputs_like)


@compiled
def _add(
    job: Any,
    layer: Any,
    number: Any,
    band: Any,
    task: Any,
    source: Any,
    features: Any,
    block: Any,
    weights_like: Any,
    inputs_like: Any,
) -> None:
    """Adds a piece of W y on a tile to the stream, for one band of the columns of W."""
    tile, piece = task // PIECES, task % PIECES
    matrix, width = _matrix(layer, number), _width(job, tile)
    inputs = source + tile * WIDEST * features * job.vector_bytes
    target = job.stream + tile * WIDEST * job.hidden * BYTES
    multiply_piece(matrix, piece, band, inputs, width, job.vector_bytes, target, 1, block, weights_like, inputs_like)


@compiled
def _expand(job: Any, layer: Any, task: Any, block: Any, weights_like: Any, inputs_like: Any) -> None:
    """Computes a piece of the neurons of a tile."""
    tile, piece = task // PIECES, task % PIECES
    matrix, width = _matrix(layer, FIRST), _width(job, tile)
    inputs = job.lowered + tile * WIDEST * job.hidden * job.vector_bytes
    target = job.inner + tile * WIDEST * layer.neurons * job.vector_bytes
    if job.vector_bytes == BYTES:
        multiply_piece(matrix, piece, 0, inputs, width, job.vector_bytes, target, 0, block, weights_like, inputs_like)
        activate_piece(matrix, piece, width, target, job.activation)
        return
    for group in range(load_word(matrix.cuts + 8 * piece), load_word(matrix.cuts + 8 * (piece + 1))):
        multiply(matrix, group, 1, 0, inputs, width, job.vector_bytes, block.ctypes.data, 0, weights_like, inputs_like)
        row = group * matrix.together
        rows = block[: min(matrix.together, matrix.rows - row) * width * LANES]
        activate(job.activation, rows)
        put(rows, target + row * width * job.vector_bytes, inputs_like)


@compiled
def _norm(job: Any, norm: Any, vector: Any, inputs_like: Any) -> None:
    """Puts LayerNorm of vectors of the stream in their place."""
    scale, shift, epsilon = norm
    tile = vector // WIDEST
    width, inside, base = _width(job, tile), vector % WIDEST, tile * WIDEST * job.hidden
    for number in range(job.step):
        layer_norm(job.stream + (base + inside + number) * BYTES, width * BYTES, job.hidden, epsilon, scale, shift)
    _lower(job, base, inside, width, inputs_like)


@compiled
def _attend(job: Any, layer: Any, task: Any, scores: Any, block: Any, inputs_like: Any) -> None:
    """Computes softmax(K^T Q / sqrt(head size)) applied to V, for one head and some vectors of queries of one sequence.

    Scores are keys x queries, so that the sums of the softmax go over vectors.
    """
    group, head = task // layer.heads, task % layer.heads
    queries = numba.carray(integers_at(job.queries), (job.groups, 3))
    sequence, vector, some = queries[group, 0], queries[group, 1], queries[group, 2]
    keys = load_word(job.lengths + 8 * sequence)
    tile, inside, size = vector // WIDEST, vector % WIDEST, some * LANES
    width = _width(job, tile)
    start = head * layer.head_size
    query = job.projected + (tile * WIDEST * 3 * layer.features + start * width + inside) * BYTES
    _score(job, layer, start, sequence, keys, query, width, some, scores)
    if job.positions:
        each = job.each * LANES
        first = (vector - sequence * job.each) * LANES
        for key in range(keys):
            added = numba.carray(floats_at(job.positions + 4 * ((head * each + key) * each + first)), size)
            row = scores[key * size : (key + 1) * size]
            for i in range(size):
                row[i] += added[i]
    seen = numba.carray(_bytes_at(job.seen), (job.sequences, job.length))
    share = block[:size]
    _softmax(scores, seen[sequence], keys, some, share)
    results = block[size : (1 + layer.head_size) * size]
    results[:] = ZERO
    _weigh(job, layer, start, sequence, keys, some, scores, results)
    base = tile * WIDEST * layer.features + start * width + inside
    for feature in range(layer.head_size):
        row = results[feature * size : (feature + 1) * size]
        for i in range(size):
            row[i] = row[i] * share[i]
        put(row, job.context + (base + feature * width) * job.vector_bytes, inputs_like)


@intrinsic
def _bytes_at(typing_context: Any, address: Any) -> Any:
    return pointer_to(numba.types.uint8)


@compiled
def _score(job: Any, layer: Any, start: Any, sequence: Any, keys: Any, query: Any, width: Any, some: Any, scores: Any) -> None:
    """Computes keys x queries, tile by tile of the keys."""
    like = scores
    vector, end = sequence * job.each, (sequence + 1) * job.each
    key = 0
    while vector < end and key < keys:
        tile = vector // WIDEST
        key_width, inside = _width(job, tile), vector % WIDEST
        part = min(WIDEST - inside, end - vector)
        rows = layer.features + start
        base = job.projected + (tile * WIDEST * 3 * layer.features + rows * key_width + inside) * BYTES
        groups = -(-min(part * LANES, keys - key) // ROWS_TOGETHER)
        entries = (groups, layer.head_size, 0, 0, base, ROWS_TOGETHER, key_width * LANES, 1)
        target = scores.ctypes.data + key * some * BYTES
        given = (query, width * BYTES, target, some * BYTES, layer.scaling, job.zeros, 0, some, 0)
        dense_rows(entries + given, like, like)
        key += part * LANES
        vector += part


@compiled
def _softmax(scores: Any, seen: Any, keys: Any, some: Any, share: Any) -> None:
    """Replaces scores by e^(score - largest), 0 for keys that are not seen, and gives 1 / their total for each query."""
    size = some * LANES
    for key in range(keys):
        if not seen[key]:
            scores[key * size : (key + 1) * size] = np.float32(-np.inf)
    for vector in range(some):
        softmax(scores.ctypes.data + vector * BYTES, some * BYTES, keys, share.ctypes.data + vector * BYTES)
    for key in range(keys):
        if not seen[key]:
            scores[key * size : (key + 1) * size] = ZERO


@compiled
def _weigh(job: Any, layer: Any, start: Any, sequence: Any, keys: Any, some: Any, scores: Any, results: Any) -> None:
    """Adds V times the weights of the keys to the results, features x queries, tile by tile of the keys."""
    like = scores
    vector, end = sequence * job.each, (sequence + 1) * job.each
    key = 0
    while vector < end and key < keys:
        tile = vector // WIDEST
        key_width, inside = _width(job, tile), vector % WIDEST
        part = min(WIDEST - inside, end - vector)
        entries = min(part * LANES, keys - key)
        rows = 2 * layer.features + start
        base = job.projected + (tile * WIDEST * 3 * layer.features + rows * key_width + inside) * BYTES
        weights = scores.ctypes.data + key * some * BYTES
        groups, rest = layer.head_size // ROWS_TOGETHER, layer.head_size % ROWS_TOGETHER
        step = key_width * LANES
        given = (weights, some * BYTES, results.ctypes.data, some * BYTES, job.ones, job.zeros, 0, some, 1)
        dense_rows((groups, entries, 0, 0, base, ROWS_TOGETHER * step, 1, step) + given, like, like)  # noqa: RUF005
        if rest:
            done_rows = groups * ROWS_TOGETHER
            base, target = base + done_rows * step * 4, results.ctypes.data + done_rows * some * BYTES
            given = (weights, some * BYTES, target, some * BYTES, job.ones, job.zeros, 0, some, 1)
            dense_row((rest, entries, 0, 0, base, step, 1, 0) + given, like, like)  # noqa: RUF005
        key += part * LANES
        vector += part
