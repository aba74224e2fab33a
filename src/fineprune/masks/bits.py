"""Masks and weights as bits: packed eight a byte, compared by checksum and fingerprint, zeroed without a multiplication."""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Bytes per element -> the integer dtype of that size."""

NAN = 0x7FC0
"""The bfloat16 that stands for every NaN in a fingerprint: the NaN that rounding gives depends on the processor."""


@dataclass(frozen=True)
class PackedMask:
    """A mask as packed bits.

    Args:
        shape: of the mask.
        bits: its flattened values, eight a byte, the first in the lowest bit; the last byte is padded with 0.
    """

    shape: tuple[int, ...]
    bits: NDArray[np.uint8]

    @classmethod
    def of(cls, mask: Tensor) -> "PackedMask":
        return cls(tuple(mask.shape), np.packbits(mask.cpu().numpy().reshape(-1), bitorder="little"))

    def unpack(self) -> Tensor:
        """Returns the mask, bool, on the CPU."""
        flat = np.unpackbits(self.bits, count=math.prod(self.shape), bitorder="little")
        return torch.from_numpy(flat.view(np.bool_)).view(self.shape)


def zero_where_pruned(tensor: Tensor, mask: Tensor) -> None:
    """Sets a tensor to +0.0 where the mask is False, in place, as tensor.masked_fill_(~mask, 0.0) does.

    The bits are and-ed with all ones or all zeros, which is faster on a CPU (benchmarks/primitives.py).
    """
    bits = integers_of(tensor)
    bits.bitwise_and_(mask.to(bits.dtype).neg_())


def integers_of(tensor: Tensor) -> Tensor:
    """Returns a view of a tensor as integers. Copying them keeps every NaN and -0.0 as it is."""
    return tensor.detach().view(INTEGERS[tensor.element_size()])


def bytes_of(tensor: Tensor) -> memoryview:
    """Returns the bits of the values as little-endian integers, in C order."""
    bits = integers_of(tensor.cpu()).numpy().reshape(-1)
    return bits.astype(bits.dtype.newbyteorder("<"), copy=False).data


def fingerprint(W: Tensor) -> str:
    """Returns the SHA-256 of a dense weight, as 64 hexadecimal digits; the same in float32 and in bfloat16.

    Of the values rounded to bfloat16 (to float32 first, each time to nearest, ties to even), every NaN as 0x7FC0,
    little-endian, in C order.

    Args:
        W: floats of any shape, on any device.
    """
    rounded = W.detach().to(torch.float32).to(torch.bfloat16)
    rounded.view(torch.int16).masked_fill_(rounded.isnan(), NAN)
    return hashlib.sha256(bytes_of(rounded)).hexdigest()
