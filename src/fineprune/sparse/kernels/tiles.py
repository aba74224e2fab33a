"""How tokens lie in memory: features x tokens, in tiles that a row of a product is accumulated over in registers.

The tokens of a batch are counted in vectors of `LANES`. Each sequence begins with a new vector, and is padded with
zeros; `WIDEST` vectors in a row make a tile, the last one may be narrower. In a tile the tokens of one feature lie
side by side, then come those of the next. In bfloat16 two neighbouring vectors share words: the second has the upper halves.
"""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .simd import LANES, NARROW, WIDEST


@dataclass(frozen=True, eq=False)
class Tiles:
    """How the tokens of a batch lie in tiles.

    Args:
        sequences, length: of the batch.
        each: vectors of one sequence.
        step: vectors that are counted together: 1, or 2 in bfloat16.
        queries: groups of vectors of one sequence and one tile that attend together: sequence, first vector, how many; int64.
    """

    sequences: int
    length: int
    each: int
    step: int
    queries: NDArray[np.int64]

    @property
    def vectors(self) -> int:
        """Of all sequences."""
        return self.sequences * self.each

    @property
    def tokens(self) -> int:
        """Tokens with the padding."""
        return self.vectors * LANES


@functools.lru_cache(maxsize=256)
def tiles_of(sequences: int, length: int, step: int) -> Tiles:
    """Returns how the tokens of a batch lie in tiles; see `Tiles`."""
    each = step * -(-length // (step * LANES))
    vector = np.arange(sequences * each)
    sequence, tile = vector // max(each, 1), vector // WIDEST
    start = np.maximum(sequence * each, tile * WIDEST)
    first = np.flatnonzero((vector - start) % NARROW == 0)
    queries = np.stack([sequence[first], first, np.diff(first, append=len(vector))], axis=1).astype(np.int64)
    return Tiles(sequences, length, each, step, queries)
