"""Reads finished runs from their folders: what `fineprune train` wrote, and nothing that it did not."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...config.serialization import class_name, kinds
from ...errors import InvalidInputError, is_number
from ...methods.base import Method
from ...models.inspection import Count
from ..training import model_card
from ..training.recipe import read_yaml
from ..training.result import RECIPE, RESULT
from ..training.weight_samples import FILE, WeightSamples

Points = list[tuple[int, float]]
"""(step, value), in the order of the run."""

TOLD_TWICE = {"model", "task", "pruning", "teacher", "resume"}
"""What a recipe says and `result.json` too."""

NO_SETTINGS = {"seed", "data_seed", "output_dir", "logging_dir", "run_name"}
"""Training arguments in which runs of one setting may differ."""


@dataclass(frozen=True)
class Run:
    """A finished run, as its `result.json` and its recipe tell it.

    Args:
        name: of its folder, below the folder that holds all runs.
        folder: where it lies.
        metrics: the task's figures on the validation split.
        metric: the one of them to compare by.
        greater_is_better: whether more of it is better.
        model: what it started from.
        base: the model to compare by: `model`, or where that is another of these runs, what that one started from.
        teacher: what it was distilled from.
        task: the name of the task and its settings.
        pruning: PruningConfig.to_dict without the version; None for a dense run.
        density: fraction of the prunable weights kept.
        remaining_weights: the paper's count, see Inspection.
        whole_model_density: fraction of all parameters that are not zero.
        layers: a count for each prunable weight.
        seconds: of training, evaluations included.
        steps: optimizer steps.
        seed: of the run.
        machine, versions: what it was measured on.
        date: of its end, as 2026-01-31.
        history: Trainer's log.
        recipe: settings of the recipe that are not above; empty where the run had no recipe file.
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
    history: list[dict[str, Any]]
    recipe: dict[str, Any]

    @property
    def value(self) -> float:
        """The figure to compare by."""
        return self.metrics[self.metric]

    @property
    def method(self) -> str:
        """The method's class, as Movement; Dense for a run that pruned nothing."""
        return "Dense" if self.pruning is None else class_name(self.pruning["method"])

    @property
    def scope(self) -> str | None:
        """Where the budget was shared out; None for a dense run, and for a method that does not rank."""
        ranks = {kind.__name__: kind.ranks for kind in kinds(Method)}
        return None if self.pruning is None or not ranks.get(self.method, True) else str(self.pruning["scope"])

    @property
    def contest(self) -> str:
        """What runs must share for their figures to be compared: the task, its metric and the base model."""
        return json.dumps([self.task, self.metric, self.greater_is_better, self.base], sort_keys=True)

    @property
    def task_name(self) -> str:
        """The data set, or the files that were trained on, without their folders."""
        return model_card.task_name(self.task)

    @property
    def base_name(self) -> str:
        """The base model's name on the Hub, or the last two parts of a folder's."""
        return "/".join(Path(self.base).parts[-2:])

    def curve(self, name: str) -> Points:
        """Returns what was logged under a name."""
        return [(entry["step"], entry[name]) for entry in self.history if is_number(entry.get(name))]

    def weight_samples(self) -> WeightSamples | None:
        """Returns the sample of its weights, if one was saved. Raises InvalidInputError for a damaged one."""
        return WeightSamples.load(self.folder) if (self.folder / FILE).is_file() else None


def find(paths: Sequence[str]) -> list[Run]:
    """Reads the runs in the given folders, or in folders inside them, each once.

    Raises:
        InvalidInputError: for a folder without a run, and for a file that is damaged.
    """
    if not paths:
        raise InvalidInputError("No run was given. Name folders of runs, or folders that hold such: fineprune report RUN...")
    folders = list(dict.fromkeys(folder for path in paths for folder in _folders(Path(path))))
    common = os.path.commonpath(folders) if len(folders) > 1 else folders[0].parent
    runs = [read(folder, readable(str(folder.relative_to(common)))) for folder in folders]
    return [replace(run, base=_base(run, runs)) for run in runs]


def _base(run: Run, runs: Sequence[Run]) -> str:
    """Returns what a run started from, or the run that it started from, and so on."""
    before = [other for other in runs if other is not run and _is_at(other.folder, Path(run.model))]
    return _base(before[0], [other for other in runs if other is not run]) if before else run.model


def _is_at(folder: Path, named: Path) -> bool:
    """Whether a run in the folder is meant by a path, which may be relative to a folder that is not known."""
    return folder == named.resolve() or (not named.is_absolute() and folder.parts[-len(named.parts) :] == named.parts)


def readable(name: str) -> str:
    """Returns a file's name as text that can be written, whatever its bytes are."""
    return name.encode(errors="replace").decode()


def _folders(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        raise InvalidInputError(f"{path} is not a folder. Give the output folder of a run, or one that holds such folders.")
    found = [path / RESULT] if (path / RESULT).is_file() else sorted(path.rglob(RESULT))
    if not found:
        raise InvalidInputError(
            f"{path} holds no {RESULT}, neither itself nor in its folders: there is no finished run. "
            "`fineprune train` writes it at the end of a run; --resume true finishes one that broke off."
        )
    yield from (result.parent.resolve() for result in found)


def read(folder: Path, name: str) -> Run:
    """Reads one run. Raises InvalidInputError, naming the file, for one that is damaged."""
    path = folder / RESULT
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        recipe = read_yaml(folder / RECIPE) if (folder / RECIPE).is_file() else {}
        return _run(name, folder, facts, recipe)
    except KeyError as error:
        problem = f"it lacks {error}"
    except (OSError, ValueError, TypeError, AttributeError) as error:
        if isinstance(error, InvalidInputError):
            raise
        problem = str(error)
    raise InvalidInputError(
        f"{path} is not a whole result of `fineprune train`: {problem}. Train this run again, or leave its folder out."
    )


def _run(name: str, folder: Path, facts: dict[str, Any], recipe: dict[str, Any]) -> Run:
    metrics = {str(key): _number(value) for key, value in facts["metrics"].items()}
    headline, pruning = facts["headline"], facts["pruning"]
    metrics[headline["metric"]]  # KeyError if it is not there
    return Run(
        name=name,
        folder=folder,
        metrics=metrics,
        metric=str(headline["metric"]),
        greater_is_better=bool(headline["greater_is_better"]),
        model=str(facts["model"]),
        base=str(facts["model"]),
        teacher=facts["teacher"],
        task=dict(facts["task"]),
        pruning=None if pruning is None else _checked(pruning),
        density=_fraction(facts["density"]),
        remaining_weights=None if facts["remaining_weights"] is None else _fraction(facts["remaining_weights"]),
        whole_model_density=_fraction(facts["whole_model_density"]),
        layers=tuple(_count(layer) for layer in facts["layers"]),
        seconds=None if facts["seconds"] is None else _number(facts["seconds"]),
        steps=int(_number(facts["steps"])),
        seed=int(_number(facts["seed"])),
        machine=dict(facts["machine"]),
        versions=dict(facts["versions"]),
        date=str(facts["date"]),
        history=[{**entry, "step": int(_number(entry["step"]))} for entry in facts["history"]],
        recipe=_settings(recipe),
    )


def _checked(pruning: dict[str, Any]) -> dict[str, Any]:
    for key in ("method", "structure", "schedule"):
        class_name(pruning[key])
    density, _ = pruning["density"], pruning["scope"]
    return {**{key: value for key, value in pruning.items() if key != "version"}, "density": density and _fraction(density)}


def _settings(recipe: dict[str, Any]) -> dict[str, Any]:
    training = {key: value for key, value in (recipe.get("training") or {}).items() if key not in NO_SETTINGS}
    return {key: value for key, value in {**recipe, "training": training}.items() if key not in TOLD_TWICE}


def _count(layer: dict[str, Any]) -> Count:
    count = Count(str(layer["name"]), tuple(layer["shape"]), int(layer["weights"]), int(layer["kept"]))
    if not 0 <= count.kept <= count.weights or not count.weights:
        raise ValueError(f"of {count.name}, {count.kept} of {count.weights} weights are kept")
    return count


def _number(value: object) -> float:
    if not is_number(value):
        raise ValueError(f"{value!r} stands where a number belongs")
    return float(value)  # type: ignore[arg-type]


def _fraction(value: object) -> float:
    if not 0 <= _number(value) <= 1:
        raise ValueError(f"the density {value} is not between 0 and 1")
    return _number(value)
