"""The vectors of this processor, and how LLVM code that uses them is written.

LLVM vectorises plain loops by itself; written in LLVM are only products, reductions, transposes, rounding and atomics.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


def lanes() -> int:
    """Returns the float32 numbers in one vector of this machine: AVX-512, AVX2, or vectors of four (NEON, SSE)."""
    try:
        features = llvmlite.binding.get_host_cpu_features()
    except RuntimeError:  # LLVM does not know them on every system
        return 4
    return 16 if features.get("avx512f") else 8 if features.get("avx2") else 4


LANES = lanes()

WIDEST = 8
"""Vectors that one row of a product is accumulated in, side by side: a tile is WIDEST * LANES tokens.

More would not fit into the registers, with fewer each would wait for its last sum.
"""

NARROW = WIDEST // 2
"""Vectors that each of `ROWS_TOGETHER` rows is accumulated in."""

ROWS_TOGETHER = 4
"""Rows that share columns are computed together, so that each input is loaded once for all of them."""

WORD = ir.IntType(64)
INT8, INT16, INT32 = ir.IntType(8), ir.IntType(16), ir.IntType(32)
FLOAT = ir.FloatType()
VECTOR, WORDS = ir.VectorType(FLOAT, LANES), ir.VectorType(INT32, LANES)
BYTES = 4 * LANES
"""Of a float32 vector."""

Builder = Any
Value = Any
"""Of llvmlite, which has no types."""


def pointer(builder: Builder, kind: ir.Type, address: Value, offset: Value | int = 0) -> Value:
    """Returns a pointer, from an address and an offset in bytes."""
    offset = WORD(offset) if isinstance(offset, int) else offset
    return builder.inttoptr(builder.add(address, offset), kind.as_pointer())


def load(builder: Builder, kind: ir.Type, address: Value, offset: Value | int = 0) -> Value:
    """Loads from an address and an offset in bytes, aligned as a float32 or less."""
    return builder.load(pointer(builder, kind, address, offset), align=1 if kind is INT8 else 2 if kind is INT16 else 4)


def splat(builder: Builder, number: Value) -> Value:
    """Returns a vector with a float32 in each lane."""
    single = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), number, INT32(0))
    return builder.shuffle_vector(single, ir.Constant(VECTOR, ir.Undefined), ir.Constant(WORDS, [0] * LANES))


def fused_multiply_add(builder: Builder, a: Value, b: Value, c: Value) -> Value:
    """Returns a * b + c, rounded once."""
    return elementwise(builder, "fma", a, b, c)


def all_of(number: float, kind: ir.VectorType = VECTOR) -> Value:
    """Returns a vector with the same number in each lane."""
    return ir.Constant(kind, [number] * LANES)


def elementwise(builder: Builder, name: str, *vectors: Value) -> Value:
    """Applies a function of LLVM's, by its name, to each lane."""
    kind = ir.FunctionType(VECTOR, [VECTOR] * len(vectors))
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f32")
    return builder.call(function, vectors)


def written_in_llvm(returns: types.Type, *parameters: types.Type) -> Callable[[Callable[..., Value | None]], Any]:
    """Makes an intrinsic for compiled code of a function that writes its LLVM code.

    Args:
        returns, parameters: the types of the result and of the arguments.

    The function takes a builder and the arguments, and returns the result; None for `types.void`.
    """

    def decorate(write: Callable[..., Value | None]) -> Any:
        def code(context: Any, builder: Builder, signature: Any, arguments: Sequence[Value]) -> Value:
            result = write(builder, *arguments)
            return context.get_dummy_value() if result is None else result

        def typed(typing_context: Any, *arguments: Any) -> Any:
            return returns(*parameters), code

        return intrinsic(functools.update_wrapper(typed, write))

    return decorate


def pointers_to(kind: types.Type) -> Any:
    """Returns an intrinsic that makes a pointer of an address, for `numba.carray`."""

    @intrinsic
    def pointer(typing_context: Any, address: Any) -> Any:
        def code(context: Any, builder: Builder, signature: Any, arguments: Sequence[Value]) -> Value:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(kind)(types.int64), code

    return pointer


floats_at = pointers_to(types.float32)
integers_at = pointers_to(types.int64)
bytes_at = pointers_to(types.uint8)


@written_in_llvm(types.void, *[types.int64] * 4)
def transpose(builder: Builder, source: Value, source_stride: Value, target: Value, target_stride: Value) -> None:
    """Transposes lanes x lanes float32 numbers at an address; strides are bytes between rows.

    In each of log2(lanes) steps, row i of the first half and row i of the second are shuffled into one another, as cards.
    """
    lanes, half = LANES, LANES // 2
    orders = [[n // 2 + start + n % 2 * lanes for n in range(lanes)] for start in (0, half)]
    lower, upper = (ir.Constant(WORDS, order) for order in orders)
    rows = [load(builder, VECTOR, source, builder.mul(source_stride, WORD(row))) for row in range(lanes)]
    for _ in range(lanes.bit_length() - 1):
        pairs = zip(rows[:half], rows[half:], strict=True)
        rows = [builder.shuffle_vector(a, b, order) for a, b in pairs for order in (lower, upper)]
    for row, vector in enumerate(rows):
        builder.store(vector, pointer(builder, VECTOR, target, builder.mul(target_stride, WORD(row))), align=4)


@written_in_llvm(types.void, types.int64, types.int64)
def pack_bfloat16(builder: Builder, source: Value, target: Value) -> None:
    """Rounds two vectors of float32 numbers to bfloat16, ties to even, into one vector of words.

    The first vector gets the lower halves of the words, the second the upper ones.
    """
    halves = []
    for offset in (0, BYTES):
        bits = load(builder, WORDS, source, offset)
        even = builder.and_(builder.lshr(bits, all_of(16, WORDS)), all_of(1, WORDS))
        halves.append(builder.add(builder.add(bits, all_of(0x7FFF, WORDS)), even))
    lower, upper = builder.lshr(halves[0], all_of(16, WORDS)), builder.and_(halves[1], all_of(0xFFFF0000, WORDS))
    builder.store(builder.or_(lower, upper), pointer(builder, WORDS, target), align=4)


@written_in_llvm(types.int64, types.int64)
def load_word(builder: Builder, address: Value) -> Value:
    """Returns the int64 at an address."""
    return builder.load(pointer(builder, WORD, address), align=8)


@written_in_llvm(types.float32, types.int32)
def float_of(builder: Builder, bits: Value) -> Value:
    """Returns the float32 of the bits in an int32."""
    return builder.bitcast(bits, FLOAT)
