"""On two and on four processes, under DDP and under FSDP2, a run comes out as on one: masks equal, numbers to rounding."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import ranks_run
from fineprune import apply_mask

TOLERANCE = 1e-12
"""In float64: the processes add up gradients and scores in another order than one does."""


def started(folder: Path, world_size: int, *arguments: str) -> list[subprocess.Popen[str]]:
    """Starts the ranks of a run."""
    script = str(Path(__file__).parents[1].joinpath("ranks_run.py"))
    commands = [[sys.executable, script, str(rank), str(world_size), str(folder), *arguments] for rank in range(world_size)]
    return [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for command in commands]


def finished(ranks: list[subprocess.Popen[str]]) -> list[tuple[str, str]]:
    """Waits for the ranks, which must all end well."""
    results = [rank.communicate(timeout=250) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * len(ranks), results
    return results


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Tensor]]:
    found = {}
    for name, run in ranks_run.RUNS.items():
        model, pruner, _ = ranks_run.prune(run, "alone")
        found[name] = ranks_run.outcome(model, pruner)
        pruner.detach()
    return found


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process has saved half-way."""
    folder = tmp_path_factory.mktemp("alone")
    for name in ranks_run.SAVED:
        model, pruner, optimizer = ranks_run.prune(ranks_run.RUNS[name], "alone", steps=ranks_run.HALF)
        ranks_run.save(folder / name, model, pruner, optimizer)
        pruner.detach()
    return folder


def equal(found: dict[str, Tensor], expected: dict[str, Tensor], where: object) -> None:
    """Asserts that masks are equal, and all else to rounding."""
    assert found.keys() == expected.keys(), where
    for key, tensor in expected.items():
        if tensor.dtype is torch.bool:
            assert torch.equal(found[key], tensor), (where, key)
        assert torch.allclose(found[key].double(), tensor.double(), rtol=0, atol=TOLERANCE), (where, key)


@pytest.mark.parametrize("world_size", [2, 4])
def test_a_run_comes_out_as_on_one_process(
    world_size: int, tmp_path: Path, alone: dict[str, dict[str, Tensor]], saved: Path
) -> None:
    finished(started(tmp_path, world_size, str(saved)))
    for mode in ("ddp", "fsdp", "resumed", *(["hsdp"] if world_size == 4 else [])):
        of_ranks = [torch.load(tmp_path / f"{mode}-{rank}.pt", weights_only=True) for rank in range(world_size)]
        for name, first in of_ranks[0].items():
            for other in of_ranks[1:]:
                assert [key for key in first if not torch.equal(first[key], other[name][key])] == [], (mode, name)
            if name in alone:
                equal(first, alone[name], (mode, name))
    for name in ranks_run.SAVED:  # one process goes on from what several have saved
        model, pruner, _ = ranks_run.prune(ranks_run.RUNS[name], "alone", saved=tmp_path / name)
        equal(ranks_run.outcome(model, pruner), alone[name], name)
        pruner.detach()
    torch.manual_seed(100)
    backbone = ranks_run.Layers()
    apply_mask(backbone, tmp_path / "frozen.mask")
    for name, parameter in backbone.named_parameters():
        assert torch.allclose(parameter, alone["frozen"][f"weight {name}"], rtol=0, atol=TOLERANCE), name


def test_the_runs_have_what_could_go_wrong(alone: dict[str, dict[str, Tensor]]) -> None:
    masks = {name: [tensor for key, tensor in found.items() if key.startswith("mask")] for name, found in alone.items()}
    for name, of_run in masks.items():
        kept = sum(int(mask.count_nonzero()) for mask in of_run) / sum(mask.numel() for mask in of_run)
        assert 0.05 < kept < 0.95, name
    assert masks["L0"][0].is_floating_point()
    assert len({torch.cat([mask.flatten().double() for mask in of_run]).numpy().tobytes() for of_run in masks.values()}) > 11
