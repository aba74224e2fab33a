"""The processes among which a weight is shared out, and what they add up without sending the weight itself.

Under FSDP2 (`fully_shard`) each process holds some rows of every weight, and so of its scores and its mask. What must be known
of the whole is a sum, a maximum, or a few values: these travel. Under DDP, or alone, a process holds the whole.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that hold the shards of the same weights, in the order of the rows.

    Args:
        group: of torch.distributed; None where this process holds the whole.
        device: where values must lie to travel in the group; they come back to where they were.
    """

    group: Any = None
    device: str = "cpu"

    @property
    def count(self) -> int:
        """How many they are."""
        return 1 if self.group is None else distributed.get_world_size(self.group)

    @property
    def place(self) -> int:
        """The number of this one, from 0."""
        return 0 if self.group is None else distributed.get_rank(self.group)

    def total(self, values: Tensor) -> Tensor:
        """Returns the sum over the ranks; exact for integers, and the same on each."""
        return self._reduced(values, distributed.ReduceOp.SUM)

    def highest(self, values: Tensor) -> Tensor:
        """Returns the maximum over the ranks, of each value."""
        return self._reduced(values, distributed.ReduceOp.MAX)

    def totals(self, numbers: Sequence[int]) -> list[int]:
        """Returns the sums of numbers over the ranks."""
        if self.group is None:
            return list(numbers)
        summed: list[int] = self.total(torch.tensor(numbers, dtype=torch.int64)).tolist()
        return summed

    def any(self, answer: bool) -> bool:
        """Whether the answer is yes on one of the ranks, at least."""
        return self.totals([int(answer)])[0] > 0

    def joined(self, values: Tensor) -> Tensor:
        """Returns the values of all ranks, one after the other along the first dimension, which may be of different lengths."""
        if self.group is None:
            return values
        lengths = self.stacked(torch.tensor([len(values)])).flatten().tolist()
        padded = values.new_zeros(max(lengths), *values.shape[1:])
        padded[: len(values)] = values
        return torch.cat([part[:length] for part, length in zip(self.stacked(padded), lengths, strict=True)])

    def stacked(self, values: Tensor) -> Tensor:
        """Returns the values of all ranks, of one shape on each, along a new first dimension."""
        if self.group is None:
            return values[None]
        sent = values.to(self.device).contiguous()
        gathered = [torch.empty_like(sent) for _ in range(self.count)]
        distributed.all_gather(gathered, sent, group=self.group)
        return torch.stack(gathered).to(values.device)

    def _reduced(self, values: Tensor, operation: Any) -> Tensor:
        if self.group is None:
            return values
        reduced = values.to(self.device, copy=True).contiguous()
        distributed.all_reduce(reduced, operation, group=self.group)
        return reduced.to(values.device)


ALONE = ProcessGroup()
"""This process holds the whole."""


def shared_seed() -> int:
    """Returns PyTorch's seed, that of rank 0 on every rank. It is read, not drawn: the random stream stays as it is."""
    seed = [torch.initial_seed()]
    if distributed.is_available() and distributed.is_initialized():
        distributed.broadcast_object_list(seed)
    return seed[0]


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor, spread over processes."""
    module = sys.modules.get("torch.distributed.tensor")  # loaded, if there is such a tensor
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """Returns what this process holds of a tensor: of one that is not sharded, the tensor itself."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def of(tensor: Tensor) -> ProcessGroup:
    """Returns the processes that hold the shards of a tensor."""
    if not is_sharded(tensor):
        return ALONE
    sharded = [axis for axis, placement in enumerate(tensor.placements) if placement.is_shard()]  # type: ignore[attr-defined]
    mesh = tensor.device_mesh  # type: ignore[attr-defined]
    return ProcessGroup(mesh.get_group(sharded[0]), mesh.device_type) if sharded else ALONE


def in_rows(tensor: Tensor) -> bool:
    """Whether a tensor lies whole, or is shared out by rows once, as `fully_shard` does by default."""
    if not is_sharded(tensor):
        return True
    shared = [placement for placement in tensor.placements if not placement.is_replicate()]  # type: ignore[attr-defined]
    return len(shared) <= 1 and all(placement.is_shard(0) for placement in shared)


def rows_before(tensor: Tensor) -> int:
    """Returns how many rows of a tensor other processes hold before those of this one."""
    ranks = of(tensor)
    return sum(ranks.stacked(torch.tensor([len(local(tensor))])).flatten().tolist()[: ranks.place])


def reshard(model: nn.Module) -> None:
    """Lets a model that is sharded by `fully_shard` hold its shards, where an evaluation has left whole weights behind."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    for module in model.modules() if fsdp is not None else ():
        if isinstance(module, fsdp.FSDPModule):  # type: ignore[union-attr]
            module.reshard()
