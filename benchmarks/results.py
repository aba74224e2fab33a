"""Prints the table of a sweep whose trials.csv lies in docs/results, as its page shows it.

    python benchmarks/results.py docs/results/sst2

A row for each variant: over its seeds the mean, the standard deviation and the range of a metric, the 95 % prediction interval
of one more seed (Student's t), and the mean as a share of the best dense variant's. Then the prediction interval from the
spread of all variants together.
"""

import argparse
import csv
import math
import statistics
from pathlib import Path

from scipy import stats

from fineprune.errors import InvalidInputError

Row = dict[str, str]

METRICS = {"accuracy": "{:.4f}", "f1": "{:.2f}", "exact_match": "{:.2f}"}
"""The metrics that a table shows, and how many digits."""


def read(folder: Path) -> list[Row]:
    """Returns the finished trials of a sweep. Raises InvalidInputError if one of them failed."""
    with (folder / "trials.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    broken = [row["folder"] for row in rows if row["status"] == "failed"]
    if broken:
        raise InvalidInputError(f"{folder} holds trials that failed: {', '.join(broken)}.")
    return [row for row in rows if row["status"] == "finished"]


def table(rows: list[Row]) -> str:
    """Returns the trials as a Markdown table."""
    metrics = _metrics(rows)
    heads = ["run", "seeds", "density"]
    for metric in metrics:
        heads += [metric, "range", "95 % prediction interval", "of dense"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for variant in _variants(rows):
        cells = [variant, str(len(_values(rows, variant, "seed"))), f"{_mean(rows, variant, 'density'):.4f}"]
        for metric in metrics:
            values, shown = _values(rows, variant, metric), METRICS[metric].format
            spread, reach = "", "not known"
            if len(values) > 1:
                spread = f" ± {shown(statistics.stdev(values))}"
                reach = " to ".join(map(shown, prediction_interval(values)))
            mean = statistics.mean(values)
            span = f"{shown(min(values))} to {shown(max(values))}" if len(values) > 1 else ""
            cells += [f"{shown(mean)}{spread}", span, reach, f"{mean / _dense(rows, metric):.1%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def prediction_interval(values: list[float], share: float = 0.95) -> tuple[float, float]:
    """Returns the bounds between which one more value lies with this probability, if the values are normally distributed."""
    count = len(values)
    reach = stats.t.ppf((1 + share) / 2, count - 1) * statistics.stdev(values) * math.sqrt(1 + 1 / count)
    return statistics.mean(values) - reach, statistics.mean(values) + reach


def pooled(rows: list[Row], share: float = 0.95) -> str:
    """Says the prediction interval of one more seed if all settings have the same spread, from all seeds together."""
    said = []
    for metric in _metrics(rows):
        settings = [values for variant in _variants(rows) if len(values := _values(rows, variant, metric)) > 1]
        if not settings:
            return "One seed of each setting says nothing about the spread."
        freedom = sum(len(values) - 1 for values in settings)
        deviation = math.sqrt(sum((len(values) - 1) * statistics.variance(values) for values in settings) / freedom)
        reach = stats.t.ppf((1 + share) / 2, freedom) * deviation * math.sqrt(1 + 1 / min(map(len, settings)))
        said.append(f"± {METRICS[metric].format(reach)} in {metric} ({freedom} degrees of freedom)")
    return (
        f"If all settings have the same spread, the 95 % prediction interval of one more seed is its mean {' and '.join(said)}."
    )


def _metrics(rows: list[Row]) -> list[str]:
    return [metric for metric in METRICS if metric in rows[0]]


def _variants(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(row["variant"] for row in rows))


def _values(rows: list[Row], variant: str, name: str) -> list[float]:
    return [float(row[name]) for row in rows if row["variant"] == variant]


def _dense(rows: list[Row], metric: str) -> float:
    """Returns the mean of the best dense variant."""
    return max(_mean(rows, variant, metric) for variant in _variants(rows) if variant.startswith("dense"))


def _mean(rows: list[Row], variant: str, name: str) -> float:
    return statistics.mean(_values(rows, variant, name))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with trials.csv")
    rows = read(parser.parse_args().folder)
    print(table(rows), pooled(rows), sep="\n\n")


if __name__ == "__main__":
    main()
