"""Figures of single runs: how the density is shared out among the matrices, and the course of training."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm

from ...models.inspection import Count
from .drawing import Exhibit, Finding, Looks, Panel, at_place, keys, panel, svg
from .runs import Points, Run
from .settings import Setting, largest_contest, percent, side_by_side

EVEN = 0.05
"""Densities of a run's matrices that differ by no more, relative to the largest, count as the same share."""

MOST_WITH_NUMBERS = 12
"""Columns of a heat map whose cells have room for a number."""


@dataclass(frozen=True)
class Place:
    """Where a matrix stands in a model.

    Args:
        row: the layer's number with what is before it, as `encoder.layer` and 3; no number outside the layers.
        kind: the name inside the layer, the same in every layer.
    """

    row: tuple[str, int | None]
    kind: str


def place(name: str) -> Place:
    """Reads the name of a weight: `bert.encoder.layer.3.attention.self.query.weight` is a query in layer 3."""
    match = re.fullmatch(r"(?:(.*?)\.)?(\d+)\.(.+)", name.removesuffix(".weight"))
    if match is None:
        return Place(("", None), name.removesuffix(".weight"))
    return Place((match[1] or "", int(match[2])), match[3])


def endings(kinds: Sequence[str]) -> list[str]:
    """Returns the shortest ending of each name, in whole words, that no other name has; the whole name where none is."""

    def ending(kind: str) -> str:
        parts = kind.split(".")
        for count in range(1, len(parts)):
            short = ".".join(parts[-count:])
            if not any(other != kind and f".{other}".endswith(f".{short}") for other in kinds):
                return short
        return kind

    return [ending(kind) for kind in kinds]


@dataclass(frozen=True)
class Grid:
    """Densities by layer (rows) and kind of matrix (columns); NaN where a layer has none."""

    rows: list[str]
    columns: list[str]
    densities: np.ndarray[tuple[int, int], np.dtype[np.float64]]


def grid(layers: Sequence[Count]) -> Grid:
    """Lays the densities of a model's matrices out by their names."""
    places = [place(layer.name) for layer in layers]
    stacks = list(dict.fromkeys(spot.row[0] for spot in places))
    rows = sorted({spot.row for spot in places}, key=lambda row: (stacks.index(row[0]), -1 if row[1] is None else row[1]))
    kinds = list(dict.fromkeys(spot.kind for spot in places))
    densities = np.full((len(rows), len(kinds)), np.nan)
    for spot, layer in zip(places, layers, strict=True):
        densities[rows.index(spot.row), kinds.index(spot.kind)] = layer.density
    words = _apart([stack for stack in stacks if any(row == stack and number is not None for row, number in rows)])
    named = ["–" if number is None else f"{words[stack]} {number}".strip() for stack, number in rows]
    return Grid(named, endings(kinds), densities)


def _apart(stacks: Sequence[str]) -> dict[str, str]:
    """Returns what tells stacks of layers apart: `encoder` and `decoder`; nothing where there is one."""
    parts = {stack: stack.split(".") for stack in stacks}
    shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*parts.values(), strict=False)))
    return {stack: next(iter(words[shared:]), "") for stack, words in parts.items()}


def figures(settings: Sequence[Setting], looks: Looks) -> list[Exhibit]:
    """Returns the heat maps and the training curves."""
    chosen = side_by_side(largest_contest(settings))
    return [at_place(exhibit, chosen[0].place) for exhibit in (shares(chosen), curves(chosen, looks))]


def is_even(run: Run) -> bool:
    """Whether every matrix kept the same share, but for the part of a weight that rounding down to a whole one takes."""
    if not run.layers:
        return True
    densities = [layer.density for layer in run.layers]
    floor = max(1 / layer.weights for layer in run.layers)
    return max(densities) - min(densities) <= EVEN * max(densities) + floor


def shares(chosen: Sequence[Setting]) -> Exhibit:
    """Draws which matrices kept how much."""
    title = "Which matrices keep how much"
    pruned = [setting for setting in chosen if not setting.dense]
    if not pruned:
        return Exhibit(title, absent="no run pruned anything")
    uneven = [setting for setting in pruned if not is_even(setting.first)]
    drawn = uneven or pruned[:1]
    scale = _scale(drawn)
    return Exhibit(
        title,
        [_heat(setting, scale) for setting in drawn],
        general=(
            "Density of each matrix in per cent, layers from top to bottom; the darker, the more is left, by one scale in "
            "all panels. Where the matrices compete for one budget, this shows where a method finds the weights worth most; "
            "with local scope each keeps the same share."
        ),
        here=[*_extremes(uneven), *_evenly([setting for setting in pruned if is_even(setting.first)])],
    )


def _scale(settings: Sequence[Setting]) -> PowerNorm:
    """Returns which density is how dark. It grows as the root, so that sparse runs can be read beside one that kept much."""
    fullest = max((layer.density for setting in settings for layer in setting.first.layers), default=0.0)
    return PowerNorm(0.5, vmin=0, vmax=fullest or 1.0)


def _heat(setting: Setting, scale: PowerNorm) -> Panel:
    laid = grid(setting.first.layers)
    drawn, axes = panel(height=1.15 + 0.24 * len(laid.rows))
    axes.imshow(laid.densities, cmap="Blues", norm=scale, aspect="auto")
    axes.set_yticks(range(len(laid.rows)), laid.rows)
    slant = 35 if len(laid.columns) <= MOST_WITH_NUMBERS else 90
    axes.set_xticks(range(len(laid.columns)), laid.columns, rotation=slant, ha="right", rotation_mode="anchor", fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_ylabel("layer")
    if len(laid.columns) <= MOST_WITH_NUMBERS:
        _write_numbers(axes, laid, scale)
    return Panel(setting.name, svg(drawn), f"Heat map of densities, {setting.name}: {_extreme(setting)}.")


def _write_numbers(axes: Axes, laid: Grid, scale: PowerNorm) -> None:
    for (row, column), density in np.ndenumerate(laid.densities):
        if not np.isnan(density):
            colour = "white" if scale(density) > 0.6 else "black"
            axes.text(column, row, f"{100 * density:.2g}", ha="center", va="center", fontsize=8, color=colour)


def _extreme(setting: Setting) -> str:
    """Says which matrix kept the smallest share, and which the largest."""
    layers = sorted(setting.first.layers, key=lambda layer: layer.density)
    laid = grid(setting.first.layers)

    def words(layer: Count) -> str:
        row, column = np.argwhere(laid.densities == layer.density)[0]
        return f"{percent(layer.density)} ({laid.columns[column]}, layer {laid.rows[row]})"

    return f"{words(layers[0])} to {words(layers[-1])}"


def _extremes(settings: Sequence[Setting]) -> list[Finding]:
    told = [(setting.name, _extreme(setting)) for setting in settings]
    return [Finding("From the emptiest matrix to the fullest:", told)] if told else []


def _evenly(settings: Sequence[Setting]) -> list[Finding]:
    names = "; ".join(setting.name for setting in settings)
    return [Finding(f"Every matrix kept the same share: {names}.")] if names else []


# The course of training.


def curves(chosen: Sequence[Setting], looks: Looks) -> Exhibit:
    """Draws loss, metric and density over the optimizer steps, the first seed of each setting."""
    title = "The course of training"
    metric = chosen[0].first.metric
    wanted = {"loss": "training loss", f"eval_{metric}": f"validation {metric}", "density": "density"}
    names = [name for name in wanted if any(_is_curve(_points(setting.first, name)) for setting in chosen)]
    if not names:
        return Exhibit(title, absent="nothing was logged at more than one step")
    logged = [setting for setting in chosen if any(_points(setting.first, name) for name in names)]
    return Exhibit(
        title,
        [_curve(chosen, wanted[name], name, looks) for name in names],
        keys(logged, looks),
        general=(
            "What was logged over the optimizer steps, by the first seed of each setting. The metric often falls while the "
            "density does, and comes back while the final density holds."
        ),
        here=_ends(logged),
    )


def _points(run: Run, name: str) -> Points:
    """Returns what was logged and is a finite number; for the loss of a distilled run, the task's own part."""
    name = "loss_ce" if name == "loss" and run.curve("loss_ce") else name
    return [(step, value) for step, value in run.curve(name) if np.isfinite(value)]


def _is_curve(points: Points) -> bool:
    """Whether it has a course at all: what was measured at the end alone is in the tables already."""
    return len({step for step, _ in points}) > 1


def _curve(chosen: Sequence[Setting], label: str, name: str, looks: Looks) -> Panel:
    logged = [(setting, points) for setting in chosen if (points := _points(setting.first, name))]
    drawn, axes = panel(height=2.6)
    for setting, points in logged:
        look = looks[setting.line]
        marks = {**look.marks(), **look.line(), "markersize": 3.5, "markevery": max(1, len(points) // 6)}
        axes.plot(*zip(*points, strict=True), **marks)
    axes.set(xlabel="optimizer step", ylabel=label)
    ends = "; ".join(f"{setting.name} ends at {points[-1][1]:.4g}" for setting, points in logged)
    return Panel(label, svg(drawn), f"{label} over optimizer steps: {ends}.")


def _ends(settings: Sequence[Setting]) -> list[Finding]:
    """Says from which step on the final density held, as far as it was logged."""
    since: dict[str, list[str]] = defaultdict(list)
    for setting in settings:
        points = _points(setting.first, "density")
        if points and not setting.dense and not setting.missed:
            step = next(step for step, density in points if density <= 1.01 * points[-1][1])
            since[f"{step:,} of {setting.first.steps:,}"].append(setting.name)
    values = [(step, "; ".join(names)) for step, names in since.items()]
    return [Finding("The final density holds, by the log, from this step:", values)] if values else []
