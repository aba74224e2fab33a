"""What docs/guides/groups.md shows runs, and does what it says."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from conftest import WORDS, adamw, bert_batches, tiny_bert, train
from fineprune import Pruner

PAGE = (Path(__file__).parents[2] / "docs" / "guides" / "groups.md").read_text(encoding="utf-8")


def test_the_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Path) -> None:
    monkeypatch.chdir(tmp_path)
    model, batches = tiny_bert(), bert_batches(20)
    names: dict[str, Any] = {
        "model": model,
        "optimizer": adamw(model),
        "batches": batches,
        "tokenizer": AutoTokenizer.from_pretrained(model_folder),
        "texts": [" ".join(WORDS[:4])],
    }
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 5
    for block in blocks:
        exec(block, names)
    model.eval()
    expected = model(**batches[0]).logits
    for shrunken in (names["smaller"], names["again"]):
        assert torch.allclose(shrunken(**batches[0]).logits, expected, atol=1e-6)
        assert shrunken.bert.encoder.layer[0].intermediate.dense.weight.shape == (32, 32)
        assert shrunken.bert.encoder.layer[0].attention.self.query.weight.shape == (16, 32)
    assert names["small_model"].config.vocab_size == len(names["small_tokenizer"]) < 13
    for config, kept in ((names["hybrid"], 0.1 * 0.5), (names["blocks_and_neurons"], 0.5)):
        other = tiny_bert()
        optimizer = adamw(other)
        with Pruner(other, optimizer, config, total_steps=20) as pruner:
            train(other, optimizer, batches)
        assert pruner.density() == pytest.approx(kept, abs=0.01)
