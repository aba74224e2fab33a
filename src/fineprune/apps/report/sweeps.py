"""Trials of a sweep without a result: those that failed, or are not finished."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...errors import enumeration
from ..sweep.record import RECORD
from ..training.result import RESULT


def missing_trials(paths: Sequence[str]) -> list[str]:
    """Returns a sentence for each sweep in the given folders, and in folders inside them, that lacks results."""
    folders = dict.fromkeys(record.parent.resolve() for path in paths for record in sorted(Path(path).rglob(RECORD)))
    return [sentence for folder in folders for sentence in _missing(folder)]


def _missing(folder: Path) -> Iterator[str]:
    trials = _trial_names(folder / RECORD)
    finished = {result.parent.name for result in folder.glob(f"*/{RESULT}")}
    missing = [name for name in trials if name not in finished]
    if missing:
        have = "has" if len(missing) == 1 else "have"
        yield f"{len(missing)} of {len(trials)} trials of {folder.name} {have} no result: {enumeration(missing)}."


def _trial_names(record: Path) -> list[str]:
    """Returns the names of all trials; none for a damaged record, since the runs beside it can still be shown."""
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    trials = content.get("trials") if isinstance(content, dict) else None
    return list(trials) if isinstance(trials, dict) else []
