"""Attention of one head: scores, softmax and the weighted sum of the values, features x tokens."""

from typing import Any

import numba
import numpy as np

from .activations import ZERO
from .matmul import place_of, put
from .products import dense_row, dense_rows
from .reductions import softmax
from .simd import BYTES, LANES, ROWS_TOGETHER, WIDEST, bytes_at, floats_at, integers_at, load_word
from .work import compiled

ONES, ZEROS = np.ones(ROWS_TOGETHER, np.float32), np.zeros(ROWS_TOGETHER, np.float32)
"""The scales and biases of products that have none."""


@compiled
def attend(task: Any, context: Any) -> None:
    """Computes softmax(K^T Q / sqrt(head size)) applied to V, for one head and a group of queries of one sequence.

    Scores are keys x queries, so that the sums of the softmax go over vectors.
    """
    job, layer = context.job, context.layer
    group, head = task // layer.heads, task % layer.heads
    queries = numba.carray(integers_at(job.queries), (job.groups, 3))
    sequence, vector, vectors = queries[group, 0], queries[group, 1], queries[group, 2]
    keys, size = load_word(job.lengths + 8 * sequence), vectors * LANES
    inverse = context.buffer[:size]
    results = context.buffer[size : (1 + layer.head_size) * size]
    scores = context.buffer[(1 + layer.head_size) * size :]
    place, width = place_of(job, layer.features, vector)
    place += head * layer.head_size * width
    _score(job, layer, head, sequence, keys, job.projected + place * BYTES, width, vectors, scores)
    if job.positions:
        each = job.each * LANES
        first = (vector - sequence * job.each) * LANES
        for key in range(keys):
            added = numba.carray(floats_at(job.positions + 4 * ((head * each + key) * each + first)), size)
            row = scores[key * size : (key + 1) * size]
            for i in range(size):
                row[i] += added[i]
    seen = numba.carray(bytes_at(job.seen), (job.sequences, job.length))
    _softmax(scores, seen[sequence], keys, vectors, inverse)
    results[:] = ZERO
    _weigh(job, layer, head, sequence, keys, vectors, scores, results)
    for feature in range(layer.head_size):
        row = results[feature * size : (feature + 1) * size]
        for i in range(size):
            row[i] = row[i] * inverse[i]
        put(row, job.context + (place + feature * width) * job.vector_bytes, job)


@compiled
def _stretch(job: Any, layer: Any, number: Any, head: Any, sequence: Any, key: Any, keys: Any) -> Any:
    """Returns where the keys or values of a head lie from one key on: address, tokens of a row, and how many are in that tile.

    Args:
        number: 1 for keys, 2 for values.
        key: the first.
        keys: of the sequence.
    """
    vector = sequence * job.each + key // LANES
    place, width = place_of(job, layer.features, vector)
    row = number * job.vectors * layer.features + place + head * layer.head_size * width
    return job.projected + row * BYTES, width * LANES, min((WIDEST - vector % WIDEST) * LANES, keys - key)


@compiled
def _score(
    job: Any, layer: Any, head: Any, sequence: Any, keys: Any, query: Any, width: Any, vectors: Any, scores: Any
) -> None:
    """Computes keys x queries, tile by tile of the keys."""
    terms = (layer.scaling, ZEROS.ctypes.data, 0, vectors, 0)
    key = 0
    while key < keys:
        weights, step, count = _stretch(job, layer, 1, head, sequence, key, keys)
        groups, target = -(-count // ROWS_TOGETHER), scores.ctypes.data + key * vectors * BYTES
        rows = (groups, layer.head_size, 0, 0, weights, ROWS_TOGETHER, step, 1, query, width * BYTES, target, vectors * BYTES)
        dense_rows(rows + terms, scores, scores)
        key += count


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
def _weigh(job: Any, layer: Any, head: Any, sequence: Any, keys: Any, vectors: Any, scores: Any, results: Any) -> None:
    """Adds V times the weights of the keys to the results, features x queries, tile by tile of the keys."""
    groups, rest, stride = layer.head_size // ROWS_TOGETHER, layer.head_size % ROWS_TOGETHER, vectors * BYTES
    whole, target = groups * ROWS_TOGETHER, results.ctypes.data
    terms = (ONES.ctypes.data, ZEROS.ctypes.data, 0, vectors, 1)
    key = 0
    while key < keys:
        base, step, count = _stretch(job, layer, 2, head, sequence, key, keys)
        weights = scores.ctypes.data + key * stride
        rows = (groups, count, 0, 0, base, ROWS_TOGETHER * step, 1, step, weights, stride, target, stride)
        dense_rows(rows + terms, scores, scores)
        if rest:
            rows = (rest, count, 0, 0, base + whole * step * 4, step, 1, 0, weights, stride, target + whole * stride, stride)
            dense_row(rows + terms, scores, scores)
        key += count
