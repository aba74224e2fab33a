"""A recipe: one run as data. A model, a task, what to prune, and how to train. Read from YAML and flags."""

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...config.config import CHOICES, PruningConfig, kinds
from ...distillation import Distillation
from ...errors import InvalidInputError, nearest, require
from ...methods.base import Method
from ..tasks import glue, language  # noqa: F401, a task is found by its class, once its module is imported
from ..tasks.base import Task
from ..tasks.squad import task  # noqa: F401
from ..tasks.text import TextClassification

require("hub", "transformers", "accelerate", "jsonargparse", "yaml")

import jsonargparse  # noqa: E402
import torch  # noqa: E402
import yaml  # noqa: E402
from transformers import TrainingArguments  # noqa: E402

DEFAULTS = {
    "task": {"class_path": f"{TextClassification.__module__}.{TextClassification.__qualname__}"},
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
        pruning: what to prune, and how far. None: a dense run.
        teacher: a trained model with the same task and classes, to distil from: a name on the Hub or a folder.
        distillation: the temperature and the weights of the two losses; only with a teacher.
        max_length: texts are cut to so many tokens.
        config: settings of the model's config to change before it is loaded, as
            {"num_hidden_layers": 3} to keep the first three layers only.
        frozen_modules: modules that are not trained: names or endings of names, or one regular
            expression. ["embeddings"] is what the paper's runs do.
        resume: go on from the last whole checkpoint in training.output_dir instead of starting anew.
        source: the recipe as YAML, as it was read; written beside the model.
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
        if self.max_length < 1:
            raise InvalidInputError(f"max_length was given as {self.max_length}; it is a number of tokens, 1 or more.")
        if self.teacher is None and self.distillation != Distillation():
            raise InvalidInputError(f"{self.distillation} was given without a teacher. Set teacher to a trained model.")


USAGE = "fineprune train [RECIPE.yaml] [--setting value ...]"

READ = [setting.name for setting in dataclasses.fields(Recipe) if setting.name != "source"]


def parser(prune: bool = True, usage: str = USAGE) -> jsonargparse.ArgumentParser:
    """Returns the parser of a recipe: the help and the checks are made from the dataclasses.

    Args:
        prune: False leaves `--pruning` out, for a dense run.
        usage: the first line of the help.
    """
    made = jsonargparse.ArgumentParser(usage=usage, exit_on_error=False)
    made.add_argument("--recipe", action="config", help="YAML file with any of the settings below; flags win over it.")
    made.add_class_arguments(Recipe, skip={"pruning", "training", "source"})
    if prune:
        made.add_class_arguments(PruningConfig, "pruning")
        made.add_argument("--pruning.version", type=str, help=jsonargparse.SUPPRESS)  # what PruningConfig.to_dict writes
    else:
        made.add_argument("--pruning", type=type(None), help=jsonargparse.SUPPRESS)
    made.add_class_arguments(TrainingArguments, "training")
    made.set_defaults(DEFAULTS)
    return made


def read(arguments: Sequence[str], usage: str = USAGE) -> Recipe:
    """Reads a recipe from command-line arguments: `[RECIPE.yaml] [--flag value ...]`, flags winning.

    A recipe without `pruning` is a dense run.

    Raises:
        InvalidInputError: for an unknown key (the nearest known one is offered) or a value of the wrong type.
    """
    arguments = [part for argument in arguments for part in _separate(argument)]
    if arguments and not arguments[0].startswith("-"):
        arguments.insert(0, "--recipe")
    prune = _prunes(arguments)
    made = parser(prune, usage)
    try:
        settings = made.parse_args(arguments)
        settings.pop("pruning.version", None)
        objects = made.instantiate(settings)
    except jsonargparse.ArgumentError as error:
        raise InvalidInputError(_sentence(str(error), made)) from error
    except InvalidInputError:
        raise
    except ValueError as error:  # jsonargparse wraps what is refused in a list; the rest is from TrainingArguments
        if isinstance(_innermost(error), InvalidInputError):
            raise _innermost(error) from None
        raise InvalidInputError(f"The training settings cannot be used: {' '.join(str(error).split())}") from error
    settings.resume = False  # how this run was started is no part of what it is
    source = made.dump(settings, skip_default=True, format="yaml")
    return Recipe(**{name: objects.get(name) for name in READ}, source=source)


def _innermost(error: BaseException) -> BaseException:
    return error if error.__cause__ is None else _innermost(error.__cause__)


def _separate(argument: str) -> list[str]:
    """Writes `--recipe=PATH` as two arguments."""
    return ["--recipe", argument.removeprefix("--recipe=")] if argument.startswith("--recipe=") else [argument]


def _prunes(arguments: Sequence[str]) -> bool:
    """Whether the recipe or a flag says anything of pruning, or help is asked for."""
    if any(argument in ("-h", "--help") or argument.startswith("--pruning") for argument in arguments):
        return True
    files = [path for flag, path in itertools.pairwise(arguments) if flag == "--recipe"]
    return any(read_yaml(path).get("pruning") is not None for path in files)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Reads a YAML file of keys and values. Raises InvalidInputError if it is missing or is something else."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"The recipe {path} could not be read: {error}.") from error
    except yaml.YAMLError as error:
        raise InvalidInputError(f"The recipe {path} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise InvalidInputError(f"The recipe {path} holds {type(content).__name__}, not keys and values.")
    return content


UNKNOWN = re.compile(
    r"Option '([^']+)' is not accepted|does not accept option '([^']+)'|unrecognized arguments: (\S+)|"
    r"[Kk]ey '([^']+)' is not expected|Expected a dot import path string: (\S+)"
)
"""How jsonargparse reports a name that it does not know."""


def _sentence(error: str, made: jsonargparse.ArgumentParser) -> str:
    """Turns a parser's error into one sentence, with the nearest known name where one was not known."""
    unknown = UNKNOWN.search(error)
    if unknown:
        given = next(name for name in unknown.groups() if name).removeprefix("--").partition("=")[0]
        known = set(_known(made, full="." in given))
        if given in known:
            return f"The recipe has {given!r} where another choice belongs: {' '.join(error.split())}"
        return f"The recipe has no setting or choice {given!r}; {nearest(given, known)}"
    keys = re.findall(r'[Kk]ey "([^"]+)"', error)
    lacking = re.search(r"the following arguments are required: (.+)", error)
    if keys and lacking:
        return f"{'.'.join(keys)} lacks {lacking[1]}."
    if lacking:
        choice = f" to one of {', '.join(kind.__name__ for kind in kinds(Method))}" if lacking[1] == "pruning.method" else ""
        return f"The recipe lacks {lacking[1]}. Set it{choice}: in the recipe, or with --{lacking[1]}."
    values = re.findall(r"(?:Given value|Got value): (.+)", error)
    expected = list(dict.fromkeys(re.findall(r"Expected an? (.+?)(?:: |\. |\.?$)", error, re.MULTILINE)))
    if keys and values and expected:
        wanted = " or ".join("null" if "NoneType" in kind else re.sub(r"<class '(.+)'>", r"\1", kind) for kind in expected)
        quoted = f' Quoted, it is a text: "{values[0]}".' if "str" in wanted.split(" or ") and values[0].isdecimal() else ""
        return f"{'.'.join(dict.fromkeys(keys))} was given as {values[0]}; it takes {wanted}.{quoted}"
    return " ".join(error.split())


def _known(made: jsonargparse.ArgumentParser, full: bool) -> Iterator[str]:
    """Yields the names of all settings: whole ones, or only the last word of each."""
    for name in made.get_defaults().keys():  # noqa: SIM118, a Namespace is no mapping
        yield name if full else name.rpartition(".")[2]
    bases: tuple[type[Any], ...] = (*CHOICES, Task)
    for kind in [kind for base in bases for kind in kinds(base)]:
        yield kind.__name__
        yield from (setting.name for setting in dataclasses.fields(kind))
