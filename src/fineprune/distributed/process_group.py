"""The processes that hold shards of the same weights, and reductions over them.

Under FSDP2 (`fully_shard`) each process holds some rows of every weight, and so of its scores and its mask. Sums, maxima and a
few values travel between the processes, never a weight. Under DDP, or alone, a process holds whole weights.
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
        group: of torch.distributed; None if this process holds the whole.
        device: where tensors must lie to travel in the group. Results come back on the device of the input.
    """

    group: Any = None
    device: str = "cpu"

    @property
    def size(self) -> int:
        """The number of processes."""
        return 1 if self.group is None else distributed.get_world_size(self.group)

    @property
    def rank(self) -> int:
        """The rank of this process in the group, from 0."""
        return 0 if self.group is None else distributed.get_rank(self.group)

    def total(self, values: Tensor) -> Tensor:
        """Returns the sum over the processes; exact for integers, and the same on each."""
        return self._reduced(values, distributed.ReduceOp.SUM)

    def highest(self, values: Tensor) -> Tensor:
        """Returns the elementwise maximum over the processes."""
        return self._reduced(values, distributed.ReduceOp.MAX)

    def totals(self, numbers: Sequence[int]) -> list[int]:
        """Returns the sum of each number over the processes."""
        if self.group is None:
            return list(numbers)
        summed: list[int] = self.total(torch.tensor(numbers, dtype=torch.int64)).tolist()
        return summed

    def any(self, answer: bool) -> bool:
        """Returns whether at least one process answers True."""
        return self.totals([int(answer)])[0] > 0

    def joined(self, values: Tensor) -> Tensor:
        """Returns the values of all processes, concatenated along the first dimension, whose size may differ between them."""
        if self.group is None:
            return values
        lengths = self.stacked(torch.tensor([len(values)])).flatten().tolist()
        padded = values.new_zeros(max(lengths), *values.shape[1:])
        padded[: len(values)] = values
        return torch.cat([shard[:length] for shard, length in zip(self.stacked(padded), lengths, strict=True)])

    def stacked(self, values: Tensor) -> Tensor:
        """Returns the values of all processes, of the same shape on each, along a new first dimension."""
        if self.group is None:
            return values[None]
        sent = values.to(self.device).contiguous()
        gathered = [torch.empty_like(sent) for _ in range(self.size)]
        distributed.all_gather(gathered, sent, group=self.group)
        return torch.stack(gathered).to(values.device)

    def _reduced(self, values: Tensor, operation: Any) -> Tensor:
        if self.group is None:
            return values
        reduced = values.to(self.device, copy=True).contiguous()
        distributed.all_reduce(reduced, operation, group=self.group)
        return reduced.to(values.device)


ALONE = ProcessGroup()
"""This process holds whole weights."""


def is_sharded(tensor: Tensor) -> bool:
    """Returns whether a tensor is a DTensor."""
    module = sys.modules.get("torch.distributed.tensor")  # loaded, if there is a DTensor
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """Returns this process's shard of a tensor; the tensor itself if it is not sharded."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def of(tensor: Tensor) -> ProcessGroup:
    """Returns the processes that hold the shards of a tensor."""
    if not is_sharded(tensor):
        return ALONE
    sharded = [axis for axis, placement in enumerate(tensor.placements) if placement.is_shard()]  # type: ignore[attr-defined]
    mesh = tensor.device_mesh  # type: ignore[attr-defined]
    return ProcessGroup(mesh.get_group(sharded[0]), mesh.device_type) if sharded else ALONE


def in_rows(tensor: Tensor) -> bool:
    """Returns whether a tensor is whole, or sharded once, by rows, as `fully_shard` does by default."""
    if not is_sharded(tensor):
        return True
    sharded = [placement for placement in tensor.placements if not placement.is_replicate()]  # type: ignore[attr-defined]
    return len(sharded) <= 1 and all(placement.is_shard(0) for placement in sharded)


def rows_before(tensor: Tensor) -> int:
    """Returns the number of rows of a tensor that other processes hold before those of this one."""
    group = of(tensor)
    return sum(group.stacked(torch.tensor([len(local(tensor))])).flatten().tolist()[: group.rank])


def reshard(model: nn.Module) -> None:
    """Makes the parameters of a model under `fully_shard` shards again, where an evaluation has left whole weights."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    for module in model.modules() if fsdp is not None else ():
        if isinstance(module, fsdp.FSDPModule):  # type: ignore[union-attr]
            module.reshard()


def shared_seed() -> int:
    """Returns PyTorch's seed, that of rank 0 on every rank, without advancing the random stream."""
    seed = [torch.initial_seed()]
    if distributed.is_available() and distributed.is_initialized():
        distributed.broadcast_object_list(seed)
    return seed[0]
