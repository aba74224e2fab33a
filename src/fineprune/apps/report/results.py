"""What the runs came to: in a sentence, in large figures, and in a table."""

from collections.abc import Sequence
from dataclasses import dataclass

from .runs import Run
from .settings import ENOUGH, SPACE, Setting, figure, grouped, is_measure, metrics, percent, ranked, reference, share_of


def verdict(inside: Sequence[Setting]) -> str:
    """Says how far one can prune at little loss."""
    pruned, dense = [setting for setting in inside if not setting.dense], reference(inside[0], inside)
    metric = inside[0].first.metric
    if not pruned:
        return f"Only dense runs: {metric} {ranked(inside)[0].stated(metric)}."
    if dense is None:
        best = ranked(pruned)[0]
        return f"There is no dense run to compare with. The best setting is {best.name}, with {metric} {best.stated(metric)}."
    if not is_measure(dense):
        best = ranked(pruned)[0]
        return (
            f"The dense {metric} is {dense.stated(metric)}, so that no share of it can be taken. The best pruned setting is "
            f"{best.name}, with {metric} {best.stated(metric)}."
        )
    enough = [(setting, share) for setting in pruned if (share := share_of(setting, dense) or 0) >= ENOUGH]
    if not enough:
        return f"No pruned setting comes within 95 % of the dense {metric}, {dense.stated(metric)}."
    sparsest = min(setting.level for setting, _ in enough)
    setting, share = max((entry for entry in enough if entry[0].level == sparsest), key=lambda entry: entry[1])
    return (
        f"The sparsest setting within 95 % of the dense {metric} is {setting.name}. It comes to {setting.stated(metric)}, "
        f"which is {100 * share:.1f}{SPACE}% of dense."
    )


@dataclass(frozen=True)
class Tile:
    """A large figure and what it is."""

    figure: str
    words: str


def tiles(runs: Sequence[Run], settings: Sequence[Setting]) -> list[Tile]:
    """Returns what stands large on top of the page."""
    levels = sorted(setting.level for setting in settings if not setting.dense)
    found = [
        Tile(str(len(runs)), "run" if len(runs) == 1 else "runs"),
        Tile(str(len(settings)), "setting" if len(settings) == 1 else "settings, apart from seeds"),
    ]
    if levels:
        span = percent(levels[0]) if levels[0] == levels[-1] else f"{percent(levels[0])} – {percent(levels[-1])}"
        found.append(Tile(span, "of the prunable weights kept"))
    if all(run.seconds is not None for run in runs):
        found.append(Tile(duration(sum(run.seconds or 0 for run in runs)), "of training in all"))
    return found


def duration(seconds: float | None) -> str:
    """Returns `48 s`, `12 min` or `3.4 h`."""
    if seconds is None:
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


@dataclass(frozen=True)
class Line:
    """A row of the table of results: a setting, and its cells by column."""

    setting: Setting
    figures: list[str]
    best: bool
    share: float | None
    densities: list[str]
    seconds: str
    starts: bool


@dataclass(frozen=True)
class Table:
    """The results of one contest."""

    title: str
    metrics: list[str]
    compared: bool
    lines: list[Line]
    note: str


def table(inside: Sequence[Setting]) -> Table:
    """Lists the settings, dense first, then by density, so that rivals stand together."""
    dense, names, lines = reference(inside[0], inside), metrics(inside), []
    by_density = grouped(inside, lambda setting: (not setting.dense, -setting.level))
    for (pruned, _), rivals in sorted(by_density.items()):
        best = _clear_best(rivals) if pruned else None
        lines += [_line(setting, names, dense, setting is best, setting is rivals[0]) for setting in rivals]
    return Table(inside[0].place or inside[0].first.task_name, names, dense is not None, lines, _note(inside, dense, lines))


def _clear_best(rivals: Sequence[Setting]) -> Setting | None:
    """Returns the best of several, unless the second has the same figure."""
    first, second = [*ranked(rivals), None][:2]
    return None if second is None or first is None or figure(first.value) == figure(second.value) else first


def _line(setting: Setting, names: Sequence[str], dense: Setting | None, best: bool, starts: bool) -> Line:
    remaining = setting.average(lambda run: run.remaining_weights)
    return Line(
        setting=setting,
        figures=[setting.stated(name) for name in names],
        best=best,
        share=share_of(setting, dense),
        densities=[
            percent(setting.density),
            "–" if remaining is None else percent(remaining),
            percent(setting.average(lambda run: run.whole_model_density) or 0.0),
        ],
        seconds=duration(setting.average(lambda run: run.seconds)),
        starts=starts,
    )


def _note(inside: Sequence[Setting], dense: Setting | None, lines: Sequence[Line]) -> str:
    """Says what the columns mean."""
    first, parts = inside[0].first, []
    if any(len(setting.runs) > 1 for setting in inside):
        parts.append("Mean ± standard deviation over the seeds.")
    if dense is not None:
        way = first.metric if first.greater_is_better else f"dense {first.metric} / {first.metric}, since smaller is better"
        chosen = f", against the best of the dense settings ({dense.line})" if sum(one.dense for one in inside) > 1 else ""
        parts.append(f"% of dense: of {way}{chosen}.")
    if any(line.best for line in lines):
        parts.append("Bold: the best at its density.")
    parts.append("Remaining: what is left of the transformer blocks, as the paper counts.")
    return " ".join([*parts, "Whole model: of all its parameters."])
