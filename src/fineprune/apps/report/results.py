"""The results of the runs: as a sentence, and as a table for each comparison."""

from collections.abc import Sequence
from dataclasses import dataclass

from .formats import SPACE, decimal
from .setting_runs import LITTLE_LOSS, SettingRuns, dense_reference, grouped, ranked, share_of_dense, shared_metrics


def verdict(settings: Sequence[SettingRuns]) -> str:
    """Returns a sentence about the sparsest setting at little loss, in one comparison."""
    pruned, dense = [setting for setting in settings if not setting.dense], dense_reference(settings)
    metric, best = settings[0].first.metric, ranked(pruned or settings)[0]
    if not pruned:
        return f"Only dense runs: {metric} {best.stated(metric)}."
    if dense is None:
        return f"There is no dense run to compare with. The best setting is {best.name}, with {metric} {best.stated(metric)}."
    if not dense.is_measure:
        return (
            f"The dense {metric} is {dense.stated(metric)}, so that no share of it can be taken. The best pruned setting is "
            f"{best.name}, with {metric} {best.stated(metric)}."
        )
    enough = [(setting, share) for setting in pruned if (share := share_of_dense(setting, dense) or 0) >= LITTLE_LOSS]
    if not enough:
        return f"No pruned setting comes within 95 % of the dense {metric}, {dense.stated(metric)}."
    setting, share = min(enough, key=lambda entry: (entry[0].level, -entry[1]))
    return (
        f"The sparsest setting within 95 % of the dense {metric} is {setting.name}. Its {metric} is {setting.stated(metric)}, "
        f"{100 * share:.1f}{SPACE}% of dense."
    )


@dataclass(frozen=True)
class ResultRow:
    """A setting in the table of results: whether it is the best at its density, and its share of the dense metric."""

    setting: SettingRuns
    best: bool
    share: float | None


@dataclass(frozen=True)
class ResultTable:
    """The results of one comparison; `compared` says whether there is a dense run, `note` explains the columns."""

    title: str
    metrics: list[str]
    compared: bool
    rows: list[ResultRow]
    note: str


def result_table(settings: Sequence[SettingRuns]) -> ResultTable:
    """Lists the settings of a comparison, dense first, then by density, so that rivals are neighbours."""
    dense, rows = dense_reference(settings), list[ResultRow]()
    by_density = grouped(settings, lambda setting: (not setting.dense, -setting.level))
    for (pruned, _), rivals in sorted(by_density.items()):
        best = _clear_best(rivals) if pruned else None
        rows += [ResultRow(one, one is best, share_of_dense(one, dense)) for one in rivals]
    title = settings[0].heading or settings[0].first.task_name
    return ResultTable(title, shared_metrics(settings), dense is not None, rows, _note(dense))


def _clear_best(rivals: Sequence[SettingRuns]) -> SettingRuns | None:
    """Returns the best of several, unless the second is shown with the same value."""
    first, second = [*ranked(rivals), None][:2]
    return None if second is None or first is None or decimal(first.value) == decimal(second.value) else first


def _note(dense: SettingRuns | None) -> str:
    """Explains the columns."""
    share = ""
    if dense is not None:
        metric = dense.first.metric
        of = metric if dense.first.greater_is_better else f"dense {metric} / {metric}, since smaller is better"
        share = f" % of dense: of {of}, against the best dense setting."
    return (
        f"Mean ± standard deviation over the seeds.{share} Bold: the best at its density. Remaining: the kept share of the "
        "transformer blocks, as the paper counts. Whole model: of all its parameters."
    )
