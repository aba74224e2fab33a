"""Figure of the layers: the density of each matrix, as a heat map."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm

from ...models.inspection import Count
from .drawing import FigurePanel, Observation, ReportFigure, new_panel, to_svg
from .formats import percent
from .result_files import Run
from .setting_runs import SettingRuns

EVEN = 0.05
"""Relative difference between the densities of a run's matrices up to which they count as the same."""

MOST_WITH_NUMBERS = 12
"""Columns of a heat map up to which its cells can hold a number."""


class MatrixPosition(NamedTuple):
    """The row, as `encoder.layer` and 3 (no number outside the layers), and the name inside a layer, the same in every one."""

    row: tuple[str, int | None]
    kind: str


def position(name: str) -> MatrixPosition:
    """Reads the name of a weight: `bert.encoder.layer.3.attention.self.query.weight` is a query in layer 3."""
    match = re.fullmatch(r"(?:(.*?)\.)?(\d+)\.(.+)", name.removesuffix(".weight"))
    if match is None:
        return MatrixPosition(("", None), name.removesuffix(".weight"))
    return MatrixPosition((match[1] or "", int(match[2])), match[3])


def endings(kinds: Sequence[str]) -> list[str]:
    """Returns the shortest ending of each name, in whole words, that no other name has; the whole name where none is."""

    def ending(kind: str) -> str:
        words = kind.split(".")
        shorter = [".".join(words[-count:]) for count in range(1, len(words))]
        return next((end for end in shorter if sum(f".{other}".endswith(f".{end}") for other in kinds) == 1), kind)

    return [ending(kind) for kind in kinds]


@dataclass(frozen=True)
class DensityGrid:
    """Densities by layer (rows) and kind of matrix (columns); NaN where a layer has none."""

    rows: list[str]
    columns: list[str]
    densities: np.ndarray[tuple[int, int], np.dtype[np.float64]]


def density_grid(layers: Sequence[Count]) -> DensityGrid:
    """Arranges the densities of a model's matrices by their names."""
    positions = [position(layer.name) for layer in layers]
    stacks = list(dict.fromkeys(matrix.row[0] for matrix in positions))
    rows = sorted(
        {matrix.row for matrix in positions}, key=lambda row: (stacks.index(row[0]), -1 if row[1] is None else row[1])
    )
    kinds = list(dict.fromkeys(matrix.kind for matrix in positions))
    densities = np.full((len(rows), len(kinds)), np.nan)
    for matrix, layer in zip(positions, layers, strict=True):
        densities[rows.index(matrix.row), kinds.index(matrix.kind)] = layer.density
    words = _distinguishing([stack for stack in stacks if any(row == stack and number is not None for row, number in rows)])
    names = ["–" if number is None else f"{words[stack]} {number}".strip() for stack, number in rows]
    return DensityGrid(names, endings(kinds), densities)


def _distinguishing(stacks: Sequence[str]) -> dict[str, str]:
    """Returns the word that distinguishes each stack of layers, as `encoder` and `decoder`; nothing for a single stack."""
    words = {stack: stack.split(".") for stack in stacks}
    shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*words.values(), strict=False)))
    return {stack: next(iter(of_stack[shared:]), "") for stack, of_stack in words.items()}


def is_even(run: Run) -> bool:
    """Whether every matrix kept the same share, apart from rounding down to whole weights."""
    if not run.layers:
        return True
    densities = [layer.density for layer in run.layers]
    rounding = max(1 / layer.weights for layer in run.layers)
    return max(densities) - min(densities) <= EVEN * max(densities) + rounding


def layer_densities(shown: Sequence[SettingRuns]) -> ReportFigure:
    """Draws the density of each matrix."""
    title = "Which matrices keep how much"
    pruned = [setting for setting in shown if not setting.dense]
    if not pruned:
        return ReportFigure(title, absent="no run pruned anything")
    uneven = [setting for setting in pruned if not is_even(setting.first)]
    drawn = uneven or pruned[:1]
    densest = max((layer.density for setting in drawn for layer in setting.first.layers), default=0.0)
    shades = PowerNorm(0.5, vmin=0, vmax=densest or 1.0)  # the root, to read sparse runs beside one that kept much
    even = "; ".join(setting.name for setting in pruned if setting not in uneven)
    observations = [Observation(f"Every matrix kept the same share: {even}.")] if even else []
    if uneven:
        extremes = [(setting.name, _extreme(setting)) for setting in uneven]
        observations.insert(0, Observation("From the sparsest matrix to the densest:", extremes))
    return ReportFigure(
        title,
        [_heat_map(setting, shades) for setting in drawn],
        caption=(
            "Density of each matrix in per cent, layers from top to bottom; the darker, the denser, on one scale in all "
            "panels. Where the matrices compete for one budget, this shows where a method finds the most valuable weights; "
            "with local scope each keeps the same share."
        ),
        observations=observations,
    )


def _heat_map(setting: SettingRuns, shades: PowerNorm) -> FigurePanel:
    grid = density_grid(setting.first.layers)
    few = len(grid.columns) <= MOST_WITH_NUMBERS
    figure, axes = new_panel(height=1.15 + 0.24 * len(grid.rows))
    axes.imshow(grid.densities, cmap="Blues", norm=shades, aspect="auto")
    axes.set_yticks(range(len(grid.rows)), grid.rows)
    axes.set_xticks(
        range(len(grid.columns)), grid.columns, rotation=35 if few else 90, ha="right", rotation_mode="anchor", fontsize=8
    )
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_ylabel("layer")
    if few:
        _write_numbers(axes, grid, shades)
    return FigurePanel(setting.name, to_svg(figure), f"Heat map of densities, {setting.name}: {_extreme(setting)}.")


def _write_numbers(axes: Axes, grid: DensityGrid, shades: PowerNorm) -> None:
    for (row, column), density in np.ndenumerate(grid.densities):
        if not np.isnan(density):
            colour = "white" if shades(density) > 0.6 else "black"
            axes.text(column, row, f"{100 * density:.2g}", ha="center", va="center", fontsize=8, color=colour)


def _extreme(setting: SettingRuns) -> str:
    """Returns the sparsest matrix and the densest, with their densities."""
    grid = density_grid(setting.first.layers)
    densities = [layer.density for layer in setting.first.layers]
    extremes = [(density, *np.argwhere(grid.densities == density)[0]) for density in (min(densities), max(densities))]
    return " to ".join(f"{percent(one)} ({grid.columns[column]}, layer {grid.rows[row]})" for one, row, column in extremes)
