"""Under torchrun and `accelerate launch`: ranks end alike, one writes, a flipped bit stops them, a killed run goes on."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

import processes_run
import processes_trainer_run
import ranks_run
from conftest import differences
from fineprune.models import inspection, targets
from fineprune.trainer.checkpoints import last_whole_checkpoint

HERE = Path(__file__).parents[1]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ACCELERATE = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
"""Which with `--cpu` would start one process; that there is no GPU the script finds out."""
TOLERANCE = 1e-12
"""Of float64: the gradients of two ranks are added up in another order than one process does it. Measured: 3e-15 at most."""


def launched(launcher: list[str], script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a script on two ranks; they share no store with those that were killed (PyTorch's issue 135712)."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    command = [sys.executable, *launcher, str(script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=environment)


def noted(folder: Path, name: str) -> list[Any]:
    """What each rank has found."""
    return [json.loads((folder / f"{name}-{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]


def is_told(step: int, name: str, message: str) -> bool:
    """Whether a message says when the ranks were found to disagree, and over which parameter."""
    return message.startswith(f"At step {step} the ranks hold different") and name in message


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Masks and counts are the same, the rest is to rounding."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        tolerance = TOLERANCE if tensor.is_floating_point() else 0
        assert torch.allclose(found[name].double(), tensor.double(), rtol=0, atol=tolerance), name


@pytest.fixture(scope="module")
def loops(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("loops")
    return folder, launched([*TORCHRUN, "--max-restarts", "2"], HERE / "processes_run.py", str(folder))


@pytest.fixture(scope="module")
def trainers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("trainers")
    return folder, launched(TORCHRUN, HERE / "processes_trainer_run.py", "runs", str(folder))


Launched = tuple[Path, subprocess.CompletedProcess[str]]


# A plain loop.


@pytest.mark.parametrize("mode", processes_run.RUNS)
def test_a_loop_ends_alike_on_every_rank_and_as_on_one_process(mode: str, loops: Launched) -> None:
    folder, run = loops
    assert (folder / f"{mode}.pt").is_file(), run.stderr
    first, second = noted(folder, f"{mode}-whole")
    assert first == second
    model, pruner, _ = ranks_run.prune(ranks_run.RUNS[processes_run.RUNS[mode]], "alone")
    pruner.detach()
    assert_close(torch.load(folder / f"{mode}.pt", weights_only=True), ranks_run.outcome(model, pruner))


@pytest.mark.parametrize(("mode", "last", "broken"), [("ddp", 4, "step-006"), ("fsdp", 6, "step-008")])
def test_a_killed_loop_ends_as_if_it_had_not_been(mode: str, last: int, broken: str, loops: Launched) -> None:
    """DDP: rank 1 dies within step 6, whose save rank 0 begins. FSDP2: rank 0 dies with half of a file written."""
    folder, run = loops
    assert (folder / f"{mode}-resumed-0.json").is_file(), run.stderr
    for resumed, whole in zip(noted(folder, f"{mode}-resumed"), noted(folder, f"{mode}-whole"), strict=True):
        assert resumed["at"] == last
        assert [message.split(".")[0] for message in resumed["passed over"]] == [f"Passing over {broken}"]
        assert resumed["ending"] == whole


def test_only_the_first_rank_of_a_loop_writes(loops: Launched) -> None:
    first, second = noted(loops[0], "moved")
    assert {Path(name).name for name in first} == {"pruner.json", "pruner.safetensors"}
    assert second == []


@pytest.mark.parametrize("earlier", [0, 1, 3])
@pytest.mark.parametrize("what", ["mask", "weight and mask"])
def test_a_flipped_bit_stops_a_loop_at_its_next_save(what: str, earlier: int, loops: Launched) -> None:
    name, told = noted(loops[0], "flips")[0]
    assert noted(loops[0], "flips")[1] == [name, told]
    assert is_told(4 + earlier, name, told[f"ddp, {what}, {earlier} steps earlier"])
    if not earlier:  # later each rank has made its shard of the mask anew, from the scores
        assert is_told(4, name, told[f"fsdp, {what}, {earlier} steps earlier"])


def test_a_flipped_bit_ends_the_whole_job(loops: Launched) -> None:
    _, run = loops
    assert run.returncode == 1
    for rank in range(2):
        assert f"[rank{rank}]: fineprune.errors.TrainingError: At step 0 the ranks hold different" in run.stderr


# The stock Trainer.


@pytest.mark.parametrize("name", processes_trainer_run.CONFIGS)
def test_trainer_ends_alike_on_every_rank_and_as_on_one_process(name: str, trainers: Launched, tmp_path: Path) -> None:
    folder, run = trainers
    assert (folder / f"{name}.pt").is_file(), run.stderr
    first, second = noted(folder, name)
    assert first == second
    alone = processes_trainer_run.exact(tmp_path, processes_trainer_run.CONFIGS[name], rows=8)
    assert_close(torch.load(folder / f"{name}.pt", weights_only=True), alone)


def test_only_the_first_rank_of_trainer_writes(trainers: Launched) -> None:
    first, second = noted(trainers[0], "moved")
    assert len(first) == 2 * 4
    assert second == []


@pytest.mark.parametrize(("step", "seen_at", "saved", "evaluated"), [(6, 6, [], [4]), (8, 8, [6], [4]), (9, 12, [6], [4, 8])])
def test_a_flipped_bit_stops_trainer(
    step: int, seen_at: int, saved: list[int], evaluated: list[int], trainers: Launched
) -> None:
    """It saves every 6 steps and evaluates every 4: before either, and nothing is written of it."""
    first, second = noted(trainers[0], f"flipped-{step}")
    assert first == second
    assert is_told(seen_at, first["names"][0], first["message"])
    assert first["written"] == [f"checkpoint-{number}" for number in saved]
    assert first["evaluated"] == evaluated


def test_a_killed_trainer_ends_as_if_it_had_not_been(trainers: Launched) -> None:
    """It dies under torchrun within a save, and `accelerate launch` takes it up."""
    folder, killed = trainers
    assert killed.returncode == 1, killed.stderr
    assert "exitcode: -9" in killed.stderr
    resumed = launched(ACCELERATE, HERE / "processes_trainer_run.py", "resume", str(folder))
    assert resumed.returncode == 0, resumed.stderr
    assert f"Passing over {folder / 'killed' / 'checkpoint-18'}. " in resumed.stderr
    assert noted(folder, "resumed") == noted(folder, "whole")


def test_a_checkpoint_without_the_random_state_of_a_rank_is_passed_over(
    trainers: Launched, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Rank 1 was killed before it wrote its own, and rank 0 went on to the end of the save."""
    shutil.copytree(trainers[0] / "whole", tmp_path / "whole")
    (tmp_path / "whole" / "checkpoint-24" / "rng_state_1.pth").unlink()
    assert last_whole_checkpoint(tmp_path / "whole") == str(tmp_path / "whole" / "checkpoint-18")
    assert "It lacks rng_state_1.pth: its save did not finish." in caplog.text


def test_trainer_under_fsdp_resumes_and_saves_the_whole_model(tmp_path: Path) -> None:
    """Forced upon Accelerate, which shards on GPUs only: it is told that its processes are those of FSDP2 (`force_fsdp`)."""
    run = launched(TORCHRUN, HERE / "processes_trainer_run.py", "sharded", str(tmp_path))
    assert run.returncode == 0, run.stderr
    whole, resumed = noted(tmp_path, "whole"), noted(tmp_path, "resumed")
    assert [rank["processes"] for rank in whole] == [2, 2]
    assert whole[0]["holds"] != whole[1]["holds"]
    assert resumed == whole
    assert (tmp_path / "checkpoint-12" / "optimizer_0" / ".metadata").is_file()
    assert noted(tmp_path, "last") == [str(tmp_path / "checkpoint-24")] * 2
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "final")
    assert not differences(loaded.state_dict(), torch.load(tmp_path / "whole.pt", weights_only=True))
    assert inspection.inspect(loaded, targets.find(loaded)).density == pytest.approx(0.3, abs=1e-3)


# The example.


def test_the_example_runs_and_goes_on_where_it_broke_off(tmp_path: Path) -> None:
    script = HERE.parent / "examples" / "distributed_loop.py"
    first = launched(TORCHRUN, script, str(tmp_path))
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[-1].startswith("step 100: ")
    (tmp_path / "step-000100" / "pruner.json").unlink()
    second = launched([], script, str(tmp_path))
    assert second.returncode == 0, second.stderr
    assert second.stdout.startswith(f"Passing over {tmp_path / 'step-000100'}: its save did not finish.\nstep 100: ")
