"""Reductions over rows of lanes: LayerNorm and softmax of each lane."""

import functools
import math
from collections.abc import Callable

from llvmlite import ir
from numba import types
from numba.core import cgutils

from .simd import (
    FLOAT,
    VECTOR,
    WORD,
    WORDS,
    Builder,
    Value,
    all_of,
    elementwise,
    fused_multiply_add,
    load,
    pointer,
    splat,
    written_in_llvm,
)


@written_in_llvm(types.void, types.int64, types.int64, types.int64, types.float32, types.int64, types.int64)
def layer_norm(builder: Builder, rows: Value, stride: Value, count: Value, epsilon: Value, scale: Value, shift: Value) -> None:
    """Replaces each lane of the rows by its LayerNorm: (x - mean) / sqrt(mean of (x - mean)^2 + epsilon) * scale + shift.

    Args: address of the first row, bytes between rows, number of rows; epsilon, float32; addresses of the scale and the
    shift of each row.
    """
    inverse = splat(builder, builder.fdiv(ir.Constant(FLOAT, 1.0), builder.sitofp(count, FLOAT)))
    mean = builder.fmul(inverse, _reduce(builder, rows, stride, count, lambda x, total: builder.fadd(x, total)))

    def add_square(x: Value, total: Value) -> Value:
        distance = builder.fsub(x, mean)
        return fused_multiply_add(builder, distance, distance, total)

    variance = builder.fmul(inverse, _reduce(builder, rows, stride, count, add_square))
    root = elementwise(builder, "sqrt", builder.fadd(variance, splat(builder, epsilon)))
    factor = builder.fdiv(all_of(1.0), root)
    with cgutils.for_range(builder, count, intp=WORD) as loop:
        a, b = (splat(builder, load(builder, FLOAT, one, builder.mul(loop.index, WORD(4)))) for one in (scale, shift))
        place = pointer(builder, VECTOR, rows, builder.mul(loop.index, stride))
        normal = builder.fmul(builder.fsub(builder.load(place, align=4), mean), factor)
        builder.store(fused_multiply_add(builder, normal, a, b), place, align=4)


@written_in_llvm(types.void, *[types.int64] * 4)
def softmax(builder: Builder, rows: Value, stride: Value, count: Value, target: Value) -> None:
    """Replaces each lane of the rows by e^(x - largest), and writes 1 / their sum: the rows times it are the softmax.

    Args: address of the first row, bytes between rows, number of rows, at least one; address of the vector of 1 / sum.
    """

    def larger(x: Value, other: Value) -> Value:
        return builder.select(builder.fcmp_ordered(">", x, other), x, other)

    largest = _reduce(builder, rows, stride, count, larger, start=-math.inf)
    total = cgutils.alloca_once(builder, VECTOR)
    builder.store(all_of(0.0), total)
    with cgutils.for_range(builder, count, intp=WORD) as loop:
        place = pointer(builder, VECTOR, rows, builder.mul(loop.index, stride))
        power = _exp(builder, builder.fsub(builder.load(place, align=4), largest))
        builder.store(power, place, align=4)
        builder.store(builder.fadd(power, builder.load(total)), total)
    inverse = builder.fdiv(all_of(1.0), builder.load(total))
    builder.store(inverse, pointer(builder, VECTOR, target), align=4)


def _exp(builder: Builder, x: Value) -> Value:
    """e^x = 2^n e^r with r at most ln 2 / 2, and the Taylor series of e^r; of x up to 0, and as of -87 below that."""
    x = builder.select(builder.fcmp_ordered("<", x, all_of(-87.0)), all_of(-87.0), x)
    n = elementwise(builder, "rint", builder.fmul(x, all_of(math.log2(math.e))))
    upper = 0.693145751953125  # of ln 2; its product with a small whole number is exact
    r = fused_multiply_add(builder, n, all_of(-upper), x)
    r = fused_multiply_add(builder, n, all_of(upper - math.log(2)), r)
    y = all_of(1 / math.factorial(6))
    for factor in (5, 4, 3, 2, 1, 0):
        y = fused_multiply_add(builder, y, r, all_of(1 / math.factorial(factor)))
    exponent = builder.add(builder.fptosi(n, WORDS), all_of(127, WORDS))
    power = builder.bitcast(builder.shl(exponent, all_of(23, WORDS)), VECTOR)
    return builder.fmul(y, power)


def _reduce(
    builder: Builder,
    source: Value,
    stride: Value,
    count: Value,
    add: Callable[[Value, Value], Value],
    start: float = 0.0,
) -> Value:
    """Combines rows of lanes, in several running results, since each waits for its last one; these are combined at the end."""
    apart = 4
    results = [cgutils.alloca_once(builder, VECTOR) for _ in range(apart)]
    for place in results:
        builder.store(all_of(start), place)

    def take(row: Value, place: Value) -> None:
        x = load(builder, VECTOR, source, builder.mul(row, stride))
        builder.store(add(x, builder.load(place)), place)

    whole = builder.udiv(count, WORD(apart))
    with cgutils.for_range(builder, whole, intp=WORD) as loop:
        for number, place in enumerate(results):
            take(builder.add(builder.mul(loop.index, WORD(apart)), WORD(number)), place)
    with cgutils.for_range_slice(builder, builder.mul(whole, WORD(apart)), count, WORD(1), intp=WORD) as (row, _):
        take(row, results[0])
    return functools.reduce(builder.fadd if start == 0.0 else add, [builder.load(place) for place in results])
