"""How figures look: a colour, marker and line for each method, and small SVGs inside a page."""

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

from ...errors import require
from .setting_runs import SettingRuns, by_line

require("report", "matplotlib", "jinja2")

import matplotlib as mpl  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402

WIDTH, HEIGHT = 3.4, 2.6
"""Inches of a panel: its text is then as large as the page's small print, on a phone too."""

INK, GREY, PALE = "#333333", "#8a8a8a", "#d5d5d5"

COLOURS = {
    "Dense": (INK, "_"),
    "Magnitude": ("#d55e00", "s"),
    "Movement": ("#0072b2", "o"),
    "SoftMovement": ("#009e73", "D"),
    "L0": ("#cc79a7", "^"),
    "Random": ("#8a8a8a", "X"),
}
"""Colour (Okabe and Ito's, distinct for the colour-blind) and marker of each method."""

OTHER = ("#e69f00", "P")

FURTHER_MARKERS = "v<>p*h"
"""For lines of one method that would look the same."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, in the page's own font
    "svg.hashsalt": "fineprune",  # the same runs give the same page
    "text.parse_math": False,  # a $ in a name is a $
    "font.size": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "lines.linewidth": 1.4,
    "lines.markersize": 5.5,
    "savefig.dpi": 170,  # of rasterised dots and images
}


@contextmanager
def plot_style() -> Iterator[None]:
    """Sets matplotlib's style. Inside, a character that its own font lacks is no warning: the browser renders the text."""
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        mpl.rcdefaults()  # not the user's own style: captions and alt texts describe this one
        mpl.rcParams.update(STYLE)
        yield


@dataclass(frozen=True)
class LineStyle:
    """The method's colour and marker; hollow for a scope that is not local, dashed if distilled."""

    colour: str
    marker: str
    hollow: bool
    dashed: bool

    def settings(self) -> dict[str, Any]:
        """Returns matplotlib's settings of the line and its markers."""
        line = {"color": self.colour, "linestyle": (0, (4, 2)) if self.dashed else "-", "marker": self.marker}
        return {**line, "markerfacecolor": "white" if self.hollow else self.colour}


LineStyles = dict[str, LineStyle]
"""The style of each line, by its name."""


def line_styles(settings: Iterable[SettingRuns]) -> LineStyles:
    """Gives every line a style of its own, the same in each comparison."""
    styles: LineStyles = {}
    for line, (setting, *_) in by_line(settings).items():
        colour, own = COLOURS.get(setting.first.method, OTHER)
        hollow, dashed = setting.first.scope not in (None, "local"), setting.first.teacher is not None
        alike = [LineStyle(colour, marker, hollow, dashed) for marker in own + FURTHER_MARKERS]
        styles[line] = next((style for style in alike if style not in styles.values()), alike[0])
    return styles


@dataclass(frozen=True)
class FigurePanel:
    """One drawing of a figure: an SVG without a size of its own, and a description for those who cannot see it."""

    title: str
    svg: str
    alt: str


@dataclass(frozen=True)
class Observation:
    """A sentence on these runs, or a heading with a value for each of several names."""

    text: str
    values: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class ReportFigure:
    """A figure of the page.

    Args:
        title: of the figure.
        panels: its drawings; none where the data is missing.
        legend: a short piece of each line, as an SVG, by name.
        caption: explains the figure, for any runs.
        observations: what it shows of these runs.
        absent: why it has no panels.
    """

    title: str
    panels: Sequence[FigurePanel] = ()
    legend: Mapping[str, str] = field(default_factory=dict)
    caption: str = ""
    observations: Sequence[Observation] = ()
    absent: str = ""


def new_panel(height: float = HEIGHT) -> tuple[Figure, Axes]:
    """Returns an empty panel, `height` inches high."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def legend_of(settings: Iterable[SettingRuns], styles: LineStyles) -> dict[str, str]:
    """Returns a short piece of each line, as an SVG."""
    legend = {}
    for line in by_line(settings):
        figure = Figure(figsize=(0.42, 0.17))
        transform, middle = figure.transFigure, [0.5, 0.5, 0.5]
        figure.add_artist(Line2D([0, 0.5, 1], middle, transform=transform, markevery=[1], **styles[line].settings()))
        legend[line] = to_svg(figure)
    return legend


def to_svg(figure: Figure) -> str:
    """Returns a figure as an SVG element for a page: no size but its proportions, no metadata, nothing loaded."""
    text = StringIO()
    figure.savefig(text, format="svg", transparent=True)
    drawn = text.getvalue()
    drawn = drawn[drawn.index("<svg ") :]
    for superfluous in (r"<metadata>.*?</metadata>", r"<style.*?</style>", r"<!--.*?-->", r"\n\s*(?=<)|\s+$"):
        drawn = re.sub(superfluous, "", drawn, flags=re.DOTALL)
    return re.sub(r"<svg [^>]*(viewBox=\"[^\"]+\")[^>]*>", r"<svg \1>", drawn, count=1)


def with_prefixed_ids(svg: str, prefix: str) -> str:
    """Prefixes the ids inside an SVG, so that several can stand in one page, and removes those that nothing refers to."""
    used = set(re.findall(r"(?:url\(|href=\")#([\w.-]+)", svg))

    def prefixed(match: re.Match[str]) -> str:
        return f' id="{prefix}{match[1]}"' if match[1] in used else ""

    return re.sub(r"(url\(|href=\")#", rf"\1#{prefix}", re.sub(r' id="([^"]*)"', prefixed, svg))
