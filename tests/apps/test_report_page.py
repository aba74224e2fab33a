"""The report in a browser, where one is installed: no error, no request, nothing wider than the screen; narrow and wide."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from test_report import write_run

from browser import HOW_TO_GET_ONE, find_browser
from fineprune.apps import report
from fineprune.methods.l0 import L0
from fineprune.methods.magnitude import Magnitude
from fineprune.methods.movement import Movement

BROWSER = find_browser()

pytestmark = pytest.mark.skipif(BROWSER is None, reason=HOW_TO_GET_ONE)

SEEN_BY = """<!doctype html><body><iframe id="page" style="border: 0; width: {width}px; height: 900px" src="{page}"></iframe>
<script>
const frame = document.getElementById("page");
frame.onload = () => {{
  const inner = frame.contentWindow, root = inner.document.documentElement;
  const drawn = [...root.querySelectorAll(".panel svg")];
  const texts = drawn.map(svg => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width * 8);
  document.body.dataset.seen = JSON.stringify({{
    width: inner.innerWidth, needed: root.scrollWidth, figures: root.querySelectorAll("figure svg").length,
    requests: inner.performance.getEntriesByType("resource").map(entry => entry.name), smallest: Math.min(...texts),
  }});
}};
</script>"""


def look(page: Path, width: int) -> tuple[dict[str, object], list[str]]:
    """Opens a page in a window `width` pixels wide; returns measurements of it, and the console."""
    wrapper = page.with_name(f"seen_at_{width}.html")
    wrapper.write_text(SEEN_BY.format(width=width, page=page.name))
    sandbox = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
    flags = ("--hide-scrollbars", "--allow-file-access-from-files", "--enable-logging=stderr", "--dump-dom")
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [str(BROWSER), *sandbox, profile, *flags, wrapper.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    found = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert found is not None, done.stderr
    return json.loads(found[1].replace("&quot;", '"')), re.findall(r".*CONSOLE.*", done.stderr)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every figure, long names and many columns."""
    folder = tmp_path_factory.mktemp("browser")
    for seed in (0, 1):
        write_run(folder / f"runs/dense-{seed}", seed=seed, accuracy=0.9)
        for density in (0.3, 0.1):
            write_run(folder / f"runs/magnitude-{density}-{seed}", Magnitude(), density, seed)
            for scope in ("local", "global"):
                name = f"movement-{'with-a-long-name-' * 6}{scope}-{density}-{seed}"
                write_run(folder / "runs" / name, Movement(), density, seed, scope=scope, teacher="a/" + "teacher" * 20)
    write_run(folder / "runs/l0", L0(), 0.1, machine={"processor": "x" * 200})
    (folder / "runs/sweep.json").write_text(json.dumps({"trials": {"l0": "", "failed" * 30: ""}}))
    return report.write([str(folder / "runs")], str(folder / "report.html"), title="A title" + "AndOneLongWord" * 10)


@pytest.mark.parametrize("width", [320, 400, 800, 1400])
def test_the_page_fits_any_screen_and_asks_for_nothing(page: Path, width: int) -> None:
    seen, console = look(page, width)
    assert seen["width"] == width
    assert seen["needed"] == width
    assert seen["figures"] >= 15
    assert seen["requests"] == []
    assert console == []
    assert seen["smallest"] >= 8.5, "the smallest print in a figure, in pixels"


def test_the_browser_would_tell(page: Path) -> None:
    """The same look at a page that does what it must not."""
    bad = page.with_name("bad.html")
    bad.write_text(
        '<!doctype html><div style="width: 2000px">wide</div><img src="http://127.0.0.1:9/gone.png"><script>console.error("no")</script>'
    )
    wrong = SEEN_BY.replace("Math.min(...texts)", "0")
    bad.with_name("seen_at_400.html").write_text(wrong)
    seen, console = look(bad, 400)
    assert seen["needed"] == 2008
    assert any(str(name).endswith("gone.png") for name in seen["requests"])  # type: ignore[attr-defined]
    assert console
