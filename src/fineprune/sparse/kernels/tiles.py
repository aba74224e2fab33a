"""How tokens lie in memory: features x tokens, in tiles that a row of a product is accumulated over in registers.

The tokens of a batch are counted in vectors of `HOST.lanes`. Each sequence begins with a new vector, and is padded with
zeros; `HOST.accumulators` vectors in a row make a tile, the last one may be narrower. In a tile the tokens of one feature lie
side by side, then come those of the next. In bfloat16 two neighbouring vectors share words: the second has the upper halves.
"""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .simd import HOST

MOST_QUERIES = HOST.together
"""Vectors of queries that attend at once."""


@dataclass(frozen=True, eq=False)
class Tiles:
    """How the tokens of a batch lie in tiles.

    Args:
        each: vectors of one sequence.
        vectors: of all of them.
        queries: groups of vectors of one sequence and one tile that attend together: sequence, first vector, how many; int64.
    """

    each: int
    vectors: int
    queries: NDArray[np.int64]

    @property
    def lanes(self) -> int:
        """Tokens of a vector."""
        return HOST.lanes

    @property
    def tokens(self) -> int:
        """Tokens with the padding."""
        return self.vectors * HOST.lanes


@functools.lru_cache(maxsize=256)
def tiles_of(sequences: int, length: int, step: int) -> Tiles:
    """Returns how the tokens of a batch lie in tiles.

    Args:
        sequences, length: of the batch.
        step: vectors that are counted together: 1, or 2 in bfloat16.
    """
    each = step * -(-length // (step * HOST.lanes))
    vector = np.arange(sequences * each)
    sequence, tile = vector // max(each, 1), vector // HOST.accumulators
    start = np.maximum(sequence * each, tile * HOST.accumulators)
    first = np.flatnonzero((vector - start) % MOST_QUERIES == 0)
    queries = np.stack([sequence[first], first, np.diff(first, append=len(vector))], axis=1).astype(np.int64)
    return Tiles(each, len(vector), queries)
