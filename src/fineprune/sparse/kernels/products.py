"""Rows of a product, accumulated in registers: groups of rows of W, sparse or dense, times a tile of tokens."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .simd import (
    BYTES,
    FLOAT,
    INT8,
    INT16,
    INT32,
    NARROW,
    ROWS_TOGETHER,
    VECTOR,
    WIDEST,
    WORD,
    WORDS,
    Builder,
    Value,
    all_of,
    fused_multiply_add,
    load,
    pointer,
    splat,
)

AHEAD = 4096
"""How many bytes ahead weights are fetched."""


def _weight(builder: Builder, kind: types.Type, address: Value, number: Value) -> Value:
    """Loads one stored value as float32."""
    if kind == types.float32:
        return load(builder, FLOAT, address, builder.mul(number, WORD(4)))
    if kind == types.uint16:  # bfloat16: the upper half of a float32
        half = builder.zext(load(builder, INT16, address, builder.mul(number, WORD(2))), INT32)
        return builder.bitcast(builder.shl(half, INT32(16)), FLOAT)
    return builder.sitofp(load(builder, INT8, address, number), FLOAT)


def _inputs(builder: Builder, kind: types.Type, address: Value, vectors: int) -> list[Value]:
    """Loads the inputs of one column: float32 vectors, or pairs of bfloat16 ones, the second in the upper halves."""
    if kind == types.float32:
        return [load(builder, VECTOR, address, number * BYTES) for number in range(vectors)]
    loaded = []
    halves, upper = all_of(16, WORDS), all_of(0xFFFF0000, WORDS)
    for pair in range(-(-vectors // 2)):
        words = load(builder, WORDS, address, pair * BYTES)
        loaded += [
            builder.bitcast(builder.shl(words, halves), VECTOR),
            builder.bitcast(builder.and_(words, upper), VECTOR),
        ]
    return loaded[:vectors]


def _fetch(builder: Builder, address: Value) -> None:
    """Prefetches what is read a few rows later: weights are read once, past caches that are full of inputs."""
    number = [ir.VoidType(), ir.IntType(8).as_pointer(), INT32, INT32, INT32]
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(number[0], number[1:]), "llvm.prefetch.p0")
    builder.call(function, [pointer(builder, INT8, address, AHEAD), INT32(0), INT32(3), INT32(1)])


class _Operands(NamedTuple):
    """The operands of a product: groups of rows of W times X, each row scale * sum + bias.

    groups: how many.
    starts, start_step: if it gathers columns: address of the number of a group's first entry, after which that of its end
        stands, and bytes from one group to the next. If not, `starts` is the number of entries of every group.
    columns: address of the column of each entry, uint16; if it does not gather they are 0, 1, 2 ...
    weights: address of the stored values; value number entry * entry_step + row * row_step is one of W. If it does not gather,
        those of a group begin `group_step` values after those of the last.
    inputs, input_stride: address of X, and bytes between its rows.
    outputs, output_stride: address of the first row of the result, and bytes between its rows.
    scales, biases, term_step: addresses, float32, of each row, and bytes from one group to the next.
    vectors: in each row, 1 to WIDEST, or to NARROW where several rows are computed together.
    adds: 0 to overwrite the outputs, else the result is added to them.
    """

    groups: Value
    starts: Value
    start_step: Value
    columns: Value
    weights: Value
    group_step: Value
    entry_step: Value
    row_step: Value
    inputs: Value
    input_stride: Value
    outputs: Value
    output_stride: Value
    scales: Value
    biases: Value
    term_step: Value
    vectors: Value
    adds: Value


def _groups(builder: Builder, given: _Operands, rows: int, vectors: int, gathers: bool, weight: Any, inputs: Any) -> None:
    """Writes the code of a product with that number of vectors in each row: its groups of rows, one after the other."""
    with cgutils.for_range(builder, given.groups, intp=WORD) as loop:
        group = loop.index
        if gathers:
            address = builder.add(given.starts, builder.mul(group, given.start_step))
            start = load(builder, WORD, address)
            entries = builder.sub(load(builder, WORD, address, 8), start)
            columns, weights = builder.add(given.columns, builder.mul(start, WORD(2))), builder.mul(start, WORD(rows))
        else:
            entries, columns, weights = given.starts, given.columns, builder.mul(group, given.group_step)
        size = WORD(weight.bitwidth // 8)
        here = given._replace(
            columns=columns,
            weights=builder.add(given.weights, builder.mul(weights, size)),
            outputs=builder.add(given.outputs, builder.mul(group, builder.mul(given.output_stride, WORD(rows)))),
            scales=builder.add(given.scales, builder.mul(group, given.term_step)),
            biases=builder.add(given.biases, builder.mul(group, given.term_step)),
        )
        _accumulate(builder, here, entries, rows, vectors, gathers, weight, inputs)


def _accumulate(
    builder: Builder, given: _Operands, entries: Value, rows: int, vectors: int, gathers: bool, weight: Any, inputs: Any
) -> None:
    """Writes the code of one group of rows.

    With few vectors, two entries at a time go into sums of their own: a sum waits for its last one.
    """
    apart = 2 if rows * vectors <= WIDEST // 2 else 1
    sums = [[[cgutils.alloca_once(builder, VECTOR) for _ in range(vectors)] for _ in range(rows)] for _ in range(apart)]
    for place in itertools.chain.from_iterable(itertools.chain.from_iterable(sums)):
        builder.store(all_of(0.0), place)

    def add(entry: Value, into: list[list[Value]]) -> None:
        column = entry
        first = builder.mul(entry, given.entry_step)
        if gathers:
            address = builder.add(given.columns, builder.mul(entry, WORD(2)))
            column = builder.zext(load(builder, INT16, address), WORD)
            _fetch(builder, address)
            _fetch(builder, builder.add(given.weights, builder.mul(first, WORD(weight.bitwidth // 8))))
        x = _inputs(builder, inputs, builder.add(given.inputs, builder.mul(column, given.input_stride)), vectors)
        for row in range(rows):
            w = _weight(builder, weight, given.weights, builder.add(first, builder.mul(given.row_step, WORD(row))))
            w = splat(builder, w)
            for number in range(vectors):
                total = fused_multiply_add(builder, w, x[number], builder.load(into[row][number]))
                builder.store(total, into[row][number])

    with cgutils.for_range(builder, builder.udiv(entries, WORD(apart)), intp=WORD) as loop:
        for number in range(apart):
            add(builder.add(builder.mul(loop.index, WORD(apart)), WORD(number)), sums[number])
    if apart > 1:
        with builder.if_then(builder.icmp_signed("!=", builder.urem(entries, WORD(apart)), WORD(0))):
            add(builder.sub(entries, WORD(1)), sums[0])
    results = [
        [functools.reduce(builder.fadd, [builder.load(each[row][number]) for each in sums]) for number in range(vectors)]
        for row in range(rows)
    ]
    _finish(builder, given, results)


def _finish(builder: Builder, given: _Operands, sums: Sequence[Sequence[Value]]) -> None:
    """Writes scale * sum + bias of each row to the outputs, or adds it to them."""
    results = []
    for row, vectors in enumerate(sums):
        scale = splat(builder, load(builder, FLOAT, given.scales, 4 * row))
        bias = splat(builder, load(builder, FLOAT, given.biases, 4 * row))
        start = builder.add(given.outputs, builder.mul(given.output_stride, WORD(row)))
        for number, total in enumerate(vectors):
            target = pointer(builder, VECTOR, start, number * BYTES)
            results.append((target, fused_multiply_add(builder, scale, total, bias)))
    with builder.if_else(builder.icmp_signed("!=", given.adds, WORD(0))) as (then, otherwise):
        with then:
            for target, y in results:
                builder.store(builder.fadd(y, builder.load(target, align=4)), target, align=4)
        with otherwise:
            for target, y in results:
                builder.store(y, target, align=4)


def _product(rows: int, gathers: bool) -> Any:
    """Returns an intrinsic of a product of groups of `rows` rows of W, see `_Operands`.

    Its arguments are the operands, a tuple of int64, and two arrays of the types that W and X are stored in.
    """
    most = WIDEST if rows == 1 else NARROW

    def product(typing_context: Any, operands: Any, weights_like: Any, inputs_like: Any) -> Any:
        def code(context: Any, builder: Builder, signature: Any, arguments: Sequence[Value]) -> Value:
            given = _Operands(*cgutils.unpack_tuple(builder, arguments[0]))
            end = builder.append_basic_block("product.end")
            cases = [builder.append_basic_block(f"product.{vectors}") for vectors in range(1, most + 1)]
            choice = builder.switch(given.vectors, cases[-1])
            for vectors, case in enumerate(cases, start=1):
                if vectors < most:
                    choice.add_case(WORD(vectors), case)
                builder.position_at_end(case)
                _groups(builder, given, rows, vectors, gathers, weights_like.dtype, inputs_like.dtype)
                builder.branch(end)
            builder.position_at_end(end)
            return context.get_dummy_value()

        return types.void(types.UniTuple(types.int64, len(_Operands._fields)), weights_like, inputs_like), code

    return intrinsic(product)


sparse_row, sparse_rows = _product(1, True), _product(ROWS_TOGETHER, True)
dense_row, dense_rows = _product(1, False), _product(ROWS_TOGETHER, False)
"""Products of one row, or of several that share their columns; dense ones have all columns."""
