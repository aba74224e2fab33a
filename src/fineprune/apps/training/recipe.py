"""A recipe: one run as data. Model, task, pruning and training, read from YAML and flags."""

import dataclasses
import functools
import json
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonargparse
import torch
import yaml
from transformers import TrainingArguments

from ...config.config import PruningConfig
from ...config.serialization import Reader, annotations, import_path, is_choice, is_own, kinds, with_bare_names
from ...distillation import Distillation
from ...errors import InvalidInputError, nearest
from ...methods.base import Method
from ..tasks import glue, language  # noqa: F401, a task is found by its class, once its module is imported
from ..tasks.base import Task
from ..tasks.squad import task  # noqa: F401
from ..tasks.text import TextClassification

DEFAULTS = {
    "model": "",  # which raises an error of its own
    "task": {"class_path": import_path(TextClassification)},
    "training.output_dir": "runs/fineprune",
    "training.eval_strategy": "epoch",
    "training.save_strategy": "epoch",
    "training.save_total_limit": 1,
    "training.logging_steps": 0.02,  # of all steps, so that a short run has curves too
    "training.report_to": "none",
    "training.dataloader_pin_memory": torch.accelerator.is_available(),
}
"""Where `fineprune train` differs from the defaults of Transformers' TrainingArguments."""


@dataclass(frozen=True)
class Recipe:
    """One run of `fineprune train`.

    Args:
        model: pretrained model to start from: a name on the Hub or a folder.
        task: the data.
        training: Transformers' TrainingArguments.
        pruning: how the model is pruned. None: a dense run.
        teacher: a trained model with the same task and classes, to distil from: a name on the Hub or a folder.
        distillation: the temperature and the weights of the two losses; only with a teacher.
        max_length: tokens that a text is cut to.
        config: settings of the model's config to change before it is loaded, as
            {"num_hidden_layers": 3} to keep the first three layers only.
        frozen_modules: modules that are not trained: names or endings of names, or one regular
            expression. ["embeddings"] is the setting of the paper's runs.
        resume: resume from the last whole checkpoint in training.output_dir.
        source: the recipe as YAML, as it was read; written beside the model.

    Raises:
        InvalidInputError: for a max_length below 1, or distillation without a teacher.
    """

    model: str
    task: Task
    training: TrainingArguments
    pruning: PruningConfig | None = None
    teacher: str | None = None
    distillation: Distillation = Distillation()
    max_length: int = 128
    config: dict[str, Any] = field(default_factory=dict)
    frozen_modules: list[str] | str | None = None
    resume: bool = False
    source: str = ""

    def __post_init__(self) -> None:
        if not self.model:
            raise InvalidInputError("The recipe lacks model. Set it: in the recipe, or with --model.")
        if self.max_length < 1:
            raise InvalidInputError(f"max_length must be 1 token or more, got {self.max_length}.")
        if self.teacher is None and self.distillation != Distillation():
            raise InvalidInputError(f"{self.distillation} needs a teacher. Set teacher to a trained model.")


USAGE = "fineprune train [RECIPE.yaml] [--setting value ...]"

FROM_JSONARGPARSE = ("print_config", "pruning", "training", "distillation")
"""Flags that print the settings, or read a block of them from a file."""


def read(arguments: Sequence[str], usage: str = USAGE, base: Mapping[str, Any] | None = None) -> Recipe:
    """Reads a recipe from command-line arguments: `[RECIPE.yaml] [--setting value ...]`, where flags win over the file.

    A recipe without `pruning` is a dense run. `base` is the content of a recipe over which the arguments win.

    Raises:
        InvalidInputError: for an unknown setting, with the nearest known name, or a value of the wrong type.
    """
    flags = list(_flags(arguments))
    contents = [_checked(base)] if base else []
    contents += [_checked(read_yaml(value)) for name, value in flags if name == "recipe" and value is not None]
    words = [f"--recipe={yaml.safe_dump(content, sort_keys=False)}" for content in contents]
    words += [word for name, value in flags if name != "recipe" for word in _checked_flag(name, value)]
    names = [name for name, _ in flags]
    asks_for_help = any(name in ("h", "help") or name.endswith(".help") for name in names)
    pruning = [content["pruning"] for content in contents if content.get("pruning") is not None]
    prune = asks_for_help or bool(pruning) or any(name.startswith("pruning") for name in names)
    has_method = any("method" in block for block in pruning) or any(name.startswith("pruning.method") for name in names)
    if prune and not asks_for_help and not has_method:
        choices = ", ".join(sorted(kind.__name__ for kind in kinds(Method)))
        raise InvalidInputError(f"The recipe lacks pruning.method. Set it to one of {choices}.")
    return _parse(recipe_parser(prune, usage), words)


def _parse(parser: jsonargparse.ArgumentParser, words: Sequence[str]) -> Recipe:
    try:
        settings = parser.parse_args(words)
        objects = parser.instantiate(settings)
    except InvalidInputError:
        raise
    except (jsonargparse.ArgumentError, ValueError) as error:  # jsonargparse wraps errors of objects in a list in its own
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, InvalidInputError):
            raise cause from None
        raise InvalidInputError(f"The recipe cannot be used: {' '.join(str(error).split())}") from error
    settings.resume = False  # how this run was started is no part of the recipe
    content = yaml.safe_load(parser.dump(settings, skip_default=True, format="yaml"))
    source = yaml.safe_dump(with_bare_names(content), sort_keys=False)
    return Recipe(**{setting.name: objects.get(setting.name) for setting in dataclasses.fields(Recipe)} | {"source": source})


def recipe_parser(prune: bool = True, usage: str = USAGE) -> jsonargparse.ArgumentParser:
    """Returns the parser of a recipe, made from the dataclasses; for a dense run without `--pruning`."""
    parser = jsonargparse.ArgumentParser(usage=usage, exit_on_error=False)
    parser.add_argument("--recipe", action="config", help="YAML file with any of the settings below; flags win over it.")
    parser.add_class_arguments(Recipe, skip={"pruning", "training", "source"})
    if prune:
        parser.add_class_arguments(PruningConfig, "pruning")
    else:
        parser.add_argument("--pruning", type=type(None), help=jsonargparse.SUPPRESS)
    parser.add_class_arguments(TrainingArguments, "training")
    parser.set_defaults(DEFAULTS)
    return parser


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Reads a YAML file of keys and values. Raises InvalidInputError if it is missing or is something else."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"The recipe {path} could not be read: {error}.") from error
    except yaml.YAMLError as error:
        raise InvalidInputError(f"The recipe {path} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise InvalidInputError(f"The recipe {path} must be keys and values, got {type(content).__name__}.")
    return content


class RecipeReader(Reader):
    """Checks the settings of a recipe, and gives each class of this library the import path that jsonargparse takes.

    A recipe may complete another, so a choice may have settings without a class. A class of another package stays as it is:
    jsonargparse imports it.
    """

    def make(self, kind: type[Any], settings: dict[str, Any]) -> Any:
        if not is_choice(kind):
            return settings
        return {"class_path": import_path(kind), **({"init_args": settings} if settings else {})}

    def without_class(self, base: type[Any], values: Mapping[str, Any], where: str) -> Any:
        if "class_path" in values:
            return super().without_class(base, values, where)
        known = {name: annotation for kind in kinds(base) for name, annotation in annotations(kind).items()}
        unknown = [name for name in values if name not in known and name != "init_args"]
        if unknown:
            raise InvalidInputError(f"{base.__name__} has no setting {unknown[0]!r}; {nearest(str(unknown[0]), known)}")
        return {
            name: self.read(known[name], value, f"{where}.{name}") if name in known else self.without_class(base, value, where)
            for name, value in values.items()
        }

    def unknown_class(self, base: type[Any], path: str, where: str) -> Any:
        return path if "." in path and not is_own(path) else super().unknown_class(base, path, where)


def _flags(arguments: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Yields the name and the text of each flag of a command line; a first word that is none names the recipe."""
    words = list(arguments)
    if words and not words[0].startswith("-"):
        words.insert(0, "--recipe")
    while words:
        name, equals, value = words.pop(0).partition("=")
        if not name.startswith("--") and name != "-h":
            raise InvalidInputError(f"The recipe has no setting {name!r}. Settings are flags: --name value.")
        takes_next = not equals and words and not words[0].startswith("--")
        yield name.lstrip("-"), value if equals else words.pop(0) if takes_next else None


def _checked(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of a YAML file, checked."""
    rest = dict(content)
    if not isinstance(content.get("pruning"), Mapping):
        return RecipeReader().settings(Recipe, rest)
    pruning = RecipeReader().versioned(PruningConfig, rest.pop("pruning"), "pruning")
    return {**RecipeReader().settings(Recipe, rest), "pruning": pruning}


def _checked_flag(name: str, value: str | None) -> list[str]:
    """Returns a flag as jsonargparse takes it, checked."""
    if value is None or name.endswith(".help") or name in FROM_JSONARGPARSE:
        return [f"--{name}", *([] if value is None else [value])]
    path = name.removesuffix("+").split(".")
    try:
        loaded = yaml.safe_load(value)
    except yaml.YAMLError:
        loaded = value
    try:
        checked = RecipeReader().settings(Recipe, _nested(path, loaded))
    except InvalidInputError:
        if isinstance(loaded, str | list | dict):
            raise
        checked = RecipeReader().settings(Recipe, _nested(path, value))  # a number is a text too
    read: Any = functools.reduce(operator.getitem, path, checked)
    return [f"--{name}={read if isinstance(read, str) else json.dumps(read) if isinstance(read, dict | list) else value}"]


def _nested(path: Sequence[str], value: Any) -> Any:
    return {path[0]: _nested(path[1:], value)} if path else value
