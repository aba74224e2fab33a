"""How each run was made: the settings that all runs share, and those in which they differ."""

from collections.abc import Sequence
from typing import Any

from ...config.serialization import class_name
from .formats import decimal, percent
from .grouping import flat
from .result_files import Run

NOT_GIVEN = "–"


def as_python(value: Any) -> str:
    """Returns a setting as Python writes it: `Movement(init=Constant(value=0.0), score_lr=0.01)`."""
    if isinstance(value, dict) and "class_path" in value:
        arguments = (value.get("init_args") or {}).items()
        return f"{class_name(value)}({', '.join(f'{key}={as_python(inner)}' for key, inner in arguments if inner is not None)})"
    if isinstance(value, dict):
        return ", ".join(f"{key} {as_python(inner)}" for key, inner in value.items() if inner is not None)
    if isinstance(value, list | tuple):
        return "; ".join(as_python(inner) for inner in value)
    return NOT_GIVEN if value is None else str(value)


def _details(run: Run) -> dict[str, str]:
    """Returns everything that is known about a run, by name."""
    known = {
        "task": run.task_name,
        **{f"task {key}": value for key, value in run.task.items() if key != "name" and value != run.task_name},
        "model": run.model,
        **({"method": "dense"} if run.pruning is None else {**run.pruning, "scope": run.scope}),
        "distilled from": run.teacher,
        "steps": f"{run.steps:,}",
        "seed": run.seed,
        **flat(run.recipe),
        "machine": run.machine,
        "versions": run.versions,
        "date": run.date,
    }
    return {key.replace("_", " ").replace(".", " "): as_python(value) for key, value in known.items()}


def shared_and_differing(runs: Sequence[Run]) -> tuple[dict[str, str], list[str]]:
    """Returns the settings that are the same in all runs that have them, and the names of those that differ."""
    details = [_details(run) for run in runs]
    names = dict.fromkeys(name for known in details for name in known)
    values = {name: list(dict.fromkeys(known[name] for known in details if name in known)) for name in names}
    shared = {name: found[0] for name, found in values.items() if len(found) == 1 and found[0] != NOT_GIVEN}
    return shared, [name for name, found in values.items() if len(found) > 1]


def run_cells(run: Run, differing: Sequence[str]) -> list[str]:
    """Returns a run's row in the table of every run: the settings in which runs differ, its metric and its density."""
    known = _details(run)
    return [*(known.get(name, NOT_GIVEN) for name in differing), decimal(run.value), percent(run.density)]
