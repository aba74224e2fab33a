"""Numbers in memory: transposed, rounded to bfloat16, and read by their address."""

from llvmlite import ir
from numba import types

from .simd import BYTES, FLOAT, HOST, VECTOR, WORD, WORDS, Builder, Value, load, pointer, words_of, written_in_llvm


@written_in_llvm(types.void, *[types.int64] * 4)
def transpose(builder: Builder, source: Value, source_stride: Value, target: Value, target_stride: Value) -> None:
    """Transposes lanes x lanes float32 numbers at an address; strides are bytes between rows.

    In each of log2(lanes) steps, row i of the first half and row i of the second are shuffled into one another, as cards.
    """
    lanes, half = HOST.lanes, HOST.lanes // 2
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
        even = builder.and_(builder.lshr(bits, words_of(16)), words_of(1))
        halves.append(builder.add(builder.add(bits, words_of(0x7FFF)), even))
    lower, upper = builder.lshr(halves[0], words_of(16)), builder.and_(halves[1], words_of(0xFFFF0000))
    builder.store(builder.or_(lower, upper), pointer(builder, WORDS, target), align=4)


@written_in_llvm(types.int64, types.int64)
def load_word(builder: Builder, address: Value) -> Value:
    """Returns the int64 at an address."""
    return builder.load(pointer(builder, WORD, address), align=8)


@written_in_llvm(types.float32, types.int32)
def float_of(builder: Builder, bits: Value) -> Value:
    """Returns the float32 of the bits in an int32."""
    return builder.bitcast(bits, FLOAT)
