"""One pruned parameter, its dense weight and its mask, as a process holds them; and W' = W * M in place."""

import zlib
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..distributed.process_group import is_sharded, local
from ..masks.bits import zero_where_pruned

PROBE = 64
"""How many values of each weight are compared at each step to notice a change that PyTorch does not count."""


def times_mask(tensor: Tensor, mask: Tensor) -> None:
    """Multiplies a tensor by M in place, with +0.0 where M is 0."""
    if mask.dtype is torch.bool:
        zero_where_pruned(tensor, mask)
    else:
        tensor.detach().mul_(mask).add_(0.0)  # -0.0 + 0.0 is +0.0


def intersection(first: Tensor, second: Tensor) -> Tensor:
    """Returns the mask that keeps what two masks of the same weights both keep."""
    return first & second if first.dtype is second.dtype is torch.bool else first * second


def checksum(tensor: Tensor, before: int = 0) -> int:
    """The CRC-32 of a tensor, after that of others."""
    return zlib.crc32(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data, before)


@dataclass(eq=False)
class Weight:
    """One pruned parameter p, its dense weight W and its mask M. Between steps p = W * M.

    Where the parameter is sharded by rows, W, M and the gradient are those of the rows of this process.

    Args:
        name: in `named_parameters`.
        parameter: p, a DTensor where it is sharded.
        dense: W.
        base_rate: the learning rate of p before any scheduling.
        rows_before: the number of rows that other processes hold before those of this one.
        frozen: whether W stays as it is, and only scores learn.
    """

    name: str
    parameter: nn.Parameter
    dense: Tensor
    base_rate: float
    rows_before: int = 0
    frozen: bool = False
    mask: Tensor = field(init=False)
    version: tuple[int, int] = field(init=False)

    @property
    def held(self) -> Tensor:
        """The parameter, as this process holds it."""
        return local(self.parameter)

    @property
    def gradient(self) -> Tensor | None:
        """The parameter's gradient, as this process holds it."""
        return None if self.parameter.grad is None else local(self.parameter.grad)

    @property
    def rows(self) -> slice:
        """Which rows of the whole this process holds."""
        return slice(self.rows_before, self.rows_before + len(self.dense))

    def score_dtype(self) -> torch.dtype:
        """Scores are float32 for weights of lower precision."""
        return torch.promote_types(self.parameter.dtype, torch.float32)

    def wide(self) -> Tensor:
        """W in the scores' precision, where the parameter lies."""
        return self.dense.to(self.held.device, self.score_dtype())

    def movement(self) -> Tensor | None:
        """G * W, in the scores' precision; None without a gradient."""
        gradient, dtype = self.gradient, self.score_dtype()
        return None if gradient is None else gradient.to(dtype) * self.wide()

    def effective(self, mask: Tensor) -> Tensor:
        """W' = W * M, with +0.0 where pruned."""
        held = self.dense.to(mask.device, copy=True)
        times_mask(held, mask)
        return held

    def checksum(self) -> int:
        """The CRC-32 of M and W."""
        return checksum(self.dense, checksum(self.mask))

    def read(self) -> None:
        """Reads W from the parameter, after the optimizer's step; a frozen weight is written back."""
        if self.frozen:
            self.held.copy_(self.dense)
        else:
            self.dense.copy_(self.held)

    def mask_gradient(self) -> None:
        """Leaves G * M to the optimizer; of a frozen weight no gradient, so that the optimizer has no moments for it.

        A sharded one has zeros: PyTorch's sharded checkpoints ask for a state of every parameter.
        """
        gradient = self.gradient
        if self.frozen and not is_sharded(self.parameter):
            self.parameter.grad = None
        elif self.frozen and gradient is not None:
            gradient.zero_()
        elif gradient is not None:
            times_mask(gradient, self.mask)

    def apply(self, mask: Tensor) -> None:
        """Writes W' = W * M into the parameter, which holds W, in place."""
        self.mask = mask
        times_mask(self.held, mask)
        self.version = self.current_version()

    def current_version(self) -> tuple[int, int]:
        """PyTorch counts the in-place changes of a tensor; its address tells when `.data` was replaced."""
        return self.held._version, self.held.data_ptr()

    def probe(self) -> Tensor:
        """A few values, evenly spaced over the parameter."""
        held = self.held.detach().flatten()
        return held[:: max(1, held.numel() // PROBE)]

    def was_changed(self) -> bool:
        """Whether the parameter holds anything but W * M."""
        held, expected = self.held, self.effective(self.mask)
        return (held.dtype, held.device) != (expected.dtype, expected.device) or not torch.equal(held, expected)
