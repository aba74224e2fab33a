"""Figures of the weights: where they went, which remain, and their scores (after the paper's figures 2 and 3)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from ...errors import InvalidInputError
from ..training.weight_samples import FILE, WeightSamples
from .drawing import GREY, INK, PALE, FigurePanel, LineStyles, Observation, ReportFigure, new_panel, to_svg
from .formats import percent
from .setting_runs import SettingRuns, few_of_each_method

NO_SAMPLE = f"no run has a sample of its weights ({FILE})"

EDGE = 0.999
"""Share of the weights within a figure's range; outliers would squeeze the rest."""

Array = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class RunSample:
    """Weights of a setting's first seed, by matrix, at the same places before and after training.

    Args:
        setting: whose first seed it is.
        pretrained, weights: a weight of 0 was pruned.
        scores: empty where the method has none of its own.
        remaining: the weights that are not pruned, of all matrices.
        colour: of its line.
    """

    setting: SettingRuns
    pretrained: Mapping[str, Array]
    weights: Mapping[str, Array]
    scores: Mapping[str, Array]
    remaining: Array
    colour: str

    @property
    def name(self) -> str:
        return self.setting.name

    @property
    def finite(self) -> bool:
        """Whether all values are finite. Those of a run that diverged are not, and no axis can hold them."""
        arrays = (array for kind in (self.pretrained, self.weights, self.scores) for array in kind.values())
        return all(bool(np.isfinite(array).all()) for array in arrays)


def figures(shown: Sequence[SettingRuns], styles: LineStyles) -> list[ReportFigure]:
    """Returns the three figures of weights. Raises InvalidInputError for a damaged sample."""
    settings = [one for one in few_of_each_method(shown) if (one.first.folder / FILE).is_file()]
    samples = [sample for one in settings if (sample := _sample(one, styles[one.line].colour)).weights]
    finite, diverged = ([sample for sample in samples if sample.finite is wanted] for wanted in (True, False))
    return [_without(draw(finite), diverged) for draw in (pretrained_and_finetuned, remaining_weights, weights_and_scores)]


def _sample(setting: SettingRuns, colour: str) -> RunSample:
    folder = setting.first.folder
    saved = WeightSamples.load(folder)
    for name, sample in (saved.scores | saved.weights).items():
        others = (saved.pretrained.get(name), saved.weights.get(name), saved.scores.get(name, sample))
        if any(other is None or other.shape != sample.shape for other in others):
            raise InvalidInputError(
                f"{folder / FILE} is damaged: the samples of {name} do not fit together. Train this run again."
            )
    pretrained, weights, scores = (
        {name: tensor.numpy() for name, tensor in kind.items()} for kind in (saved.pretrained, saved.weights, saved.scores)
    )
    remaining = [array[array != 0] for array in weights.values()]
    return RunSample(setting, pretrained, weights, scores, np.concatenate([np.zeros(0, np.float32), *remaining]), colour)


def _without(figure: ReportFigure, diverged: Sequence[RunSample]) -> ReportFigure:
    """Says which runs a figure does not show, because their weights cannot be drawn."""
    if not diverged:
        return figure
    names = "; ".join(f"{sample.name} (run {sample.setting.first.name})" for sample in diverged)
    left_out = f"runs whose weights or scores are no longer finite: {names}"
    if figure.absent:
        return replace(figure, absent=f"{figure.absent}, apart from {left_out}")
    return replace(figure, observations=[*figure.observations, Observation(f"Left out are {left_out}.")])


def _last_shared(runs: Sequence[Mapping[str, Array]]) -> str | None:
    """Returns the name of the last matrix that all runs have; None if they share none."""
    shared = [name for name in runs[0] if all(name in run for run in runs)]
    return shared[-1] if shared else None


def _limit(values: Sequence[Array]) -> float:
    """Returns the largest distance from 0 on an axis."""
    return 1.05 * max((float(np.quantile(np.abs(array), EDGE)) for array in values if array.size), default=1.0) or 1.0


def _share(true: NDArray[np.bool_]) -> str:
    return percent(float(true.mean()))


def pretrained_and_finetuned(shown: Sequence[RunSample]) -> ReportFigure:
    """Draws each fine-tuned weight of one matrix against the pretrained one."""
    title = "Where the weights went"
    if not shown:
        return ReportFigure(title, absent=NO_SAMPLE)
    name = _last_shared([sample.weights for sample in shown])
    if name is None:
        return ReportFigure(title, absent="the runs share no pruned matrix")
    across, up = _limit([sample.pretrained[name] for sample in shown]), _limit([sample.weights[name] for sample in shown])
    return ReportFigure(
        title,
        [_weight_scatter(sample, name, across, up) for sample in shown],
        caption=(
            f"Each dot is a weight of {name}: fine-tuned (up) against pretrained (across). A weight on the thin diagonal did "
            "not change; a grey one on the line 0 was pruned. Magnitude pruning keeps the large weights, none near 0. "
            "Movement pruning keeps the weights that move away from 0, and may prune large ones; with scores initialised from "
            "magnitude it starts like magnitude pruning."
        ),
        observations=_growth(shown, name),
    )


def _weight_scatter(sample: RunSample, name: str, across: float, up: float) -> FigurePanel:
    before, after = sample.pretrained[name], sample.weights[name]
    figure, axes = new_panel()
    axes.axline((0, 0), slope=1, color=GREY, linewidth=0.6)
    _dots(axes, before, after, after != 0, sample.colour)
    axes.set(xlim=(-across, across), ylim=(-up, up), xlabel="pretrained weight", ylabel="fine-tuned weight")
    kept = f"{_share(after != 0)} are kept"
    alt = f"Scatter of {after.size:,} weights, fine-tuned against pretrained, {sample.name}: {kept}."
    return FigurePanel(sample.name, to_svg(figure), alt)


def _dots(axes: Axes, x: Array, y: Array, kept: NDArray[np.bool_], colour: str) -> None:
    for shown, shade in ((~kept, PALE), (kept, colour)):
        axes.scatter(x[shown], y[shown], s=2.5, color=shade, alpha=0.55, linewidths=0, rasterized=True)


def _growth(shown: Sequence[RunSample], name: str) -> list[Observation]:
    """Returns the share of the kept weights that grew: the movement in movement pruning."""
    grew = {
        sample.name: (np.abs(sample.weights[name]) > np.abs(sample.pretrained[name]))[sample.weights[name] != 0]
        for sample in shown
    }
    shares = [(run, _share(of_run)) for run, of_run in grew.items() if of_run.size]
    return [Observation("Share of the kept weights that are further from 0 than before:", shares)] if shares else []


def remaining_weights(shown: Sequence[RunSample]) -> ReportFigure:
    """Draws the distribution of the remaining weights."""
    title = "Which weights remain"
    pruned = [sample for sample in shown if not sample.setting.dense and sample.remaining.size]
    if not pruned:
        return ReportFigure(title, absent="no run that pruned has a sample of its weights" if shown else NO_SAMPLE)
    limit = _limit([sample.remaining for sample in pruned])
    return ReportFigure(
        title,
        [_histogram(sample, limit) for sample in pruned],
        caption=(
            "Distribution of the remaining weights, all matrices together. Magnitude pruning leaves two lobes with a gap "
            "around 0; movement pruning leaves weights of every size, small ones too, unless its scores were initialised "
            "from magnitude and had little time to learn."
        ),
        observations=_below_magnitude(pruned),
    )


def _histogram(sample: RunSample, limit: float) -> FigurePanel:
    remaining = sample.remaining
    counts, edges = np.histogram(remaining, bins=60, range=(-limit, limit))
    figure, axes = new_panel(height=2.3)
    axes.stairs(100 * counts / remaining.size, edges, fill=True, color=sample.colour, alpha=0.35, linewidth=0)
    axes.stairs(100 * counts / remaining.size, edges, color=sample.colour, linewidth=1)
    axes.set(xlim=(-limit, limit), xlabel="fine-tuned weight", ylabel="% of the remaining weights")
    median = float(np.median(np.abs(remaining)))
    alt = f"Histogram of {remaining.size:,} remaining weights, {sample.name}: half of them lie within {median:.3g} of 0."
    return FigurePanel(sample.name, to_svg(figure), alt)


def _below_magnitude(pruned: Sequence[RunSample]) -> list[Observation]:
    """Returns the share of each run's weights that are smaller than all those which magnitude pruning keeps."""
    for magnitude in pruned:
        if magnitude.setting.first.method == "Magnitude":
            gap = float(np.abs(magnitude.remaining).min())
            text = f"In the sample of its weights, {magnitude.name} keeps none closer to 0 than {gap:.3g}."
            shares = [(sample.name, _share(np.abs(sample.remaining) < gap)) for sample in pruned]
            return [Observation(f"{text} Share that is closer, by run:", shares)]
    return []


def weights_and_scores(shown: Sequence[RunSample]) -> ReportFigure:
    """Draws the score of each weight of one matrix against the pretrained weight."""
    title = "How the weights were scored"
    scored = [sample for sample in shown if sample.scores]
    if not scored:
        return ReportFigure(title, absent="no method here has scores of its own" if shown else NO_SAMPLE)
    name = _last_shared([sample.scores for sample in scored])
    if name is None:
        return ReportFigure(title, absent="the runs with scores share no pruned matrix")
    across = _limit([sample.pretrained[name] for sample in scored])
    return ReportFigure(
        title,
        [_score_scatter(sample, name, across) for sample in scored],
        caption=(
            f"Each dot is a weight of {name}: its score at the end (up) against its pretrained value (across). Grey ones were "
            "pruned; the dotted line is the cut. The score of a large weight moves fast, since its gradient is G · W, so "
            "learned scores fan out to both sides of 0. Scores initialised from magnitude begin as a V."
        ),
    )


def _score_scatter(sample: RunSample, name: str, across: float) -> FigurePanel:
    score, kept = sample.scores[name], sample.weights[name] != 0
    figure, axes = new_panel()
    _dots(axes, sample.pretrained[name], score, kept, sample.colour)
    if kept.any() and not kept.all() and score[~kept].max() <= score[kept].min():
        axes.axhline(float(score[kept].min()), color=INK, linewidth=0.8, linestyle=":")
    low, high = (float(edge) for edge in np.quantile(score, [1 - EDGE, EDGE]))
    margin = 0.05 * (high - low) or 1.0
    axes.set(xlim=(-across, across), ylim=(low - margin, high + margin), xlabel="pretrained weight", ylabel="score")
    alt = f"Scatter of {score.size:,} scores against weights, {sample.name}: {_share(kept)} are kept."
    return FigurePanel(sample.name, to_svg(figure), alt)
