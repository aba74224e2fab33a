"""The seams: a method, a structure and linked groups from outside the library work through the same pruner."""

import copy
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from conftest import Stack, adamw, config, dense, differences, everything, loss_of, masks, scores, stack_batches, train
from fineprune import (
    L0,
    Constant,
    FromMagnitude,
    InvalidInputError,
    Magnitude,
    Movement,
    Pruner,
    Random,
    Rows,
    Rule,
    SoftMovement,
    Uniform,
)
from fineprune.config.schedules import Schedule
from fineprune.core.clipping import gradient_norm
from fineprune.masks.bits import zero_where_pruned
from fineprune.methods.base import LearnedMethod, Method, PenalisedMethod
from fineprune.methods.controller import Controller, Ranking
from fineprune.methods.inits import ScoreInit
from fineprune.structures.base import Structure

Attach = Callable[..., Pruner]


@dataclass(frozen=True)
class Sensitivity(LearnedMethod):
    """S sums abs(G * W): what learns need be no movement, nor learn by Adam."""

    init: ScoreInit = Constant(0.0)
    score_lr: float = 1.0

    def score_gradient(self, scores: Tensor, movement: Tensor, mask: Tensor) -> Tensor:
        return movement.abs_().neg_()

    def optimizer(self, scores: Tensor) -> torch.optim.Optimizer:
        return torch.optim.SGD([scores], lr=1.0)

    def score_rate(self, factor: float) -> float:
        return 1.0


@dataclass(frozen=True)
class Along(Structure):
    """Whole rows (dim 1 is summed over), or whole columns (dim 0 is)."""

    dim: int

    def groups(self, shape: torch.Size) -> torch.Size:
        return torch.Size([shape[1 - self.dim]])

    def reduce(self, tensor: Tensor) -> Tensor:
        return tensor.sum(self.dim)

    def expand(self, groups: Tensor, shape: torch.Size) -> Tensor:
        return groups.unsqueeze(self.dim).expand(shape)


@dataclass(frozen=True)
class InnerFeatures(Along):
    """Row i of a block's `up` and column i of its `down` fall together."""

    dim: int = 1

    def link(self, model: nn.Module, weights: Mapping[str, Tensor]) -> list[dict[str, Structure]]:
        ups = [name for name in weights if name.endswith("up.weight")]
        return [{name: Along(1), name.replace("up", "down"): Along(0)} for name in ups]


def test_a_method_from_outside(attach: Attach) -> None:
    model = Stack()
    optimizer = adamw(model)
    pruner = attach(model, optimizer, method=Sensitivity())
    expected = {name: torch.zeros_like(weight) for name, weight in dense(pruner).items()}
    for batch in stack_batches(10):
        loss_of(model, batch).backward()
        for name, weight in dense(pruner).items():
            expected[name] += (model.get_parameter(name).grad * weight).abs()
        optimizer.step()
        optimizer.zero_grad()
    assert all(torch.allclose(scores(pruner)[name], expected[name], rtol=1e-12) for name in expected)
    for name, mask in masks(pruner).items():
        assert int(mask.sum()) == 28  # floor(0.3 * 96)
        assert expected[name][mask].min() >= expected[name][~mask].max()


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("method", [Magnitude(), Random(), Movement(), Movement(FromMagnitude()), Sensitivity()], ids=repr)
def test_a_structure_from_outside(attach: Attach, method: Method, scope: str) -> None:
    model = Stack()
    optimizer = adamw(model)
    pruner = attach(model, optimizer, method=method, structure=Along(1), scope=scope)
    train(model, optimizer, stack_batches(10))
    kept = {name: mask.all(1) for name, mask in masks(pruner).items()}
    assert all(torch.equal(mask, kept[name].unsqueeze(1).expand_as(mask)) for name, mask in masks(pruner).items())
    if scope == "local":
        assert [int(rows.sum()) for rows in kept.values()] == [3, 2, 3, 2]  # floor(0.3 * 12), floor(0.3 * 8)
    else:
        used = sum(int(mask.sum()) for mask in masks(pruner).values())
        assert 115 - 12 < used <= 115  # floor(0.3 * 384), short of it by less than the largest row
    for name in pruner.names:
        weight = model.get_parameter(name)
        assert torch.equal(weight != 0, masks(pruner)[name])


def test_the_score_of_a_group_learns_from_all_its_weights(attach: Attach) -> None:
    model = Stack()
    optimizer = adamw(model)
    pruner = attach(model, optimizer, structure=Along(1))
    loss_of(model, stack_batches(1)[0]).backward()
    expected = {name: (model.get_parameter(name).grad * weight).sum(1) for name, weight in dense(pruner).items()}
    optimizer.step()
    for site in pruner._masked.sites:
        assert site.value().shape == expected[site.name].shape
        assert torch.allclose(site.scores.tensors()["moments.exp_avg"], 0.1 * expected[site.name], rtol=1e-12)


def test_linked_weights_share_their_scores(attach: Attach) -> None:
    model = Stack()
    optimizer = adamw(model)
    pruner = attach(model, optimizer, structure=InnerFeatures())
    assert list(scores(pruner)) == ["blocks.0.up.weight", "blocks.1.up.weight"]
    assert pruner.names == [f"blocks.{number}.{name}.weight" for number in (0, 1) for name in ("up", "down")]
    loss_of(model, stack_batches(1)[0]).backward()
    movement = {name: model.get_parameter(name).grad * weight for name, weight in dense(pruner).items()}
    optimizer.step()
    optimizer.zero_grad()
    for site in pruner._masked.sites:
        both = movement[site.name].sum(1) + movement[site.name.replace("up", "down")].sum(0)
        assert torch.allclose(site.scores.tensors()["moments.exp_avg"], 0.1 * both, rtol=1e-12)
        assert (site.groups, site.size) == (12, 16)
    train(model, optimizer, stack_batches(9))
    for block in model.blocks:
        rows, columns = (block.up.weight != 0).any(1), (block.down.weight != 0).any(0)
        assert int(rows.sum()) == 3  # floor(0.3 * 12)
        assert torch.equal(rows, columns)


def test_the_magnitude_of_a_linked_group_is_its_root_mean_square(attach: Attach) -> None:
    model = Stack()
    pruner = attach(model, adamw(model), method=Magnitude(), structure=InnerFeatures())
    for site, block in zip(pruner._masked.sites, model.blocks, strict=True):
        together = torch.cat([block.up.weight, block.down.weight.t()], 1)
        assert torch.allclose(site.magnitude(), together.square().mean(1).sqrt(), rtol=1e-12)


@pytest.mark.parametrize("method", [Magnitude(), Movement(FromMagnitude())], ids=repr)
def test_linked_weights_in_a_global_budget(attach: Attach, method: Method) -> None:
    model = Stack()
    optimizer = adamw(model)
    pruner = attach(model, optimizer, method=method, structure=InnerFeatures(), scope="global")
    train(model, optimizer, stack_batches(10))
    kept = sum(int(mask.sum()) for mask in masks(pruner).values())
    assert kept == 115 // 16 * 16  # floor(0.3 * 384) weights, 16 in each group


def test_linked_weights_with_one_gradient_only(attach: Attach) -> None:
    model = Stack()
    optimizer = adamw(model)
    pruner = attach(model, optimizer, structure=InnerFeatures())
    loss_of(model, stack_batches(1)[0]).backward()
    expected = (model.blocks[0].up.weight.grad * dense(pruner)["blocks.0.up.weight"]).sum(1)
    model.blocks[0].down.weight.grad = None
    optimizer.step()
    site = pruner._masked.sites[0]
    assert torch.allclose(site.scores.tensors()["moments.exp_avg"], 0.1 * expected, rtol=1e-12)


@pytest.mark.parametrize(("method", "structure"), [(Sensitivity(), Along(0)), (Movement(), InnerFeatures())], ids=repr)
def test_the_state_of_what_comes_from_outside(attach: Attach, tmp_path: Path, method: Method, structure: Structure) -> None:
    model = Stack()
    optimizer = adamw(model)
    first = attach(model, optimizer, method=method, structure=structure)
    train(model, optimizer, stack_batches(5))
    first.save(tmp_path)
    first.detach()
    second = attach(model, optimizer, method=method, structure=structure)
    assert differences(everything(first), everything(second)) != []
    second.load(tmp_path)
    assert differences(everything(first), everything(second)) == []


@dataclass(frozen=True)
class AtOnce(Schedule):
    """Prunes before the first step: what a pruner does when it is attached is taken back by the state it loads."""

    def value(self, step: int, total_steps: int, initial: float, final: float) -> float:
        return final

    def check(self, total_steps: int) -> None:
        pass


@pytest.mark.parametrize("method", [Magnitude(), Movement(), Movement(Uniform())], ids=repr)
def test_a_schedule_from_outside(attach: Attach, tmp_path: Path, method: Method) -> None:
    model = Stack()
    optimizer = adamw(model)
    first = attach(model, optimizer, method=method, schedule=AtOnce())
    assert first.density() == first.summary().density == 28 / 96
    train(model, optimizer, stack_batches(3))
    first.save(tmp_path)

    torch.manual_seed(1234)
    again = Stack()
    again.load_state_dict(model.state_dict())
    other = adamw(again)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    second = attach(again, other, method=method, schedule=AtOnce())
    second.load(tmp_path)
    assert differences(everything(first), everything(second)) == []
    for each, its_optimizer in ((model, optimizer), (again, other)):
        train(each, its_optimizer, stack_batches(3))
    assert differences(everything(first), everything(second)) == []


def test_groups_larger_than_a_global_budget_are_refused() -> None:
    model = Stack()
    with pytest.raises(ValueError, match="would keep nothing of all matrices: "):
        Pruner(model, adamw(model), config(structure=InnerFeatures(), scope="global", density=0.04), total_steps=10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_zeroing_by_bits_equals_filling(dtype: torch.dtype) -> None:
    values = torch.tensor([1.5, -1.5, 0.0, -0.0, math.inf, -math.inf, math.nan, 1e-40], dtype=dtype).repeat(2)
    mask = torch.arange(16) < 8
    zeroed, filled = values.clone(), values.masked_fill(~mask, 0.0)
    version = zeroed._version
    zero_where_pruned(zeroed, mask)
    integers = {8: torch.int64, 4: torch.int32, 2: torch.int16}[dtype.itemsize]
    assert torch.equal(zeroed.view(integers), filled.view(integers))
    assert zeroed._version > version  # PyTorch counts the change

    transposed = torch.randn(4, 6, dtype=torch.float64).T
    expected = transposed.masked_fill(transposed < 0, 0.0)
    zero_where_pruned(transposed, (transposed >= 0).contiguous())
    assert torch.equal(transposed, expected)


def test_scores_learn_from_a_gradient_that_lies_otherwise_in_memory(attach: Attach) -> None:
    """Adam's fused form walks through memory: a transposed gradient would reach other scores."""
    pruner = attach(model := Stack(), adamw(model), method=Movement(Constant(0.0)))
    site = pruner._masked.sites[0]
    gradient = torch.randn(8, 12, dtype=torch.float64).t()
    assert not gradient.is_contiguous()
    site.scores.learn([gradient], 0.1)
    assert torch.allclose(site.value(), -0.1 * gradient.sign(), atol=1e-6)


@pytest.mark.parametrize("init", [Constant(0.0), Uniform(0.1)], ids=repr)
def test_resuming_with_weights_that_lie_otherwise_in_memory(attach: Attach, tmp_path: Path, init: ScoreInit) -> None:
    def turned() -> Stack:
        model = Stack()
        for block in model.blocks:
            block.up.weight = nn.Parameter(block.up.weight.detach().t().contiguous().t())
        return model

    model, batches = turned(), stack_batches(20)
    optimizer = adamw(model)
    whole = attach(model, optimizer, total_steps=20, method=Movement(init))
    train(model, optimizer, batches[:10])
    whole.save(tmp_path)
    saved, moments = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    train(model, optimizer, batches[10:])
    again = turned()
    again.load_state_dict(saved)
    other = adamw(again)
    other.load_state_dict(moments)
    resumed = attach(again, other, total_steps=20, method=Movement(init))
    resumed.load(tmp_path)
    train(again, other, batches[10:])
    assert differences(everything(whole), everything(resumed)) == []


@pytest.mark.parametrize("method", [SoftMovement(penalty=50.0), L0(penalty=50.0)], ids=repr)
def test_a_penalty_reaches_a_matrix_that_the_loss_does_not(attach: Attach, method: Method) -> None:
    model = Stack()
    model.unused = nn.ModuleList([nn.Sequential(nn.Linear(8, 8, dtype=torch.float64))])
    optimizer = adamw(model)
    pruner = attach(model, optimizer, method=method, density=None)
    initialised = scores(pruner)["unused.0.0.weight"]
    train(model, optimizer, stack_batches(10))
    assert (scores(pruner)["unused.0.0.weight"] < initialised).all()


def test_matrices_of_other_sizes_are_of_another_kind(attach: Attach) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Sequential(nn.Linear(width, 4)) for width in (4, 64))

    pruner = attach(model := Odd(), adamw(model), structure=Rows(), scope="adaptive", density=0.5)
    assert len({site.kind for site in pruner._masked.sites}) == 2


@pytest.mark.parametrize(("method", "density"), [(SoftMovement(), 0.005), (L0(), 1e-4), (Movement(), 1e-3)], ids=repr)
def test_the_density_that_an_error_advises_is_taken(attach: Attach, method: Method, density: float) -> None:
    with pytest.raises(InvalidInputError, match=r"Ask for at least 0\.\d+") as refusal:
        attach(model := Stack(), adamw(model), method=method, density=density)
    advised = float(re.findall(r"Ask for at least (0\.\d+)", str(refusal.value))[0])
    attach(model := Stack(), adamw(model), method=method, density=advised)
    with pytest.raises(InvalidInputError):
        attach(model := Stack(), adamw(model), method=method, density=advised - 3e-6)


def test_rules_may_name_everything_in_a_model_without_blocks(attach: Attach) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    pruner = attach(model, adamw(model), density=0.5, rules=[Rule(["0", "1"], density=0.25)])
    assert pruner.names == ["0.weight", "1.weight"]


def test_the_norm_of_a_large_half_precision_gradient_is_finite() -> None:
    assert float(gradient_norm(torch.full((1000, 1000), 100.0, dtype=torch.float16))) == pytest.approx(1e5, rel=1e-3)


@dataclass(frozen=True)
class Pulled(LearnedMethod, PenalisedMethod):
    """A penalised method from outside: it only says how far the score at the asked density is from 0."""

    init: ScoreInit = Constant(0.0)
    score_lr: float = 1e-2
    penalty: float | None = None

    def steer(self, controller: Controller, ranking: Ranking, rate: float) -> None:
        (score,) = ranking.at(ranking.density)
        controller.steer(score + 1.0, rate, ranking.typical_penalty(self.slope, -math.inf, math.inf))


@pytest.mark.parametrize("settings", [{"density": 0.3}, {"method": Pulled(penalty=1e3), "density": None}])
def test_a_penalised_method_from_outside_pulls_its_scores_down(attach: Attach, settings: dict[str, object]) -> None:
    ends = []
    for method in (settings.get("method", Pulled()), Movement(Constant(0.0))):
        torch.manual_seed(3)
        model = Stack()
        optimizer = adamw(model)
        density = settings["density"] if method != Movement(Constant(0.0)) else 0.3
        pruner = attach(model, optimizer, 20, method=method, density=density)
        train(model, optimizer, stack_batches(20))
        ends.append(torch.cat([score.flatten() for score in scores(pruner).values()]).mean())
        assert ("penalty" in pruner.statistics()) == isinstance(method, PenalisedMethod)
    assert ends[0] < ends[1] - 0.01
