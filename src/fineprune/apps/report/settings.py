"""Settings: runs that differ in their seed alone, and how settings compare."""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TypeVar

from .runs import Run

ENOUGH = 0.95
"""Share of the dense figure that the paper takes for little loss."""

SPACE = "\N{NO-BREAK SPACE}"

CLOSE = 0.05
"""A density this near to the one asked for, relative to it, counts as reached: groups cannot always hit it exactly."""

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Returns the items of each key, both in their first order."""
    groups: dict[Key, list[Item]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return dict(groups)


@dataclass(frozen=True)
class Setting:
    """Runs that differ in their seed alone.

    Args:
        runs: one a seed, at least one, in the order of the seeds.
        line: says what was done, apart from the density; no two lines of a contest have the same.
        place: names its contest, where there are several.
    """

    runs: tuple[Run, ...]
    line: str
    place: str = ""

    @property
    def first(self) -> Run:
        return self.runs[0]

    @property
    def dense(self) -> bool:
        return self.first.pruning is None

    @property
    def density(self) -> float:
        """Mean over the seeds of what is left."""
        return fmean(run.density for run in self.runs)

    @property
    def asked(self) -> float | None:
        """The density asked for; None for a dense run, and where the method decides."""
        return None if self.first.pruning is None else self.first.pruning["density"]

    @property
    def missed(self) -> bool:
        """Whether what is left is not what was asked for."""
        return self.asked is not None and abs(self.density - self.asked) > CLOSE * self.asked

    @property
    def level(self) -> float:
        """The density to file it under: the one asked for, if it was reached; otherwise what is left, to two digits."""
        return float(f"{self.density:.2g}") if self.asked is None or self.missed else self.asked

    @property
    def contest(self) -> str:
        return self.first.contest

    @property
    def name(self) -> str:
        wanted = f" ({percent(self.asked)} asked for)" if self.asked is not None and self.missed else ""
        return self.line if self.dense else f"{self.line}, {percent(self.level)}{wanted}"

    def average(self, figure_of: Callable[[Run], float | None]) -> float | None:
        """Returns the mean of a figure over the seeds; None if one has none."""
        figures = [figure_of(run) for run in self.runs]
        known = [value for value in figures if value is not None]
        return fmean(known) if len(known) == len(figures) else None

    def mean(self, metric: str) -> float:
        return fmean(run.metrics[metric] for run in self.runs)

    def spread(self, metric: str) -> float | None:
        """The standard deviation over the seeds; None for one seed, and where a figure is not finite."""
        figures = [run.metrics[metric] for run in self.runs]
        return stdev(figures) if len(figures) > 1 and all(map(math.isfinite, figures)) else None

    @property
    def value(self) -> float:
        """Mean of the figure to compare by."""
        return self.mean(self.first.metric)

    def stated(self, metric: str) -> str:
        """Returns `0.9243 ± 0.0012`, mean and standard deviation; of one seed the figure alone."""
        mean, spread = self.mean(metric), self.spread(metric)
        return figure(mean) + ("" if spread is None else f"{SPACE}±{SPACE}{figure(spread, beside=mean)}")


def figure(value: float, beside: float | None = None) -> str:
    """Returns a figure with as many digits as a reader needs: `0.9243`, or `79.23` and `1,234` for large ones.

    Args:
        value: the figure.
        beside: one that it stands with, and shares the digits of. None: it stands alone.
    """
    size = abs(value if beside is None else beside)
    if size < 10:
        return f"{value:.4f}"
    return f"{value:.2f}" if size < 1000 else f"{value:,.0f}"


def percent(fraction: float) -> str:
    """Returns `3 %`, `0.15 %` or `97.6 %`: three digits at most, and a space that does not break."""
    return f"{100 * fraction:.3g}{SPACE}%"


def reference(setting: Setting, settings: Iterable[Setting]) -> Setting | None:
    """Returns the dense setting to compare with: same task and model; where there are several, the best of them."""
    rivals = [other for other in settings if other.dense and other.contest == setting.contest]
    return ranked(rivals)[0] if rivals else None


def is_measure(setting: Setting) -> bool:
    """Whether its figure can stand in a quotient: it is finite and above 0."""
    return 0 < setting.value < math.inf


def share_of(setting: Setting, dense: Setting | None) -> float | None:
    """Returns how much of the dense figure is kept: their quotient, so that more is better; None where it means nothing."""
    if dense is None or not (is_measure(setting) and is_measure(dense)):
        return None
    share = setting.value / dense.value
    return share if setting.first.greater_is_better else 1 / share


def contests(settings: Iterable[Setting]) -> list[list[Setting]]:
    """Returns the settings of each task and model."""
    return list(grouped(settings, lambda setting: setting.contest).values())


def lines(settings: Iterable[Setting]) -> dict[str, list[Setting]]:
    """Returns the settings of each line."""
    return grouped(settings, lambda setting: setting.line)


def ranked(settings: Sequence[Setting]) -> list[Setting]:
    """Returns settings of one contest, the best first; last those whose figure is no finite number."""
    sign = -1 if settings[0].first.greater_is_better else 1
    return sorted(settings, key=lambda setting: (not math.isfinite(setting.value), sign * setting.value))


def metrics(settings: Sequence[Setting]) -> list[str]:
    """Returns the metrics that all settings have, in the order of the first."""
    return [name for name in settings[0].first.metrics if all(name in run.metrics for one in settings for run in one.runs)]


NEAR = 0.1
"""The density to show weights at, where there is a choice."""


def largest_contest(settings: Sequence[Setting]) -> list[Setting]:
    """Returns the settings of the contest with the most runs that pruned something."""
    return max(contests(settings), key=lambda inside: sum(len(setting.runs) for setting in inside if not setting.dense))


def side_by_side(settings: Iterable[Setting]) -> list[Setting]:
    """Returns one setting of each line: at the density that most lines have, or else the nearest to it. Dense ones first."""
    settings = list(settings)
    levels = [setting.level for setting in settings if not setting.dense]
    common = max(levels, key=lambda density: (levels.count(density), -_apart(density, NEAR)), default=NEAR)
    return [min(inside, key=lambda setting: _apart(setting.level, common)) for inside in lines(settings).values()]


def _apart(density: float, other: float) -> float:
    return abs(math.log(max(density, 1e-9) / other))


def is_plain(setting: Setting) -> bool:
    """Whether nothing but the method itself was at work: no teacher, no scope but the local one."""
    return setting.first.teacher is None and setting.first.scope in (None, "local")


def few_a_method(settings: Iterable[Setting]) -> list[Setting]:
    """Returns the plain settings of each method, at most three; the first of its others where there are none."""
    methods = grouped(settings, lambda setting: setting.first.method).values()
    return [setting for inside in methods for setting in ([*filter(is_plain, inside)] or inside[:1])[:3]]
