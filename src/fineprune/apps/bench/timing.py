"""Times several ways to do the same in turns, so that changes of the machine's speed affect all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

Timed = Callable[[], float]
"""Runs once, and returns the seconds that it took."""

WARMUP = 2
"""Rounds that are not counted."""

PAUSE = 0.05
"""Seconds before each turn: threads wait busily for more work, PyTorch's for 10 ms, ONNX Runtime's for 30, and then sleep."""


@dataclass(frozen=True)
class Spread:
    """A median, and the range from the 10th to the 90th percentile."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        """Summarises at least one value."""
        rising = sorted(values)
        tenth = len(rising) // 10
        return cls(statistics.median(rising), rising[tenth], rising[-1 - tenth])


@dataclass(frozen=True)
class Timing:
    """The milliseconds of each round, in their order."""

    milliseconds: tuple[float, ...]

    @property
    def spread(self) -> Spread:
        """Milliseconds."""
        return Spread.of(list(self.milliseconds))

    def times_faster_than(self, other: "Timing") -> Spread:
        """Returns the ratio of the medians, and the range of the ratios within each round; both took turns."""
        within = Spread.of([b / a for a, b in zip(self.milliseconds, other.milliseconds, strict=True)])
        return Spread(other.spread.median / self.spread.median, within.low, within.high)


def timed(run: Callable[[], object]) -> Timed:
    """Returns a function that runs once and returns the seconds that it took."""

    def take() -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    return take


def in_turns(ways: Mapping[str, Timed], rounds: int, pause: float = PAUSE) -> dict[str, Timing]:
    """Takes the time of each way once a round, in a random order for each round.

    Before the timed run of a way there is a pause, then one of its runs that is not counted: it finds its threads awake and
    its weights in the caches as far as they fit, whoever ran before.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    order, shuffler = list(ways), Random(0)
    for _ in range(WARMUP + rounds):
        shuffler.shuffle(order)
        for name in order:
            time.sleep(pause)
            ways[name]()
            seconds[name].append(ways[name]())
    return {name: Timing(tuple(1e3 * second for second in taken[WARMUP:])) for name, taken in seconds.items()}
