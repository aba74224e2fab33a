"""What was run: how each run came about, what all of them share, and what differs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...config.serialization import class_name
from .grouping import flat
from .runs import Run
from .settings import figure, percent


def spoken(value: Any) -> str:
    """Returns a setting as Python writes it: `Movement(init=Constant(value=0.0), score_lr=0.01)`."""
    if isinstance(value, dict) and "class_path" in value:
        arguments = (value.get("init_args") or {}).items()
        return f"{class_name(value)}({', '.join(f'{key}={spoken(inner)}' for key, inner in arguments if inner is not None)})"
    if isinstance(value, dict):
        return ", ".join(f"{key} {spoken(inner)}" for key, inner in value.items() if inner is not None)
    if isinstance(value, list | tuple):
        return "; ".join(spoken(inner) for inner in value)
    return str(value)


PRUNING = ("structure", "schedule", "target_modules", "exclude_modules", "rules")
"""Settings of a PruningConfig that are told as they are."""

DEFAULT = "default"


def _details(run: Run) -> dict[str, str]:
    """Returns everything that is known of how a run came about, by what it is called; what does not apply is left out."""
    name = run.task_name
    told = {
        "task": name,
        **{f"task {key}": value for key, value in run.task.items() if key != "name" and value != name},
        "model": run.model,
        "method": "dense",
        **({} if run.pruning is None else _pruning(run, run.pruning)),
        "distilled from": run.teacher or DEFAULT,
        "steps": f"{run.steps:,}",
        "seed": run.seed,
        **{key: value for key, value in flat(run.recipe).items() if value != {}},
        "machine": run.machine,
        "versions": run.versions,
        "date": run.date,
    }
    return {key.replace("_", " ").replace(".", " "): spoken(value) for key, value in told.items() if value is not None}


def _pruning(run: Run, pruning: dict[str, Any]) -> dict[str, Any]:
    return {
        "method": pruning["method"],
        "density asked for": _asked(pruning),
        "scope": run.scope,
        **{key: pruning.get(key) or DEFAULT for key in PRUNING},
    }


def _asked(pruning: dict[str, Any]) -> str:
    """Returns the density asked for, or what decides it: the penalty, if the method was given one, or else the structure."""
    if pruning["density"] is not None:
        return percent(pruning["density"])
    penalty = (pruning["method"].get("init_args") or {}).get("penalty")
    return "by the structure" if penalty is None else "by the penalty"


def told_apart(runs: Sequence[Run]) -> tuple[dict[str, str], list[str]]:
    """Returns what holds for all runs that it applies to, and the names of what differs."""
    details = [_details(run) for run in runs]
    names = dict.fromkeys(name for told in details for name in told)
    values = {name: list(dict.fromkeys(told[name] for told in details if name in told)) for name in names}
    shared = {name: found[0] for name, found in values.items() if len(found) == 1 and found[0] != DEFAULT}
    return shared, [name for name, found in values.items() if len(found) > 1]


@dataclass(frozen=True)
class Row:
    """A run in the last table: its name, what differs from other runs, and its figures."""

    name: str
    cells: list[str]


def row(run: Run, differing: Sequence[str]) -> Row:
    """Returns a run's row, given the names of what differs."""
    told = _details(run)
    cells = [told.get(name, DEFAULT) for name in differing]
    return Row(run.name, ["–" if cell == DEFAULT else cell for cell in cells] + [figure(run.value), percent(run.density)])
