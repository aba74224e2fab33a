"""The quickstart on a tiny model and a few texts: three runs, a picture, and only figures that were measured."""

import json
from pathlib import Path

import pytest

from fineprune import InvalidInputError
from fineprune.apps.bench.shapes import Shape
from fineprune.apps.quickstart import run
from fineprune.apps.quickstart.docstrings import Docstrings
from fineprune.apps.training.result import Result


@pytest.fixture
def small(model_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Docstrings:
    """Puts the tiny model in MiniLM's place and a few texts in the standard library's, and shortens the runs."""
    texts = ("the good film", "a fine book", "the bad film", "a poor book") * 8
    data = Docstrings(("bad", "good"), texts, (1, 1, 0, 0) * 8, texts[:12], (1, 1, 0, 0) * 3)
    monkeypatch.setattr(run.minilm, "folder", lambda: model_folder)
    monkeypatch.setattr(run.docstrings, "load", lambda: data)
    monkeypatch.setattr(run, "STEPS", 20)
    monkeypatch.setattr(run, "ROUNDS", 2)
    monkeypatch.setattr(run, "SHAPE", Shape(1, 8))
    monkeypatch.chdir(tmp_path)
    return data


def test_runs_side_by_side_and_writes_what_was_measured(small: Docstrings, tmp_path: Path) -> None:
    folder, results, compact = run.run(density=0.25, seed=3)
    assert folder == Path("quickstart")
    assert list(results) == ["dense", "magnitude", "movement"]
    assert [result.inspection.density for result in results.values()] == [1.0, 0.25, 0.25]
    facts = json.loads((tmp_path / "quickstart" / "quickstart.json").read_text())
    assert {name: run["metrics"] for name, run in facts["runs"].items()} == {n: r.metrics for n, r in results.items()}
    assert (facts["seed"], facts["density"], facts["majority"], facts["steps"]) == (3, 0.25, 0.5, 20)
    assert facts["compact"]["accuracy"] == compact.accuracy
    assert (
        compact.packed_bytes == (tmp_path / "quickstart" / "packed" / "packed.safetensors").stat().st_size < compact.dense_bytes
    )
    assert f"{compact.faster.median:.2f} times as long" in compact.sentence()
    picture = (tmp_path / "quickstart" / "quickstart.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000

    again, *_ = run.run(density=0.25, seed=3)
    assert again == Path("quickstart-2")
    with pytest.raises(InvalidInputError, match="quickstart-2 exists already"):
        run.run(output="quickstart-2")


@pytest.mark.parametrize("density", [0.0, 1.5, 1.0])
def test_a_density_that_cannot_be_raises_before_the_first_run(small: Docstrings, density: float, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=rf"density must be above 0 and below 1, got {density}"):
        run.run(density=density)
    assert not list(tmp_path.iterdir())


def test_the_verdict_names_the_better_method(small: Docstrings) -> None:
    def results(movement: float, magnitude: float) -> dict[str, Result]:
        accuracies = {"movement": movement, "magnitude": magnitude}
        return {name: Result({"accuracy": a}, None, 1.0, 0, []) for name, a in accuracies.items()}

    assert "movement pruning is better than magnitude pruning, by 0.1" in run.verdict(results(0.6, 0.5))
    assert "magnitude pruning is better than movement pruning, by 0.2" in run.verdict(results(0.5, 0.7))
    assert "equal" in run.verdict(results(0.5, 0.5))
