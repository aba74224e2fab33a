"""Which runs belong together: seeds of one setting, settings of one line, lines of one contest; and their words."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ...config.serialization import class_name, in_short
from .runs import Run
from .settings import Setting, grouped, is_plain

WORDS = {
    "Dense": "dense",
    "Magnitude": "magnitude",
    "Movement": "movement",
    "SoftMovement": "soft movement",
    "L0": "L0",
    "GroupLasso": "group lasso",
    "Random": "random",
}
"""The methods in the order in which they are listed; others follow under their class's name."""

DENSITIES = {"pruning.density", "pruning.method.penalty"}
"""What differs between the settings of one line."""


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Returns nested settings as one level, `pruning.method.init.scale: 1.0`; a class stands under its choice's own name."""
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


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def group(runs: Iterable[Run]) -> list[Setting]:
    """Puts the seeds of each setting together, and names its line.

    The contest with the most runs comes first; in each, dense settings, then by method, line and density.
    """
    by_contest = sorted(grouped(runs, lambda run: run.contest).values(), key=len, reverse=True)
    places = _places([inside[0] for inside in by_contest])
    return [
        setting
        for place, inside in zip(places, by_contest, strict=True)
        for setting in sorted(_settings(inside, place), key=_rank)
    ]


def _settings(inside: list[Run], place: str) -> Iterator[Setting]:
    """Yields the settings of a contest."""
    for line, of_line in _lines(inside):
        for of_one in grouped(of_line, lambda run: _text(choices(run))).values():
            yield Setting(tuple(sorted(of_one, key=lambda run: run.seed)), line, place)


def _places(firsts: Sequence[Run]) -> list[str]:
    """Names contests, given a run of each: nothing where there is one, the model where there are several."""
    if len(firsts) == 1:
        return [""]
    several = len({run.base for run in firsts}) > 1
    return [f"{run.task_name}{f' from {run.base_name}' if several else ''}" for run in firsts]


def _rank(setting: Setting) -> tuple[Any, ...]:
    words = list(WORDS)
    method = words.index(setting.first.method) if setting.first.method in words else len(words)
    return method, setting.first.method, not is_plain(setting), setting.line, -setting.level


def _lines(runs: list[Run]) -> Iterator[tuple[str, list[Run]]]:
    """Yields the runs of each line with its words; where these would be the same for two, what differs is added."""
    for words, alike in grouped(runs, _words).items():
        lines = grouped(alike, _line)
        differing = _differing([json.loads(line) for line in lines])
        for line, of_line in lines.items():
            chosen = json.loads(line)
            yield ", ".join([words, *(f"{_short(name)} {chosen[name]}" for name in differing if name in chosen)]), of_line


def _line(run: Run) -> str:
    return _text({key: value for key, value in choices(run).items() if key not in DENSITIES})


def _differing(lines: Sequence[dict[str, Any]]) -> list[str]:
    """Names the choices that tell lines apart; a class without its own settings, where that is enough."""
    names = dict.fromkeys(name for chosen in lines for name in chosen)
    differing = [name for name in names if len({_text(chosen.get(name)) for chosen in lines}) > 1]
    broad = [name for name in differing if name.rpartition(".")[0] not in differing]
    told = {_text([chosen.get(name) for name in broad]) for chosen in lines}
    return broad if len(told) == len(lines) else differing


def _short(name: str) -> str:
    """Returns `score lr` for `pruning.method.score_lr`."""
    for prefix in ("pruning.", "method.", "training."):
        name = name.removeprefix(prefix)
    return name.replace(".", " ").replace("_", " ")


def _words(run: Run) -> str:
    return ", ".join([WORDS.get(run.method, run.method), *_structure(run), *_distilled(run)])


def _structure(run: Run) -> list[str]:
    if run.pruning is None:
        return []
    structure = run.pruning["structure"]
    named = in_short(structure)
    scoped = [f"{run.scope} scope"] if run.scope not in (None, "local") else []
    return [*([] if named == "Unstructured" else [named]), *scoped]


def _distilled(run: Run) -> list[str]:
    return [] if run.teacher is None else ["distilled"]
