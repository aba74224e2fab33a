"""A picture of a measurement: a bar for each form, a panel for each shape."""

from collections.abc import Sequence

from ...errors import require
from .results import BenchRow, Measurement

require("report", "matplotlib")

from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

COLOURS = {"dense": "#333333", "masked": "#8a8a8a", "sparse": "#0072b2", "packed": "#009e73"}
"""Of this library's forms and PyTorch's (Okabe and Ito's, distinct for the colour-blind)."""

OTHERS = "#e69f00"
"""Of other runtimes."""

WIDTH, LINE = 7.5, 0.33
"""Inches of a panel, and of one bar's line."""


def draw(measurement: Measurement, title: str) -> Figure:
    """Draws the median latencies, with the range from the 10th to the 90th percentile."""
    shapes = list(dict.fromkeys(row.shape for row in measurement.rows))
    panels = {shape: [row for row in measurement.rows if row.shape == shape] for shape in shapes}
    heights = [len(rows) + 2 for rows in panels.values()]
    figure = Figure(figsize=(WIDTH, LINE * (sum(heights) + 2)), layout="constrained")
    all_axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (shape, rows) in zip(all_axes, panels.items(), strict=True):
        _draw_panel(axes, shape, rows)
    figure.suptitle(f"{title}: latency, threads: {measurement.conditions['threads']}")
    return figure


def _draw_panel(axes: Axes, shape: str, rows: Sequence[BenchRow]) -> None:
    medians = [row.latency.median for row in rows]
    ranges = [[row.latency.median - row.latency.low for row in rows], [row.latency.high - row.latency.median for row in rows]]
    places = range(len(rows))
    colours = [COLOURS.get(row.weights if row.runtime in ("PyTorch", "fineprune") else "", OTHERS) for row in rows]
    axes.barh(places, medians, xerr=ranges, color=colours, error_kw={"elinewidth": 1, "capsize": 2})
    for place, row in zip(places, rows, strict=True):
        axes.annotate(f" {row.latency.median:.2f} ms", (row.latency.high, place), va="center", fontsize=8)
    axes.set_yticks(places, [row.name for row in rows], fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.invert_yaxis()  # the first on top, as in the table
    axes.margins(x=0.15)
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"{shape}: milliseconds, the median and 10 to 90 % of the rounds", fontsize=9, loc="left")
