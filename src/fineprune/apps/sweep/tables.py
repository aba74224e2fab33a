"""The tables of a sweep: a row for each trial, and a row for each setting over its seeds. CSV and Parquet."""

import csv
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from ...errors import FileError
from ...files import replace_whole
from .plan import VARIANT, Sweep, SweepSetting

Results = Mapping[str, Mapping[str, Any]]
"""The `result.json` of each finished trial, by name in the order of the sweep."""

FINISHED, FAILED, UNFINISHED = "finished", "failed", "unfinished"

MEASURED = {"density": float, "remaining_weights": float, "whole_model_density": float, "seconds": float, "steps": int}
"""Figures of `result.json` other than the metrics."""

ARROW = {int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}


def trials(sweep: Sweep, results: Results, failed: Iterable[str]) -> pyarrow.Table:
    """Returns a row for each trial, in the order of the sweep, given the results and the names of those that failed."""
    kinds, metrics, failed = _kinds(sweep), _metrics(results), set(failed)
    rows = []
    for trial in sweep.trials:
        row = {**_choices(trial.setting, kinds), "seed": trial.seed, "folder": trial.name}
        if result := results.get(trial.name):
            figures = {**result["metrics"], **{name: result[name] for name in MEASURED}}
            rows.append(row | figures | {"status": FINISHED})
        else:
            rows.append(row | {"status": FAILED if trial.name in failed else UNFINISHED})
    return _table(rows, kinds | {"seed": int, "status": str} | dict.fromkeys(metrics, float) | MEASURED | {"folder": str})


def summary(sweep: Sweep, results: Results) -> pyarrow.Table:
    """Returns a row for each setting, in the order of the sweep.

    It holds the number of finished seeds, and over these the mean, the sample standard deviation (empty
    for one seed), the least and the greatest of each metric and of the density.
    """
    kinds, figures = _kinds(sweep), [*_metrics(results), "density"]
    measured = {name: {**result["metrics"], "density": result["density"]} for name, result in results.items()}
    rows = []
    for setting in sweep.settings:
        names = [trial.name for trial in sweep.trials if trial.setting is setting]
        done = [measured[name] for name in names if name in measured]
        row = {**_choices(setting, kinds), "seeds": len(done)}
        for figure in figures:
            row |= _statistics(figure, [one[figure] for one in done if figure in one])
        rows.append(row)
    columns = [name for figure in figures for name in _statistics(figure, [])]
    return _table(rows, kinds | {"seeds": int} | dict.fromkeys(columns, float))


def write(folder: Path, **tables: pyarrow.Table) -> None:
    """Writes each table as NAME.csv and NAME.parquet, each of them whole or not at all."""
    try:
        for name, table in tables.items():
            replace_whole(folder / f"{name}.csv", partial(_write_csv, table))
            replace_whole(folder / f"{name}.parquet", partial(pyarrow.parquet.write_table, table))
    except OSError as error:
        raise FileError(f"The tables could not be written in {folder}: {error}. Free disk space and start again.") from error


def _write_csv(table: pyarrow.Table, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table.column_names)
        writer.writerows(row.values() for row in table.to_pylist())


def shown(summary: pyarrow.Table) -> tuple[list[str], list[list[str]]]:
    """Returns the summary for a screen: the headings, and rows with `mean ± deviation` of each figure."""
    names = summary.column_names
    first = names.index("seeds") + 1
    figures = [name.removesuffix("_mean") for name in names[first::4]]
    rows = [[*map(str, list(row.values())[:first]), *(_shown(row, name) for name in figures)] for row in summary.to_pylist()]
    return [*names[:first], *figures], rows


def _shown(row: Mapping[str, Any], figure: str) -> str:
    figures = [row[f"{figure}_mean"], row[f"{figure}_std"]]
    return " ± ".join(f"{value:.4f}" for value in figures if value is not None)


def _statistics(name: str, values: Sequence[float]) -> dict[str, float | None]:
    if any(map(math.isnan, values)):  # NaN is neither less nor greater than a number
        values = [math.nan] * len(values)
    finite = all(map(math.isfinite, values))
    return {
        f"{name}_mean": statistics.fmean(values) if values else None,
        f"{name}_std": None if len(values) < 2 else statistics.stdev(values) if finite else math.nan,
        f"{name}_min": min(values, default=None),
        f"{name}_max": max(values, default=None),
    }


def _metrics(results: Results) -> list[str]:
    return list(dict.fromkeys(name for result in results.values() for name in result["metrics"]))


def _kinds(sweep: Sweep) -> dict[str, type]:
    """Returns the type of each choice's column: int, float, or str for text as it was given."""
    keys = sweep.settings[0].choices
    return {key: str if key == VARIANT else _kind([setting.choices[key] for setting in sweep.settings]) for key in keys}


def _kind(values: Sequence[str]) -> type:
    for kind in (int, float):
        try:
            list(map(kind, values))
        except ValueError:
            continue
        return kind
    return str


def _choices(setting: SweepSetting, kinds: Mapping[str, type]) -> dict[str, Any]:
    return {key: kinds[key](value) for key, value in setting.choices.items()}


def _table(rows: list[dict[str, Any]], kinds: Mapping[str, type]) -> pyarrow.Table:
    return pyarrow.Table.from_pylist(rows, schema=pyarrow.schema([(name, ARROW[kind]) for name, kind in kinds.items()]))
