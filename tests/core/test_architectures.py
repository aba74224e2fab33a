"""Forward, backward, prune, save and reload, on the architectures people use."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fineprune
from architectures import ARCHITECTURES, batches, build, target_names
from conftest import Batch, adamw, differences, train
from fineprune import CubicSchedule, FromMagnitude, Magnitude, Movement, Pruner, PruningConfig
from fineprune.models import targets

DENSITY = 0.1
STEPS = 8
SCHEDULE = CubicSchedule(0.1, 0.3)
CONFIGS = {
    "movement, local": PruningConfig(Movement(FromMagnitude()), DENSITY, schedule=SCHEDULE),
    "magnitude, global": PruningConfig(Magnitude(), DENSITY, schedule=SCHEDULE, scope="global"),
}


def model_without_zeros(kind: str) -> nn.Module:
    """Returns a model in which a zero can only mean that a weight was pruned: its biases are random too."""
    model = build(kind)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    assert all(parameter.all() for parameter in model.parameters())
    return model


def code(model: nn.Module) -> dict[str, tuple[type, Callable[..., object], int]]:
    """Returns what runs in each module: its class, its forward method (thus its signature) and how many hooks."""
    return {
        name: (type(module), module.forward, len(module._forward_pre_hooks | module._forward_hooks))
        for name, module in model.named_modules()
    }


@torch.no_grad()
def outputs(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Returns the loss and the logits in evaluation mode."""
    assert not model.training
    found = {name: tensor for name, tensor in model(**batch).items() if isinstance(tensor, Tensor)}
    assert len(found) > 1, "loss and logits"
    return found


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_train_prune_save_and_reload(kind: str, config: PruningConfig, tmp_path: Path) -> None:
    model = model_without_zeros(kind)
    optimizer = adamw(model)
    code_before, keys_before = code(model), list(model.state_dict())
    reached = set()
    with Pruner(model, optimizer, config, total_steps=STEPS):
        parameters = {name: model.get_parameter(name) for name in target_names(kind)}
        for batch in batches(kind, STEPS):
            loss = model(**batch).loss
            assert loss.isfinite()
            loss.backward()
            assert all(parameter.grad is not None for parameter in parameters.values())
            reached |= {name for name, parameter in parameters.items() if parameter.grad.any()}
            optimizer.step()
            optimizer.zero_grad()
        assert code(model) == code_before
    assert reached == target_names(kind)
    assert list(model.state_dict()) == keys_before

    summary = fineprune.inspect(model, targets.find(model))
    assert {layer.name for layer in summary.layers} == target_names(kind)
    if config.scope == "local":
        assert [layer.kept for layer in summary.layers] == [math.floor(DENSITY * layer.weights) for layer in summary.layers]
    else:
        assert summary.kept == math.floor(DENSITY * summary.weights)
    assert {name for name, parameter in model.named_parameters() if not parameter.all()} == target_names(kind)

    model.eval()
    [batch] = batches(kind, 1)
    given = outputs(model, batch)
    model.save_pretrained(tmp_path)
    assert differences(given, outputs(model, batch)) == []
    reloaded, report = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert type(reloaded) is type(model)
    assert differences(model.state_dict(), reloaded.state_dict()) == []
    assert differences(given, outputs(reloaded, batch)) == []
    assert fineprune.inspect(reloaded, targets.find(reloaded)) == summary


def pruned(kind: str, checkpointed: bool = False, compiled: bool = False) -> dict[str, Tensor]:
    """Returns what a run ends with: the losses and the model's state."""
    torch.manual_seed(3)
    model = build(kind)
    if checkpointed:
        model.activation_checkpointing_enable()
        assert model.is_activation_checkpointing
    optimizer = adamw(model)
    runner = torch.compile(model, backend="eager") if compiled else model
    with Pruner(runner, optimizer, CONFIGS["movement, local"], total_steps=STEPS):
        losses = train(runner, optimizer, batches(kind, STEPS))
    return {**model.state_dict(), "losses": torch.stack(losses)}


# Not T5: its gradients then differ in the last bit, pruned or not.
@pytest.mark.parametrize("kind", ["llama", "bart"])
def test_gradient_checkpointing_changes_nothing(kind: str) -> None:
    assert differences(pruned(kind), pruned(kind, checkpointed=True)) == []


# At a break of the graph, Dynamo reads .grad of a tensor that has none, and hides the warning only where it is no error.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor:UserWarning")
@pytest.mark.parametrize("kind", ["gpt2", "vit"])
def test_compilation_changes_nothing(kind: str) -> None:
    assert differences(pruned(kind), pruned(kind, compiled=True)) == []
