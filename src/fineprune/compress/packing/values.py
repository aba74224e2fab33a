"""How the values of a packed matrix are stored: as they are, rounded to halves, or as whole numbers with scales."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...errors import InvalidInputError

Array = np.ndarray[Any, np.dtype[Any]]

LARGEST_INT8 = 127


@dataclass(frozen=True)
class Float32Values:
    """Values as they are, in 4 bytes."""

    name: ClassVar[str] = "fp32"
    dtype: ClassVar[np.dtype[Any]] = np.dtype("<f4")
    scaled: ClassVar[bool] = False

    def stored(self, matrix: Array) -> tuple[Array, Array | None]:
        """Returns a matrix, rows x cols, float32, as it is stored, and no scales."""
        return matrix, None


@dataclass(frozen=True)
class Float16Values:
    """Values rounded to the nearest IEEE half, in 2 bytes."""

    name: ClassVar[str] = "fp16"
    dtype: ClassVar[np.dtype[Any]] = np.dtype("<f2")
    scaled: ClassVar[bool] = False

    def stored(self, matrix: Array) -> tuple[Array, Array | None]:
        """As in Float32Values; raises InvalidInputError if a value is larger than a half can be."""
        with np.errstate(over="ignore"):
            halves = matrix.astype(self.dtype)
        if not np.isfinite(halves).all():
            raise InvalidInputError(
                f"it has values up to {np.abs(matrix).max():.4g}, and the largest half is {np.finfo(self.dtype).max:.0f}. "
                "Pack with int8 or fp32 values."
            )
        return halves, None


@dataclass(frozen=True)
class Int8Values:
    """Values as whole numbers from -127 to 127, in 1 byte, times one bfloat16 scale for each row: its largest value / 127."""

    name: ClassVar[str] = "int8"
    dtype: ClassVar[np.dtype[Any]] = np.dtype("i1")
    scaled: ClassVar[bool] = True

    def stored(self, matrix: Array) -> tuple[Array, Array | None]:
        """As in Float32Values, but with the scale of each row, as the bits of a bfloat16."""
        scales = row_scales(matrix)
        divisors = np.where(scales == 0, np.float32(1), widened(scales))
        return np.rint(matrix / divisors[:, None]).astype(self.dtype), scales


PackedValues = Float32Values | Float16Values | Int8Values
"""How the values of a packed model's matrices are stored."""

VALUES: dict[str, PackedValues] = {values.name: values for values in (Int8Values(), Float16Values(), Float32Values())}
"""Name on the command line and in the file -> the values."""


def row_scales(matrix: Array) -> Array:
    """Returns for each row its largest magnitude / 127, rounded up to a bfloat16, as uint16 bits; 0 for a row of zeros.

    A scale of 4 bytes would add a tenth to a row of 768 weights of which 3 % are kept. The product of a bfloat16 and a whole
    number up to 127 is exact in float32.
    """
    largest = np.abs(matrix).max(axis=1, initial=0.0)
    exact = (largest / np.float32(LARGEST_INT8)).astype(np.float32)
    lower = (exact.view(np.uint32) >> 16).astype("<u2")
    too_low = widened(lower) * np.float32(LARGEST_INT8) < largest
    scales: Array = lower + too_low.astype("<u2")
    return scales


def widened(scales: Array) -> Array:
    """Returns the bits of bfloat16 numbers as float32 numbers of the same value."""
    bits: Array = scales.astype(np.uint32) << 16
    return bits.view(np.float32)
