"""Bytes of a packed tensor, both ways: gaps between the kept positions, byte planes, and the entropy coder around them.

Input may be hostile: sizes are checked before memory is taken, and positions before they are used.
"""

from collections.abc import Iterator

import numpy as np

from ...errors import InvalidInputError
from .values import Array

ESCAPE = 255
"""A byte of the gaps that moves on by 255 positions and keeps nothing."""

LEVELS = {"gaps": 17, "values": 1, "scales": 1}
"""Of zstandard, for each part: a slow level finds repetitions in the gaps of structured masks; values have none."""

CHUNK = 1 << 20
"""Gaps that are decoded at a time, so that wide numbers take little memory."""


def gaps_of(positions: Array) -> Array:
    """Returns the gaps before each of rising positions, as bytes: how many are left out, 255 and more with escapes."""
    gaps = np.diff(positions, prepend=-1) - 1
    escapes = gaps // ESCAPE
    coded = np.full(len(gaps) + int(escapes.sum()), ESCAPE, np.uint8)
    coded[np.cumsum(escapes + 1) - 1] = gaps % ESCAPE
    return coded


def most_gaps(kept: int, size: int) -> int:
    """Returns the most bytes that the gaps of `kept` among `size` positions can take."""
    return kept + size // ESCAPE


def positions_of(gaps: Array, kept: int, size: int) -> Iterator[Array]:
    """Yields the positions that gaps lead to, rising, int64, in chunks.

    Raises InvalidInputError if there are not `kept` of them, or one is not below `size`; before it is yielded.
    """
    found = int(np.count_nonzero(gaps != ESCAPE))
    if found != kept or (len(gaps) and gaps[-1] == ESCAPE):
        raise InvalidInputError(f"its gaps lead to {found} entries and not to {kept}")
    last = -1
    for start in range(0, len(gaps), CHUNK):
        chunk = gaps[start : start + CHUNK]
        keeps = chunk != ESCAPE
        reached = last + np.cumsum(chunk.astype(np.int64) + keeps)
        last = int(reached[-1])
        if last >= size:
            raise InvalidInputError(f"its gaps lead outside its {size} entries")
        yield reached[keeps]


def planes(array: Array) -> bytes:
    """Returns the bytes of numbers, little-endian: all lowest bytes, then all of the next, up to the highest."""
    return np.ascontiguousarray(array).reshape(-1, 1).view(np.uint8).T.tobytes()


def numbers(data: bytes, dtype: np.dtype[np.generic]) -> Array:
    """Returns the numbers of byte planes, flat."""
    split = np.frombuffer(data, np.uint8).reshape(dtype.itemsize, -1)
    return split.T.copy().view(dtype).reshape(-1)


def frame(part: str, data: bytes) -> Array:
    """Returns the bytes of a part as one frame of zstandard with its size and a checksum."""
    import zstandard

    compressor = zstandard.ZstdCompressor(level=LEVELS[part], write_checksum=True, write_content_size=True)
    return np.frombuffer(compressor.compress(data), np.uint8)


def unframed(stored: bytes, least: int, most: int) -> bytes:
    """Returns the `least` to `most` bytes in a frame: the size that it states is checked before memory is taken.

    Raises InvalidInputError if the frame is damaged, or states another size.
    """
    import zstandard

    try:
        size = zstandard.frame_content_size(stored)
        if not least <= size <= most:
            between = str(least) if least == most else f"{least} to {most}"
            raise InvalidInputError(f"a frame holds {size} bytes, and there must be {between}")
        return zstandard.ZstdDecompressor().decompress(stored, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise InvalidInputError(f"a frame cannot be read ({error})") from error
