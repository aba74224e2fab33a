"""Trials of a sweep that have no result: they failed, or are not finished, and would be missed by nobody."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...errors import enumeration
from ..training.result import RESULT
from .runs import readable

RECORD = "sweep.json"
"""Where a sweep lists its trials. The sweep's own room stands on this floor, so the name is written here again."""


def gaps(paths: Sequence[str]) -> list[str]:
    """Says of each sweep in the given folders, or in folders inside them, which trials have no result."""
    folders = dict.fromkeys(record.parent.resolve() for path in paths for record in sorted(Path(path).rglob(RECORD)))
    return [readable(sentence) for folder in folders for sentence in _gap(folder)]


def _gap(folder: Path) -> Iterator[str]:
    planned = _planned(folder / RECORD)
    finished = {result.parent.name for result in folder.glob(f"*/{RESULT}")}
    without = [name for name in planned if name not in finished]
    if without:
        have = "has" if len(without) == 1 else "have"
        yield f"{len(without)} of {len(planned)} trials of {folder.name} {have} no result: {enumeration(without)}."


def _planned(record: Path) -> list[str]:
    """Returns the names of all trials; none where the file is something else, as the runs beside it are whole all the same."""
    try:
        facts = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    trials = facts.get("trials") if isinstance(facts, dict) else None
    return list(trials) if isinstance(trials, dict) else []
