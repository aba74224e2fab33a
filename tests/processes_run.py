"""A plain loop under DDP and under FSDP2: what the ranks end with, ranks that are killed, and flipped bits.

torchrun --max-restarts 2 processes_run.py FOLDER

In each life but the last a rank is killed, and the next life resumes. The last also flips bits of masks, and ends by one of
them. Each rank writes what it found into `FOLDER/<name>-<rank>.json`.
"""

import hashlib
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.nn.parallel import DistributedDataParallel

import ranks_run
from fineprune import InvalidInputError, Pruner, TrainingError, files
from fineprune.pruner import state_files

RANK, WORLD_SIZE = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
LIFE = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
"""How often torchrun has restarted the ranks."""
SAVE_STEPS = 2
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)

moved: list[str] = []
"""The names under which this process put a file of the pruner's."""


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "os.rename" and "pruner." in str(arguments[1]):
        moved.append(str(arguments[1]))


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def cut_off(path: Path) -> None:
    """In the place of `flush`: the machine dies with half of the file on the disk."""
    os.truncate(path, path.stat().st_size // 2)
    die()


def hashes(tensors: dict[str, Tensor]) -> dict[str, str]:
    whole = {name: tensor.detach().contiguous().view(-1).view(torch.uint8) for name, tensor in tensors.items()}
    return {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in whole.items()}


def note(folder: Path, name: str, found: Any) -> None:
    """Writes what this rank found."""
    (folder / f"{name}-{RANK}.json").write_text(json.dumps(found), encoding="utf-8")


@torch.no_grad()
def flip(pruner: Pruner, with_weight: bool) -> str:
    """Flips the last bit of rank 1's mask of the second weight; with the weight as if a right mask had done it, or without.

    Returns the weight's name.
    """
    weight = pruner._masked.weights[1]
    if RANK == 1:
        weight.mask[-1, -1] = 1 - weight.mask[-1, -1].int()
        if with_weight:
            weight.held[-1, -1] = weight.dense[-1, -1] * weight.mask[-1, -1]
            weight.version, pruner._masked._probes = weight.current_version(), pruner._masked._probe()
    return weight.name


# A plain loop.


class Loop:
    """A run that is saved every second step, and goes on from the last whole checkpoint; without a folder neither."""

    def __init__(self, mode: str, run: ranks_run.Run, folder: Path | None = None) -> None:
        torch.manual_seed(100)
        self.folder = folder
        self.model = self.wrapped = ranks_run.Layers()
        if mode == "ddp":
            self.wrapped = DistributedDataParallel(self.model)
        else:
            ranks_run.shard(self.model, WORLD_SIZE)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.passed_over: list[str] = []
        checkpoint = self.last_whole()
        if checkpoint is not None:  # before there is a pruner: PyTorch loads an optimizer by way of an empty step
            saved = torch.load(checkpoint / "training.pt", weights_only=True)
            loaded = {"model_state_dict": saved["model"], "optim_state_dict": saved["optimizer"]}
            set_state_dict(self.model, self.optimizer, **loaded, options=WHOLE)
        total_steps, clip = ranks_run.STEPS, run.max_grad_norm
        self.pruner = Pruner(self.wrapped, self.optimizer, run.config(), total_steps=total_steps, max_grad_norm=clip)
        if checkpoint is not None:
            self.pruner.load(checkpoint)
        self.resumed_at = self.pruner.step

    def last_whole(self) -> Path | None:
        for checkpoint in sorted(self.folder.glob("step-*"), reverse=True) if self.folder else ():
            try:
                state_files.read_facts(checkpoint)  # written last
            except InvalidInputError as error:
                self.passed_over.append(f"Passing over {checkpoint.name}. {error}")
            else:
                return checkpoint
        return None

    def save(self) -> None:
        assert self.folder is not None
        checkpoint = self.folder / f"step-{self.pruner.step:03}"
        weights, optimizer = get_state_dict(self.model, self.optimizer, options=WHOLE)
        if RANK == 0:
            checkpoint.mkdir(parents=True, exist_ok=True)
            torch.save({"model": weights, "optimizer": optimizer}, checkpoint / "training.pt")
        self.pruner.save(checkpoint)

    def steps(self, until: int = ranks_run.STEPS) -> "Loop":
        """Trains up to a step, and saves on the way."""
        while self.pruner.step < until:
            ranks_run.go_on(self.wrapped, self.pruner, self.optimizer, RANK, WORLD_SIZE, self.pruner.step + 1)
            if self.folder and self.pruner.step % SAVE_STEPS == 0:
                self.save()
        return self


def outcome(loop: Loop) -> dict[str, Tensor]:
    """Everything that the ranks must end with alike, whole."""
    loop.pruner.close()
    return ranks_run.outcome(loop.model, loop.pruner)


RUNS = {"ddp": "movement global", "fsdp": "L0"}
"""Of `ranks_run`, in each mode."""


@dataclass(frozen=True)
class Death:
    """Where a life of `loop` ends: after `steps` steps, in the next one or in the save after that."""

    mode: str
    rank: int
    steps: int
    within: str


DEATHS = [Death("ddp", 1, 5, "step"), Death("fsdp", 0, 7, "save")]


def resume(folder: Path) -> None:
    """Runs to the end, or to this life's death, from where the last life ended."""
    for mode, run in RUNS.items():
        loop = Loop(mode, ranks_run.RUNS[run], folder / mode)
        for death in DEATHS[LIFE : LIFE + 1]:
            if death.mode == mode:
                loop.steps(death.steps)
            if (death.mode, death.rank) == (mode, RANK):
                if death.within == "step":
                    loop.optimizer.register_step_pre_hook(die)  # the pruner's own has run, the optimizer's step has not
                else:
                    files.flush = cut_off
        if loop.resumed_at < ranks_run.STEPS:
            found = hashes(outcome(loop.steps()))
            note(folder, f"{mode}-resumed", {"at": loop.resumed_at, "passed over": loop.passed_over, "ending": found})
        loop.pruner.detach()


def run_whole(folder: Path) -> None:
    """Runs to the end at once."""
    for mode, run in RUNS.items():
        found = outcome(Loop(mode, ranks_run.RUNS[run]).steps())
        note(folder, f"{mode}-whole", hashes(found))
        if RANK == 0:
            torch.save(found, folder / f"{mode}.pt")


def flips(folder: Path) -> None:
    """Flips a bit zero, one or three steps before a save, with the weight or without it."""
    told = {}
    for mode, run in RUNS.items():
        for with_weight in (False, True):
            for earlier in (0, 1, 3):
                loop = Loop(mode, ranks_run.RUNS[run]).steps(4)
                name = flip(loop.pruner, with_weight)
                loop.steps(4 + earlier)
                try:
                    loop.pruner.save(folder / "flipped")
                except TrainingError as error:
                    told[f"{mode}, {'weight and mask' if with_weight else 'mask'}, {earlier} steps earlier"] = str(error)
                loop.pruner.detach()
    note(folder, "flips", [name, told])


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    sys.addaudithook(watch)
    distributed.init_process_group("gloo")
    resume(folder)
    note(folder, "moved", moved)
    run_whole(folder)
    flips(folder)
    loop = Loop("ddp", ranks_run.RUNS["movement"])
    flip(loop.pruner, with_weight=True)
    loop.pruner.check_ranks()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
