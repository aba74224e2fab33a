"""Prints the table of a sweep whose trials.csv lies in docs/results, as its page shows it.

    python benchmarks/results.py docs/results/sst2

A row for each variant: mean, standard deviation and range of a metric over the seeds, and the mean as a share of the dense
run's.
"""

import argparse
import csv
import statistics
from pathlib import Path

from fineprune.errors import InvalidInputError

Row = dict[str, str]

METRICS = {"accuracy": "{:.4f}", "f1": "{:.2f}", "exact_match": "{:.2f}"}
"""The metrics that a table shows, and how many digits."""


def read(folder: Path) -> list[Row]:
    """Returns the trials of a sweep. Raises InvalidInputError if one of them did not finish."""
    with (folder / "trials.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    broken = [row["folder"] for row in rows if row["status"] != "finished"]
    if broken:
        raise InvalidInputError(f"{folder} holds trials that are not finished: {', '.join(broken)}.")
    return rows


def table(rows: list[Row]) -> str:
    """Returns the trials as a Markdown table."""
    metrics = [metric for metric in METRICS if metric in rows[0]]
    heads = ["run", "seeds", "density", *(part for metric in metrics for part in (metric, "range", "of dense"))]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    dense = {metric: _mean(rows, "dense", metric) for metric in metrics}
    for variant in dict.fromkeys(row["variant"] for row in rows):
        found = [row for row in rows if row["variant"] == variant]
        cells = [variant, str(len(found)), f"{_mean(rows, variant, 'density'):.4f}"]
        for metric in metrics:
            values, shown = [float(row[metric]) for row in found], METRICS[metric].format
            spread = f" ± {shown(statistics.stdev(values))}" if len(values) > 1 else ""
            mean = statistics.mean(values)
            cells += [f"{shown(mean)}{spread}", f"{shown(min(values))} to {shown(max(values))}", f"{mean / dense[metric]:.1%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean(rows: list[Row], variant: str, name: str) -> float:
    return statistics.mean(float(row[name]) for row in rows if row["variant"] == variant)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with trials.csv")
    print(table(read(parser.parse_args().folder)))


if __name__ == "__main__":
    main()
