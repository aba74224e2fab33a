"""The result of a run, and `result.json`."""

import platform
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import torch
from transformers import Trainer

from ...models.inspection import Inspection
from ...version import VERSION
from .recipe import Recipe

RECIPE, RESULT = "recipe.yaml", "result.json"


@dataclass(frozen=True)
class Result:
    """The result of a run.

    Args:
        metrics: the task's figures on the validation split, the one to compare by first.
        inspection: the nonzero weights of the model, counted.
        seconds: wall time of training, evaluations included, of a resumed run also the time before its checkpoint;
            None for an evaluation alone.
        seed: of the run.
        history: Trainer's log, a dictionary for each entry.
    """

    metrics: dict[str, float]
    inspection: Inspection
    seconds: float | None
    seed: int
    history: list[dict[str, Any]]

    def to_dict(self, recipe: Recipe, trainer: Trainer) -> dict[str, Any]:
        """Returns the content of `result.json`: every figure of a run, with its machine and versions."""
        task = vars(recipe.task).items()
        return {
            "metrics": self.metrics,
            "headline": {"metric": recipe.task.metrics[0], "greater_is_better": recipe.task.greater_is_better},
            "model": recipe.model,
            "head": recipe.task.head,
            "teacher": recipe.teacher,
            "task": {
                "class": type(recipe.task).__name__,
                **{name: value for name, value in task if isinstance(value, str | int | float | list | None)},  # not its data
            },
            "pruning": None if recipe.pruning is None else recipe.pruning.to_dict(),
            "density": self.inspection.density,
            "remaining_weights": self.inspection.remaining_weights,
            "whole_model_density": self.inspection.whole_model.density,
            "layers": [asdict(layer) for layer in self.inspection.layers],
            "seconds": self.seconds,
            "steps": trainer.state.global_step,
            "seed": self.seed,
            "machine": {
                "processor": platform.machine(),
                "threads": torch.get_num_threads(),
                "device": str(trainer.args.device),
                "processes": trainer.args.world_size,
            },
            "versions": {"fineprune": VERSION, **{name: version(name) for name in ("torch", "transformers")}},
            "date": time.strftime("%Y-%m-%d"),
            "history": self.history,
        }
