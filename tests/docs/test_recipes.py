"""The recipes in recipes/: every one reads, and those of the paper's tables are what their script writes."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from fineprune import L0, Constant, SoftMovement
from fineprune.apps.training import recipe
from fineprune.apps.training.recipe import read_yaml

FOLDER = Path(__file__).parents[2] / "recipes"
WHOLE = sorted(path for path in FOLDER.rglob("*.yaml") if not path.stem.endswith("variants"))


@pytest.fixture(scope="module")
def paper() -> ModuleType:
    spec = importlib.util.spec_from_file_location("paper_recipes", FOLDER / "paper.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_is_one_for_each_cell_and_each_teacher(paper: ModuleType) -> None:
    written = {path.stem: path.read_text(encoding="utf-8") for path in (FOLDER / "paper").glob("*.yaml")}
    assert written == dict(paper.recipes())
    assert len(written) == 3 * (4 * 2 * 2 + 1)


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.stem)
def test_a_recipe_reads(path: Path) -> None:
    needs_model = [] if "model" in read_yaml(path) else ["--model", "m"]
    wanted = recipe.read([str(path), *needs_model])
    assert wanted.training.seed == 92 or "results" in str(path)
    if path.stem.endswith("_distilled"):
        assert wanted.teacher is not None
        assert (FOLDER / "paper" / f"{Path(wanted.teacher).name}.yaml").is_file()


def test_they_hold_the_settings_of_the_authors_runs() -> None:
    """Facts of the paper's appendix and the authors' spreadsheet, not of the script that writes the recipes."""
    soft = recipe.read([str(FOLDER / "paper" / "squad_soft_movement_10.yaml")])
    assert soft.pruning is not None
    assert isinstance(soft.pruning.method, SoftMovement)
    assert soft.pruning.method.penalty is not None
    assert 500 < soft.pruning.method.penalty < 800, "which left 13.9 % and 7.1 %"
    assert soft.pruning.method.init == Constant(0.0)
    assert (soft.pruning.schedule.warmup, soft.pruning.schedule.cooldown) == (5400, 10800)
    assert (soft.training.num_train_epochs, soft.training.learning_rate, soft.training.warmup_steps) == (10, 3e-5, 5400)
    assert soft.frozen_modules == ["embeddings"]
    l0 = recipe.read([str(FOLDER / "paper" / "mnli_l0_3_distilled.yaml")])
    assert l0.pruning is not None
    assert isinstance(l0.pruning.method, L0)
    assert l0.pruning.method.penalty is not None
    assert 250 < l0.pruning.method.penalty < 300, "which left 3.9 % and 3.06 %"
    assert (l0.distillation.temperature, l0.distillation.alpha_ce, l0.distillation.alpha_kd) == (2.0, 0.1, 0.9)
    assert l0.pruning.method.score_lr == 0.1


def test_lambda_lies_between_its_neighbours(paper: ModuleType) -> None:
    for task, method, distilled in paper.PENALTIES:
        runs = paper.PENALTIES[task, method, distilled]
        for density in paper.DENSITIES:
            found = paper.penalty(task, method, distilled, density)
            assert runs[0][0] < found < runs[-1][0] * 1.05
            below = [penalty for penalty, left in runs if left >= 100 * density * 1.05]
            assert not below or found > max(below)
