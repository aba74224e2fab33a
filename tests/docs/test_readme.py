"""What the README shows runs, and so do the examples."""

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


def test_the_code_runs(names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 3
    exec(blocks[0], names)
    assert "density of the whole model" in capsys.readouterr().out
    loaded = AutoModelForSequenceClassification.from_pretrained("pruned")
    weight = loaded.bert.encoder.layer[0].intermediate.dense.weight
    assert int(weight.count_nonzero()) == int(0.1 * weight.numel())
    for block in blocks[1:]:
        names["model"] = tiny_bert()
        exec(block, names)
        weight = names["model"].bert.encoder.layer[0].intermediate.dense.weight
        assert int(weight.count_nonzero()) == int(0.1 * weight.numel())


def test_what_it_names_exists() -> None:
    from fineprune.apps import cli

    assert set(re.findall(r"^    fineprune (\w+)", README, re.MULTILINE)) <= set(cli.COMMANDS)
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^    make (\w+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile
    for path in re.findall(r"recipes/\w+\.yaml|\]\((\w+\.md)\)", README):
        assert (ROOT / path).exists()


@pytest.mark.parametrize("example", ["plain_loop.py", "with_trainer.py"])
def test_the_examples_run(example: str) -> None:
    command = [sys.executable, str(ROOT / "examples" / example)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=environment)
    assert ran.returncode == 0, ran.stderr
    assert "density of the prunable weights: 0.0999" in ran.stdout
