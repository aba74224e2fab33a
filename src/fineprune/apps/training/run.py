"""Runs a recipe: reads the data, trains and prunes with the stock Trainer, evaluates, saves."""

import copy
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import safetensors
import transformers
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import ExportableState

from ...errors import FileError, FinepruneError, InvalidInputError, nearest
from ...files import replace_whole
from ...models import targets
from ...models.inspection import Inspection, inspect
from ...pruner.build import assign
from ...trainer.callback import PruningCallback
from ...trainer.checkpoints import last_whole_checkpoint
from ...trainer.distillation_trainer import DistillationTrainer
from ..tasks.base import Prepared, Task
from . import model_card
from .pretrained import check_length, freeze, give_padding, load_pretrained
from .recipe import Recipe
from .result import RECIPE, RESULT, Result
from .weight_samples import WeightSamples


class Stopwatch(TrainerCallback, ExportableState):
    """Counts the seconds of training. Every checkpoint stores them, so that a resumed run continues the count."""

    def __init__(self, before: float = 0.0) -> None:
        self.before = before
        self._start = time.perf_counter()

    @classmethod
    def resumed(cls, checkpoint: str | None) -> "Stopwatch":
        """Returns one that continues from a checkpoint, or from 0 if the checkpoint stores no seconds."""
        if checkpoint is None:
            return cls()
        stored = json.loads((Path(checkpoint) / "trainer_state.json").read_text(encoding="utf-8"))["stateful_callbacks"]
        return cls(stored[cls.__name__]["attributes"]["before"] if cls.__name__ in stored else 0.0)

    @property
    def seconds(self) -> float:
        """Seconds until now."""
        return self.before + time.perf_counter() - self._start

    def state(self) -> dict[str, Any]:
        """Returns what Trainer writes into a checkpoint."""
        return {"args": {}, "attributes": {"before": self.seconds}}


def train(recipe: Recipe) -> Result:
    """Runs a recipe and writes the pruned model, its tokenizer, the recipe and the result into `training.output_dir`.

    Raises:
        InvalidInputError: for data, a model or settings that cannot be used; before anything is written.
        TrainingError: if a gradient is NaN or infinite.
        FileError: if the run cannot be saved.
    """
    folder = Path(recipe.training.output_dir or "")
    if not recipe.resume and folder.is_dir() and any(folder.iterdir()):
        raise InvalidInputError(
            f"{folder} already holds a run, or other files, and nothing is overwritten. Resume the run with --resume true, or "
            "give another --training.output_dir."
        )
    checkpoint = last_whole_checkpoint(folder, pruned=recipe.pruning is not None) if recipe.resume else None
    if recipe.resume and checkpoint is None:
        raise InvalidInputError(f"{folder} holds no whole checkpoint to resume from. Train without --resume true.")
    transformers.set_seed(recipe.training.seed)
    splits = recipe.task.load()
    tokenizer, model = _pretrained(recipe, splits.classes)
    teacher = None if recipe.teacher is None else load_pretrained(recipe.teacher, recipe.task.head)[1]
    prepared = recipe.task.prepare(splits.train, splits.validation, tokenizer, recipe.max_length)
    longest = prepared.longest()
    for one in [model] if teacher is None else [model, teacher]:
        check_length(one, longest)
    weight_samples = WeightSamples.of(model, _pruned_names(model, recipe))
    callback = None if recipe.pruning is None else PruningCallback(recipe.pruning)
    trainer = _trainer(model, tokenizer, recipe, prepared, teacher, callback)
    if callback is not None:
        callback.attach(trainer)
    stopwatch = Stopwatch.resumed(checkpoint)
    trainer.add_callback(stopwatch)
    _run(trainer, checkpoint, folder)
    seconds = stopwatch.seconds
    metrics = _metrics(trainer, recipe.task)
    result = Result(metrics, _inspect(model, callback), seconds, recipe.training.seed, trainer.state.log_history)
    _save(trainer, recipe, result, weight_samples.finished(model, None if callback is None else callback.pruner), folder)
    return result


def evaluate(folder: str, task: Task, max_length: int, training: TrainingArguments) -> Result:
    """Evaluates a saved model on a task's validation split. Writes nothing."""
    tokenizer, model = load_pretrained(folder, task.head)
    names: dict[int, str] = model.config.id2label or {}  # type: ignore[assignment]
    classes = tuple(names[number] for number in sorted(names))
    prepared = task.prepare(None, task.load_validation(classes), tokenizer, max_length)
    check_length(model, prepared.longest())
    arguments = copy.copy(training)
    with tempfile.TemporaryDirectory() as arguments.output_dir:  # Trainer makes the folder that it is given
        trainer = _trainer(model, tokenizer, Recipe(folder, task, arguments), prepared, None, None)
        return Result(_metrics(trainer, task), _inspect(model, None), None, training.seed, [])


def _pretrained(recipe: Recipe, classes: tuple[str, ...]) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    settings = {**recipe.task.config(classes), **recipe.config}
    tokenizer, model = load_pretrained(recipe.model, recipe.task.head, **settings)
    if recipe.frozen_modules is not None:
        freeze(model, recipe.frozen_modules)
    give_padding(tokenizer, model)
    return tokenizer, model


def _pruned_names(model: PreTrainedModel, recipe: Recipe) -> list[str]:
    """Names the weights that are pruned, each once, or of a dense run those that would be by default."""
    if recipe.pruning is None:
        return list(targets.find(model))
    return list(dict.fromkeys(name for _, parameters in assign(model, recipe.pruning) for name in parameters))


def _trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    prepared: Prepared,
    teacher: PreTrainedModel | None,
    callback: PruningCallback | None,
) -> Trainer:
    arguments = recipe.training
    metric = (arguments.metric_for_best_model or recipe.task.metrics[0]).removeprefix("eval_")
    if metric not in recipe.task.metrics:
        raise InvalidInputError(f"metric_for_best_model has no choice {metric!r}; {nearest(metric, recipe.task.metrics)}")
    if arguments.metric_for_best_model is not None:
        arguments.greater_is_better = recipe.task.greater_is_better and not metric.endswith("loss")
    if prepared.ordered and arguments.train_sampling_strategy == "group_by_length":
        raise InvalidInputError(
            "train_sampling_strategy must not be 'group_by_length' for this task: it changes the order of the validation data "
            "too, on which the task relies. Leave it out; its windows have about the same length anyway."
        )
    validation = prepared.validation
    settings: dict[str, Any] = {
        "model": model,
        "args": arguments,
        "train_dataset": prepared.train,
        "eval_dataset": validation[""] if list(validation) == [""] else validation,
        "processing_class": tokenizer,
        "data_collator": prepared.collator,
        "compute_metrics": prepared.metrics,
        "preprocess_logits_for_metrics": prepared.reduce,
        "callbacks": [] if callback is None else [callback],
    }
    try:
        if teacher is None:
            return Trainer(**settings)
        return DistillationTrainer(**settings, teacher=teacher, distillation=recipe.distillation)
    except InvalidInputError:
        raise
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise InvalidInputError(f"Training could not be set up: {' '.join(str(error).split())}") from error


def _run(trainer: Trainer, checkpoint: str | None, folder: Path) -> None:
    """Trains; removes the empty output folder if the config does not fit the model or the run."""
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except InvalidInputError:
        if folder.is_dir() and not any(folder.iterdir()) and trainer.is_world_process_zero():
            folder.rmdir()
        raise
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        if isinstance(error, FinepruneError) or (isinstance(error, RuntimeError) and "inline_container" not in str(error)):
            raise  # "inline_container" is torch.save's error where a file cannot grow
        raise FileError(
            f"A checkpoint could not be saved in {folder}: {error}. Free disk space and resume with --resume true."
        ) from error


def _metrics(trainer: Trainer, task: Task) -> dict[str, float]:
    """Returns the metrics of the weights that the model holds: of the evaluation that training ended with, or a new one."""
    logged: dict[str, float] = {}
    if not trainer.args.load_best_model_at_end:
        for entry in trainer.state.log_history:
            if entry["step"] == trainer.state.global_step:
                logged |= entry
    if not all(f"eval_{name}" in logged for name in task.metrics):
        logged = trainer.evaluate()
    return {name: logged[f"eval_{name}"] for name in task.metrics}


def _inspect(model: nn.Module, callback: PruningCallback | None) -> Inspection:
    """Counts the nonzero weights among the pruned ones, or of a dense run among those that are pruned by default."""
    if callback is not None and callback.summary is not None:
        return callback.summary
    return inspect(model, targets.find(model))


def _save(trainer: Trainer, recipe: Recipe, result: Result, weight_samples: WeightSamples, folder: Path) -> None:
    content = result.to_dict(recipe, trainer)
    try:
        trainer.save_model(str(folder))  # on every rank: where weights are sharded, the first one fetches them
        if not trainer.is_world_process_zero():
            return
        weight_samples.save(folder)
        if recipe.source:
            (folder / RECIPE).write_text(recipe.source, encoding="utf-8")
        model_card.write(folder, content)
        text = json.dumps(content, indent=2) + "\n"
        replace_whole(folder / RESULT, lambda path: path.write_text(text, encoding="utf-8"))  # last: with it a run is finished
    except (OSError, safetensors.SafetensorError) as error:
        raise FileError(
            f"The run could not be saved in {folder}: {error}. Free disk space; if a checkpoint was saved, --resume true "
            "finishes the run."
        ) from error
