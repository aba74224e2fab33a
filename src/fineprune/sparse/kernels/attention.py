"""Attention of one head: scores, softmax and the weighted sum of the values, features x tokens."""

from typing import Any

import numba
import numpy as np

from .activations import ZERO
from .matmul import LANES, WIDEST, put, width_of
from .memory import load_word
from .products import dense_row, dense_rows
from .reductions import softmax
from .simd import BYTES, ROWS_TOGETHER, bytes_at, floats_at, integers_at
from .work import compiled


@compiled
def attend(job: Any, layer: Any, task: Any, scores: Any, block: Any, inputs_like: Any) -> None:
    """Computes softmax(K^T Q / sqrt(head size)) applied to V, for one head and a group of queries of one sequence.

    Scores are keys x queries, so that the sums of the softmax go over vectors.
    """
    group, head = task // layer.heads, task % layer.heads
    queries = numba.carray(integers_at(job.queries), (job.groups, 3))
    sequence, vector, vectors = queries[group, 0], queries[group, 1], queries[group, 2]
    keys = load_word(job.lengths + 8 * sequence)
    tile, inside, size = vector // WIDEST, vector % WIDEST, vectors * LANES
    width = width_of(job.vectors, tile)
    start = head * layer.head_size
    query = job.projected + (tile * WIDEST * 3 * layer.features + start * width + inside) * BYTES
    _score(job, layer, start, sequence, keys, query, width, vectors, scores)
    if job.positions:
        each = job.each * LANES
        first = (vector - sequence * job.each) * LANES
        for key in range(keys):
            added = numba.carray(floats_at(job.positions + 4 * ((head * each + key) * each + first)), size)
            row = scores[key * size : (key + 1) * size]
            for i in range(size):
                row[i] += added[i]
    seen = numba.carray(bytes_at(job.seen), (job.sequences, job.length))
    inverse = block[:size]
    _softmax(scores, seen[sequence], keys, vectors, inverse)
    results = block[size : (1 + layer.head_size) * size]
    results[:] = ZERO
    _weigh(job, layer, start, sequence, keys, vectors, scores, results)
    base = tile * WIDEST * layer.features + start * width + inside
    for feature in range(layer.head_size):
        row = results[feature * size : (feature + 1) * size]
        for i in range(size):
            row[i] = row[i] * inverse[i]
        put(row, job.context + (base + feature * width) * job.vector_bytes, inputs_like)


@compiled
def _score(
    job: Any, layer: Any, start: Any, sequence: Any, keys: Any, query: Any, width: Any, vectors: Any, scores: Any
) -> None:
    """Computes keys x queries, tile by tile of the keys."""
    like = scores
    vector, end = sequence * job.each, (sequence + 1) * job.each
    key = 0
    while vector < end and key < keys:
        tile = vector // WIDEST
        key_width, inside = width_of(job.vectors, tile), vector % WIDEST
        part = min(WIDEST - inside, end - vector)
        rows = layer.features + start
        base = job.projected + (tile * WIDEST * 3 * layer.features + rows * key_width + inside) * BYTES
        groups = -(-min(part * LANES, keys - key) // ROWS_TOGETHER)
        entries = (groups, layer.head_size, 0, 0, base, ROWS_TOGETHER, key_width * LANES, 1)
        target = scores.ctypes.data + key * vectors * BYTES
        given = (query, width * BYTES, target, vectors * BYTES, layer.scaling, job.zeros, 0, vectors, 0)
        dense_rows(entries + given, like, like)
        key += part * LANES
        vector += part


@compiled
def _softmax(scores: Any, seen: Any, keys: Any, vectors: Any, inverse: Any) -> None:
    """Replaces scores by e^(score - largest), 0 for keys that are not seen, and gives 1 / their total for each query."""
    size = vectors * LANES
    for key in range(keys):
        if not seen[key]:
            scores[key * size : (key + 1) * size] = np.float32(-np.inf)
    for vector in range(vectors):
        softmax(scores.ctypes.data + vector * BYTES, vectors * BYTES, keys, inverse.ctypes.data + vector * BYTES)
    for key in range(keys):
        if not seen[key]:
            scores[key * size : (key + 1) * size] = ZERO


@compiled
def _weigh(job: Any, layer: Any, start: Any, sequence: Any, keys: Any, vectors: Any, scores: Any, results: Any) -> None:
    """Adds V times the weights of the keys to the results, features x queries, tile by tile of the keys."""
    like = scores
    vector, end = sequence * job.each, (sequence + 1) * job.each
    key = 0
    while vector < end and key < keys:
        tile = vector // WIDEST
        key_width, inside = width_of(job.vectors, tile), vector % WIDEST
        part = min(WIDEST - inside, end - vector)
        entries = min(part * LANES, keys - key)
        rows = 2 * layer.features + start
        base = job.projected + (tile * WIDEST * 3 * layer.features + rows * key_width + inside) * BYTES
        weights = scores.ctypes.data + key * vectors * BYTES
        groups, rest = layer.head_size // ROWS_TOGETHER, layer.head_size % ROWS_TOGETHER
        step = key_width * LANES
        given = (weights, vectors * BYTES, results.ctypes.data, vectors * BYTES, job.ones, job.zeros, 0, vectors, 1)
        dense_rows((groups, entries, 0, 0, base, ROWS_TOGETHER * step, 1, step) + given, like, like)  # noqa: RUF005
        if rest:
            whole = groups * ROWS_TOGETHER
            base, target = base + whole * step * 4, results.ctypes.data + whole * vectors * BYTES
            given = (weights, vectors * BYTES, target, vectors * BYTES, job.ones, job.zeros, 0, vectors, 1)
            dense_row((rest, entries, 0, 0, base, step, 1, 0) + given, like, like)  # noqa: RUF005
        key += part * LANES
        vector += part
