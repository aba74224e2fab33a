"""The code of docs/guides/extending.md runs, does what it says, and is as short as it says."""

import json
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CamembertConfig, CamembertModel

import fineprune
from conftest import Stack, adamw, dense, loss_of, masks, scores, stack_batches, train
from fineprune import Magnitude, Movement, Pruner, PruningConfig
from fineprune.models.anatomy import find_blocks
from fineprune.sparse.encoders import FusedEncoder

PAGE = (Path(__file__).parents[2] / "docs" / "guides" / "extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
Attach = Callable[..., Pruner]


@pytest.fixture(scope="module")
def outside() -> dict[str, Any]:
    """Runs each block as a file of its own, and returns what they define."""
    defined = {}
    for number, block in enumerate(BLOCKS):
        module = types.ModuleType(f"outside_{number}")
        sys.modules[module.__name__] = module
        exec(block, vars(module))
        defined |= {name: value for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
    return defined


def test_each_is_under_twenty_five_lines() -> None:
    assert len(BLOCKS) == 4
    assert max(len(block.splitlines()) for block in BLOCKS) < 25


def test_the_method(outside: dict[str, Any], attach: Attach) -> None:
    model = Stack()
    optimizer = adamw(model)
    pruner = attach(model, optimizer, method=outside["Sensitivity"]())
    expected = {name: torch.zeros_like(weight) for name, weight in dense(pruner).items()}
    for batch in stack_batches(10):
        loss_of(model, batch).backward()
        for name, weight in dense(pruner).items():
            expected[name] += (model.get_parameter(name).grad * weight).abs()
        optimizer.step()
        optimizer.zero_grad()
    for name, score in scores(pruner).items():
        assert torch.allclose(score, expected[name], rtol=1e-12)
        assert int(masks(pruner)[name].sum()) == 28  # floor(0.3 * 96)
        assert score[masks(pruner)[name]].min() >= score[~masks(pruner)[name]].max()


@pytest.mark.parametrize("method", [Magnitude(), Movement()], ids=repr)
def test_the_structure(outside: dict[str, Any], attach: Attach, method: object) -> None:
    model = Stack()
    optimizer = adamw(model)
    pruner = attach(model, optimizer, method=method, structure=outside["Neighbours"](4))
    train(model, optimizer, stack_batches(10))
    for mask in masks(pruner).values():
        groups = mask.unflatten(-1, (-1, 4))
        assert torch.equal(groups.all(-1), groups.any(-1))
        assert int(groups.all(-1).sum()) == 7  # floor(0.3 * 24)
    with pytest.raises(ValueError, match="not made of groups of 5"):
        attach(other := Stack(), adamw(other), structure=outside["Neighbours"](5))


def test_the_schedule(outside: dict[str, Any], attach: Attach) -> None:
    stairs = outside["Staircase"]()
    path = [stairs.value(step, 20, 1.0, 0.5) for step in range(21)]
    assert path[:11] == pytest.approx([1, 1, 0.9, 0.9, 0.8, 0.8, 0.7, 0.7, 0.6, 0.6, 0.5])
    assert path[10:] == [0.5] * 11
    with pytest.raises(ValueError, match="too short"):
        attach(model := Stack(), adamw(model), total_steps=9, schedule=stairs)


def test_all_together_and_through_json(outside: dict[str, Any], attach: Attach) -> None:
    settings = {
        "method": outside["Sensitivity"](),
        "density": 0.25,
        "structure": outside["Neighbours"](4),
        "schedule": outside["Staircase"](),
        "scope": "global",
    }
    config = PruningConfig(**settings)
    assert PruningConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    model = Stack()
    optimizer = adamw(model)
    pruner = attach(model, optimizer, **settings)
    train(model, optimizer, stack_batches(10))
    pruner.close()
    assert pruner.density() == 0.25


def test_the_architecture(outside: dict[str, Any]) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 50}
    model = CamembertModel(CamembertConfig(**sizes)).eval()
    blocks = find_blocks(model)
    assert [block.name for block in blocks] == ["encoder.layer.0", "encoder.layer.1"]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".intermediate.dense." in name:
                parameter[:8] = 0.0  # eight neurons that give nothing
    smaller, ids = fineprune.shrink(model), torch.arange(3, 15)[None]
    assert smaller.encoder.layer[0].intermediate.dense.out_features == 16
    expected = model(ids).last_hidden_state
    assert torch.allclose(smaller(ids).last_hidden_state, expected, atol=1e-5)
    sparse = fineprune.to_sparse(model, threshold_density=1.0)
    assert isinstance(sparse.encoder, FusedEncoder)
    assert torch.allclose(sparse(ids).last_hidden_state, expected, atol=1e-5)
