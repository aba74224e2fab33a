"""Groups runs by setting, and names each setting by its difference from the others."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ...config.serialization import class_name, in_short
from .result_files import Run
from .setting_runs import SettingRuns, grouped

METHOD_NAMES = {
    "Dense": "dense",
    "Magnitude": "magnitude",
    "Movement": "movement",
    "SoftMovement": "soft movement",
    "L0": "L0",
    "GroupLasso": "group lasso",
    "Random": "random",
}
"""The methods in the order in which they are listed; others follow under the name of their class."""

DENSITIES = {"pruning.density", "pruning.method.penalty"}
"""Choices in which the settings of one line may differ."""


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Returns nested settings as one level, `pruning.method.init.scale: 1.0`; a class stands under the name of its choice."""
    if isinstance(value, dict) and "class_path" in value:
        return {name: class_name(value), **flat(value.get("init_args") or {}, name)}
    if isinstance(value, dict):
        entries = [flat(inner, f"{name}.{key}" if name else str(key)) for key, inner in value.items()]
        return {key: inner for entry in entries for key, inner in entry.items()}
    return {name: value}


def choices(run: Run) -> dict[str, Any]:
    """Returns everything that was chosen for a run but its seed."""
    pruning = {"pruning": run.pruning} if run.pruning is not None else {}
    chosen = {**pruning, "model": run.model, "teacher": run.teacher, "task": run.task, "steps": run.steps, **run.recipe}
    return {key: value for key, value in flat(chosen).items() if value is not None}


def group(runs: Iterable[Run]) -> list[SettingRuns]:
    """Puts the seeds of each setting together, and names its line.

    The comparison with the most runs comes first; in each, dense settings, then by method, line and density.
    """
    comparisons = sorted(grouped(runs, lambda run: run.comparison).values(), key=len, reverse=True)
    headings = _headings([compared[0] for compared in comparisons])
    settings = []
    for heading, compared in zip(headings, comparisons, strict=True):
        of_comparison = [
            SettingRuns(tuple(sorted(alike, key=lambda run: run.seed)), line, heading)
            for line, of_line in _lines(compared)
            for alike in grouped(of_line, lambda run: _text(choices(run))).values()
        ]
        settings += sorted(of_comparison, key=_position)
    return settings


def _headings(firsts: Sequence[Run]) -> list[str]:
    """Returns the headings of comparisons, given a run of each: empty for a single one, with the base model if that differs."""
    if len(firsts) == 1:
        return [""]
    several = len({run.base for run in firsts}) > 1
    bases = ["/".join(Path(run.base).parts[-2:]) for run in firsts]
    return [f"{run.task_name}{f' from {base}' if several else ''}" for run, base in zip(firsts, bases, strict=True)]


def _position(setting: SettingRuns) -> tuple[Any, ...]:
    known = list(METHOD_NAMES)
    method = known.index(setting.first.method) if setting.first.method in known else len(known)
    return method, setting.first.method, not setting.plain, setting.line, -setting.level


def _lines(runs: list[Run]) -> Iterator[tuple[str, list[Run]]]:
    """Yields the name and the runs of each line; where two names would be the same, their differences are added."""
    for name, alike in grouped(runs, _line_name).items():
        lines = grouped(alike, lambda run: _text({key: one for key, one in choices(run).items() if key not in DENSITIES}))
        differing = _differing([json.loads(line) for line in lines])
        for line, of_line in lines.items():
            chosen = json.loads(line)
            yield ", ".join([name, *(f"{_short(key)} {chosen[key]}" for key in differing if key in chosen)]), of_line


def _line_name(run: Run) -> str:
    name = [METHOD_NAMES.get(run.method, run.method)]
    if run.pruning is not None and (structure := in_short(run.pruning["structure"])) != "Unstructured":
        name.append(structure)
    if run.scope not in (None, "local"):
        name.append(f"{run.scope} scope")
    return ", ".join(name if run.teacher is None else [*name, "distilled"])


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _differing(lines: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the choices that distinguish lines; a class without its own settings, where that is enough."""
    names = dict.fromkeys(name for chosen in lines for name in chosen)
    differing = [name for name in names if len({_text(chosen.get(name)) for chosen in lines}) > 1]
    broad = [name for name in differing if name.rpartition(".")[0] not in differing]
    distinct = {_text([chosen.get(name) for name in broad]) for chosen in lines}
    return broad if len(distinct) == len(lines) else differing


def _short(name: str) -> str:
    """Returns `score lr` for `pruning.method.score_lr`."""
    return re.sub(r"^(pruning\.)?(method\.)?(training\.)?", "", name).replace(".", " ").replace("_", " ")
