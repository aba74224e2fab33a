"""Group lasso: the proximal step against its equation and against torchao's, and densities reached with it."""

import copy
import math
import re
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from conftest import Stack, adamw, bert_batches, loss_of, stack_batches, tiny_bert, train
from fineprune import (
    Blocks,
    Columns,
    GroupLasso,
    Heads,
    InFlops,
    InvalidInputError,
    Magnitude,
    Neurons,
    Pruner,
    PruningConfig,
    Rows,
    Together,
    Unstructured,
)
from fineprune.structures.base import Structure

Attach = Callable[..., Pruner]


def by_torchao(penalty: float, group: Tensor, rate: float) -> Tensor:
    """The proximal map of one group by another library's code."""
    from torchao.prototype.pat.optim.group_lasso import ProxGroupLasso

    shrunk = group.clone()
    ProxGroupLasso(penalty).apply_(shrunk, rate)
    return shrunk


@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 9),
    amount=st.floats(0, 3),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 100.0]),
    structure=st.sampled_from([Rows(), Columns(), Unstructured()]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=100, deadline=None)
def test_the_step_is_the_proximal_map(
    rows: int, columns: int, amount: float, scale: float, structure: Structure, seed: int
) -> None:
    """argmin over V of ||V - W||^2 / 2 + amount * sqrt(size) * ||V|| is a multiple of W, zero or where the slope is 0."""
    weight = scale * torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    factor = GroupLasso(penalty=1.0).contraction(structure.magnitude(weight), amount)
    assert ((factor >= 0) & (factor <= 1)).all()
    size = structure.size(weight.shape)
    norms = structure.reduce(weight.square()).sqrt()
    shrunk = structure.reduce((structure.expand(factor, weight.shape) * weight).square()).sqrt()
    assert torch.allclose(shrunk, (norms - amount * math.sqrt(size)).clamp(min=0), atol=1e-12)


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.5])
@pytest.mark.parametrize("structure", [Rows(), Columns(), Blocks(2, 3), Unstructured()], ids=repr)
def test_the_step_against_torchao(structure: Structure, rate: float) -> None:
    weight = torch.randn(6, 9, dtype=torch.float64)
    weight[2], weight[:, 4] = 0, 1e-6
    factor = GroupLasso(penalty=0.8).contraction(structure.magnitude(weight), 0.8 * rate)
    ours = structure.expand(factor, weight.shape) * weight
    group_of_each = structure.expand(torch.arange(factor.numel()).view(factor.shape), weight.shape)
    for group in range(factor.numel()):
        members = group_of_each == group
        expected = by_torchao(0.8, weight[members], rate).nan_to_num(0.0)  # there 0 / 0 where a group is 0 and so is the rate
        assert torch.allclose(ours[members], expected, rtol=1e-12, atol=0)
        assert torch.equal(ours[members] == 0, expected == 0)


def test_training_against_torchao() -> None:
    """Ten steps of plain gradient descent, each followed by the other library's map: until a group is 0 they are the same."""
    model, reference = Stack(), Stack()
    reference.load_state_dict(model.state_dict())
    config = PruningConfig(GroupLasso(penalty=0.05), structure=Rows())
    optimizer, other = (torch.optim.SGD(one.parameters(), lr=0.1) for one in (model, reference))
    batches = stack_batches(10)
    penalties = []
    with Pruner(model, optimizer, config, total_steps=10) as pruner:
        for batch in batches:
            penalties.append(pruner.statistics()["penalty"])
            train(model, optimizer, [batch])
    assert penalties[0] == 0
    assert penalties[-1] == 0.05
    rows = [p for name, p in reference.named_parameters() if name in pruner.names]
    for batch, penalty in zip(batches, penalties, strict=True):
        alive = [(p != 0).any(1, keepdim=True) for p in rows]
        loss_of(reference, batch).backward()
        for parameter, living in zip(rows, alive, strict=True):
            parameter.grad.mul_(living)
        other.step()
        other.zero_grad()
        for parameter in rows:
            parameter.data.copy_(torch.stack([by_torchao(penalty, row, 0.1) for row in parameter.data]).nan_to_num(0.0))
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-14)


def test_a_strong_penalty_makes_exact_zeros_and_a_stronger_one_more(attach: Attach) -> None:
    densities = []
    for penalty in (0.0, 0.7, 3.0):
        model = Stack()
        optimizer = adamw(model, lr=1e-2)
        pruner = attach(model, optimizer, 40, method=GroupLasso(penalty=penalty), density=None, structure=Rows())
        train(model, optimizer, stack_batches(40))
        densities.append(pruner.density())
        for name in pruner.names:
            weight = model.get_parameter(name)
            assert torch.equal((weight != 0).any(1), (weight != 0).all(1))
    assert densities[0] == 1
    assert densities[0] > densities[1] > densities[2]


@pytest.mark.parametrize("structure", [Rows(), Together([Heads(), Neurons()])], ids=repr)
def test_a_density_is_kept_exactly_and_what_falls_is_small(attach: Attach, structure: Structure) -> None:
    """The penalty has shrunk what falls: at the same step magnitude pruning drops groups that are larger."""
    dropped = {}
    for method in (Magnitude(), GroupLasso()):
        torch.manual_seed(3)
        model = tiny_bert()
        optimizer = adamw(model)
        pruner = attach(model, optimizer, 100, method=method, density=0.5, structure=structure)
        for batch in bert_batches(100):
            before = [(site.mask, site.magnitude()) for site in pruner._masked.sites]
            train(model, optimizer, [batch])
            fallen = [m[was & ~site.mask] for (was, m), site in zip(before, pruner._masked.sites, strict=True)]
            dropped.setdefault(type(method), []).extend(torch.cat(fallen).tolist())
        for site in pruner._masked.sites:
            assert int(site.mask.sum()) == site.groups // 2
    means = {kind: sum(sizes) / len(sizes) for kind, sizes in dropped.items()}
    assert means[GroupLasso] < 0.9 * means[Magnitude]


def test_a_group_of_zeros_is_safe(attach: Attach) -> None:
    model = Stack()
    with torch.no_grad():
        model.blocks[0].up.weight[:3] = 0
    optimizer = adamw(model)
    pruner = attach(model, optimizer, method=GroupLasso(penalty=0.01), density=None, structure=Rows())
    train(model, optimizer, stack_batches(10))
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert not model.blocks[0].up.weight[:3].any(), "what is 0 stays 0"
    assert pruner.density() < 1


@pytest.mark.parametrize("penalty", [-1.0, math.inf, math.nan, "1", True])
def test_what_a_penalty_may_not_be(penalty: object) -> None:
    with pytest.raises(
        InvalidInputError, match=re.escape(f"penalty must be lambda, 0 or above, or None for a density, got {penalty!r}.")
    ):
        GroupLasso(penalty=penalty)


@pytest.mark.parametrize(("penalty", "density"), [(None, None), (1.0, 0.5)])
def test_either_a_density_or_a_penalty(penalty: float | None, density: float | None) -> None:
    with pytest.raises(InvalidInputError, match=r"(needs|takes) a density or a penalty"):
        PruningConfig(GroupLasso(penalty), density)


def test_the_state_is_saved(attach: Attach, tmp_path: object) -> None:
    def start() -> tuple[nn.Module, torch.optim.Optimizer, Pruner]:
        torch.manual_seed(5)
        model = Stack()
        optimizer = adamw(model)
        return model, optimizer, attach(model, optimizer, 20, method=GroupLasso(), structure=Rows())

    model, optimizer, pruner = start()
    train(model, optimizer, stack_batches(20)[:10])
    pruner.save(tmp_path)
    states = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    again, other, resumed = start()
    again.load_state_dict(states[0])
    other.load_state_dict(states[1])
    resumed.load(tmp_path)
    assert resumed._masked.pools[0].controller == pruner._masked.pools[0].controller
    for one, by in ((model, optimizer), (again, other)):
        train(one, by, stack_batches(20)[10:])
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_what_is_kept_at_the_end_is_not_shrunk(attach: Attach) -> None:
    model = Stack()
    optimizer = adamw(model, lr=1e-2)
    pruner = attach(model, optimizer, 100, method=GroupLasso(), density=0.3, structure=Rows())
    train(model, optimizer, stack_batches(100))
    assert pruner.statistics()["penalty"] == 0
    kept = torch.cat([site.magnitude()[site.mask] for site in pruner._masked.sites])
    fallen = torch.cat([site.magnitude()[~site.mask] for site in pruner._masked.sites])
    assert (kept > 0.02).all()
    assert fallen.median() < 0.001
    assert fallen.mean() < 0.2 * kept.mean()
    summary = pruner.close()
    assert [layer.kept / layer.weights for layer in summary.layers] == [3 / 12, 2 / 8, 3 / 12, 2 / 8]


@pytest.mark.parametrize("still", [0, 1])
def test_each_weight_shrinks_at_its_own_rate(attach: Attach, still: int) -> None:
    model = Stack()
    groups = [
        {"params": block.parameters(), "lr": 1e-12 if number == still else 1e-2} for number, block in enumerate(model.blocks)
    ]
    optimizer = torch.optim.SGD([*groups, {"params": model.head.parameters(), "lr": 0.0}])
    attach(model, optimizer, method=GroupLasso(penalty=1.0), density=None, structure=Rows())
    before = [block.up.weight.detach().clone() for block in model.blocks]
    for _ in range(5):
        model(**stack_batches(1)[0]).mul(0.0).backward()
        optimizer.step()
        optimizer.zero_grad()
    ratios = [float(block.up.weight.detach().norm() / old.norm()) for block, old in zip(model.blocks, before, strict=True)]
    assert ratios[still] == pytest.approx(1.0, abs=1e-6)
    assert ratios[1 - still] < 0.99


def test_a_rate_that_an_optimizer_does_not_have(attach: Attach) -> None:
    """Magnitude needs none, the proximal step does."""
    model = Stack().float()
    batch = {"features": stack_batches(1)[0]["features"].float(), "labels": stack_batches(1)[0]["labels"]}
    optimizer = RateFree(model.parameters())
    with pytest.raises(InvalidInputError, match="so the rate of its penalty cannot follow it"):
        attach(model, optimizer, method=GroupLasso(), structure=Rows())
    attach(model, optimizer, method=Magnitude())
    model(**batch).backward()
    optimizer.step()


class RateFree(torch.optim.Optimizer):
    """An optimizer without a learning rate."""

    def __init__(self, parameters: Iterator[nn.Parameter]) -> None:
        super().__init__(parameters, {})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.add_(parameter.grad, alpha=-1e-3)


def test_a_budget_has_no_say_where_a_penalty_decides() -> None:
    with pytest.raises(
        InvalidInputError, match=r"budget must be left out for GroupLasso\(penalty=1.0\), whose penalty sets the density"
    ):
        PruningConfig(GroupLasso(penalty=1.0), structure=Together([Heads(), Neurons()]), scope="global", budget=InFlops())
