"""Runs that differ in their seed alone, and how such groups of runs compare."""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TypeVar

from .formats import SPACE, decimal, percent
from .result_files import Run

LITTLE_LOSS = 0.95
"""Share of the dense metric that the paper takes for little loss."""

REACHED = 0.05
"""Relative difference from the density asked for within which it counts as reached: groups cannot always hit it exactly."""

SHOWN_DENSITY = 0.1
"""The density to show weights at, where there is a choice."""

Item = TypeVar("Item")
GroupKey = TypeVar("GroupKey", bound=Hashable)


def grouped(items: Iterable[Item], key: Callable[[Item], GroupKey]) -> dict[GroupKey, list[Item]]:
    """Returns the items of each key, both in their first order."""
    groups: dict[GroupKey, list[Item]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return dict(groups)


@dataclass(frozen=True)
class SettingRuns:
    """The runs of one setting: they differ in their seed alone.

    Args:
        runs: at least one, in the order of the seeds.
        line: describes the setting, apart from its density; unique within a comparison.
        heading: names the comparison (task and base model), where there are several; otherwise empty.
    """

    runs: tuple[Run, ...]
    line: str
    heading: str = ""

    @property
    def first(self) -> Run:
        return self.runs[0]

    @property
    def dense(self) -> bool:
        return self.first.pruning is None

    @property
    def density(self) -> float:
        """Mean density over the seeds."""
        return fmean(run.density for run in self.runs)

    @property
    def target_density(self) -> float | None:
        """The density asked for; None for a dense run, and where the method decides."""
        return None if self.first.pruning is None else self.first.pruning["density"]

    @property
    def level(self) -> float:
        """The density to compare at: the one asked for if it was reached, otherwise the mean, to two digits."""
        target = self.target_density
        reached = target is not None and abs(self.density - target) <= REACHED * target
        return target if target is not None and reached else float(f"{self.density:.2g}")

    @property
    def name(self) -> str:
        missed = self.target_density not in (None, self.level)
        target = f" ({percent(self.target_density)} asked for)" if missed else ""
        return self.line if self.dense else f"{self.line}, {percent(self.level)}{target}"

    @property
    def plain(self) -> bool:
        """Whether it has no teacher, and no scope but the local one."""
        return self.first.teacher is None and self.first.scope in (None, "local")

    def average(self, name: str) -> float | None:
        """Returns the mean of a field of the runs; None if a run lacks it."""
        values = [getattr(run, name) for run in self.runs]
        return None if None in values else fmean(values)

    def mean(self, metric: str) -> float:
        return fmean(run.metrics[metric] for run in self.runs)

    def deviation(self, metric: str) -> float | None:
        """The standard deviation over the seeds; None for one seed, and where a value is not finite."""
        values = [run.metrics[metric] for run in self.runs]
        return stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else None

    @property
    def value(self) -> float:
        """Mean of the metric to compare by."""
        return self.mean(self.first.metric)

    @property
    def is_measure(self) -> bool:
        """Whether `value` can stand in a quotient: it is finite and above 0."""
        return 0 < self.value < math.inf

    def stated(self, metric: str) -> str:
        """Returns `0.9243 ± 0.0012`, mean and standard deviation; the value alone for one seed."""
        mean, deviation = self.mean(metric), self.deviation(metric)
        return decimal(mean) + ("" if deviation is None else f"{SPACE}±{SPACE}{decimal(deviation, beside=mean)}")


def ranked(settings: Sequence[SettingRuns]) -> list[SettingRuns]:
    """Returns settings of one comparison, the best first; last those whose value is not finite."""
    sign = -1 if settings[0].first.greater_is_better else 1
    return sorted(settings, key=lambda setting: (not math.isfinite(setting.value), sign * setting.value))


def dense_reference(settings: Iterable[SettingRuns]) -> SettingRuns | None:
    """Returns the dense setting to compare with, in a comparison: the best of them."""
    dense = [setting for setting in settings if setting.dense]
    return ranked(dense)[0] if dense else None


def share_of_dense(setting: SettingRuns, dense: SettingRuns | None) -> float | None:
    """Returns value / dense value, inverted where smaller is better, so that more is better; None where undefined."""
    if dense is None or not (setting.is_measure and dense.is_measure):
        return None
    share = setting.value / dense.value
    return share if setting.first.greater_is_better else 1 / share


def by_comparison(settings: Iterable[SettingRuns]) -> list[list[SettingRuns]]:
    """Returns the settings of each task and base model."""
    return list(grouped(settings, lambda setting: setting.first.comparison).values())


def by_line(settings: Iterable[SettingRuns]) -> dict[str, list[SettingRuns]]:
    """Returns the settings of each line."""
    return grouped(settings, lambda setting: setting.line)


def shared_metrics(settings: Sequence[SettingRuns]) -> list[str]:
    """Returns the metrics that all settings have, in the order of the first."""
    return [name for name in settings[0].first.metrics if all(name in run.metrics for one in settings for run in one.runs)]


def shown_settings(settings: Sequence[SettingRuns]) -> list[SettingRuns]:
    """Returns the settings whose weights and layers are shown: side by side, of the comparison with the most pruned runs."""
    return side_by_side(
        max(by_comparison(settings), key=lambda compared: sum(len(one.runs) for one in compared if not one.dense))
    )


def side_by_side(settings: Sequence[SettingRuns]) -> list[SettingRuns]:
    """Returns one setting of each line: at the density that most lines have, or else the nearest to it. Dense ones first."""
    levels = [setting.level for setting in settings if not setting.dense]
    common = max(levels, key=lambda level: (levels.count(level), -_distance(level, SHOWN_DENSITY)), default=SHOWN_DENSITY)
    return [min(of_line, key=lambda setting: _distance(setting.level, common)) for of_line in by_line(settings).values()]


def _distance(density: float, other: float) -> float:
    return abs(math.log(max(density, 1e-9) / other))


def few_of_each_method(settings: Iterable[SettingRuns]) -> list[SettingRuns]:
    """Returns the plain settings of each method, at most three; the first of its others where there are none."""
    methods = grouped(settings, lambda setting: setting.first.method).values()
    return [one for of_method in methods for one in ([setting for setting in of_method if setting.plain] or of_method[:1])[:3]]
