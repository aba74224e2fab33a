"""How figures look: a colour, marker and line for each method, and small SVGs that a page can hold."""

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import StringIO
from typing import Any

from ...errors import require
from .settings import Setting, grouped, lines

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
    "axes.titlesize": 9,
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
    "savefig.dpi": 170,  # of what is rasterised
}


@contextmanager
def drawing() -> Iterator[None]:
    """Sets matplotlib's style. Inside, a character that its own font lacks is no warning: the browser draws the text."""
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        mpl.rcdefaults()  # not the user's own style: captions and alt texts speak of this one
        mpl.rcParams.update(STYLE)
        yield


@dataclass(frozen=True)
class Look:
    """How a line is drawn: the method's colour and marker, hollow for a scope that is not local, dashed if distilled."""

    colour: str
    marker: str
    hollow: bool
    dashed: bool

    def line(self) -> dict[str, Any]:
        """Returns matplotlib's settings of a line without markers."""
        return {"color": self.colour, "linestyle": (0, (4, 2)) if self.dashed else "-"}

    def marks(self) -> dict[str, Any]:
        """Returns matplotlib's settings of markers without a line."""
        return {
            "linestyle": "none",
            "marker": self.marker,
            "markeredgecolor": self.colour,
            "markerfacecolor": "white" if self.hollow else self.colour,
        }


Looks = dict[str, Look]
"""The look of each line, by its words."""


def looks(settings: Iterable[Setting]) -> Looks:
    """Gives every line a look of its own, the same in each contest."""
    firsts = {line: inside[0] for line, inside in lines(settings).items()}
    return {
        line: replace(look, marker=(look.marker + FURTHER_MARKERS)[number % (1 + len(FURTHER_MARKERS))])
        for look, alike in grouped(firsts, lambda line: _look(firsts[line])).items()
        for number, line in enumerate(alike)
    }


def _look(setting: Setting) -> Look:
    colour, marker = COLOURS.get(setting.first.method, OTHER)
    hollow = setting.first.scope not in (None, "local")
    return Look(colour, marker, hollow, setting.first.teacher is not None)


@dataclass(frozen=True)
class Panel:
    """One drawing of a figure.

    Args:
        title: what is drawn.
        svg: without a size of its own.
        alt: says what it shows to who cannot see it.
    """

    title: str
    svg: str
    alt: str


@dataclass(frozen=True)
class Key:
    """What a line stands for: a swatch and its words."""

    swatch: str
    words: str


@dataclass(frozen=True)
class Finding:
    """What a figure shows of these runs: in words, or a value for each of several names."""

    words: str
    values: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Exhibit:
    """A figure of the page, or why there is none.

    Args:
        title: what it shows.
        panels: its drawings; none where the data is not there.
        keys: its legend.
        general: what to see in such a figure.
        here: what it shows of these runs.
        absent: why there is none.
    """

    title: str
    panels: Sequence[Panel] = ()
    keys: Sequence[Key] = ()
    general: str = ""
    here: Sequence[Finding] = ()
    absent: str = ""


def at_place(exhibit: Exhibit, place: str) -> Exhibit:
    """Says in a figure's title which of several contests it shows."""
    return replace(exhibit, title=f"{exhibit.title}: {place}") if place else exhibit


def panel(width: float = WIDTH, height: float = HEIGHT) -> tuple[Figure, Axes]:
    """Returns an empty panel."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def keys(settings: Iterable[Setting], of: Looks) -> list[Key]:
    """Returns the legend of the lines, each once."""
    return [Key(swatch(of[line]), line) for line in dict.fromkeys(setting.line for setting in settings)]


def swatch(look: Look) -> str:
    """Draws a short piece of a line, as an SVG."""
    figure = Figure(figsize=(0.42, 0.17))
    figure.add_artist(Line2D([0, 1], [0.5, 0.5], transform=figure.transFigure, **look.line()))
    figure.add_artist(Line2D([0.5], [0.5], transform=figure.transFigure, **look.marks()))
    return svg(figure)


def svg(figure: Figure) -> str:
    """Returns a figure as an SVG element for a page: no size but its proportions, no metadata, nothing loaded."""
    text = StringIO()
    figure.savefig(text, format="svg", transparent=True)
    drawn = text.getvalue()
    drawn = drawn[drawn.index("<svg ") :]
    for superfluous in (r"<metadata>.*?</metadata>", r"<style.*?</style>", r"<!--.*?-->", r"\n\s*(?=<)|\s+$"):
        drawn = re.sub(superfluous, "", drawn, flags=re.DOTALL)
    return re.sub(r"<svg [^>]*(viewBox=\"[^\"]+\")[^>]*>", r"<svg \1>", drawn, count=1)


def with_own_names(drawn: str, prefix: str) -> str:
    """Prefixes the names of a drawing's parts, so that several can stand in one page; those that nothing uses go."""
    used = set(re.findall(r"(?:url\(|href=\")#([\w.-]+)", drawn))

    def named(match: re.Match[str]) -> str:
        return f' id="{prefix}{match[1]}"' if match[1] in used else ""

    return re.sub(r"(url\(|href=\")#", rf"\1#{prefix}", re.sub(r' id="([^"]*)"', named, drawn))
