"""What the README and the guides show runs, and so do the examples."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments, get_linear_schedule_with_warmup

from conftest import bert_batches, tiny_bert
from fineprune import Pruner

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a user has before the first line of the README's code."""
    monkeypatch.chdir(tmp_path)
    model, loader = tiny_bert(), bert_batches(20)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    settings = {"output_dir": "out", "num_train_epochs": 4, "use_cpu": True, "report_to": "none", "disable_tqdm": True}
    return {
        "model": model,
        "teacher": tiny_bert(),
        "loader": loader,
        "epochs": 2,
        "batches": loader * 2,
        "optimizer": optimizer,
        "scheduler": get_linear_schedule_with_warmup(optimizer, 4, 40),
        "Trainer": Trainer,
        "arguments": TrainingArguments(**settings, dataloader_pin_memory=False),
        "data": [{"input_ids": row, "labels": 0} for batch in loader for row in batch["input_ids"]],
    }


def blocks(page: str) -> list[str]:
    """Returns the Python blocks of a page."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def kept(model: torch.nn.Module) -> int:
    """Returns how many weights of one pruned matrix are left."""
    return int(model.bert.encoder.layer[0].intermediate.dense.weight.count_nonzero())


def ten_percent(model: torch.nn.Module) -> int:
    """Returns a tenth of the weights of that matrix."""
    return int(0.1 * model.bert.encoder.layer[0].intermediate.dense.weight.numel())


def test_the_code_runs(names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    loop, trainer = blocks("README.md")
    exec(loop, names)
    assert "density of the whole model" in capsys.readouterr().out
    loaded = AutoModelForSequenceClassification.from_pretrained("pruned")
    assert kept(loaded) == ten_percent(loaded)
    names["model"] = tiny_bert()
    exec(trainer, names)
    assert kept(names["model"]) == ten_percent(names["model"])


def test_the_pages_show_the_same_loop() -> None:
    loop = blocks("README.md")[0].partition("model.save_pretrained")[0]
    for page in ("docs/index.md", "docs/guides/training_loop.md"):
        assert blocks(page)[0].startswith(loop)


def test_a_state_is_saved_and_loaded(names: dict[str, Any]) -> None:
    exec("from fineprune import Movement, Pruner, PruningConfig\nconfig = PruningConfig(Movement(), density=0.1)", names)
    exec(blocks("docs/guides/training_loop.md")[1], names)
    assert {path.name for path in Path("checkpoint").iterdir()} == {"pruner.json", "pruner.safetensors"}


def test_the_trainer_resumes(names: dict[str, Any]) -> None:
    whole, resumed = blocks("docs/guides/trainer.md")
    exec(whole, names)
    assert kept(names["model"]) == ten_percent(names["model"])
    names["model"] = tiny_bert()
    exec(resumed, names)  # nothing was saved in this folder, so it starts again
    assert kept(names["model"]) == ten_percent(names["model"])


def test_distillation_in_trainer_and_in_a_loop(names: dict[str, Any]) -> None:
    trainer, loop = blocks("docs/guides/distillation.md")
    exec(trainer, names)
    assert kept(names["model"]) == ten_percent(names["model"])
    names["batch"] = names["loader"][0]
    exec(loop, names)
    assert names["loss"].requires_grad


def test_rules(names: dict[str, Any]) -> None:
    (rules,) = blocks("docs/guides/methods.md")
    exec(rules, names)
    for config in (names["by_module"], names["heads_first"]):
        model = tiny_bert()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        with Pruner(model, optimizer, config, total_steps=1) as pruner:
            model(**names["loader"][0]).loss.backward()
            optimizer.step()
        assert pruner.finished


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_names_exists(page: Path) -> None:
    from fineprune.apps import cli

    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"^ {4}(?:.* -m )?fineprune ([a-z]+)", text, re.MULTILINE)) <= set(cli.COMMANDS)
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^    make (\w+)", text, re.MULTILINE):
        assert f"\n{target}:" in makefile
    for path in re.findall(r"(?:recipes|benchmarks|examples|tests|docs)/[\w/]+\.(?:yaml|py|json|html)", text):
        assert (ROOT / path).exists(), path
    if page.name == "README.md":
        for path in re.findall(r"\]\((?!https)([^)#]+)\)", text):
            assert (ROOT / path).exists(), path


def test_the_readme_is_short() -> None:
    assert len(README.split()) <= 900


@pytest.mark.parametrize("example", ["plain_loop.py", "with_trainer.py"])
def test_the_examples_run(example: str) -> None:
    command = [sys.executable, str(ROOT / "examples" / example)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=environment)
    assert ran.returncode == 0, ran.stderr
    assert "density of the prunable weights: 0.0999" in ran.stdout
