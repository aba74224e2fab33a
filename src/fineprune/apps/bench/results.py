"""The results of a measurement: rows, remarks, and the statements that they support."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .timing import Spread

HEADINGS = ("shape", "form", "median ms", "90 % ms", "a second", "times faster", "peak MB", "file MB", "differs")
"""Times faster than the dense form, and differs from the output of the saved model."""


@dataclass(frozen=True)
class BenchRow:
    """One form of a model at one shape (batch x tokens): times in milliseconds, sizes in bytes.

    Args:
        faster: how many times faster than the dense form it was; the range is that of the ratios within each round. None for
            the dense form itself, and where that could not be measured.
        memory: peak; None where the system does not report it.
        difference: of its first output from that of the saved model, as a fraction of the largest; None for other weights.
    """

    shape: str
    batch: int
    weights: str
    runtime: str
    precision: str
    latency: Spread
    faster: Spread | None
    memory: int | None
    file: int
    difference: float | None

    @property
    def throughput(self) -> float:
        """Texts or images a second, at the median latency."""
        return 1e3 * self.batch / self.latency.median

    @property
    def name(self) -> str:
        """The name of the form, as in tables."""
        return f"{self.weights}, {self.runtime} {self.precision}"

    def verdict(self) -> str:
        """Returns the comparison with the dense form, as far as the rounds can tell."""
        if self.faster is None:
            return "not compared, since the dense form could not be measured"
        if self.faster.low > 1:
            return f"{self.faster.median:.2f} times faster than dense"
        if self.faster.high < 1:
            return f"{1 / self.faster.median:.2f} times slower than dense"
        return "no difference from dense that these rounds could tell"

    def cells(self) -> Sequence[str]:
        """Returns the row of the table."""
        return (
            *(self.shape, self.name, f"{self.latency.median:.2f}", f"{self.latency.high:.2f}", f"{self.throughput:.1f}"),
            "" if self.faster is None else f"{self.faster.median:.2f} ({self.faster.low:.2f}–{self.faster.high:.2f})",
            "" if self.memory is None else f"{self.memory / 1e6:.0f}",
            f"{self.file / 1e6:.1f}",
            "" if self.difference is None else f"{self.difference:.0e}",
        )

    def facts(self) -> dict[str, Any]:
        """Returns everything, for JSON."""
        return asdict(self) | {"throughput": self.throughput, "verdict": self.verdict()}


@dataclass(frozen=True)
class Measurement:
    """All that was measured, with its conditions; remarks are sentences on failed forms and on outputs that differ."""

    rows: Sequence[BenchRow]
    remarks: Sequence[str]
    conditions: dict[str, Any]

    def shown(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Returns the headings and the cells of the table."""
        return HEADINGS, [row.cells() for row in self.rows]

    def table(self) -> str:
        """Returns the rows as a Markdown table."""
        headings, cells = self.shown()
        lines = [headings, ["---"] * len(headings), *cells]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def facts(self) -> dict[str, Any]:
        """Returns everything, for JSON."""
        return {"rows": [row.facts() for row in self.rows], "remarks": list(self.remarks), **self.conditions}

    def sentences(self) -> list[str]:
        """Returns the verdict on each form but the dense one, and the remarks."""
        verdicts = [f"{row.name} at {row.shape}: {row.verdict()}." for row in self.rows if row.weights != "dense"]
        return [*verdicts, *self.remarks]
