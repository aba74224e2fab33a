"""A small run with the stock Trainer that can be killed at a chosen moment; the tests resume it.

python resumable_run.py FOLDER MOMENT     is killed at the moment, as by SIGKILL from outside
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

from conftest import config, tiny_bert
from fineprune.pruner import state_files
from fineprune.trainer.callback import PruningCallback
from fineprune.trainer.checkpoints import last_whole_checkpoint

STEPS, SAVE_STEPS = 24, 6


def trainer(folder: str | Path, *others: TrainerCallback, dropout: float = 0.1, **settings: Any) -> Trainer:
    """Makes the run: 24 steps with dropout and clipping, saved every 6, only the last checkpoint kept."""
    set_seed(92)
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(0, 100, (48, 8), generator=generator)
    data = [{"input_ids": row, "labels": int(row[0]) % 2} for row in tokens]
    arguments = {
        "output_dir": str(folder),
        "max_steps": STEPS,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "warmup_steps": 3,
        "save_steps": SAVE_STEPS,
        "save_total_limit": 1,
        "logging_steps": 2,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "seed": 92,
    }
    callbacks = [PruningCallback(config()), *others]
    made = TrainingArguments(**{**arguments, **settings})
    return Trainer(tiny_bert(dropout=dropout), made, train_dataset=data, eval_dataset=data[:8], callbacks=callbacks)


def callback_of(made: Trainer) -> PruningCallback:
    return next(callback for callback in made.callback_handler.callbacks if isinstance(callback, PruningCallback))


def resume(folder: str | Path) -> Trainer:
    """Finishes a run that was killed, as a user would."""
    made = trainer(folder)
    made.train(resume_from_checkpoint=last_whole_checkpoint(folder))
    return made


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class KillAtStep(TrainerCallback):
    """Kills the process at the end of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            die()


def after_calls(calls: int, function: Callable[..., Any], then: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function; after this number of calls of it, the other one runs in its place."""
    seen = 0

    def counted(*arguments: Any, **settings: Any) -> Any:
        nonlocal seen
        seen += 1
        return function(*arguments, **settings) if seen <= calls else then(*arguments, **settings)

    return counted


def half(writer: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a writer that dies with half of the file written."""

    def write(tensors: dict[str, torch.Tensor], path: Path, **settings: Any) -> None:
        writer(tensors, path, **settings)
        os.truncate(path, Path(path).stat().st_size // 2)
        die()

    return write


def main(folder: str, moment: str) -> None:
    """Runs until the moment: `step N`, or inside the third save: before the model, within a state file, before the facts."""
    torch.set_num_threads(1)
    kind, _, number = moment.partition(" ")
    made = trainer(folder, *([KillAtStep(int(number))] if kind == "step" else []))
    if kind == "model":
        made.model.save_pretrained = after_calls(2, made.model.save_pretrained, die)
    elif kind == "optimizer":
        made._save_optimizer_and_scheduler = after_calls(2, made._save_optimizer_and_scheduler, die)
    elif kind == "tensors":
        writer = state_files.safetensors.torch.save_file
        own = after_calls(2, writer, half(writer))
        state_files.safetensors.torch.save_file = lambda tensors, path, **settings: (
            own(tensors, path, **settings) if Path(path).name.startswith(".pruner") else writer(tensors, path, **settings)
        )
    elif kind == "facts":
        state_files.replace_whole = after_calls(5, state_files.replace_whole, die)
    assert isinstance(made.model, nn.Module)
    made.train()


if __name__ == "__main__":
    main(*sys.argv[1:])
