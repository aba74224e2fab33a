"""One name per thing: the words that the project has given up stand nowhere in the source and the documentation."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def named(*names: str) -> str:
    """Matches classes of these names where code defines, imports, makes or annotates with one."""
    either = "|".join(names)
    return rf"(?:class|import|:|->|\|) (?:{either})\b(?![ ])|\[(?:{either})\b|\b(?:{either})\("


GIVEN_UP = {
    "init, ScoreInit, initialised": r"\b[Bb]irths?\b|\bborn\b",
    "pool": named("Parts?"),
    "process group, sharded": named("Ranks") + r"|\bsharers?\b|\bshare[sd]?[ _]out\b",
    "coordinator, exchange, fail together": r"\b_?[Mm]eetings?\b|\btold\b|\beveryone\b",
    "weight samples": r"\b[Pp]ortraits?\b",
    "placeholders, RemovedAttention, EmptyLinear": r"\bEmptied\b|\bHollow\b|\bnarrow\b",
    "Architecture": named("Plan", "Body", "Stated", "Names"),
    "is pruned, is revived": r"\b(?:has|have) fallen\b|\bgroups? (?:falls?|comes? back)\b",
    "raises a clear error": r"refused? in words",
    "package, module, layer": r"\b(?:house|rooms?)\b|\bfloors\b",
    "bit for bit": r"\bto the bit\b",
    "the number or the thing": r"\bso many\b|\bso much\b|\banew\b",
    "writes W' into the parameter": r"\blets? (?:the|a) (?:parameter|weight|mask)s?\b|\blet be\b",
    "95 % prediction interval": r"\bfurther seed\b",
    "masked model: apply masks, sample gates": r"\b_?(?:undraw|quieten)\b|\b_(?:draw|hold|settle)\b|\.draws\b|\bdraws:",
    "warmup, cooldown": r"\b(?:warm|cool)-(?:up|down)\b",
    "must be above 0, got 3": r"\bwas given as\b",
    "check_...": r"\b_?refuse_\w+",
    "optimizer": r"[Oo]ptimiser",
}
"""The word to use -> the words not to use."""

SPARED = {ROOT / "CHANGELOG.md"}  # names the old names


def texts() -> Iterator[Path]:
    for folder, endings in (
        ("src", {".py", ".html"}),
        ("docs", {".md", ".html", ".svg"}),
        ("examples", {".py"}),
        ("recipes", {".yaml", ".py"}),
    ):
        yield from (
            path for path in sorted((ROOT / folder).rglob("*")) if path.suffix in endings and "egg-info" not in str(path)
        )
    yield from sorted({*ROOT.glob("*.md")} - SPARED)


@pytest.mark.parametrize("word", GIVEN_UP)
def test_one_name_per_thing(word: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in texts()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(GIVEN_UP[word], line)
    ]
    assert not found, f"say {word}:\n" + "\n".join(found)
