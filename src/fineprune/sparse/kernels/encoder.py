"""A whole encoder of the BERT family in compiled code: tokens stay features x tokens from its first layer to its last.

A layer is x = norm(x + W_o attention(x)), x = norm(x + W_2 activation(W_1 x)). Its steps are phases, see `run_encoder`.
"""

from typing import Any

import numba
import numpy as np

from .activations import activate
from .attention import attend
from .matmul import (
    PIECES,
    Context,
    groups_of,
    load_vectors,
    lower,
    matrices_at,
    multiply,
    multiply_piece,
    place_of,
    put,
    scratch,
    store_tokens,
    tokens_of,
    words,
)
from .reductions import layer_norm
from .simd import BYTES, LANES, NARROW, ROWS_TOGETHER, WIDEST, floats_at, pointers_to
from .work import compiled, entry_point, run_phase

OUTPUT, FIRST, SECOND, MATRICES = 3, 4, 5, 6
"""The matrices of a layer: queries, keys, values, then these."""

LAYER = np.dtype(
    words("matrices", "attention_scale", "attention_shift", "scale", "shift", "heads", "head_size", "features", "scaling")
    + words("attention_epsilon", "epsilon", kind=np.float32)
)
"""One layer.

    matrices: address of its six matrices.
    attention_scale, attention_shift: addresses of the LayerNorm after its attention, `scale` and `shift` of the one after all.
    heads, head_size: of its attention; `features` is their product.
    scaling: address of 1 / sqrt(head size), for each row of a small product.
    attention_epsilon, epsilon: of its LayerNorms.
"""

layers_at = pointers_to(numba.from_dtype(LAYER))


@compiled
def _matrix(context: Any, number: Any) -> Any:
    return numba.carray(matrices_at(context.layer.matrices), MATRICES)[number]


@compiled
def _load(task: Any, context: Any) -> None:
    """Writes vectors of tokens into the stream."""
    job, vector = context.job, task * context.job.step
    place, width = place_of(job, job.hidden, vector)
    load_vectors(job, vector, job.stream + place * BYTES, width * BYTES)
    lower(job, vector, job.stream + place * BYTES, width * BYTES)


@compiled
def _store(task: Any, context: Any) -> None:
    """Writes vectors of tokens of the stream to the target."""
    job, vector = context.job, task * context.job.step
    place, width = place_of(job, job.hidden, vector)
    for number in range(job.step):
        token, tokens = tokens_of(job, vector + number)
        target = job.target + 4 * token * job.hidden
        for feature in range(0, job.hidden, LANES):
            block, features = (place + feature * width + number) * BYTES, min(LANES, job.hidden - feature)
            store_tokens(job.stream + block, features, width * BYTES, tokens, target + 4 * feature, job.hidden)


@compiled
def _project(task: Any, context: Any) -> None:
    """Computes a piece of the queries, the keys or the values of a tile."""
    job, tile, number = context.job, task // (3 * PIECES), task // PIECES % 3
    target = job.projected + number * job.vectors * context.layer.features * BYTES
    multiply_piece(context, _matrix(context, number), tile, task % PIECES, 0, job.lowered, target, 0)


@compiled
def _add(task: Any, context: Any, number: Any, band: Any, source: Any) -> None:
    """Adds a piece of W y on a tile to the stream, for one band of the columns of W."""
    matrix, tile, piece = _matrix(context, number), task // PIECES, task % PIECES
    multiply_piece(context, matrix, tile, piece, band, source, context.job.stream, 1)


@compiled
def _add_attention(task: Any, context: Any) -> None:
    _add(task, context, OUTPUT, 0, context.job.context)


@compiled
def _expand(task: Any, context: Any) -> None:
    """Computes a piece of the neurons of a tile."""
    job, matrix, tile, piece = context.job, _matrix(context, FIRST), task // PIECES, task % PIECES
    if job.vector_bytes == BYTES:
        results, size = multiply_piece(context, matrix, tile, piece, 0, job.lowered, job.inner, 0)
        activate(job.activation, numba.carray(floats_at(results), size))
        return
    place, width = place_of(job, 1, tile * WIDEST)
    inputs = job.lowered + place * matrix.cols * job.vector_bytes
    target = job.inner + place * matrix.rows * job.vector_bytes
    first, last = groups_of(matrix, piece)
    for group in range(first, last):
        multiply(context, matrix, group, 1, 0, inputs, width, context.buffer.ctypes.data, 0)
        row = group * matrix.together
        rows = context.buffer[: min(matrix.together, matrix.rows - row) * width * LANES]
        activate(job.activation, rows)
        put(rows, target + row * width * job.vector_bytes, job)


@compiled
def _contract(task: Any, context: Any) -> None:
    _add(task, context, SECOND, 0, context.job.inner)


@compiled
def _contract_rest(task: Any, context: Any) -> None:
    _add(task, context, SECOND, 1, context.job.inner)


@compiled
def _norm(task: Any, context: Any, scale: Any, shift: Any, epsilon: Any) -> None:
    """Replaces vectors of the stream by their LayerNorm."""
    job, vector = context.job, task * context.job.step
    place, width = place_of(job, job.hidden, vector)
    for number in range(job.step):
        layer_norm(job.stream + (place + number) * BYTES, width * BYTES, job.hidden, epsilon, scale, shift)
    lower(job, vector, job.stream + place * BYTES, width * BYTES)


@compiled
def _norm_attention(task: Any, context: Any) -> None:
    layer = context.layer
    _norm(task, context, layer.attention_scale, layer.attention_shift, layer.attention_epsilon)


@compiled
def _norm_output(task: Any, context: Any) -> None:
    _norm(task, context, context.layer.scale, context.layer.shift, context.layer.epsilon)


@entry_point
def run_encoder(job: Any, weights_like: Any, inputs_like: Any) -> None:
    """Runs tasks of an encoder until none is left; any number of threads may run it at once.

    The phases stand one after the other, since numba cannot keep compiled code that takes functions from a table.
    """
    layers = numba.carray(layers_at(job.layers), max(job.depth, 1))
    scores, rows = max(job.each, 1) * LANES * NARROW, (max(ROWS_TOGETHER, job.widest, job.hidden) + 2) * WIDEST
    buffer = scratch((scores + rows) * LANES)
    units, pieces = job.vectors // job.step, PIECES * (-(-job.vectors // WIDEST))
    first = run_phase(job.counters, 0, units, _load, Context(job, layers[0], buffer, weights_like, inputs_like))
    for number in range(job.depth):
        context = Context(job, layers[number], buffer, weights_like, inputs_like)
        first = run_phase(job.counters, first, 3 * pieces, _project, context)
        first = run_phase(job.counters, first, job.groups * context.layer.heads, attend, context)
        first = run_phase(job.counters, first, pieces, _add_attention, context)
        first = run_phase(job.counters, first, units, _norm_attention, context)
        first = run_phase(job.counters, first, pieces, _expand, context)
        first = run_phase(job.counters, first, pieces, _contract, context)
        first = run_phase(job.counters, first, pieces, _contract_rest, context)
        first = run_phase(job.counters, first, units, _norm_output, context)
    run_phase(job.counters, first, units, _store, Context(job, layers[0], buffer, weights_like, inputs_like))
