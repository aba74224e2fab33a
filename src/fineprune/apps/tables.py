"""The printed results of the commands: a function for each, given the result and the settings of the command."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..models.inspection import Inspection
    from .bench.results import Measurement
    from .convert.pack import Size
    from .convert.shrink import ShrinkResult
    from .quickstart.run import CompactComparison
    from .sweep.command import SweepOutcome
    from .training.recipe import Recipe
    from .training.result import Result

Settings = Mapping[str, Any]
"""The arguments that the function of a command was called with."""


def show_training(trained: "tuple[Recipe, Result]", settings: Settings) -> None:
    """Prints the figures of a run; of several processes, under torchrun, the first one prints."""
    recipe, result = trained
    if recipe.training.process_index == 0:
        _print_result(result, f"{recipe.model}, saved in {recipe.training.output_dir}")


def show_evaluation(evaluated: "tuple[Recipe, Result]", settings: Settings) -> None:
    """Prints the figures of a saved model."""
    recipe, result = evaluated
    _print_result(result, recipe.model)


def show_sweep(outcome: "SweepOutcome", settings: Settings) -> None:
    """Prints the summary of a sweep. Raises TrainingError, after it, if a trial failed."""
    from .sweep import tables

    _print_table(*tables.shown(outcome.summary))
    print(f"The tables are in {outcome.folder}: trials.csv and summary.csv, and the same as .parquet.")
    outcome.check()


def show_report(page: Path, settings: Settings) -> None:
    """Prints where the page is."""
    print(f"The report is {page}.")


def show_scores(scores: Mapping[str, float], settings: Settings) -> None:
    """Prints a line for each score, with all its digits."""
    for name, value in scores.items():
        print(f"{name}: {value!r}")


def show_layers(inspection: "Inspection", settings: Settings) -> None:
    """Prints the density of every layer."""
    headings = ("weight", "shape", "kept", "of", "density")
    rows = [
        (layer.name, " x ".join(map(str, layer.shape)), f"{layer.kept:,}", f"{layer.weights:,}", f"{layer.density:.4f}")
        for layer in inspection.layers
    ]
    _print_table(headings, rows)
    print("\n".join(inspection.totals()))


def show_shrinking(outcome: "ShrinkResult", settings: Settings) -> None:
    """Prints the sizes before and after, and where the smaller model is."""
    _print_table(["", "before", "after", "left"], outcome.rows())
    print(f"The smaller model is in {settings['new_folder']}.")


def show_packing(sizes: "Sequence[Size]", settings: Settings) -> None:
    """Prints the bytes before and after, and where the packed model is."""
    from .convert.pack import HEADINGS

    _print_table(HEADINGS, [size.row() for size in sizes])
    print(f"The packed model is in {settings['new_folder']}. Measure it: fineprune evaluate {settings['new_folder']}")


def show_measurement(measurement: "Measurement", settings: Settings) -> None:
    """Prints a row for each form of the model, and where the files are."""
    _print_table(*measurement.shown())
    print("\n".join(measurement.sentences()))
    if settings["output"] is not None:
        print(f"The same as bench.md, bench.json and bench.png is in {settings['output']}.")


def show_import(result: None, settings: Settings) -> None:
    """Prints the density of every layer of the imported checkpoint."""
    from .training.commands import inspect_checkpoint

    show_layers(inspect_checkpoint(str(settings["target"])), settings)


def show_quickstart(outcome: "tuple[Path, Mapping[str, Result], CompactComparison]", settings: Settings) -> None:
    """Prints a row for each run, and sentences that compare them."""
    from .quickstart.run import verdict

    folder, results, compact = outcome
    headings = ("run", "accuracy", "macro F1", "density", "whole model", "training time", "seed")
    rows = []
    for name, result in results.items():
        densities = (result.inspection.density, result.inspection.whole_model.density)
        figures = (result.metrics["accuracy"], result.metrics["f1_macro"], *densities)
        rows.append([name, *(f"{figure:.4f}" for figure in figures), f"{result.seconds:.0f} s", str(result.seed)])
    _print_table(headings, rows)
    print(verdict(results))
    print(compact.sentence())
    print(f"The models, quickstart.png and quickstart.json are in {folder}.")


def _print_result(result: "Result", title: str) -> None:
    rows = [(name, f"{value:.4f}") for name, value in result.metrics.items()] + list(result.inspection.densities())
    if result.seconds is not None:
        rows.append(("training time", f"{result.seconds:.0f} s"))
    _print_table(["measure", "value"], rows, title)


def _print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    """Prints rows as they are: brackets in a cell are no markup."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=None if title is None else Text(title), title_justify="left")
    for heading in headings:
        table.add_column(Text(heading))
    for row in rows:
        table.add_row(*map(Text, row))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
