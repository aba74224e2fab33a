"""Reads finished runs from the folders that `fineprune train` wrote."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...config.serialization import class_name, kinds
from ...errors import InvalidInputError, enumeration, is_number
from ...methods.base import Method
from ...models.inspection import Count
from ..sweep.record import RECORD
from ..training import model_card
from ..training.recipe import read_yaml
from ..training.result import RECIPE, RESULT

ALSO_IN_RESULT = {"model", "task", "pruning", "teacher", "resume"}
"""Settings of a recipe that `result.json` holds too, or that say nothing about the run."""

MAY_DIFFER = {"seed", "data_seed", "output_dir", "logging_dir", "run_name"}
"""Training arguments in which the runs of one setting may differ."""


@dataclass(frozen=True)
class Run:
    """A finished run, as its `result.json` and its recipe describe it.

    Args:
        name: of its folder, relative to the folder that holds all runs.
        metric: the name of the metric to compare by.
        model: the model that training started from.
        base: `model`, or where that is another of these runs, the model which that run started from.
        pruning: PruningConfig.to_dict without the version; None for a dense run.
        density, remaining_weights, whole_model_density: see Inspection.
        layers: a count for each prunable weight.
        recipe: the settings of the recipe that are not above; empty for a run without a recipe file.
    """

    name: str
    folder: Path
    metrics: dict[str, float]
    metric: str
    greater_is_better: bool
    model: str
    base: str
    teacher: str | None
    task: dict[str, Any]
    pruning: dict[str, Any] | None
    density: float
    remaining_weights: float | None
    whole_model_density: float
    layers: tuple[Count, ...]
    seconds: float | None
    steps: int
    seed: int
    machine: dict[str, Any]
    versions: dict[str, str]
    date: str
    recipe: dict[str, Any]

    @property
    def value(self) -> float:
        """The metric to compare by."""
        return self.metrics[self.metric]

    @property
    def method(self) -> str:
        """The method's class, as Movement; Dense for a run that pruned nothing."""
        return "Dense" if self.pruning is None else class_name(self.pruning["method"])

    @property
    def scope(self) -> str | None:
        """The scope of the density; None for a dense run, and for a method that does not rank."""
        ranks = {kind.__name__: kind.ranks for kind in kinds(Method)}
        return None if self.pruning is None or not ranks.get(self.method, True) else str(self.pruning["scope"])

    @property
    def comparison(self) -> str:
        """Identifies what runs must share for their metrics to be compared: the task, the metric and the base model."""
        return json.dumps([self.task, self.metric, self.greater_is_better, self.base], sort_keys=True)

    @property
    def task_name(self) -> str:
        """The data set, or the files that it was trained on, without their folders."""
        return model_card.task_name(self.task)


def find_runs(paths: Sequence[str]) -> list[Run]:
    """Reads the runs in the given folders and in the folders inside them, each once.

    Raises:
        InvalidInputError: for a folder without a run, and for a damaged file.
    """
    if not paths:
        raise InvalidInputError("No run was given. Give folders of runs, or folders that hold such: fineprune report RUN...")
    folders = list(dict.fromkeys(folder for path in paths for folder in _run_folders(Path(path))))
    common = os.path.commonpath(folders) if len(folders) > 1 else folders[0].parent
    runs = [read_run(folder, str(folder.relative_to(common))) for folder in folders]
    return [replace(run, base=_base_model(run, runs)) for run in runs]


def _base_model(run: Run, runs: Sequence[Run]) -> str:
    """Follows the models that runs started from back to one that is not among the runs."""
    others = [other for other in runs if other is not run]
    before = next((other for other in others if _is_at(other.folder, Path(run.model))), None)
    return run.model if before is None else _base_model(before, others)


def _is_at(folder: Path, path: Path) -> bool:
    """Whether a path means this folder; the path may be relative to a folder that is not known."""
    return folder == path.resolve() or (not path.is_absolute() and folder.parts[-len(path.parts) :] == path.parts)


def _run_folders(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        raise InvalidInputError(f"{path} is not a folder. Give the output folder of a run, or one that holds such folders.")
    found = [path / RESULT] if (path / RESULT).is_file() else sorted(path.rglob(RESULT))
    if not found:
        raise InvalidInputError(
            f"{path} holds no {RESULT}, neither itself nor in its folders: there is no finished run. "
            "`fineprune train` writes it at the end of a run; --resume true finishes an interrupted one."
        )
    yield from (result.parent.resolve() for result in found)


def read_run(folder: Path, name: str) -> Run:
    """Reads one run. Raises InvalidInputError, naming the file, for a damaged one."""
    path = folder / RESULT
    recipe = read_yaml(folder / RECIPE) if (folder / RECIPE).is_file() else {}
    try:
        return _run(name, folder, json.loads(path.read_text(encoding="utf-8")), recipe)
    except KeyError as error:
        problem = f"it lacks {error}"
    except (OSError, ValueError, TypeError, AttributeError) as error:
        problem = str(error)
    raise InvalidInputError(
        f"{path} is not a whole result of `fineprune train`: {problem}. Train this run again, or leave its folder out."
    )


def _run(name: str, folder: Path, result: dict[str, Any], recipe: dict[str, Any]) -> Run:
    headline, pruning, remaining, seconds = (result[key] for key in ("headline", "pruning", "remaining_weights", "seconds"))
    result["metrics"][headline["metric"]]  # KeyError where it is missing
    return Run(
        name=name,
        folder=folder,
        base=result["model"],
        metrics={key: _number(value) for key, value in result["metrics"].items()},
        **headline,
        **{key: result[key] for key in ("model", "teacher", "task", "machine", "versions", "date")},
        pruning=None if pruning is None else _checked_pruning(pruning),
        density=_fraction(result["density"]),
        remaining_weights=None if remaining is None else _fraction(remaining),
        whole_model_density=_fraction(result["whole_model_density"]),
        layers=tuple(_count(layer) for layer in result["layers"]),
        seconds=None if seconds is None else _number(seconds),
        steps=int(_number(result["steps"])),
        seed=int(_number(result["seed"])),
        recipe=_recipe_settings(recipe),
    )


def _checked_pruning(pruning: dict[str, Any]) -> dict[str, Any]:
    for key in ("method", "structure", "schedule"):
        class_name(pruning[key])
    density, _ = pruning["density"], pruning["scope"]
    return {**{key: value for key, value in pruning.items() if key != "version"}, "density": density and _fraction(density)}


def _recipe_settings(recipe: dict[str, Any]) -> dict[str, Any]:
    training = {key: value for key, value in (recipe.get("training") or {}).items() if key not in MAY_DIFFER}
    return {key: value for key, value in {**recipe, "training": training}.items() if key not in ALSO_IN_RESULT}


def _count(layer: dict[str, Any]) -> Count:
    count = Count(str(layer["name"]), tuple(layer["shape"]), int(layer["weights"]), int(layer["kept"]))
    if not 0 <= count.kept <= count.weights or not count.weights:
        raise ValueError(f"{count.name} cannot keep {count.kept} of {count.weights} weights")
    return count


def _number(value: object) -> float:
    if not is_number(value):
        raise ValueError(f"{value!r} must be a number")
    return float(value)  # type: ignore[arg-type]


def _fraction(value: object) -> float:
    if not 0 <= _number(value) <= 1:
        raise ValueError(f"a density must be from 0 to 1, got {value}")
    return _number(value)


def missing_trials(paths: Sequence[str]) -> Iterator[str]:
    """Yields a sentence for each sweep in the given folders, and in folders inside them, that lacks results."""
    for record in dict.fromkeys(record.resolve() for path in paths for record in sorted(Path(path).rglob(RECORD))):
        try:
            trials = dict(json.loads(record.read_text(encoding="utf-8"))["trials"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # the runs beside a damaged record can still be shown
        missing = [name for name in trials if not (record.parent / name / RESULT).is_file()]
        if missing:
            have = "has" if len(missing) == 1 else "have"
            yield f"{len(missing)} of {len(trials)} trials of {record.parent.name} {have} no result: {enumeration(missing)}."
