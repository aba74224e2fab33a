"""Figures that compare settings by what they came to: the metric at each density, and local with global scope."""

import math
from collections.abc import Sequence
from textwrap import shorten

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from .drawing import GREY, INK, Exhibit, Finding, Looks, Panel, keys, panel, svg
from .grouping import choices
from .settings import ENOUGH, Setting, contests, figure, grouped, is_measure, lines, metrics, percent, ranked, reference

SPARSEST = 1e-6
"""The lowest density that an axis shows."""

MOST_NUMBERS = 6
"""As many densities can be read side by side below a panel."""


def figures(settings: Sequence[Setting], looks: Looks) -> list[Exhibit]:
    """Returns the two figures of metrics."""
    return [against_density(settings, looks), scopes(settings, looks)]


def against_density(settings: Sequence[Setting], looks: Looks) -> Exhibit:
    """Draws every metric against the density, a line for each line of settings."""
    title = "What each density costs"
    pruned = [setting for setting in settings if not setting.dense]
    if not pruned:
        return Exhibit(title, absent="no run pruned anything")
    rivals = [inside for inside in contests(settings) if any(not setting.dense for setting in inside)]
    return Exhibit(
        title,
        [_density_panel(inside, metric, looks) for inside in rivals for metric in metrics(inside)],
        keys(pruned, looks),
        general=(
            "Each metric against the density of the prunable weights, on a logarithmic scale. Small dots are seeds, large "
            f"marks their means.{_levels_explained(rivals)}"
        ),
        here=[finding for inside in rivals for finding in _winners(inside)],
    )


def _levels_explained(rivals: Sequence[Sequence[Setting]]) -> str:
    dense = [setting for inside in rivals if (setting := reference(inside[0], inside)) is not None]
    if not dense:
        return " There is no dense run."
    directions = {setting.first.greater_is_better for setting in dense if is_measure(setting)}
    words = {True: "95 % of it", False: "it divided by 0.95 (smaller is better there)"}
    enough = ", or ".join(words[direction] for direction in sorted(directions, reverse=True))
    return f" The full horizontal line is the dense run{enough and f', the dotted one {enough}'}."


def _density_panel(inside: Sequence[Setting], metric: str, looks: Looks) -> Panel:
    pruned = [setting for setting in inside if not setting.dense]
    drawn, axes = panel()
    for line, of_line in lines(pruned).items():
        look, points = looks[line], sorted((setting.density, setting.mean(metric)) for setting in of_line)
        seeds = [(run.density, run.metrics[metric]) for setting in of_line for run in setting.runs]
        axes.plot(*zip(*seeds, strict=True), linestyle="none", marker=".", markersize=3.5, color=look.colour, alpha=0.6)
        axes.plot(*zip(*points, strict=True), **look.line())
        axes.plot(*zip(*points, strict=True), **look.marks())
    _density_axis(axes, [setting.level for setting in pruned])
    dense = reference(inside[0], inside)
    if dense is not None:
        _dense_levels(axes, dense, metric)
    axes.set_ylabel(metric)
    stated = ", ".join(f"{setting.name} {setting.stated(metric)}" for setting in inside)
    return Panel(_titled(inside[0], metric), svg(drawn), f"{metric} against density: {stated}.")


def _titled(setting: Setting, metric: str) -> str:
    return f"{setting.place}: {metric}" if setting.place else metric


def _density_axis(axes: Axes, densities: Sequence[float]) -> None:
    axes.set(xscale="log", xlabel="density of the prunable weights", xlim=_limits(densities))
    axes.xaxis.set_major_locator(FixedLocator(density_ticks(densities)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda density, _: percent(density)))
    axes.xaxis.set_minor_locator(NullLocator())


def _limits(densities: Sequence[float]) -> tuple[float, float]:
    """Returns the ends of a logarithmic axis, which has no place for 0."""
    return max(min(densities), SPARSEST) / 1.5, max(*densities, SPARSEST) * 1.5


def density_ticks(densities: Sequence[float]) -> list[float]:
    """Returns where an axis has numbers: 1 % and 3 % and their like, or the densities themselves where these are too few."""
    low, high = _limits(densities)
    powers = range(round(math.log10(SPARSEST)), 1)
    inside = [tick for power in powers for part in (1, 3) if low <= (tick := part * 10.0**power) <= high]
    return _thinned(inside if len(inside) > 1 else sorted({max(density, SPARSEST) for density in densities}), high / low)


def _thinned(ticks: Sequence[float], span: float) -> list[float]:
    """Leaves out ticks whose numbers would run into the one before, on a logarithmic axis of that span."""
    kept = [ticks[0]]
    for tick in ticks[1:]:
        if tick / kept[-1] >= span ** (1 / MOST_NUMBERS):
            kept.append(tick)
    return kept


def _dense_levels(axes: Axes, dense: Setting, metric: str) -> None:
    """Draws the dense figure and, for the metric to compare by, the line of little loss."""
    value = dense.mean(metric)
    if not math.isfinite(value):
        return
    _level(axes, value, "dense", "-")
    if metric == dense.first.metric and value > 0:
        greater = dense.first.greater_is_better
        _level(axes, value * ENOUGH if greater else value / ENOUGH, "95 % of dense" if greater else "dense / 0.95", ":")


def _level(axes: Axes, value: float, words: str, linestyle: str) -> None:
    axes.axhline(value, color=INK, linewidth=0.9, linestyle=linestyle, zorder=1)
    text = axes.annotate(words, (0, value), (3, 1), ("axes fraction", "data"), "offset points")
    text.set(va="bottom", fontsize=8, color=INK)


def _winners(inside: Sequence[Setting]) -> list[Finding]:
    """Says who is ahead at each density that several lines have."""
    metric = inside[0].first.metric
    levels = grouped([setting for setting in inside if not setting.dense], lambda setting: setting.level)
    ahead = [(percent(level), _lead(rivals)) for level, rivals in sorted(levels.items(), reverse=True) if len(rivals) > 1]
    return [Finding(f"Ahead in {_titled(inside[0], metric)}, by density:", ahead)] if ahead else []


def _lead(rivals: Sequence[Setting]) -> str:
    """Says which of some settings is the best, which comes second, and whether the seeds allow to say so."""
    first, second = ranked(rivals)[:2]
    metric = first.first.metric
    lead = abs(first.value - second.value)
    stated = f"{first.line}, {first.stated(metric)}"
    if figure(first.value) == figure(second.value):
        return f"nobody: the best two, {first.line} and {second.line}, are equal ({figure(first.value)})"
    spreads = [spread for setting in (first, second) if (spread := setting.spread(metric)) is not None]
    doubt = ", less apart than their seeds" if spreads and lead <= max(spreads) else ""
    return f"{stated}; then {second.line}, {second.stated(metric)}{doubt}"


# Local and global scope.


def pairs(settings: Sequence[Setting]) -> list[list[Setting]]:
    """Returns settings that differ in their scope alone, local first."""

    def apart_from_scope(setting: Setting) -> str:
        return repr(sorted((key, value) for key, value in choices(setting.first).items() if "scope" not in key.split(".")))

    sharing = [setting for setting in settings if setting.first.scope is not None]
    return [
        sorted(alike, key=lambda setting: setting.first.scope != "local")
        for alike in grouped(sharing, apart_from_scope).values()
        if len(alike) > 1
    ]


def scopes(settings: Sequence[Setting], looks: Looks) -> Exhibit:
    """Draws what the scope changes, everything else being the same."""
    title = "Local against global scope"
    found = {id(inside): pairs(inside) for inside in contests(settings)}
    together = [pair for inside in found.values() for pair in inside]
    if not together:
        return Exhibit(title, absent="no two settings differ in their scope alone")
    return Exhibit(
        title,
        [_scope_panel(inside, looks) for inside in found.values() if inside],
        keys([setting for pair in together for setting in pair], looks),
        general=(
            "Pairs of settings that differ in their scope alone. With local scope each matrix keeps the same share of its "
            "weights (filled marks); otherwise the matrices compete for one budget (hollow marks). Small dots are seeds."
        ),
        here=[_gains(inside) for inside in found.values() if inside],
    )


def _scope_panel(together: Sequence[Sequence[Setting]], looks: Looks) -> Panel:
    metric = together[0][0].first.metric
    drawn, axes = panel(height=0.7 + 0.5 * len(together))
    for row, pair in enumerate(together):
        _draw_pair(axes, row, pair, looks)
    axes.set(ylim=(len(together) - 0.5, -0.75), yticks=[], xlabel=metric)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.08)
    axes.locator_params(axis="x", nbins=5)
    axes.grid(axis="x", color=GREY, alpha=0.25, linewidth=0.6)
    alt = "; ".join(f"{setting.name}: {setting.stated(metric)}" for pair in together for setting in pair)
    return Panel(_titled(together[0][0], metric), svg(drawn), f"{metric} by scope. {alt}.")


def _draw_pair(axes: Axes, row: int, pair: Sequence[Setting], looks: Looks) -> None:
    axes.plot([setting.value for setting in pair], [row] * len(pair), color=looks[pair[0].line].colour, linewidth=0.8)
    name = shorten(pair[0].name, 52, placeholder=" …")
    axes.text(0.01, row - 0.28, name, transform=axes.get_yaxis_transform(), va="center", fontsize=8.5, color=INK)
    for setting in pair:
        look = looks[setting.line]
        seeds = [run.value for run in setting.runs]
        axes.plot(seeds, [row + 0.2] * len(seeds), **{**look.marks(), "markersize": 3})
        axes.plot([setting.value], [row], **look.marks())


def _gains(together: Sequence[Sequence[Setting]]) -> Finding:
    gains = [
        (f"{local.name} → {other.first.scope}", f"{other.value - local.value:+.4f}")
        for local, *others in together
        for other in others
    ]
    return Finding(f"What the other scope adds to {together[0][0].first.metric}:", gains)
