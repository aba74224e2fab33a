"""A whole encoder of the BERT family in compiled code: tokens stay features x tokens from its first layer to its last.

A layer is x = norm(x + W_o attention(x)), x = norm(x + W_2 activation(W_1 x)). Its steps are phases, see `run_encoder`.
"""

from typing import Any, NamedTuple

import numba
import numpy as np

from .activations import activate
from .attention import attend
from .matmul import (
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
    width_of,
)
from .memory import load_word
from .reductions import layer_norm
from .simd import BYTES, ROWS_TOGETHER, floats_at, pointers_to
from .work import compiled, entry_point, inlined, run_phase

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


layers_at = pointers_to(numba.from_dtype(LAYER))


class EncoderContext(NamedTuple):
    """What a task of one thread works on: the ENCODE, the LAYER, and buffers and types of its own."""

    job: Any
    layer: Any
    scores: Any
    block: Any
    weights_like: Any
    inputs_like: Any


@compiled
def _token(job: Any, vector: Any) -> Any:
    """Returns the number of the first token of a vector among sequences x length, and how many it holds."""
    sequence, position = vector // job.each, vector % job.each * LANES
    return sequence * job.length + position, max(min(LANES, job.length - position), 0)


@compiled
def _load(task: Any, context: Any) -> None:
    """Writes vectors of tokens into the stream."""
    job, vector = context.job, task * context.job.step
    tile = vector // WIDEST
    width, inside = width_of(job.vectors, tile), vector % WIDEST
    base = tile * WIDEST * job.hidden
    for number in range(job.step):
        token, tokens = _token(job, vector + number)
        source = job.source + 4 * token * job.hidden
        load_tokens(source, tokens, job.hidden, job.stream + (base + inside + number) * BYTES, width * BYTES)
    _lower(job, base, inside, width, context.inputs_like)


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
def _store(task: Any, context: Any) -> None:
    """Writes vectors of tokens of the stream to the target."""
    job, vector = context.job, task * context.job.step
    tile = vector // WIDEST
    width, inside = width_of(job.vectors, tile), vector % WIDEST
    for number in range(job.step):
        token, tokens = _token(job, vector + number)
        target = job.target + 4 * token * job.hidden
        for feature in range(0, job.hidden, LANES):
            place = (tile * WIDEST * job.hidden + feature * width + inside + number) * BYTES
            features = min(LANES, job.hidden - feature)
            store_tokens(job.stream + place, features, width * BYTES, tokens, target + 4 * feature, job.hidden)


@compiled
def _matrix(layer: Any, number: Any) -> Any:
    return numba.carray(matrices_at(layer.matrices), MATRICES)[number]


@compiled
def _project(task: Any, context: Any) -> None:
    """Computes a piece of the queries, the keys or the values of a tile."""
    job, layer, _, block, weights_like, inputs_like = context
    tile, piece = task // (3 * PIECES), task % PIECES
    number = task // PIECES % 3
    matrix, width = _matrix(layer, number), width_of(job.vectors, tile)
    inputs = job.lowered + tile * WIDEST * job.hidden * job.vector_bytes
    target = job.projected + (tile * WIDEST * 3 * layer.features + number * layer.features * width) * BYTES
    multiply_piece(matrix, piece, 0, inputs, width, job.vector_bytes, target, 0, block, weights_like, inputs_like)


@compiled
def _add(task: Any, context: Any, number: Any, band: Any, source: Any, features: Any) -> None:
    """Adds a piece of W y on a tile to the stream, for one band of the columns of W."""
    job, layer, _, block, weights_like, inputs_like = context
    tile, piece = task // PIECES, task % PIECES
    matrix, width = _matrix(layer, number), width_of(job.vectors, tile)
    inputs = source + tile * WIDEST * features * job.vector_bytes
    target = job.stream + tile * WIDEST * job.hidden * BYTES
    multiply_piece(matrix, piece, band, inputs, width, job.vector_bytes, target, 1, block, weights_like, inputs_like)


@inlined
def _add_attention(task: Any, context: Any) -> None:
    _add(task, context, OUTPUT, 0, context.job.context, context.layer.features)


@compiled
def _expand(task: Any, context: Any) -> None:
    """Computes a piece of the neurons of a tile."""
    job, layer, _, block, weights_like, inputs_like = context
    tile, piece = task // PIECES, task % PIECES
    matrix, width = _matrix(layer, FIRST), width_of(job.vectors, tile)
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


@inlined
def _contract(task: Any, context: Any) -> None:
    _add(task, context, SECOND, 0, context.job.inner, context.layer.neurons)


@inlined
def _contract_rest(task: Any, context: Any) -> None:
    _add(task, context, SECOND, 1, context.job.inner, context.layer.neurons)


@compiled
def _norm(task: Any, context: Any, scale: Any, shift: Any, epsilon: Any) -> None:
    """Replaces vectors of the stream by their LayerNorm."""
    job, vector = context.job, task * context.job.step
    tile = vector // WIDEST
    width, inside, base = width_of(job.vectors, tile), vector % WIDEST, tile * WIDEST * job.hidden
    for number in range(job.step):
        layer_norm(job.stream + (base + inside + number) * BYTES, width * BYTES, job.hidden, epsilon, scale, shift)
    _lower(job, base, inside, width, context.inputs_like)


@inlined
def _norm_attention(task: Any, context: Any) -> None:
    layer = context.layer
    _norm(task, context, layer.attention_scale, layer.attention_shift, layer.attention_epsilon)


@inlined
def _norm_output(task: Any, context: Any) -> None:
    _norm(task, context, context.layer.scale, context.layer.shift, context.layer.epsilon)


@inlined
def _attend(task: Any, context: Any) -> None:
    attend(context.job, context.layer, task, context.scores, context.block, context.inputs_like)


PHASES_OF_LAYER = 8


def phases(depth: int) -> int:
    """Returns the number of phases of an encoder: loading, those of each layer, storing."""
    return 2 + PHASES_OF_LAYER * depth


@entry_point
def run_encoder(job: Any, weights_like: Any, inputs_like: Any) -> None:
    """Runs tasks of an ENCODE until none is left; any number of threads may run it at once.

    The phases stand one after the other, since numba cannot keep compiled code that takes functions from a table.
    """
    layers = numba.carray(layers_at(job.layers), max(job.depth, 1))
    scores = scratch(max(job.each, 1) * LANES * NARROW * LANES)
    block = scratch((max(ROWS_TOGETHER, job.widest, job.hidden) + 2) * WIDEST * LANES)
    units, pieces = job.vectors // job.step, PIECES * (-(-job.vectors // WIDEST))
    context = EncoderContext(job, layers[0], scores, block, weights_like, inputs_like)
    run_phase(job.counters, 0, units, _load, context)
    phase = 1
    for number in range(job.depth):
        layer = layers[number]
        context = EncoderContext(job, layer, scores, block, weights_like, inputs_like)
        run_phase(job.counters, phase, 3 * pieces, _project, context)
        run_phase(job.counters, phase + 1, job.groups * layer.heads, _attend, context)
        run_phase(job.counters, phase + 2, pieces, _add_attention, context)
        run_phase(job.counters, phase + 3, units, _norm_attention, context)
        run_phase(job.counters, phase + 4, pieces, _expand, context)
        run_phase(job.counters, phase + 5, pieces, _contract, context)
        run_phase(job.counters, phase + 6, pieces, _contract_rest, context)
        run_phase(job.counters, phase + 7, units, _norm_output, context)
        phase += PHASES_OF_LAYER
    run_phase(job.counters, phase, units, _store, context)
