"""The reference lists every public name, and nothing else."""

import re
from pathlib import Path

import fineprune
from fineprune import trainer

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


def test_every_public_name_is_listed_once() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in REFERENCE.glob("*.md"))
    listed = re.findall(r"^::: fineprune\.([\w.]+)$", pages, re.MULTILINE)
    public = [name for name in fineprune.__all__ if name != "__version__"] + [f"trainer.{name}" for name in trainer.__all__]
    assert sorted(listed) == sorted(public)
