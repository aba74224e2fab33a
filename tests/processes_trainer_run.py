"""The stock Trainer on several ranks: what they end with, flipped bits, and ranks that are killed.

torchrun processes_trainer_run.py runs FOLDER               whole runs, flipped bits, and one that dies within a save
accelerate launch processes_trainer_run.py resume FOLDER    finishes that one
torchrun processes_trainer_run.py sharded FOLDER            a run under FSDP2, and one that is resumed half-way

Each rank writes what it found into `FOLDER/<name>-<rank>.json`.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch import Tensor, distributed
from transformers import Trainer, TrainerCallback

import resumable_run
from conftest import config, everything
from fineprune import L0, Pruner, PruningConfig, TrainingError, Uniform, files
from fineprune.distributed.process_group import local
from fineprune.trainer.checkpoints import last_whole_checkpoint
from processes_run import RANK, cut_off, flip, hashes, moved, note, watch

CONFIGS = {"movement": config(scope="global"), "L0": config(method=L0(init=Uniform(3.0), score_lr=0.1))}
SAVE = 18
"""The step in whose save rank 0 dies."""


class Early(TrainerCallback):
    """Does something right after a step of the optimizer, before other callbacks hear that the step has ended."""

    def __init__(self, step: int, deed: Callable[[], Any]) -> None:
        self.step, self.deed = step, deed

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self.step:
            self.deed()


def pruner_of(trainer: Trainer) -> Pruner:
    pruner = resumable_run.callback_of(trainer).pruner
    assert pruner is not None
    return pruner


def exact(folder: Path, settings: PruningConfig, rows: int) -> dict[str, Tensor]:
    """Trains in float64 and without dropout on batches of `rows` rows a process; returns every tensor at the end.

    Trainer (5.23) takes it that BERT divides its loss by the labels of all ranks, as it does not, and multiplies it by their
    number: `average_tokens_across_devices` switches that off.
    """
    others = {"dropout": 0.0, "save_strategy": "no", "average_tokens_across_devices": False}
    made = resumable_run.trainer(folder, per_device_train_batch_size=rows, **others)
    made.model.double()
    resumable_run.callback_of(made).config = settings
    made.train()
    return everything(pruner_of(made))


def trainer(folder: Path, *others: TrainerCallback) -> Trainer:
    """Makes a run with dropout, each rank with random numbers of its own; saved every 6 steps, evaluated every 4."""
    settings = {"save_total_limit": None, "eval_strategy": "steps", "eval_steps": 4}
    made = resumable_run.trainer(folder, *others, **settings)
    torch.manual_seed(92 + RANK)
    return made


def flipped(folder: Path, step: int) -> dict[str, Any]:
    """Flips a bit of rank 1's masks at a step, and returns what stopped the run, and what there was of it by then."""
    names: list[str] = []
    made = trainer(folder, Early(step, lambda: names.append(flip(pruner_of(made), with_weight=True))))
    try:
        made.train()
    except TrainingError as error:
        written = sorted(path.name for path in folder.glob("checkpoint-*"))
        evaluated = [entry["step"] for entry in made.state.log_history if "eval_loss" in entry]
        pruner_of(made).detach()
        return {"names": names, "message": str(error), "written": written, "evaluated": evaluated}
    return {"names": names, "message": "", "written": [], "evaluated": []}


def resumed(folder: Path, *others: TrainerCallback) -> Trainer:
    made = trainer(folder, *others)
    made.train(resume_from_checkpoint=last_whole_checkpoint(folder))
    return made


def runs(folder: Path) -> None:
    """Whole runs, flipped bits, and a run in which rank 0 dies with half of the pruner's state written."""
    for name, settings in CONFIGS.items():
        found = exact(folder / "exact", settings, rows=4)
        note(folder, name, hashes(found))
        if RANK == 0:
            torch.save(found, folder / f"{name}.pt")
    note(folder, "whole", hashes(everything(pruner_of(resumed(folder / "whole")))))
    note(folder, "moved", moved)
    for step in (6, 8, 9):
        note(folder, f"flipped-{step}", flipped(folder / f"flipped-{step}", step))
    resumed(folder / "killed", Early(SAVE, lambda: RANK == 0 and setattr(files, "flush", cut_off)))


def resume(folder: Path) -> None:
    made = resumed(folder / "killed")
    note(folder, "resumed", hashes(everything(pruner_of(made))))


def force_fsdp() -> None:
    """Lets Accelerate shard on a CPU, where it knows no processes but those of DDP: it is told FSDP2 when it has looked."""
    make = AcceleratorState.__init__

    def forced(self: AcceleratorState, *arguments: Any, fsdp_plugin: Any = None, **settings: Any) -> None:
        make(self, *arguments, fsdp_plugin=fsdp_plugin, **settings)
        self.fsdp_plugin = fsdp_plugin or self.__dict__.get("fsdp_plugin")
        self.distributed_type = DistributedType.FSDP

    AcceleratorState.__init__ = forced


def shards(made: Trainer) -> dict[str, Tensor]:
    """What a rank holds of the model and of the pruner's state."""
    pruner = pruner_of(made)
    held = {name: local(tensor) for name, tensor in made.model.state_dict().items()}
    held |= {f"mask {weight.name}": weight.mask for weight in pruner._masked.weights}
    return held | {name: tensor for site in pruner._masked.sites for name, tensor in site.tensors().items()}


def sharded(folder: Path) -> None:
    """Trains under FSDP2, resumes a checkpoint of that in another Trainer, and saves the model at last, whole."""
    force_fsdp()
    shape = {"version": 2, "state_dict_type": "SHARDED_STATE_DICT", "transformer_layer_cls_to_wrap": ["BertLayer"]}
    settings = {"fsdp": True, "fsdp_config": shape, "save_total_limit": None, "eval_strategy": "steps", "eval_steps": 8}
    for name in ("whole", "resumed"):
        made = resumable_run.trainer(folder, **settings)
        torch.manual_seed(92 + RANK)
        made.train(resume_from_checkpoint=str(folder / "checkpoint-12") if name == "resumed" else None)
        note(folder, name, {"holds": hashes(shards(made)), "processes": pruner_of(made)._masked.processes.size})
    note(folder, "last", last_whole_checkpoint(folder))
    made.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    made.save_model(str(folder / "final"))
    whole = {name: tensor.full_tensor() for name, tensor in made.model.state_dict().items()}
    if RANK == 0:
        torch.save({name: tensor.clone() for name, tensor in whole.items()}, folder / "whole.pt")
    distributed.barrier()


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.addaudithook(watch)
    {"runs": runs, "resume": resume, "sharded": sharded}[sys.argv[1]](Path(sys.argv[2]))
