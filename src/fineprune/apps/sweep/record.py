"""The folder of a sweep: `sweep.json` records its trials, and a lock keeps other processes out."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from ...errors import FileError, InvalidInputError, enumeration
from ...files import replace_whole
from ...version import VERSION
from .locks import take
from .plan import Trial

RECORD, LOCK, RECIPES, LOGS = "sweep.json", "sweep.lock", "recipes", "logs"


@contextmanager
def claimed(folder: Path, trials: Sequence[Trial], choices: Mapping[str, Any]) -> Iterator[None]:
    """Locks a folder for a sweep: a new one, or that of an earlier start with the same trials or fewer.

    The record holds all trials and the choices: the grids, the variants and the seeds.

    Raises:
        InvalidInputError: if the folder holds something else, other trials or other settings, or is locked.
        FileError: if it cannot be written.
    """
    _check_own_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("ab")
    except OSError as error:
        raise FileError(f"{folder} could not be written: {error}. Give another --output.") from error
    with lock:
        if not take(lock):
            raise InvalidInputError(
                f"Another process runs a sweep in {folder}. Wait for its end, stop it, or give another --output."
            )
        recorded = _recorded(folder)
        _check_unchanged(folder, recorded, trials)
        occupied = [trial.name for trial in trials if trial.name not in recorded and (folder / trial.name).exists()]
        if occupied:
            raise InvalidInputError(
                f"{folder} holds {enumeration(occupied, most=3)}, which this sweep did not write. Move it away, or give "
                "another --output."
            )
        _write(folder, trials, choices)
        yield


def _check_own_folder(folder: Path) -> None:
    """Raises for other files; a start that was killed before it wrote the record leaves at most the lock and a part of it."""
    if folder.exists() and not folder.is_dir():
        raise InvalidInputError(f"{folder} is a file. Give another --output.")
    if not folder.is_dir() or (folder / RECORD).is_file():
        return
    foreign = sorted(path.name for path in folder.iterdir() if path.name != LOCK and not path.name.startswith(f".{RECORD}."))
    if foreign:
        raise InvalidInputError(
            f"{folder} holds other files ({enumeration(foreign)}) and no {RECORD}, so it is not the folder of a sweep. "
            "Nothing is overwritten: give another --output."
        )


def _recorded(folder: Path) -> dict[str, str]:
    """Returns the recipe of each trial of earlier starts, as YAML."""
    if not (folder / RECORD).is_file():
        return {}
    try:
        trials: dict[str, str] = json.loads((folder / RECORD).read_text(encoding="utf-8"))["trials"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInputError(f"{folder / RECORD} could not be read: {error}. Give another --output.") from error
    return trials


def _check_unchanged(folder: Path, recorded: Mapping[str, str], trials: Sequence[Trial]) -> None:
    wanted = {trial.name: trial.source for trial in trials}
    for name, source in recorded.items():
        if name in wanted and (changes := differences(yaml.safe_load(source), yaml.safe_load(wanted[name]))):
            raise InvalidInputError(
                f"{folder} holds a sweep with other settings. In {name}, {enumeration(changes, most=3)}. "
                "Start it as before, or give another --output."
            )
    left_out = [name for name in recorded if name not in wanted]
    if left_out:
        raise InvalidInputError(
            f"{folder} holds a sweep with more trials: {enumeration(left_out, most=3)}. A sweep may grow by variants, values "
            "and seeds, but not shrink. Add these, or give another --output."
        )


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns a phrase for each setting that differs between two recipes: what it was and what it is."""
    first, second = _flat(before), _flat(now)
    keys = [key for key in {**first, **second} if first.get(key) != second.get(key)]
    return [f"{key} was {first.get(key, 'not given')} and is {second.get(key, 'not given')}" for key in keys]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat


def _write(folder: Path, trials: Sequence[Trial], choices: Mapping[str, Any]) -> None:
    """Writes the record and then the recipe of each trial; without a record, no trial's folder is touched."""
    facts = {"fineprune": VERSION, **choices, "trials": {trial.name: trial.source for trial in trials}}
    try:
        for temporary in folder.glob(".*.tmp"):
            temporary.unlink()
        _write_text(folder / RECORD, json.dumps(facts, indent=2) + "\n")
        (folder / RECIPES).mkdir(exist_ok=True)
        for trial in trials:
            _write_text(folder / RECIPES / f"{trial.name}.yaml", trial.source)
    except OSError as error:
        raise FileError(f"{folder} could not be written: {error}. Free disk space, or give another --output.") from error


def _write_text(path: Path, text: str) -> None:
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        replace_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
