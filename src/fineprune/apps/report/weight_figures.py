"""Figures of the weights: where they went, which remain, and their scores (after the paper's figures 2 and 3)."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from ..training.weight_samples import FILE
from .drawing import GREY, INK, PALE, FigurePanel, LineStyles, Observation, ReportFigure, new_panel, to_svg
from .formats import percent
from .samples import Array, RunSample, last_shared, samples_to_show
from .setting_runs import SettingRuns

NO_SAMPLE = f"no run has a sample of its weights ({FILE})"

EDGE = 0.999
"""Share of the weights within a figure's range; outliers would squeeze the rest."""


def figures(settings: Sequence[SettingRuns], styles: LineStyles) -> list[ReportFigure]:
    """Returns the three figures of weights."""
    samples = samples_to_show(settings)
    shown, diverged = ([sample for sample in samples if sample.finite is finite] for finite in (True, False))
    made = [
        _without(draw(shown, styles), diverged) for draw in (pretrained_and_finetuned, remaining_weights, weights_and_scores)
    ]
    return [figure.headed(samples[0].setting.heading) if samples else figure for figure in made]


def _without(figure: ReportFigure, diverged: Sequence[RunSample]) -> ReportFigure:
    """Says which runs a figure does not show, because their weights cannot be drawn."""
    if not diverged:
        return figure
    names = "; ".join(f"{sample.name} (run {sample.setting.first.name})" for sample in diverged)
    left_out = f"runs whose weights or scores are no longer finite: {names}"
    if figure.absent:
        return replace(figure, absent=f"{figure.absent}, apart from {left_out}")
    return replace(figure, observations=[*figure.observations, Observation(f"Left out are {left_out}.")])


def pretrained_and_finetuned(shown: Sequence[RunSample], styles: LineStyles) -> ReportFigure:
    """Draws each fine-tuned weight of one matrix against the pretrained one."""
    title = "Where the weights went"
    if not shown:
        return ReportFigure(title, absent=NO_SAMPLE)
    name = last_shared([sample.weights for sample in shown])
    if name is None:
        return ReportFigure(title, absent="the runs share no pruned matrix")
    limits = _limit([sample.pretrained[name] for sample in shown]), _limit([sample.weights[name] for sample in shown])
    return ReportFigure(
        title,
        [_weight_scatter(sample, name, limits, styles) for sample in shown],
        caption=(
            f"Each dot is a weight of {name}: fine-tuned (up) against pretrained (across). A weight on the thin diagonal did "
            "not change; a grey one on the line 0 was pruned. Magnitude pruning keeps the large weights, none near 0. "
            "Movement pruning keeps the weights that move away from 0, and may prune large ones; with scores initialised from "
            "magnitude it starts like magnitude pruning."
        ),
        observations=_growth(shown, name),
    )


def _limit(values: Sequence[Array]) -> float:
    """Returns the largest distance from 0 on an axis."""
    return 1.05 * max((float(np.quantile(np.abs(array), EDGE)) for array in values if array.size), default=1.0) or 1.0


def _weight_scatter(sample: RunSample, name: str, limits: tuple[float, float], styles: LineStyles) -> FigurePanel:
    before, after = sample.pretrained[name], sample.weights[name]
    (across, up), kept = limits, after != 0
    figure, axes = new_panel()
    axes.axline((0, 0), slope=1, color=GREY, linewidth=0.6)
    _dots(axes, before, after, kept, styles[sample.setting.line].colour)
    axes.set(xlim=(-across, across), ylim=(-up, up), xlabel="pretrained weight", ylabel="fine-tuned weight")
    alt = f"Scatter of {after.size:,} weights, fine-tuned against pretrained, {sample.name}: {_share(kept)} are kept."
    return FigurePanel(sample.name, to_svg(figure), alt)


def _dots(axes: Axes, x: Array, y: Array, kept: NDArray[np.bool_], colour: str) -> None:
    for shown, shade in ((~kept, PALE), (kept, colour)):
        axes.scatter(x[shown], y[shown], s=2.5, color=shade, alpha=0.55, linewidths=0, rasterized=True)


def _share(true: NDArray[np.bool_]) -> str:
    return percent(float(true.mean()))


def _growth(shown: Sequence[RunSample], name: str) -> list[Observation]:
    """Returns the share of the kept weights that grew: the movement in movement pruning."""
    shares = []
    for sample in shown:
        kept = sample.weights[name] != 0
        if kept.any():
            grew = np.abs(sample.weights[name][kept]) > np.abs(sample.pretrained[name][kept])
            shares.append((sample.name, _share(grew)))
    return [Observation("Share of the kept weights that are further from 0 than before:", shares)] if shares else []


def remaining_weights(shown: Sequence[RunSample], styles: LineStyles) -> ReportFigure:
    """Draws the distribution of the remaining weights."""
    title = "Which weights remain"
    pruned = [sample for sample in shown if not sample.setting.dense and sample.remaining().size]
    if not pruned:
        return ReportFigure(title, absent="no run that pruned has a sample of its weights" if shown else NO_SAMPLE)
    limit = _limit([sample.remaining() for sample in pruned])
    return ReportFigure(
        title,
        [_histogram(sample, limit, styles) for sample in pruned],
        caption=(
            "Distribution of the remaining weights, all matrices together. Magnitude pruning leaves two lobes with a gap "
            "around 0; movement pruning leaves weights of every size, small ones too, unless its scores were initialised "
            "from magnitude and had little time to learn."
        ),
        observations=_below_magnitude(pruned),
    )


def _histogram(sample: RunSample, limit: float, styles: LineStyles) -> FigurePanel:
    remaining, colour = sample.remaining(), styles[sample.setting.line].colour
    counts, edges = np.histogram(remaining, bins=60, range=(-limit, limit))
    figure, axes = new_panel(height=2.3)
    axes.stairs(100 * counts / remaining.size, edges, fill=True, color=colour, alpha=0.35, linewidth=0)
    axes.stairs(100 * counts / remaining.size, edges, color=colour, linewidth=1)
    axes.set(xlim=(-limit, limit), xlabel="fine-tuned weight", ylabel="% of the remaining weights")
    median = float(np.median(np.abs(remaining)))
    alt = f"Histogram of {remaining.size:,} remaining weights, {sample.name}: half of them lie within {median:.3g} of 0."
    return FigurePanel(sample.name, to_svg(figure), alt)


def _below_magnitude(pruned: Sequence[RunSample]) -> list[Observation]:
    """Returns the share of each run's weights that are smaller than all those which magnitude pruning keeps."""
    magnitude = next((sample for sample in pruned if sample.setting.first.method == "Magnitude"), None)
    if magnitude is None:
        return []
    gap = float(np.abs(magnitude.remaining()).min())
    shares = [(sample.name, _share(np.abs(sample.remaining()) < gap)) for sample in pruned]
    text = (
        f"In the sample of its weights, {magnitude.name} keeps none closer to 0 than {gap:.3g}. Share that is closer, by run:"
    )
    return [Observation(text, shares)]


def weights_and_scores(shown: Sequence[RunSample], styles: LineStyles) -> ReportFigure:
    """Draws the score of each weight of one matrix against the pretrained weight."""
    title = "How the weights were scored"
    scored = [sample for sample in shown if sample.scores]
    if not scored:
        return ReportFigure(title, absent="no method here has scores of its own" if shown else NO_SAMPLE)
    name = last_shared([sample.scores for sample in scored])
    if name is None:
        return ReportFigure(title, absent="the runs with scores share no pruned matrix")
    across = _limit([sample.pretrained[name] for sample in scored])
    return ReportFigure(
        title,
        [_score_scatter(sample, name, across, styles) for sample in scored],
        caption=(
            f"Each dot is a weight of {name}: its score at the end (up) against its pretrained value (across). Grey ones were "
            "pruned; the dotted line is the cut. The score of a large weight moves fast, since its gradient is G · W, so "
            "learned scores fan out to both sides of 0. Scores initialised from magnitude begin as a V."
        ),
    )


def _score_scatter(sample: RunSample, name: str, across: float, styles: LineStyles) -> FigurePanel:
    before, score, kept = sample.pretrained[name], sample.scores[name], sample.weights[name] != 0
    figure, axes = new_panel()
    _dots(axes, before, score, kept, styles[sample.setting.line].colour)
    if kept.any() and not kept.all() and score[~kept].max() <= score[kept].min():
        axes.axhline(float(score[kept].min()), color=INK, linewidth=0.8, linestyle=":")
    low, high = (float(edge) for edge in np.quantile(score, [1 - EDGE, EDGE]))
    margin = 0.05 * (high - low) or 1.0
    axes.set(xlim=(-across, across), ylim=(low - margin, high + margin), xlabel="pretrained weight", ylabel="score")
    alt = f"Scatter of {score.size:,} scores against weights, {sample.name}: {_share(kept)} are kept."
    return FigurePanel(sample.name, to_svg(figure), alt)
