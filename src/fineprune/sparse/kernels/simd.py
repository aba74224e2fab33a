"""The one piece of code for the processor's vectors: rows of a product, accumulated in registers.

Everything else that the kernels do is plain loops, which LLVM makes vectors of by itself.
"""

import functools
import itertools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


@dataclass(frozen=True)
class Host:
    """How a processor's vectors are used.

    Args:
        lanes: float32 numbers in one vector.
        accumulators: vectors that one row of a product is accumulated in, side by side: a tile of lanes * accumulators
            tokens. More would not fit into the registers, with fewer each would wait for its last sum.
    """

    lanes: int
    accumulators: int

    @property
    def together(self) -> int:
        """Vectors that each of `ROWS_TOGETHER` rows is accumulated in."""
        return self.accumulators // 2


def this_host() -> Host:
    """Returns what suits this machine: AVX-512, AVX2, or vectors of four (NEON, SSE)."""
    try:
        features = llvmlite.binding.get_host_cpu_features()
    except RuntimeError:  # LLVM does not know them on every system
        return Host(lanes=4, accumulators=8)
    if features.get("avx512f"):
        return Host(lanes=16, accumulators=8)
    if features.get("avx2"):
        return Host(lanes=8, accumulators=8)
    return Host(lanes=4, accumulators=8)


HOST = this_host()

ROWS_TOGETHER = 4
"""Rows that share columns are computed together, so that each input is loaded once for all of them."""

AHEAD = 4096
"""How many bytes ahead weights are fetched."""

WORD = ir.IntType(64)
_INT8, _INT16, _INT32 = ir.IntType(8), ir.IntType(16), ir.IntType(32)
_FLOAT = ir.FloatType()
_VECTOR, _WORDS = ir.VectorType(_FLOAT, HOST.lanes), ir.VectorType(_INT32, HOST.lanes)
_BYTES = 4 * HOST.lanes

Builder = Any
Value = Any
"""Of llvmlite, which has no types."""


def _at(builder: Builder, kind: ir.Type, address: Value, offset: Value | int = 0) -> Value:
    """Returns a pointer, from an address and an offset in bytes."""
    offset = WORD(offset) if isinstance(offset, int) else offset
    return builder.inttoptr(builder.add(address, offset), kind.as_pointer())


def _load(builder: Builder, kind: ir.Type, address: Value, offset: Value | int = 0) -> Value:
    return builder.load(_at(builder, kind, address, offset), align=1 if kind is _INT8 else 2 if kind is _INT16 else 4)


def _splat(builder: Builder, number: Value) -> Value:
    single = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), number, _INT32(0))
    return builder.shuffle_vector(single, ir.Constant(_VECTOR, ir.Undefined), ir.Constant(_WORDS, [0] * HOST.lanes))


def _fused_multiply_add(builder: Builder, a: Value, b: Value, c: Value) -> Value:
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{HOST.lanes}f32")
    return builder.call(function, [a, b, c])


def _weight(builder: Builder, kind: types.Type, address: Value, number: Value) -> Value:
    """Loads one stored value as float32."""
    if kind == types.float32:
        return _load(builder, _FLOAT, address, builder.mul(number, WORD(4)))
    if kind == types.uint16:  # bfloat16: the upper half of a float32
        half = builder.zext(_load(builder, _INT16, address, builder.mul(number, WORD(2))), _INT32)
        return builder.bitcast(builder.shl(half, _INT32(16)), _FLOAT)
    return builder.sitofp(_load(builder, _INT8, address, number), _FLOAT)


def _inputs(builder: Builder, kind: types.Type, address: Value, vectors: int) -> list[Value]:
    """Loads the inputs of one column: float32 vectors, or pairs of bfloat16 ones, the second in the upper halves."""
    if kind == types.float32:
        return [_load(builder, _VECTOR, address, number * _BYTES) for number in range(vectors)]
    loaded = []
    halves, upper = ir.Constant(_WORDS, [16] * HOST.lanes), ir.Constant(_WORDS, [0xFFFF0000] * HOST.lanes)
    for pair in range(-(-vectors // 2)):
        words = _load(builder, _WORDS, address, pair * _BYTES)
        loaded += [
            builder.bitcast(builder.shl(words, halves), _VECTOR),
            builder.bitcast(builder.and_(words, upper), _VECTOR),
        ]
    return loaded[:vectors]


def _fetch(builder: Builder, address: Value) -> None:
    """Asks for what will be read some rows later: the weights stream by, past caches that are full of inputs."""
    number = [ir.VoidType(), ir.IntType(8).as_pointer(), _INT32, _INT32, _INT32]
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(number[0], number[1:]), "llvm.prefetch.p0")
    builder.call(function, [_at(builder, _INT8, address, AHEAD), _INT32(0), _INT32(3), _INT32(1)])


@dataclass(frozen=True)
class _Operands:
    """The arguments of a product, see `_product`."""

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
    """Writes the code of a product with so many vectors in each row: its groups of rows, one after the other."""
    with cgutils.for_range(builder, given.groups, intp=WORD) as loop:
        group = loop.index
        if gathers:
            address = builder.add(given.starts, builder.mul(group, given.start_step))
            start = _load(builder, WORD, address)
            entries = builder.sub(_load(builder, WORD, address, 8), start)
            columns, weights = builder.add(given.columns, builder.mul(start, WORD(2))), builder.mul(start, WORD(rows))
        else:
            entries, columns, weights = given.starts, given.columns, builder.mul(group, given.group_step)
        size = WORD(weight.bitwidth // 8)
        here = replace(
            given,
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
    apart = 2 if rows * vectors <= HOST.accumulators // 2 else 1
    sums = [[[cgutils.alloca_once(builder, _VECTOR) for _ in range(vectors)] for _ in range(rows)] for _ in range(apart)]
    for place in itertools.chain.from_iterable(itertools.chain.from_iterable(sums)):
        builder.store(_all_of(0.0), place)

    def add(entry: Value, into: list[list[Value]]) -> None:
        column = entry
        first = builder.mul(entry, given.entry_step)
        if gathers:
            address = builder.add(given.columns, builder.mul(entry, WORD(2)))
            column = builder.zext(_load(builder, _INT16, address), WORD)
            _fetch(builder, address)
            _fetch(builder, builder.add(given.weights, builder.mul(first, WORD(weight.bitwidth // 8))))
        x = _inputs(builder, inputs, builder.add(given.inputs, builder.mul(column, given.input_stride)), vectors)
        for row in range(rows):
            w = _weight(builder, weight, given.weights, builder.add(first, builder.mul(given.row_step, WORD(row))))
            w = _splat(builder, w)
            for number in range(vectors):
                total = _fused_multiply_add(builder, w, x[number], builder.load(into[row][number]))
                builder.store(total, into[row][number])

    with cgutils.for_range(builder, builder.udiv(entries, WORD(apart)), intp=WORD) as loop:
        for number in range(apart):
            add(builder.add(builder.mul(loop.index, WORD(apart)), WORD(number)), sums[number])
    if apart > 1:
        with builder.if_then(builder.icmp_signed("!=", builder.urem(entries, WORD(apart)), WORD(0))):
            add(builder.sub(entries, WORD(1)), sums[0])
    results = [[_sum_up(builder, [each[row][number] for each in sums]) for number in range(vectors)] for row in range(rows)]
    _finish(builder, given, results)


def _sum_up(builder: Builder, places: Sequence[Value]) -> Value:
    return functools.reduce(builder.fadd, [builder.load(place) for place in places])


def _finish(builder: Builder, given: _Operands, sums: Sequence[Sequence[Value]]) -> None:
    """Writes scale * sum + bias of each row to the outputs, or adds it to them."""
    results = []
    for row, vectors in enumerate(sums):
        scale = _splat(builder, _load(builder, _FLOAT, given.scales, 4 * row))
        bias = _splat(builder, _load(builder, _FLOAT, given.biases, 4 * row))
        start = builder.add(given.outputs, builder.mul(given.output_stride, WORD(row)))
        for number, total in enumerate(vectors):
            target = _at(builder, _VECTOR, start, number * _BYTES)
            results.append((target, _fused_multiply_add(builder, scale, total, bias)))
    with builder.if_else(builder.icmp_signed("!=", given.adds, WORD(0))) as (then, otherwise):
        with then:
            for target, y in results:
                builder.store(builder.fadd(y, builder.load(target, align=4)), target, align=4)
        with otherwise:
            for target, y in results:
                builder.store(y, target, align=4)


def _product(rows: int, gathers: bool, operands: Any, weights_like: Any, inputs_like: Any) -> Any:
    """Returns the type and the code of a product: groups of rows of W times X, each row scale * sum + bias.

    Its arguments are a tuple of int64:
        groups: how many.
        starts, start_step: if it `gathers`: address of the number of a group's first entry, after which that of its end
            stands, and bytes from one group to the next. If not, `starts` is the number of entries of every group.
        columns: address of the column of each entry, uint16; if not `gathers` they are 0, 1, 2 ...
        weights: address of the stored values; value number entry * entry_step + row * row_step is one of W. Where entries
            do not say so themselves, those of a group begin `group_step` values after those of the last.
        inputs, input_stride: address of X, and bytes between its rows.
        outputs, output_stride: address of the first row of the result, and bytes between its rows.
        scales, biases, term_step: addresses, float32, of each row, and bytes from one group to the next.
        vectors: in each row, 1 to HOST.accumulators.
        adds: 0 to overwrite the outputs, else the result is added to them.
    And two arrays of the types that W and X are stored in.
    """
    most = HOST.accumulators if rows == 1 else HOST.together

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

    return types.void(types.UniTuple(types.int64, len(fields(_Operands))), weights_like, inputs_like), code


@intrinsic
def sparse_row(typing_context: Any, operands: Any, weights_like: Any, inputs_like: Any) -> Any:
    """One row whose entries say which columns they stand in; see `_product`."""
    return _product(1, True, operands, weights_like, inputs_like)


@intrinsic
def sparse_rows(typing_context: Any, operands: Any, weights_like: Any, inputs_like: Any) -> Any:
    """Several rows that share their columns; see `_product`."""
    return _product(ROWS_TOGETHER, True, operands, weights_like, inputs_like)


@intrinsic
def dense_row(typing_context: Any, operands: Any, weights_like: Any, inputs_like: Any) -> Any:
    """One row with all columns; see `_product`."""
    return _product(1, False, operands, weights_like, inputs_like)


@intrinsic
def dense_rows(typing_context: Any, operands: Any, weights_like: Any, inputs_like: Any) -> Any:
    """Several rows with all columns; see `_product`."""
    return _product(ROWS_TOGETHER, False, operands, weights_like, inputs_like)


@intrinsic
def layer_norm(typing_context: Any, rows: Any, stride: Any, count: Any, epsilon: Any, scale: Any, shift: Any) -> Any:
    """Replaces each lane of some rows by its LayerNorm: (x - mean) / sqrt(mean of (x - mean)^2 + epsilon) * scale + shift.

    Args: address of the first row, bytes between rows, how many there are; epsilon, float32; addresses of the scale and the
    shift of each row.
    """

    def code(context: Any, builder: Builder, signature: Any, arguments: Sequence[Value]) -> Value:
        rows, stride, count, epsilon, scale, shift = arguments
        share = _splat(builder, builder.fdiv(ir.Constant(_FLOAT, 1.0), builder.sitofp(count, _FLOAT)))
        mean = builder.fmul(share, _total(builder, rows, stride, count, lambda x, total: builder.fadd(x, total)))

        def add_square(x: Value, total: Value) -> Value:
            distance = builder.fsub(x, mean)
            return _fused_multiply_add(builder, distance, distance, total)

        spread = builder.fmul(share, _total(builder, rows, stride, count, add_square))
        root = _elementwise(builder, "sqrt", builder.fadd(spread, _splat(builder, epsilon)))
        factor = builder.fdiv(_all_of(1.0), root)
        with cgutils.for_range(builder, count, intp=WORD) as loop:
            a, b = (_splat(builder, _load(builder, _FLOAT, one, builder.mul(loop.index, WORD(4)))) for one in (scale, shift))
            place = _at(builder, _VECTOR, rows, builder.mul(loop.index, stride))
            normal = builder.fmul(builder.fsub(builder.load(place, align=4), mean), factor)
            builder.store(_fused_multiply_add(builder, normal, a, b), place, align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.float32, types.int64, types.int64), code


@intrinsic
def softmax(typing_context: Any, rows: Any, stride: Any, count: Any, target: Any) -> Any:
    """Replaces each lane of some rows by e^(x - largest), and writes 1 / their sum: the rows times it are the softmax.

    Args: address of the first row, bytes between rows, how many there are, at least one; address of the vector of 1 / sum.
    """

    def code(context: Any, builder: Builder, signature: Any, arguments: Sequence[Value]) -> Value:
        rows, stride, count, target = arguments

        def larger(x: Value, other: Value) -> Value:
            return builder.select(builder.fcmp_ordered(">", x, other), x, other)

        largest = _total(builder, rows, stride, count, larger, start=-math.inf)
        total = cgutils.alloca_once(builder, _VECTOR)
        builder.store(_all_of(0.0), total)
        with cgutils.for_range(builder, count, intp=WORD) as loop:
            place = _at(builder, _VECTOR, rows, builder.mul(loop.index, stride))
            power = _exp(builder, builder.fsub(builder.load(place, align=4), largest))
            builder.store(power, place, align=4)
            builder.store(builder.fadd(power, builder.load(total)), total)
        share = builder.fdiv(_all_of(1.0), builder.load(total))
        builder.store(share, _at(builder, _VECTOR, target), align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), code


def _all_of(number: float) -> Value:
    return ir.Constant(_VECTOR, [number] * HOST.lanes)


def _exp(builder: Builder, x: Value) -> Value:
    """e^x = 2^n e^r with r at most ln 2 / 2, and the Taylor series of e^r; of x up to 0, and as of -87 below that."""
    x = builder.select(builder.fcmp_ordered("<", x, _all_of(-87.0)), _all_of(-87.0), x)
    n = _elementwise(builder, "rint", builder.fmul(x, _all_of(math.log2(math.e))))
    upper = 0.693145751953125  # of ln 2; its product with a small whole number is exact
    r = _fused_multiply_add(builder, n, _all_of(-upper), x)
    r = _fused_multiply_add(builder, n, _all_of(upper - math.log(2)), r)
    y = _all_of(1 / math.factorial(6))
    for factor in (5, 4, 3, 2, 1, 0):
        y = _fused_multiply_add(builder, y, r, _all_of(1 / math.factorial(factor)))
    exponent = builder.add(builder.fptosi(n, _WORDS), ir.Constant(_WORDS, [127] * HOST.lanes))
    power = builder.bitcast(builder.shl(exponent, ir.Constant(_WORDS, [23] * HOST.lanes)), _VECTOR)
    return builder.fmul(y, power)


def _elementwise(builder: Builder, name: str, vector: Value) -> Value:
    """Applies a function of LLVM's, by its name, to each lane."""
    kind = ir.FunctionType(_VECTOR, [_VECTOR])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{HOST.lanes}f32"), [vector])


def _total(
    builder: Builder,
    source: Value,
    stride: Value,
    count: Value,
    add: Callable[[Value, Value], Value],
    start: float = 0.0,
) -> Value:
    """Combines rows of lanes, in several running results, since each waits for its last one; these are combined at the end."""
    apart = 4
    results = [cgutils.alloca_once(builder, _VECTOR) for _ in range(apart)]
    for place in results:
        builder.store(_all_of(start), place)

    def take(row: Value, place: Value) -> None:
        x = _load(builder, _VECTOR, source, builder.mul(row, stride))
        builder.store(add(x, builder.load(place)), place)

    whole = builder.udiv(count, WORD(apart))
    with cgutils.for_range(builder, whole, intp=WORD) as loop:
        for number, place in enumerate(results):
            take(builder.add(builder.mul(loop.index, WORD(apart)), WORD(number)), place)
    with cgutils.for_range_slice(builder, builder.mul(whole, WORD(apart)), count, WORD(1), intp=WORD) as (row, _):
        take(row, results[0])
    return functools.reduce(builder.fadd if start == 0.0 else add, [builder.load(place) for place in results])


@intrinsic
def transpose(typing_context: Any, source: Any, source_stride: Any, target: Any, target_stride: Any) -> Any:
    """Turns lanes x lanes float32 numbers at an address around its diagonal; strides are bytes between rows.

    In each of log2(lanes) steps, row i of the first half and row i of the second are shuffled into one another, as cards.
    """

    def code(context: Any, builder: Builder, signature: Any, arguments: Sequence[Value]) -> Value:
        source, source_stride, target, target_stride = arguments
        lanes, half = HOST.lanes, HOST.lanes // 2
        orders = [[n // 2 + start + n % 2 * lanes for n in range(lanes)] for start in (0, half)]
        lower, upper = (ir.Constant(_WORDS, order) for order in orders)
        rows = [_load(builder, _VECTOR, source, builder.mul(source_stride, WORD(row))) for row in range(lanes)]
        for _ in range(lanes.bit_length() - 1):
            pairs = zip(rows[:half], rows[half:], strict=True)
            rows = [builder.shuffle_vector(a, b, order) for a, b in pairs for order in (lower, upper)]
        for row, vector in enumerate(rows):
            builder.store(vector, _at(builder, _VECTOR, target, builder.mul(target_stride, WORD(row))), align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), code


@intrinsic
def load_word(typing_context: Any, address: Any) -> Any:
    """Returns the int64 at an address."""

    def code(context: Any, builder: Builder, signature: Any, arguments: Sequence[Value]) -> Value:
        return builder.load(_at(builder, WORD, arguments[0]), align=8)

    return types.int64(types.int64), code


@intrinsic
def next_task(typing_context: Any, address: Any) -> Any:
    """Adds 1 to the int64 at an address, for all threads, and returns what it was."""

    def code(context: Any, builder: Builder, signature: Any, arguments: Sequence[Value]) -> Value:
        return builder.atomic_rmw("add", _at(builder, WORD, arguments[0]), WORD(1), "seq_cst")

    return types.int64(types.int64), code


@intrinsic
def load_shared(typing_context: Any, address: Any) -> Any:
    """Returns the int64 at an address that other threads add to, and lets what they wrote before be seen."""

    def code(context: Any, builder: Builder, signature: Any, arguments: Sequence[Value]) -> Value:
        return builder.load_atomic(_at(builder, WORD, arguments[0]), "acquire", 8)

    return types.int64(types.int64), code


@intrinsic
def let_others_run(typing_context: Any) -> Any:
    """Gives the processor to another thread that wants it."""
    name = "SwitchToThread" if sys.platform == "win32" else "sched_yield"

    def code(context: Any, builder: Builder, signature: Any, arguments: Sequence[Value]) -> Value:
        builder.call(cgutils.get_or_insert_function(builder.module, ir.FunctionType(_INT32, []), name), [])
        return context.get_dummy_value()

    return types.void(), code


@intrinsic
def pack_bfloat16(typing_context: Any, source: Any, target: Any) -> Any:
    """Rounds two vectors of float32 numbers at an address to bfloat16, of two nearest ones to the even one, into one vector of
    words at another: the first in the lower halves, the second in the upper ones."""

    def code(context: Any, builder: Builder, signature: Any, arguments: Sequence[Value]) -> Value:
        source, target = arguments

        def all_of(number: int) -> Value:
            return ir.Constant(_WORDS, [number] * HOST.lanes)

        halves = []
        for offset in (0, _BYTES):
            bits = _load(builder, _WORDS, source, offset)
            even = builder.and_(builder.lshr(bits, all_of(16)), all_of(1))
            halves.append(builder.add(builder.add(bits, all_of(0x7FFF)), even))
        lower, upper = builder.lshr(halves[0], all_of(16)), builder.and_(halves[1], all_of(0xFFFF0000))
        builder.store(builder.or_(lower, upper), _at(builder, _WORDS, target), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), code


@intrinsic
def float_of(typing_context: Any, bits: Any) -> Any:
    """Returns the float32 of the bits in an int32."""

    def code(context: Any, builder: Builder, signature: Any, arguments: Sequence[Value]) -> Value:
        return builder.bitcast(arguments[0], _FLOAT)

    return types.float32(types.int32), code


@intrinsic
def floats_at(typing_context: Any, address: Any) -> Any:
    """Returns the pointer to float32 numbers of an address, for `numba.carray`."""
    return pointer_to(types.float32)


@intrinsic
def integers_at(typing_context: Any, address: Any) -> Any:
    """Returns the pointer to int64 numbers of an address, for `numba.carray`."""
    return pointer_to(types.int64)


def pointer_to(kind: types.Type) -> Any:
    """Returns the type and the code of an intrinsic that makes a pointer of an address."""

    def code(context: Any, builder: Builder, signature: Any, arguments: Sequence[Value]) -> Value:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(kind)(types.int64), code
