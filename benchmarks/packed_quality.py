"""What packing costs a model in quality: saved models are packed, and both are evaluated by their own recipe.

    python benchmarks/packed_quality.py runs/sst2/*-seed* [--output FILE]

Each folder holds a model as `fineprune train` or a sweep leaves it; data that its recipe names by a relative path is looked up
from where this is run. Models that differ in the seed only are one row of the table.
"""

import argparse
import json
import platform
import re
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from transformers.utils import logging

from fineprune.apps.convert.pack import pack_folder
from fineprune.apps.training import recipe
from fineprune.apps.training.result import RECIPE, Result
from fineprune.apps.training.run import evaluate

VALUES: tuple[Literal["int8", "fp16"], ...] = ("int8", "fp16")
"""With fp32 the model is the same."""


@dataclass(frozen=True)
class Row:
    """A model with one kind of values: the bytes of its file and of the bound, and a metric of the model before and after."""

    run: str
    folder: str
    values: str
    density: float
    saved: int
    file: int
    bound: float
    metric: str
    before: float
    after: float


def measure(folder: Path) -> Iterator[Row]:
    """Evaluates a saved model, and packs and evaluates it with each kind of values."""
    wanted = recipe.read([str(folder / RECIPE), "--model", str(folder)])
    metric = wanted.task.metrics[0]

    def evaluated(model: str) -> Result:
        return evaluate(model, wanted.task, wanted.max_length, wanted.training)

    before = evaluated(str(folder))
    run = f"{folder.parent.name}, {re.sub(r'(-[0-9a-f]{6})?-seed[0-9]+$', '', folder.name)}"
    for values in VALUES:
        with tempfile.TemporaryDirectory() as workplace:
            packed = str(Path(workplace) / "packed")
            whole = pack_folder(str(folder), packed, values)[-1]
            after = evaluated(packed).metrics[metric]
        size = (whole.before, whole.after, whole.bound)
        yield Row(run, folder.name, values, before.inspection.density, *size, metric, before.metrics[metric], after)


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the rows as a Markdown table: means over seeds, and the range of what packing changed."""
    lines = [
        "| model | seeds | density | values | saved | packed | packed / bound | metric | before | after | change, range |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["run"], row["values"]), []).append(row)
    for (run, values), seeds in groups.items():
        mean = {key: statistics.mean(row[key] for row in seeds) for key in ("density", "saved", "file", "before", "after")}
        changes = [row["after"] - row["before"] for row in seeds]
        cells = [
            *(run, str(len(seeds)), f"{mean['density']:.2f}", values),
            *(f"{mean[key] / 1e6:.1f} MB" for key in ("saved", "file")),
            f"{statistics.mean(row['file'] / row['bound'] for row in seeds):.3f}",
            seeds[0]["metric"],
            *(f"{mean[key]:.4f}" for key in ("before", "after")),
            f"{min(changes):+.4f} to {max(changes):+.4f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", help="folders of trained models")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "packed_quality.json")
    chosen = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    rows = [asdict(row) for folder in chosen.models for row in measure(folder)]
    print(table(rows))
    facts = {
        "rows": rows,
        "processor": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "versions": {name: version(name) for name in ("fineprune", "torch", "transformers", "zstandard")},
        "date": date.today().isoformat(),
    }
    chosen.output.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
