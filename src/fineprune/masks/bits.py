"""Masks and weights as bits: packed, compared by checksum and fingerprint, and zeroed without a multiplication."""

import hashlib
import math
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

NAN = 0x7FC0
"""The bfloat16 that stands for every NaN in a fingerprint: which one rounding gives depends on the processor."""


def zero_where_pruned(tensor: Tensor, mask: Tensor) -> None:
    """Sets a tensor to +0.0 where the mask is False, in place, as tensor.masked_fill_(~mask, 0.0) does.

    The bits are and-ed with all ones or all zeros, which is faster on a CPU (benchmarks/primitives.py).
    """
    integer = INTEGERS[tensor.element_size()]
    tensor.detach().view(integer).bitwise_and_(mask.to(integer).neg_())


@dataclass(frozen=True)
class Packed:
    """A mask as packed bits.

    Args:
        shape: of the mask.
        bits: its flattened values, eight a byte, the first in the lowest bit; the last byte is filled up with 0.
    """

    shape: tuple[int, ...]
    bits: NDArray[np.uint8]

    @classmethod
    def of(cls, mask: Tensor) -> "Packed":
        return cls(tuple(mask.shape), np.packbits(mask.cpu().numpy().reshape(-1), bitorder="little"))

    def mask(self) -> Tensor:
        """Returns the mask, bool, on the CPU."""
        flat = np.unpackbits(self.bits, count=math.prod(self.shape), bitorder="little")
        return torch.from_numpy(flat.view(np.bool_)).view(self.shape)


def fingerprint(W: Tensor) -> str:
    """Returns what a dense weight is known by, in whatever precision it was loaded: SHA-256, as 64 hexadecimal digits.

    Of the values rounded to bfloat16 (to float32 first, each time to nearest, ties to even), every NaN as 0x7FC0,
    little-endian, in C order.

    Args:
        W: floats of any shape, on any device.
    """
    rounded = W.detach().to(torch.float32).to(torch.bfloat16)
    rounded.view(torch.int16).masked_fill_(rounded.isnan(), NAN)
    return hashlib.sha256(bytes_of(rounded)).hexdigest()


def bytes_of(tensor: Tensor) -> memoryview:
    """The values' bits as little-endian whole numbers, in C order."""
    bits = tensor.detach().cpu().view(INTEGERS[tensor.element_size()]).numpy().reshape(-1)
    return bits.astype(bits.dtype.newbyteorder("<"), copy=False).data


def checksum(data: memoryview | bytes) -> str:
    """The CRC-32, as eight hexadecimal digits: to notice damage, not forgery."""
    return f"{zlib.crc32(data):08x}"
