"""The commands `train`, `evaluate` and `inspect`."""

from collections.abc import Sequence
from pathlib import Path

from ...errors import InvalidInputError
from ...models import targets
from ...models.inspection import Inspection, inspect
from . import recipe, run
from .pretrained import load_any
from .recipe import Recipe
from .result import RECIPE, Result


def train(arguments: Sequence[str]) -> tuple[Recipe, Result]:
    """Runs the recipe that `fineprune train` is given."""
    wanted = recipe.read(arguments)
    return wanted, run.train(wanted)


def evaluate(arguments: Sequence[str]) -> tuple[Recipe, Result]:
    """Evaluates the model that `fineprune evaluate` is given, on the task of its recipe or of the flags."""
    if not arguments or arguments[0].startswith("-"):
        if not {"-h", "--help"} & set(arguments):
            raise InvalidInputError("evaluate needs a model: fineprune evaluate FOLDER [--task.validation FILE ...]")
        recipe.read(arguments, usage="fineprune evaluate FOLDER [--setting value ...]")
    folder, *flags = arguments
    saved = Path(folder) / RECIPE
    known = [str(saved)] if saved.is_file() and not any(flag.startswith("--recipe") for flag in flags) else []
    wanted = recipe.read([*known, *flags, "--model", folder])
    return wanted, run.evaluate(folder, wanted.task, wanted.max_length, wanted.training)


def inspect_checkpoint(checkpoint: str) -> Inspection:
    """Counts the nonzero weights of any checkpoint.

    Args:
        checkpoint: folder of a saved model, or its name on the Hub, made here or not.
    """
    model = load_any(checkpoint)
    return inspect(model, targets.find(model))
