"""The page: tables and figures of runs in one HTML file that loads nothing."""

from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path

from ...errors import FileError, InvalidInputError, require
from ...files import replace_whole
from ...version import VERSION
from . import layer_figures, metric_figures, weight_figures
from .drawing import line_styles, plot_style, with_prefixed_ids
from .formats import duration, percent
from .grouping import group
from .provenance import run_cells, shared_and_differing
from .result_files import Run, find_runs, missing_trials
from .results import result_table, verdict
from .setting_runs import by_comparison, shown_settings

require("report", "matplotlib", "jinja2")

import jinja2  # noqa: E402
from markupsafe import Markup  # noqa: E402

MARK = "<!-- Written by fineprune report, which replaces it. Remove this line to keep the page as it is. -->"

HEAD = 400
"""Characters at the start of a page that contain the mark."""


def write(runs: list[str], output: str = "report.html", title: str | None = None) -> Path:
    """Writes one HTML page about finished runs: their settings and results, and what pruning did to the weights.

    Args:
        runs: folders of runs, or folders that hold such, as a sweep's output.
        output: the page to write. A page that this command wrote before is replaced; any other file is an error.
        title: heading of the page.

    Returns:
        The path of the page.

    Raises:
        InvalidInputError: for a folder without a run, a damaged file, or an output that cannot be written; before
            anything is written.
    """
    path = Path(output)
    _check_output(path)
    page = render(find_runs(runs), list(missing_trials(runs)), title or "What pruning did")
    try:
        replace_whole(path, lambda temporary: temporary.write_bytes(page.encode(errors="replace")))
    except OSError as error:
        raise FileError(f"{path} could not be written: {error}. Free some space, or give another --output.") from error
    return path


def _check_output(path: Path) -> None:
    if path.is_dir():
        raise InvalidInputError(f"{path} is a folder. Give --output the name of a file, as {path / 'report.html'}.")
    if not path.parent.is_dir():
        raise InvalidInputError(
            f"There is no folder {path.parent} to write {path.name} into. Make it, or give another --output."
        )
    if path.exists() and MARK not in path.read_bytes()[:HEAD].decode("utf-8", errors="replace"):
        raise InvalidInputError(f"{path} exists, and was not written by this command. Give another --output.")


def render(runs: Sequence[Run], missing: Sequence[str], title: str) -> str:
    """Returns the page of these runs, with sentences about those that are missing: the same text for the same runs."""
    settings = group(runs)
    comparisons = by_comparison(settings)
    with plot_style():
        styles = line_styles(settings)
        figures = [metric_figures.against_density(settings, styles), metric_figures.scopes(settings, styles)]
        shown = shown_settings(settings)
        of_weights = [*weight_figures.figures(shown, styles), layer_figures.layer_densities(shown)]
    heading = shown[0].heading and f": {shown[0].heading}"
    figures += [replace(figure, title=f"{figure.title}{heading}") for figure in of_weights]
    shared, differing = shared_and_differing(runs)
    return _template().render(
        mark=Markup(MARK),
        title=title,
        version=VERSION,
        verdicts=[(compared[0].heading, verdict(compared)) for compared in comparisons],
        missing=missing,
        shared=shared,
        tables=[result_table(compared) for compared in comparisons],
        figures=[figure for figure in figures if figure.panels],
        absent=[figure for figure in figures if not figure.panels],
        runs=[(run.name, run_cells(run, differing)) for setting in settings for run in setting.runs],
        differing=differing,
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    inline = {"inline": lambda svg, prefix: Markup(with_prefixed_ids(svg, prefix))}
    environment.filters |= {"percent": percent, "duration": duration, **inline}
    return environment.from_string(resources.files(__package__ or "").joinpath("template.html").read_text(encoding="utf-8"))
