"""Figures of the metrics: at each density, and with local against global scope."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from .drawing import INK, FigurePanel, LineStyles, ReportFigure, legend_of, new_panel, to_svg
from .formats import percent
from .grouping import choices
from .setting_runs import LITTLE_LOSS, SettingRuns, by_comparison, by_line, dense_reference, grouped, shared_metrics

SPARSEST = 1e-6
"""The lowest density that an axis shows."""

MOST_NUMBERS = 6
"""Densities that can be read side by side below a panel."""


def against_density(settings: Sequence[SettingRuns], styles: LineStyles) -> ReportFigure:
    """Draws every metric against the density, a line for each line of settings."""
    title = "What each density costs"
    pruned = [setting for setting in settings if not setting.dense]
    if not pruned:
        return ReportFigure(title, absent="no run pruned anything")
    return ReportFigure(
        title,
        [
            _density_panel(compared, metric, styles)
            for compared in by_comparison(settings)
            if not all(setting.dense for setting in compared)
            for metric in shared_metrics(compared)
        ],
        legend_of(pruned, styles),
        caption=(
            "Each metric against the density of the prunable weights, on a logarithmic scale. Small dots are seeds, large "
            "marks their means. Horizontal lines are the dense run, and what the paper takes for little loss from it."
        ),
    )


def _density_panel(settings: Sequence[SettingRuns], metric: str, styles: LineStyles) -> FigurePanel:
    pruned, dense = [setting for setting in settings if not setting.dense], dense_reference(settings)
    figure, axes = new_panel()
    for line, of_line in by_line(pruned).items():
        style, means = styles[line], sorted((setting.density, setting.mean(metric)) for setting in of_line)
        seeds = [(run.density, run.metrics[metric]) for setting in of_line for run in setting.runs]
        axes.plot(*zip(*seeds, strict=True), linestyle="none", marker=".", markersize=3.5, color=style.colour, alpha=0.6)
        axes.plot(*zip(*means, strict=True), **style.settings())
    _density_axis(axes, [setting.level for setting in pruned])
    if dense is not None:
        _dense_levels(axes, dense, metric)
    axes.set_ylabel(metric)
    stated = ", ".join(f"{setting.name} {setting.stated(metric)}" for setting in settings)
    title = f"{settings[0].heading}: {metric}" if settings[0].heading else metric
    return FigurePanel(title, to_svg(figure), f"{metric} against density: {stated}.")


def _density_axis(axes: Axes, densities: Sequence[float]) -> None:
    axes.set(xscale="log", xlabel="density of the prunable weights", xlim=_limits(densities))
    axes.xaxis.set_major_locator(FixedLocator(density_ticks(densities)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda density, _: percent(density)))
    axes.xaxis.set_minor_locator(NullLocator())


def _limits(densities: Sequence[float]) -> tuple[float, float]:
    """Returns the ends of a logarithmic axis, which has no place for 0."""
    return max(min(densities), SPARSEST) / 1.5, max(*densities, SPARSEST) * 1.5


def density_ticks(densities: Sequence[float]) -> list[float]:
    """Returns the ticks of an axis: 1 %, 3 % and their like, or the densities themselves where fewer than two of these fit."""
    low, high = _limits(densities)
    powers = range(round(math.log10(SPARSEST)), 1)
    round_ticks = [tick for power in powers for factor in (1, 3) if low <= (tick := factor * 10.0**power) <= high]
    ticks = round_ticks if len(round_ticks) > 1 else sorted({max(density, SPARSEST) for density in densities})
    kept = ticks[:1]
    for tick in ticks[1:]:
        if tick / kept[-1] >= (high / low) ** (1 / MOST_NUMBERS):  # nearer ones would overlap
            kept.append(tick)
    return kept


def _dense_levels(axes: Axes, dense: SettingRuns, metric: str) -> None:
    """Draws the dense metric and, for the metric to compare by, the line of little loss."""
    levels = {"dense": (dense.mean(metric), "-")} if math.isfinite(dense.mean(metric)) else {}
    if metric == dense.first.metric and dense.is_measure:
        if dense.first.greater_is_better:
            levels["95 % of dense"] = (dense.value * LITTLE_LOSS, ":")
        else:
            levels["dense / 0.95"] = (dense.value / LITTLE_LOSS, ":")
    for label, (value, linestyle) in levels.items():
        axes.axhline(value, color=INK, linewidth=0.9, linestyle=linestyle, zorder=1)
        text = axes.annotate(label, (0, value), (3, 1), ("axes fraction", "data"), "offset points")
        text.set(va="bottom", fontsize=8, color=INK)


def scopes(settings: Sequence[SettingRuns], styles: LineStyles) -> ReportFigure:
    """Draws the settings that differ in their scope alone."""
    title = "Local against global scope"

    def apart_from_scope(setting: SettingRuns) -> str:
        return repr(sorted((key, value) for key, value in choices(setting.first).items() if "scope" not in key.split(".")))

    scoped = grouped((setting for setting in settings if setting.first.scope is not None), apart_from_scope).values()
    pairs = [setting for alike in scoped if len(alike) > 1 for setting in alike]
    if not pairs:
        return ReportFigure(title, absent="no two settings differ in their scope alone")
    return ReportFigure(
        title,
        [_density_panel(compared, compared[0].first.metric, styles) for compared in by_comparison(pairs)],
        legend_of(pairs, styles),
        caption=(
            "Settings that differ in their scope alone. With local scope each matrix keeps the same share of its weights "
            "(filled marks); otherwise the matrices compete for one budget (hollow marks). Small dots are seeds."
        ),
    )
