"""Frozen weights: only the scores learn, and the mask alone is what a run comes to."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conftest import Stack, adamw, config, everything, loss_of, masks, stack_batches, train
from fineprune import L0, InvalidInputError, Magnitude, Movement, Pruner, PruningConfig, Random, SoftMovement, apply_mask
from fineprune.methods.group_lasso import GroupLasso

Attach = Callable[..., Pruner]


def test_the_weights_stay_and_the_scores_learn(attach: Attach) -> None:
    model = Stack()
    before = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)  # a decay, too, leaves them alone
    pruner = attach(model, optimizer, frozen_weights=True)
    at_first, scores = masks(pruner), pruner.scores()
    train(model, optimizer, stack_batches(20))
    for name, parameter in model.named_parameters():
        old = before.get_parameter(name)
        if name in pruner.names:
            mask = masks(pruner)[name]
            assert torch.equal(parameter, old.masked_fill(~mask, 0.0))
            assert not torch.equal(mask, at_first[name])
            assert not torch.equal(pruner.scores()[name], scores[name])
            assert parameter.grad is None
            assert parameter.requires_grad
            assert parameter not in optimizer.state, "no memory for moments that are of no use"
        else:
            assert not torch.equal(parameter, old), "what is not pruned trains"


def test_the_scores_learn_as_if_the_weights_had_a_rate_of_0(attach: Attach) -> None:
    """One step from the same weights moves the scores the same way, frozen or not."""
    found = []
    for is_frozen in (False, True):
        torch.manual_seed(3)
        model = Stack()
        optimizer = adamw(model)
        pruner = attach(model, optimizer, frozen_weights=is_frozen)
        train(model, optimizer, stack_batches(1))
        found.append(pruner.scores())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_clipping_counts_what_trains(attach: Attach) -> None:
    model = Stack()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = attach(model, optimizer, max_grad_norm=1e-3, frozen_weights=True)
    loss_of(model, stack_batches(1)[0]).backward()
    others = [p.grad.clone() for name, p in model.named_parameters() if name not in pruner.names]
    movement = [p.grad * p.detach() for name, p in model.named_parameters() if name in pruner.names]
    optimizer.step()
    expected = torch.cat([each.flatten() for each in [*others, *movement]]).norm()
    assert torch.allclose(pruner.gradient_norm, expected)


@pytest.mark.parametrize("method", [Movement(), SoftMovement(), L0()], ids=repr)
def test_a_run_resumes_exactly(attach: Attach, tmp_path: Path, method: object) -> None:
    batches = stack_batches(20)
    model = Stack()
    optimizer = adamw(model)
    pruner = attach(model, optimizer, method=method, frozen_weights=True)
    train(model, optimizer, batches[:9])
    pruner.save(tmp_path)
    weights, moments = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    train(model, optimizer, batches[9:])

    other = Stack()
    other.load_state_dict(weights)
    again = adamw(other)
    again.load_state_dict(moments)
    resumed = attach(other, again, method=method, frozen_weights=True)
    resumed.load(tmp_path)
    train(other, again, batches[9:])
    first, second = everything(pruner), everything(resumed)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_tasks_on_one_backbone(attach: Attach, tmp_path: Path) -> None:
    backbone = Stack()
    batches = stack_batches(40)
    expected = {}
    for task in (1, 2):
        model = copy.deepcopy(backbone)
        optimizer = adamw(model)
        pruner = attach(model, optimizer, frozen_weights=True)
        train(model, optimizer, batches[20 * (task - 1) : 20 * task])
        pruner.save_mask(tmp_path / f"{task}.mask.safetensors")
        expected[task] = loss_of(model, batches[0])
        pruner.detach()
    assert not torch.equal(expected[1], expected[2])
    before = copy.deepcopy(backbone.state_dict())
    for task in (1, 2, 1):
        with apply_mask(backbone, tmp_path / f"{task}.mask.safetensors"):
            assert torch.equal(loss_of(backbone, batches[0]), expected[task])
        assert all(torch.equal(backbone.state_dict()[name], before[name]) for name in before)
    kept = sum(p.numel() for name, p in backbone.named_parameters() if name in pruner.names)
    trained = sum(p.numel() * p.element_size() for name, p in backbone.named_parameters() if name not in pruner.names)
    assert (tmp_path / "1.mask.safetensors").stat().st_size < kept / 8 + trained + 5000


def test_only_what_the_run_trained_is_saved_beside_the_mask(attach: Attach, tmp_path: Path) -> None:
    model = Stack()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith("weight"))
    pruned = [p for name, p in model.named_parameters() if name.startswith("blocks") and p.dim() == 2]
    optimizer = torch.optim.AdamW(pruned, lr=1e-3)
    pruner = attach(model, optimizer, frozen_weights=True)
    train(model, optimizer, stack_batches(20))
    pruner.save_mask(tmp_path / "mask")
    size = sum(parameter.numel() for parameter in pruned) / 8
    assert size < (tmp_path / "mask").stat().st_size < size + 5000


@pytest.mark.parametrize(
    ("settings", "message"),
    [({}, "this run trains blocks.0"), ({"method": L0(), "frozen_weights": True}, "L0's gates are numbers")],
)
def test_what_is_no_mask_alone(attach: Attach, tmp_path: Path, settings: dict[str, object], message: str) -> None:
    model = Stack()
    pruner = attach(model, adamw(model), **settings)
    with pytest.raises(InvalidInputError, match=message):
        pruner.save_mask(tmp_path / "mask")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", [Magnitude(), Random(), GroupLasso()], ids=repr)
def test_a_method_that_learns_nothing(method: object) -> None:
    with pytest.raises(InvalidInputError, match=r"needs a method whose scores learn, and those of .* do not, so nothing would"):
        PruningConfig(method, 0.3, frozen_weights=True)


@pytest.mark.parametrize("name", ["frozen_weights", "dense_on_cpu"])
def test_it_is_yes_or_no(name: str) -> None:
    with pytest.raises(InvalidInputError, match=f"{name} must be true or false, got 'yes'"):
        config(**{name: "yes"})
