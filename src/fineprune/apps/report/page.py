"""The page: tables and figures of runs in one HTML file that loads nothing."""

from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path

from ...errors import FileError, InvalidInputError, require
from ...files import replace_whole
from ...version import VERSION
from . import comparison, course, origin, results, weights
from .drawing import Exhibit, drawing, looks, with_own_names
from .grouping import group
from .runs import Run, find
from .settings import contests
from .trials import gaps

require("report", "matplotlib", "jinja2")

import jinja2  # noqa: E402
from markupsafe import Markup  # noqa: E402

MARK = "<!-- Written by fineprune report, and written anew by it. Take this line out to keep the page as it is. -->"

HEAD = 400
"""Characters at the start of a page within which the mark stands."""


def write(runs: list[str], output: str = "report.html", title: str | None = None) -> Path:
    """Writes one HTML page about finished runs: what they were, what they came to, and what pruning did to the weights.

    Args:
        runs: folders of runs, or folders that hold such, as a sweep's output.
        output: the page to write. A page that this command wrote before is replaced, nothing else is.
        title: stands on top of the page.

    Returns:
        The path of the page.

    Raises:
        InvalidInputError: for a folder without a run, a damaged file, or an output that cannot be written; before
            anything is written.
    """
    path = Path(output)
    _check_ours(path)
    page = render(find(runs), gaps(runs), title or "What pruning did")
    try:
        replace_whole(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    except OSError as error:
        raise FileError(f"{path} could not be written: {error}. Free some space, or give another --output.") from error
    return path


def _check_ours(path: Path) -> None:
    if path.is_dir():
        raise InvalidInputError(f"{path} is a folder. Give --output the name of a file, as {path / 'report.html'}.")
    if not path.parent.is_dir():
        raise InvalidInputError(
            f"There is no folder {path.parent} to write {path.name} into. Make it, or give another --output."
        )
    if path.exists() and MARK not in path.read_bytes()[:HEAD].decode("utf-8", errors="replace"):
        raise InvalidInputError(
            f"{path} exists, and was not written by this command, so it is left alone. Give another --output."
        )


def render(runs: Sequence[Run], missing: Sequence[str], title: str) -> str:
    """Returns the page of these runs, with sentences about those that are missing: the same text for the same runs."""
    settings = group(runs)
    with drawing():
        of = looks(settings)
        exhibits = [
            *comparison.figures(settings, of),
            *weights.figures(settings, of),
            *course.figures(settings, of),
        ]
    drawn = [exhibit for exhibit in exhibits if exhibit.panels]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = resources.files(__package__ or "").joinpath("template.html").read_text(encoding="utf-8")
    shared, differing = origin.told_apart(runs)
    return environment.from_string(source).render(
        mark=Markup(MARK),
        title=title,
        version=VERSION,
        leads=[(inside[0].place, results.verdict(inside)) for inside in contests(settings)],
        missing=missing,
        tiles=results.tiles(runs, settings),
        shared=shared,
        contests=[results.table(inside) for inside in contests(settings)],
        exhibits=[_named(exhibit, number) for number, exhibit in enumerate(drawn, 1)],
        absent=[exhibit for exhibit in exhibits if not exhibit.panels],
        runs=[origin.row(run, differing) for setting in settings for run in setting.runs],
        differing=differing,
    )


def _named(exhibit: Exhibit, number: int) -> Exhibit:
    """Gives the parts of a figure's drawings names of their own in the page."""
    panels = [
        replace(panel, svg=Markup(with_own_names(panel.svg, f"f{number}p{place}-")))
        for place, panel in enumerate(exhibit.panels)
    ]
    keys = [
        replace(key, swatch=Markup(with_own_names(key.swatch, f"f{number}k{place}-"))) for place, key in enumerate(exhibit.keys)
    ]
    return replace(exhibit, panels=panels, keys=keys)
