"""Runs a recipe: reads the data, trains and prunes with the stock Trainer, evaluates, saves."""

import json
import logging
import pickle
import platform
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import targets
from .checkpoints import last_whole_checkpoint
from .errors import FileError, FinepruneError, InvalidInputError, enumeration, nearest
from .extras import require
from .inspection import Inspection, inspect
from .recipe import Recipe
from .tasks.tabular import Examples, Task
from .trainer import PruningCallback

require("hub", "transformers", "accelerate", "datasets", "sklearn")

import datasets  # noqa: E402
import numpy as np  # noqa: E402
import safetensors  # noqa: E402
import transformers  # noqa: E402
from huggingface_hub.errors import StrictDataclassError  # noqa: E402
from sklearn.metrics import accuracy_score, f1_score  # noqa: E402
from transformers import (  # noqa: E402
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)

logger = logging.getLogger(__name__)

RECIPE, RESULT = "recipe.yaml", "result.json"

METRICS = ("accuracy", "f1_macro", "loss")

LOADING_ERRORS = (
    *(OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError),
    *(safetensors.SafetensorError, pickle.UnpicklingError, StrictDataclassError),
)
"""What Transformers raises for a folder, a file or a setting of which it cannot make a model."""


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Args:
        metrics: accuracy and macro-averaged F1 on the validation split, from 0 to 1; the loss.
        inspection: what is left of the model, counted on its weights.
        seconds: wall time of training, evaluations included; None for an evaluation alone.
        seed: of the run.
        history: Trainer's log, a dictionary each time something was logged.
    """

    metrics: dict[str, float]
    inspection: Inspection
    seconds: float | None
    seed: int
    history: list[dict[str, Any]]


def train(recipe: Recipe) -> Result:
    """Runs a recipe and writes the pruned model, its tokenizer, the recipe and the result into `training.output_dir`.

    Args:
        recipe: what to run.

    Raises:
        InvalidInputError: for data, a model or settings that cannot be used; before anything is written.
    """
    folder = Path(recipe.training.output_dir or "")
    _refuse_occupied(folder, recipe.resume)
    checkpoint = last_whole_checkpoint(folder, pruned=recipe.pruning is not None) if recipe.resume else None
    if recipe.resume and checkpoint is None:
        raise InvalidInputError(f"{folder} holds no whole checkpoint to resume from. Train without --resume true.")
    transformers.set_seed(recipe.training.seed)
    splits = recipe.task.load()
    tokenizer, model = _pretrained(recipe, splits.classes)
    train_data, validation_data = (encode(split, tokenizer, recipe.max_length) for split in (splits.train, splits.validation))
    callback = None if recipe.pruning is None else PruningCallback(recipe.pruning)
    trainer = _trainer(model, tokenizer, recipe.training, train_data, validation_data, callback)
    start = time.perf_counter()
    _run(trainer, checkpoint, folder)
    seconds = time.perf_counter() - start
    metrics = _metrics(_last_evaluation(trainer) or trainer.evaluate())
    result = Result(metrics, _inspect(model, callback), seconds, recipe.training.seed, trainer.state.log_history)
    _save(trainer, recipe, result, folder)
    return result


def evaluate(folder: str, task: Task, max_length: int, training: TrainingArguments) -> Result:
    """Evaluates a saved model on a task's validation split. Writes nothing.

    Raises:
        InvalidInputError: if there is no model, or a label is not one of its classes.
    """
    tokenizer, model = load_pretrained(folder)
    names: dict[int, str] = model.config.id2label or {}  # type: ignore[assignment]
    classes = tuple(names[number] for number in sorted(names))
    validation = encode(task.load_validation(classes), tokenizer, max_length)
    training.output_dir = folder  # Trainer makes the folder that it is given
    trainer = _trainer(model, tokenizer, training, None, validation, None)
    return Result(_metrics(trainer.evaluate()), _inspect(model, None), None, training.seed, [])


def load_pretrained(name: str, num_labels: int | None = None, **config: Any) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Loads a tokenizer and a text classifier from the Hub or a folder.

    Args:
        name: name on the Hub, or folder.
        num_labels: how many classes; None: as many as the model has.
        config: settings of the model's config to change.

    Raises:
        InvalidInputError: if it is no checkpoint of a model, lacks weights, or the config has no such setting.
    """
    try:
        settings = AutoConfig.from_pretrained(name)
        for key, value in config.items():
            if key not in settings.to_dict():
                raise InvalidInputError(f"The config of {name} has no setting {key!r}; {nearest(key, settings.to_dict())}")
            setattr(settings, key, value)
        if num_labels is not None:
            settings.num_labels = num_labels
        tokenizer = AutoTokenizer.from_pretrained(name)
        return tokenizer, _load(AutoModelForSequenceClassification, name, config=settings)
    except InvalidInputError:
        raise
    except LOADING_ERRORS as error:
        raise InvalidInputError(f"{name} could not be loaded as a text classifier: {' '.join(str(error).split())}") from error


def load_any(name: str) -> PreTrainedModel:
    """Loads any checkpoint as the class that its config names.

    Raises:
        InvalidInputError: if it is no checkpoint, or lacks weights of that class.
    """
    try:
        architectures = AutoConfig.from_pretrained(name).architectures or []
        return _load(getattr(transformers, architectures[0], AutoModel) if architectures else AutoModel, name)
    except InvalidInputError:
        raise
    except LOADING_ERRORS as error:
        raise InvalidInputError(f"{name} is not a checkpoint that can be read: {' '.join(str(error).split())}") from error


def _load(kind: Any, name: str, **settings: Any) -> PreTrainedModel:
    """Loads a model; raises if weights inside its blocks were not in the checkpoint and would be random."""
    loaded: tuple[PreTrainedModel, dict[str, Any]] = kind.from_pretrained(name, output_loading_info=True, **settings)
    model, report = loaded
    inside = tuple(f"{block}." for block, _ in targets.blocks(model))
    missing = [key for key in sorted(report["missing_keys"]) if key.startswith(inside)] if inside else []
    if missing:
        raise InvalidInputError(f"{name} lacks weights that its config names: {enumeration(missing)}.")
    return model


def _pretrained(recipe: Recipe, classes: tuple[str, ...]) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    tokenizer, model = load_pretrained(recipe.model, num_labels=len(classes), **recipe.config)
    model.config.id2label = dict(enumerate(classes))
    model.config.label2id = {name: number for number, name in enumerate(classes)}
    if recipe.frozen_modules is not None:
        freeze(model, recipe.frozen_modules)
    if tokenizer.pad_token is None:  # as in GPT-2; a sequence ends before its padding, so the model sees none of it
        if tokenizer.eos_token is None:
            raise InvalidInputError(f"The tokenizer of {recipe.model} has no token for padding. Add one, and save it.")
        logger.warning("The tokenizer has no token for padding; %r, which ends a text, is taken.", tokenizer.eos_token)
        tokenizer.pad_token = tokenizer.eos_token
        model.config.pad_token_id = tokenizer.pad_token_id
    return tokenizer, model


def freeze(model: nn.Module, frozen_modules: list[str] | str) -> None:
    """Stops every parameter inside the named modules from being trained.

    Raises:
        InvalidInputError: for a name that matches no module.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    targets.refuse_unmatched(frozen_modules, modules, what="module")
    for name, module in modules.items():
        if targets.matches(name, frozen_modules):
            module.requires_grad_(False)


def encode(examples: Examples, tokenizer: PreTrainedTokenizerBase, max_length: int) -> datasets.Dataset:
    """Returns the token numbers and labels of each example, cut to `max_length` tokens, not padded."""
    encoded = tokenizer(examples.texts, examples.pairs, truncation=True, max_length=max_length)
    return datasets.Dataset.from_dict({**encoded, "labels": examples.labels})


def _trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    arguments: TrainingArguments,
    train_data: datasets.Dataset | None,
    validation_data: datasets.Dataset,
    callback: PruningCallback | None,
) -> Trainer:
    metric = (arguments.metric_for_best_model or "loss").removeprefix("eval_")
    if metric not in METRICS:
        raise InvalidInputError(f"metric_for_best_model was given as {metric!r}; {nearest(metric, METRICS)}")
    try:
        return Trainer(
            model=model,
            args=arguments,
            train_dataset=train_data,
            eval_dataset=validation_data,
            processing_class=tokenizer,
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=classification_metrics,
            callbacks=[] if callback is None else [callback],
        )
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise InvalidInputError(f"Training could not be set up: {' '.join(str(error).split())}") from error


def classification_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy, and F1 averaged over the classes, both from 0 to 1."""
    chosen = np.argmax(prediction.predictions, axis=-1)
    f1 = f1_score(prediction.label_ids, chosen, average="macro", zero_division=0.0)
    return {"accuracy": float(accuracy_score(prediction.label_ids, chosen)), "f1_macro": float(f1)}


def _run(trainer: Trainer, checkpoint: str | None, folder: Path) -> None:
    """Trains; where the config does not fit the model or the run, leaves no empty folder behind."""
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except InvalidInputError:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        raise
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        if isinstance(error, FinepruneError) or (isinstance(error, RuntimeError) and "inline_container" not in str(error)):
            raise  # but torch.save's way to say that a file cannot grow
        raise FileError(
            f"A checkpoint could not be saved in {folder}: {error}. Free some space, then --resume true."
        ) from error


def _last_evaluation(trainer: Trainer) -> dict[str, float] | None:
    """Returns the evaluation of the weights that the model holds, if training ended with one."""
    if trainer.args.load_best_model_at_end:
        return None
    steps = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    return steps[-1] if steps and steps[-1]["step"] == trainer.state.global_step else None


def _metrics(logged: dict[str, float]) -> dict[str, float]:
    return {name: logged[f"eval_{name}"] for name in METRICS}


def _inspect(model: nn.Module, callback: PruningCallback | None) -> Inspection:
    """Counts what is left, of what was pruned or of what a pruner would prune by default."""
    if callback is not None and callback.summary is not None:
        return callback.summary
    return inspect(model, targets.find(model))


def _refuse_occupied(folder: Path, resume: bool) -> None:
    if not resume and folder.is_dir() and any(folder.iterdir()):
        raise InvalidInputError(
            f"{folder} already holds a run, or other files. Give --resume true to go on with a run, or another "
            "--training.output_dir; nothing is overwritten."
        )


def _save(trainer: Trainer, recipe: Recipe, result: Result, folder: Path) -> None:
    facts = {
        "metrics": result.metrics,
        "density": result.inspection.density,
        "remaining_weights": result.inspection.remaining_weights,
        "whole_model_density": result.inspection.whole_model.density,
        "layers": [asdict(layer) for layer in result.inspection.layers],
        "seconds": result.seconds,
        "steps": trainer.state.global_step,
        "seed": result.seed,
        "machine": {"processor": platform.machine(), "threads": torch.get_num_threads(), "device": str(trainer.args.device)},
        "versions": {name: version(name) for name in ("fineprune", "torch", "transformers")},
        "date": time.strftime("%Y-%m-%d"),
        "history": result.history,
    }
    try:
        trainer.save_model(str(folder))
        if recipe.source:
            (folder / RECIPE).write_text(recipe.source, encoding="utf-8")
        (folder / RESULT).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    except (OSError, safetensors.SafetensorError) as error:
        raise FileError(
            f"The run could not be saved in {folder}: {error}. Free some space; "
            "if a checkpoint was saved, --resume true finishes the run."
        ) from error
