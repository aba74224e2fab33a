"""Runs of every method on several processes, for the tests to compare with the same runs on one.

python ranks_run.py RANK WORLD_SIZE FOLDER        prunes under DDP, then under FSDP2, and writes what came out into the folder
"""

import contextlib
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from fineprune import (
    L0,
    Blocks,
    Constant,
    CubicSchedule,
    KaimingUniform,
    Magnitude,
    Movement,
    NofM,
    Pruner,
    PruningConfig,
    Random,
    Rows,
    SoftMovement,
    Uniform,
)
from fineprune.proximal import GroupLasso
from fineprune.ranks import of

STEPS = 10
ROWS = [8] * (2 * STEPS - 1) + [3]
"""Of each batch, all ranks together; two make a step, and the last is so small that of four ranks one has none."""


@dataclass(frozen=True)
class Run:
    """A config, and how the pruner clips."""

    method: Any
    density: float | None = 0.25
    settings: dict[str, Any] = field(default_factory=dict)
    max_grad_norm: float | None = None

    def config(self) -> PruningConfig:
        return PruningConfig(self.method, self.density, schedule=CubicSchedule(2, 3), **self.settings)


RUNS = {
    "magnitude": Run(Magnitude()),
    "random": Run(Random()),
    "movement": Run(Movement()),
    "movement global": Run(Movement(), settings={"scope": "global"}, max_grad_norm=0.05),
    "movement adaptive": Run(Movement(), settings={"scope": "adaptive"}),
    "movement all tied": Run(Movement(birth=Constant()), settings={"scope": "global"}),
    "movement kaiming": Run(Movement(birth=KaimingUniform()), settings={"scope": "global"}),
    "movement rows": Run(Movement(birth=KaimingUniform()), settings={"structure": Rows(), "scope": "global"}),
    "movement blocks": Run(Movement(), settings={"structure": Blocks(2, 5), "target_modules": ["2.0"]}),
    "movement n of m": Run(Movement(), None, {"structure": NofM(2, 4), "target_modules": ["0.0"]}),
    "soft movement": Run(SoftMovement(score_lr=0.4), max_grad_norm=0.1),
    "soft movement by penalty": Run(SoftMovement(penalty=1.0, score_lr=0.4), None),
    "L0": Run(L0(birth=Uniform(3.0), score_lr=0.4), max_grad_norm=0.1),
    "L0 by penalty": Run(L0(penalty=1.0, birth=Uniform(3.0), score_lr=0.4), None),
    "group lasso": Run(GroupLasso(), settings={"structure": Rows()}),
}


class Layers(nn.Module):
    """Matrices of 10, 5 and 16 rows: of four ranks that share 5 out, the last has none."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [16, 10, 5, 16]
        pairs = itertools.pairwise(sizes)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(*pair, dtype=torch.float64), nn.Tanh()) for pair in pairs)

    def forward(self, features: Tensor) -> Tensor:
        for block in self.blocks:
            features = block(features)
        return features


def shard(model: nn.Module, world_size: int) -> None:
    mesh = init_device_mesh("cpu", (world_size,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


@contextlib.contextmanager
def accumulating(model: nn.Module, last: bool) -> Iterator[None]:
    """Keeps gradients from travelling before the last batch of a step."""
    if isinstance(model, DistributedDataParallel) and not last:
        with model.no_sync():
            yield
    else:
        if hasattr(model, "set_requires_gradient_sync"):
            model.set_requires_gradient_sync(last)
        yield


def prune(run: Run, mode: str, rank: int = 0, world_size: int = 1, steps: int = STEPS) -> tuple[nn.Module, Pruner, Any]:
    """Trains for some of the steps; every rank takes its rows of each batch."""
    torch.manual_seed(100)
    model = Layers()
    wrapped: nn.Module = model
    if mode == "ddp":
        wrapped = DistributedDataParallel(model)
    elif mode == "fsdp":
        shard(model, world_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=False, foreach=False)
    pruner = Pruner(wrapped, optimizer, run.config(), total_steps=STEPS, max_grad_norm=run.max_grad_norm)
    torch.manual_seed(7 + rank)  # what is drawn in training is not the same on all ranks
    go_on(wrapped, pruner, optimizer, rank, world_size, steps)
    return model, pruner, optimizer


def go_on(model: nn.Module, pruner: Pruner, optimizer: Any, rank: int, world_size: int, until: int) -> None:
    generator = torch.Generator().manual_seed(5)
    batches = [torch.randn(rows, 16, generator=generator, dtype=torch.float64) for rows in ROWS]
    for place, batch in enumerate(batches):
        if not pruner.step <= place // 2 < until:
            continue
        mine, last = batch.tensor_split(world_size)[rank], place % 2 == 1
        with accumulating(model, last):
            loss = (model(mine) - 0.3).square().sum() / len(batch) / 2
            (loss * world_size).backward()  # gradients are averaged over the ranks
        if last:
            optimizer.step()
            optimizer.zero_grad()


def outcome(model: nn.Module, pruner: Pruner) -> dict[str, Tensor]:
    """Everything that must be the same, whole."""
    found = {f"weight {name}": of(p).joined(p.to_local() if of(p).count > 1 else p) for name, p in model.named_parameters()}
    for site in pruner._sites:
        ranks = pruner._ranks
        found[f"mask {site.key}"] = ranks.joined(site.mask)
        found |= {f"state {name}": ranks.joined(each) if each.dim() else each for name, each in site.tensors().items()}
    found["figures"] = torch.tensor(list(pruner.statistics().values()), dtype=torch.float64)
    return {name: tensor.detach().clone() for name, tensor in found.items()}


def main(rank: int, world_size: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
    for mode in ("ddp", "fsdp"):
        results = {}
        for name, run in RUNS.items():
            model, pruner, _ = prune(run, mode, rank, world_size)
            pruner.check_ranks()
            results[name] = outcome(model, pruner)
            pruner.detach()
        torch.save(results, Path(folder) / f"{mode}-{rank}.pt")
    distributed.barrier()  # a rank that leaves while another still talks to it can bring that one down
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
