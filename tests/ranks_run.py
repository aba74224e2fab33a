"""Runs of every method on several processes, for the tests to compare with the same runs on one.

python ranks_run.py RANK WORLD_SIZE FOLDER SAVED

prunes under DDP, then under FSDP2, and writes what came out into FOLDER. Then it goes on from what one process has saved in
SAVED, saves itself half-way through a run, and finds a flipped bit.
"""

import contextlib
import datetime
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from fineprune import (
    L0,
    BFloat16Scores,
    Blocks,
    Columns,
    Constant,
    CubicSchedule,
    InvalidInputError,
    KaimingUniform,
    LowRankScores,
    Magnitude,
    Movement,
    NofM,
    Pruner,
    PruningConfig,
    Random,
    Rows,
    SoftMovement,
    TrainingError,
    Uniform,
)
from fineprune.core import penalty
from fineprune.distributed import coordinator, process_group
from fineprune.methods.group_lasso import GroupLasso

STEPS = 10
ROWS = [8] * (2 * STEPS - 1) + [3]
"""Of each batch, all ranks together; two make a step, and the last is so small that of four ranks one has none."""


@dataclass(frozen=True)
class Run:
    """A config, how the pruner clips, and whether FSDP2 gathers the whole model at once."""

    method: Any
    density: float | None = 0.25
    settings: dict[str, Any] = field(default_factory=dict)
    max_grad_norm: float | None = None
    in_one_group: bool = False

    def config(self) -> PruningConfig:
        return PruningConfig(self.method, self.density, schedule=CubicSchedule(2, 3), **self.settings)


RUNS = {
    "magnitude": Run(Magnitude()),
    "random": Run(Random()),
    "movement": Run(Movement()),
    "movement global": Run(Movement(), settings={"scope": "global"}, max_grad_norm=0.05),
    "movement adaptive": Run(Movement(), settings={"scope": "adaptive"}),
    "movement all tied": Run(Movement(init=Constant()), settings={"scope": "global"}),
    "movement kaiming": Run(Movement(init=KaimingUniform()), settings={"scope": "global"}),
    "movement rows": Run(Movement(init=KaimingUniform()), settings={"structure": Rows(), "scope": "global"}),
    "movement blocks": Run(Movement(), settings={"structure": Blocks(2, 5), "target_modules": ["2.0"]}),
    "movement n of m": Run(Movement(), None, {"structure": NofM(2, 5), "target_modules": ["1.0"]}),
    "soft movement": Run(SoftMovement(score_lr=0.4), max_grad_norm=0.1),
    "soft movement by penalty": Run(SoftMovement(penalty=1.0, score_lr=0.4), None),
    "L0": Run(L0(init=Uniform(3.0), score_lr=0.4), max_grad_norm=0.1),
    "L0 by penalty": Run(L0(penalty=1.0, init=Uniform(3.0), score_lr=0.4), None),
    "L0 in one group": Run(L0(init=Uniform(3.0), score_lr=0.4), in_one_group=True),
    "group lasso": Run(GroupLasso(), settings={"structure": Rows()}),
    "frozen": Run(Movement(), settings={"frozen_weights": True, "scope": "global"}),
}

ROUNDED = {"movement in bfloat16": Run(Movement(), settings={"scores": BFloat16Scores()})}
"""Equal on all ranks, but not equal to one process: a last place of a gradient can turn a rounding."""

WHOLE = {"movement of low rank": Run(Movement(), settings={"scores": LowRankScores(2)})}
"""Refused where weights are sharded."""

SAVED = ("movement global", "L0")
"""Runs that are saved and resumed."""
HALF = 5


class Layers(nn.Module):
    """Matrices of 10, 5 and 16 rows: of four ranks that share 5 out, the last has none."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [16, 10, 5, 16]
        pairs = itertools.pairwise(sizes)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(*pair, dtype=torch.float64), nn.Tanh()) for pair in pairs)
        self.head = nn.Linear(16, 3, dtype=torch.float64)

    def forward(self, features: Tensor) -> Tensor:
        for block in self.blocks:
            features = block(features)
        return self.head(features)


def shard(model: nn.Module, *sizes: int, in_one_group: bool = False) -> None:
    """Shares a model out among processes; of two sizes the first is how many copies there are."""
    mesh = init_device_mesh("cpu", sizes, mesh_dim_names=("copies", "shards")[-len(sizes) :])
    for block in () if in_one_group else model.blocks:
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


WHOLE_STATE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def prune(
    run: Run, mode: str, rank: int = 0, world_size: int = 1, steps: int = STEPS, saved: Path | None = None
) -> tuple[nn.Module, Pruner, Any]:
    """Trains for some of the steps, from the first or from what was saved; every rank takes its rows of each batch."""
    torch.manual_seed(100)
    model = Layers()
    wrapped: nn.Module = model
    if mode == "ddp":
        wrapped = DistributedDataParallel(model)
    elif mode == "fsdp":
        shard(model, world_size, in_one_group=run.in_one_group)
    elif mode == "hsdp":
        shard(model, 2, world_size // 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=False, foreach=False)
    if saved is not None:
        state = torch.load(saved / "model.pt", weights_only=True)
        set_model_state_dict(model, state["model"], options=WHOLE_STATE)
        set_optimizer_state_dict(model, optimizer, state["optimizer"], options=WHOLE_STATE)
    pruner = Pruner(wrapped, optimizer, run.config(), total_steps=STEPS, max_grad_norm=run.max_grad_norm)
    if saved is not None:
        pruner.load(saved)
    torch.manual_seed(7 + rank)  # what is drawn in training is not the same on all ranks
    go_on(wrapped, pruner, optimizer, rank, world_size, steps)
    return model, pruner, optimizer


def save(folder: Path, model: nn.Module, pruner: Pruner, optimizer: torch.optim.Optimizer, rank: int = 0) -> None:
    """Saves as a user would: every rank calls, rank 0 writes, and what it writes is whole."""
    pruner.save(folder)
    state = {"model": get_model_state_dict(model, options=WHOLE_STATE)}
    state["optimizer"] = get_optimizer_state_dict(model, optimizer, options=WHOLE_STATE)
    if rank == 0:
        torch.save(state, folder / "model.pt")


@mock.patch.object(penalty, "SAMPLE", 32)  # so that what is sampled is not all
def go_on(model: nn.Module, pruner: Pruner, optimizer: Any, rank: int, world_size: int, until: int) -> None:
    generator = torch.Generator().manual_seed(5)
    batches = [torch.randn(rows, 16, generator=generator, dtype=torch.float64) for rows in ROWS]
    for place, batch in enumerate(batches):
        if not pruner.step <= place // 2 < until:
            continue
        mine, last = batch.tensor_split(world_size)[rank], place % 2 == 1
        evaluate(model)
        with accumulating(model, last):
            loss = (model(mine) - 0.3).square().sum() / len(batch) / 2
            (loss * world_size).backward()  # gradients are averaged over the ranks
        if last:
            optimizer.step()
            optimizer.zero_grad()


@torch.no_grad()
def evaluate(model: nn.Module) -> None:
    """Leaves whole weights behind in the outermost group of FSDP2, until the next step."""
    model.eval()
    model(torch.ones(2, 16, dtype=torch.float64))
    model.train()


def outcome(model: nn.Module, pruner: Pruner) -> dict[str, Tensor]:
    """Everything that must be the same, whole."""
    evaluate(model)
    counted = pruner.summary().layers  # what an evaluation has left is no hindrance
    found = {f"weight {name}": process_group.of(p).joined(process_group.local(p)) for name, p in model.named_parameters()}
    found["kept"] = torch.tensor([count.kept for count in counted])
    for site in pruner._masked.sites:
        joined = pruner._masked.processes.joined
        found[f"mask {site.key}"] = joined(site.mask)
        found |= {f"state {name}": joined(each) if each.dim() else each for name, each in site.tensors().items()}
    found["figures"] = torch.tensor([*pruner.statistics().values(), pruner.density()], dtype=torch.float64)
    return {name: tensor.detach().clone() for name, tensor in found.items()}


def refused(config: PruningConfig) -> None:
    """Asserts that a config does not fit a sharded model, on every rank and before anything is changed."""
    model = Layers()
    shard(model, distributed.get_world_size())
    with pytest.raises(InvalidInputError, match="sharded over"):
        Pruner(model, torch.optim.AdamW(model.parameters()), config, total_steps=STEPS)


def flip_a_bit(pruner: Pruner, rank: int, folder: Path) -> None:
    """Flips one bit of the first rank's mask; every rank must hear of it, and nothing be written."""
    if rank == 0:
        pruner._masked.weights[1].mask[0, 0].logical_not_()
    with pytest.raises(TrainingError, match=r"the ranks hold different masks, weights or scores of blocks\.1\.0\.weight\."):
        pruner.save(folder)
    assert not folder.exists()


def hear_of_a_nan(rank: int, world_size: int) -> None:
    """Where one rank's shard of a gradient is NaN, every rank must stop."""
    model, pruner, optimizer = prune(RUNS["movement"], "fsdp", rank, world_size, 2)
    model(torch.ones(2, 16, dtype=torch.float64)).sum().backward()
    if rank == 1:
        process_group.local(model.blocks[0][0].weight.grad)[0, 0] = torch.nan
    where = r"blocks\.0\.0\.weight" if rank == 1 else "weights of another rank"
    with pytest.raises(TrainingError, match=f"NaN or infinite in {where}"):
        optimizer.step()
    pruner.detach()


def hear_of_a_change(rank: int, world_size: int) -> None:
    """Where somebody has changed one rank's shard, every rank must stop."""
    model, pruner, optimizer = prune(RUNS["movement"], "fsdp", rank, world_size, 2)
    model(torch.ones(2, 16, dtype=torch.float64)).sum().backward()
    if rank == 1:
        process_group.local(model.blocks[0][0].weight.detach())[0, 0] += 1
    with pytest.raises(TrainingError, match="Something other than the optimizer changed"):
        optimizer.step()
    pruner.detach()


def hear_of_another_run(rank: int) -> None:
    """Where one rank was given other steps, every rank must say so at the start."""
    model = Layers()
    with pytest.raises(InvalidInputError, match="different values of total_steps"):
        Pruner(model, torch.optim.AdamW(model.parameters()), RUNS["movement"].config(), total_steps=STEPS + (rank == 1))


def break_off_alone(rank: int, world_size: int) -> None:
    """Where one rank's own code fails with L0's gates drawn, it must not wait for the others."""
    model, pruner, _ = prune(RUNS["L0"], "fsdp", rank, world_size, 2)
    model(torch.ones(2, 16, dtype=torch.float64))
    if rank == 1:
        with contextlib.suppress(ZeroDivisionError), pruner:
            raise ZeroDivisionError
    distributed.barrier()  # reached by all: the others have not been asked for anything
    pruner.detach()


def frozen_goes_on(rank: int, world_size: int, folder: Path) -> None:
    """With frozen weights it resumes bit for bit, also by PyTorch's checkpoints, which ask for a state of every parameter."""
    model, pruner, _ = prune(RUNS["frozen"], "fsdp", rank, world_size)
    pruner.save_mask(folder / "frozen.mask")
    whole = outcome(model, pruner)
    pruner.detach()
    model, pruner, optimizer = prune(RUNS["frozen"], "fsdp", rank, world_size, HALF)
    save(folder / "frozen", model, pruner, optimizer, rank)
    pruner.detach()
    distributed.barrier()
    model, pruner, _ = prune(RUNS["frozen"], "fsdp", rank, world_size, saved=folder / "frozen")
    found = outcome(model, pruner)
    assert [name for name in whole if not torch.equal(found[name], whole[name])] == []
    pruner.detach()


def alone_at_the_door(rank: int, world_size: int) -> None:
    """Where one rank saves and the others do not, it must say so, and not wait for ever."""
    distributed.barrier()
    coordinator.PATIENCE = datetime.timedelta(seconds=2)
    _, pruner, _ = prune(RUNS["movement"], "ddp", rank, world_size)
    if rank == 0:
        with pytest.raises(TrainingError, match=r"Rank 1.* did not come to compare or to save\. .*every rank calls them"):
            pruner.save("nowhere")
    pruner.detach()


def main(rank: int, world_size: int, folder: str, saved: str) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
    for mode in ("ddp", "fsdp"):
        results = {}
        for name, run in {**RUNS, **ROUNDED, **(WHOLE if mode == "ddp" else {})}.items():
            model, pruner, _ = prune(run, mode, rank, world_size)
            pruner.check_ranks()
            results[name] = outcome(model, pruner)
            pruner.detach()
            if name == "movement":
                flip_a_bit(pruner, rank, Path(folder) / "flipped")
        torch.save(results, Path(folder) / f"{mode}-{rank}.pt")
    for config in (
        WHOLE["movement of low rank"].config(),
        PruningConfig(Movement(), 0.3, structure=Columns()),
        PruningConfig(Movement(), 0.3, structure=Blocks(10, 1), target_modules=["0.0"]),
    ):
        refused(config)
    hear_of_a_nan(rank, world_size)
    hear_of_a_change(rank, world_size)
    hear_of_another_run(rank)
    break_off_alone(rank, world_size)
    frozen_goes_on(rank, world_size, Path(folder))
    results = {}
    for name in SAVED:
        model, pruner, optimizer = prune(RUNS[name], "fsdp", rank, world_size, HALF)
        save(Path(folder) / name, model, pruner, optimizer, rank)
        pruner.detach()
        model, pruner, _ = prune(RUNS[name], "fsdp", rank, world_size, saved=Path(saved) / name)
        results[name] = outcome(model, pruner)
        pruner.detach()
    torch.save(results, Path(folder) / f"resumed-{rank}.pt")
    if world_size == 4:
        model, pruner, _ = prune(RUNS["L0"], "hsdp", rank, world_size)
        torch.save({"L0": outcome(model, pruner)}, Path(folder) / f"hsdp-{rank}.pt")
        flip_a_bit(pruner, rank, Path(folder) / "flipped")
        pruner.detach()
    alone_at_the_door(rank, world_size)
    distributed.barrier()  # a rank that leaves while another still talks to it can bring that one down
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
