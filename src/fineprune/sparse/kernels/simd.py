"""The vectors of this processor, and how LLVM code that uses them is written.

LLVM vectorises plain loops by itself; written in LLVM are only products, reductions, transposes, rounding and atomics.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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

WORD = ir.IntType(64)
INT8, INT16, INT32 = ir.IntType(8), ir.IntType(16), ir.IntType(32)
FLOAT = ir.FloatType()
VECTOR, WORDS = ir.VectorType(FLOAT, HOST.lanes), ir.VectorType(INT32, HOST.lanes)
BYTES = 4 * HOST.lanes
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
    return builder.shuffle_vector(single, ir.Constant(VECTOR, ir.Undefined), ir.Constant(WORDS, [0] * HOST.lanes))


def fused_multiply_add(builder: Builder, a: Value, b: Value, c: Value) -> Value:
    """Returns a * b + c, rounded once."""
    return elementwise(builder, "fma", a, b, c)


def all_of(number: float) -> Value:
    """Returns a vector with the same number in each lane."""
    return ir.Constant(VECTOR, [number] * HOST.lanes)


def words_of(number: int) -> Value:
    """Returns a vector of words with the same number in each lane."""
    return ir.Constant(WORDS, [number] * HOST.lanes)


def elementwise(builder: Builder, name: str, *vectors: Value) -> Value:
    """Applies a function of LLVM's, by its name, to each lane."""
    kind = ir.FunctionType(VECTOR, [VECTOR] * len(vectors))
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{HOST.lanes}f32")
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
