"""Figures of the weights: where they went, which remain, and how they were scored (after the paper's figures 2 and 3)."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes

from ..training.weight_samples import FILE
from .drawing import GREY, INK, PALE, Exhibit, Finding, Looks, Panel, at_place, panel, svg
from .samples import Array, Sample, last_shared, samples
from .settings import Setting, percent


def figures(settings: Sequence[Setting], looks: Looks) -> list[Exhibit]:
    """Returns the three figures of weights."""
    found = samples(settings)
    shown, diverged = ([sample for sample in found if sample.finite is finite] for finite in (True, False))
    exhibits = [_left_out(figure(shown, looks), diverged) for figure in (clouds, lobes, scored)]
    return [at_place(exhibit, found[0].setting.place) if found else exhibit for exhibit in exhibits]


def _left_out(exhibit: Exhibit, diverged: Sequence[Sample]) -> Exhibit:
    """Says in a figure which runs it does not show, because their weights cannot be drawn."""
    if not diverged:
        return exhibit
    names = "; ".join(f"{sample.name} (run {sample.setting.first.name})" for sample in diverged)
    words = f"runs whose weights or scores are no longer numbers: {names}"
    if exhibit.absent:
        return replace(exhibit, absent=f"{exhibit.absent}, apart from {words}")
    return replace(exhibit, here=[*exhibit.here, Finding(f"Left out are {words}.")])


NO_PORTRAIT = f"no run has a sample of its weights ({FILE})"

EDGE = 0.999
"""Share of the weights within a figure's range; outliers would squeeze the rest."""


def _reach(values: Sequence[Array]) -> float:
    """Returns how far from 0 an axis has to reach."""
    return 1.05 * max((float(np.quantile(np.abs(array), EDGE)) for array in values if array.size), default=1.0) or 1.0


def clouds(shown: Sequence[Sample], looks: Looks) -> Exhibit:
    """Draws each fine-tuned weight of one matrix against the pretrained one."""
    title = "Where the weights went"
    if not shown:
        return Exhibit(title, absent=NO_PORTRAIT)
    name = last_shared([sample.weights for sample in shown])
    if name is None:
        return Exhibit(title, absent="the runs share no pruned matrix")
    across = _reach([sample.pretrained[name] for sample in shown])
    up = _reach([sample.weights[name] for sample in shown])
    return Exhibit(
        title,
        [_cloud(sample, name, across, up, looks) for sample in shown],
        general=(
            f"Each dot is a weight of {name}: fine-tuned (up) against pretrained (across). On the thin diagonal it did not "
            "change; grey on the line 0 it was pruned. Magnitude pruning cuts a band around 0 out of the cloud, because it "
            "keeps what is large. Movement pruning keeps what moved away from 0, and may drop what is large; with scores initialised from "
            "magnitude it starts out like magnitude pruning, and departs from it as it learns."
        ),
        here=_away_from_zero(shown, name),
    )


def _cloud(sample: Sample, name: str, across: float, up: float, looks: Looks) -> Panel:
    before, after = sample.pretrained[name], sample.weights[name]
    kept = after != 0
    figure, axes = panel()
    axes.axline((0, 0), slope=1, color=GREY, linewidth=0.6)
    _dots(axes, before[~kept], after[~kept], PALE)
    _dots(axes, before[kept], after[kept], looks[sample.setting.line].colour)
    axes.set(xlim=(-across, across), ylim=(-up, up), xlabel="pretrained weight", ylabel="fine-tuned weight")
    alt = (
        f"Scatter of {before.size:,} weights, fine-tuned against pretrained, {sample.name}: "
        f"{percent(float(kept.mean()))} are kept, the others lie on 0."
    )
    return Panel(sample.name, svg(figure), alt)


def _dots(axes: Axes, x: Array, y: Array, colour: str) -> None:
    axes.scatter(x, y, s=2.5, color=colour, alpha=0.55, linewidths=0, rasterized=True)


def _away_from_zero(shown: Sequence[Sample], name: str) -> list[Finding]:
    """Says which share of the kept weights grew: the movement in movement pruning."""
    shares = []
    for sample in shown:
        kept = sample.weights[name] != 0
        if kept.any():
            grew = np.abs(sample.weights[name][kept]) > np.abs(sample.pretrained[name][kept])
            shares.append((sample.name, percent(float(grew.mean()))))
    return [Finding("Of the kept weights, so many are further from 0 than before:", shares)] if shares else []


def lobes(shown: Sequence[Sample], looks: Looks) -> Exhibit:
    """Draws how the remaining weights are distributed."""
    title = "Which weights remain"
    pruned = [sample for sample in shown if not sample.setting.dense and sample.remaining().size]
    if not pruned:
        return Exhibit(title, absent="no run that pruned has a sample of its weights" if shown else NO_PORTRAIT)
    reach = _reach([sample.remaining() for sample in pruned])
    return Exhibit(
        title,
        [_lobe(sample, reach, looks) for sample in pruned],
        general=(
            "How the weights that are left are distributed, all matrices together. Magnitude pruning leaves two lobes with a "
            "gap around 0; movement pruning leaves weights of every size, small ones too, unless the "
            "scores were initialised from magnitude and had little time to learn."
        ),
        here=_below_the_gap(pruned),
    )


def _lobe(sample: Sample, reach: float, looks: Looks) -> Panel:
    remaining = sample.remaining()
    counts, edges = np.histogram(remaining, bins=60, range=(-reach, reach))
    colour = looks[sample.setting.line].colour
    figure, axes = panel(height=2.3)
    axes.stairs(100 * counts / remaining.size, edges, fill=True, color=colour, alpha=0.35, linewidth=0)
    axes.stairs(100 * counts / remaining.size, edges, color=colour, linewidth=1)
    axes.set(xlim=(-reach, reach), xlabel="fine-tuned weight", ylabel="% of the remaining weights")
    alt = (
        f"Histogram of {remaining.size:,} remaining weights, {sample.name}: "
        f"half of them lie within {float(np.median(np.abs(remaining))):.3g} of 0."
    )
    return Panel(sample.name, svg(figure), alt)


def _below_the_gap(pruned: Sequence[Sample]) -> list[Finding]:
    """Says how much the others keep of what is smaller than all that magnitude pruning keeps."""
    magnitude = next((sample for sample in pruned if sample.setting.first.method == "Magnitude"), None)
    if magnitude is None:
        return []
    gap, name = float(np.abs(magnitude.remaining()).min()), magnitude.name
    shares = [(sample.name, percent(float((np.abs(sample.remaining()) < gap).mean()))) for sample in pruned]
    return [
        Finding(
            f"In the sample of its weights, {name} keeps none closer to 0 than {gap:.3g}. Of what remains in each "
            "sample, so many are closer:",
            shares,
        )
    ]


def scored(shown: Sequence[Sample], looks: Looks) -> Exhibit:
    """Draws the score of each weight of one matrix against the pretrained weight."""
    title = "How the weights were scored"
    with_scores = [sample for sample in shown if sample.scores]
    if not with_scores:
        return Exhibit(title, absent="no method here has scores of its own" if shown else NO_PORTRAIT)
    name = last_shared([sample.scores for sample in with_scores])
    if name is None:
        return Exhibit(title, absent="the runs with scores share no pruned matrix")
    across = _reach([sample.pretrained[name] for sample in with_scores])
    return Exhibit(
        title,
        [_score_cloud(sample, name, across, looks) for sample in with_scores],
        general=(
            f"Each dot is a weight of {name}: its score at the end (up) against its pretrained value (across); grey ones were "
            "pruned, and the dotted line is the cut between them and the rest. The score of a large weight moves fast, since "
            "its gradient is G · W, so learnt scores fan out to both sides of 0. Scores initialised from "
            "magnitude begin as a V."
        ),
        here=_correlations(with_scores, name),
    )


def _score_cloud(sample: Sample, name: str, across: float, looks: Looks) -> Panel:
    before, score, kept = sample.pretrained[name], sample.scores[name], sample.weights[name] != 0
    figure, axes = panel()
    _dots(axes, before[~kept], score[~kept], PALE)
    _dots(axes, before[kept], score[kept], looks[sample.setting.line].colour)
    if kept.any() and not kept.all() and score[~kept].max() <= score[kept].min():
        axes.axhline(float(score[kept].min()), color=INK, linewidth=0.8, linestyle=":")
    axes.set(xlim=(-across, across), xlabel="pretrained weight", ylabel="score")
    axes.set_ylim(*_span(score))
    alt = f"Scatter of {score.size:,} scores against weights, {sample.name}: {percent(float(kept.mean()))} are kept."
    return Panel(sample.name, svg(figure), alt)


def _span(score: Array) -> tuple[float, float]:
    low, high = (float(edge) for edge in np.quantile(score, [1 - EDGE, EDGE]))
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def _correlations(with_scores: Sequence[Sample], name: str) -> list[Finding]:
    """Says how the scores follow the size of the weights."""
    found = []
    for sample in with_scores:
        size, score = np.abs(sample.pretrained[name]), sample.scores[name]
        if np.ptp(size) > 0 and np.ptp(score) > 0:
            found.append((sample.name, f"{round(np.corrcoef(size, score)[0, 1], 2) + 0.0:.2f}"))
    return [Finding("Correlation of the scores with the distance of the weights from 0:", found)] if found else []
