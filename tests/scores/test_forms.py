"""Scores in bfloat16 and of low rank, in a run: the gradient is autograd's, a run resumes exactly, a config keeps its form."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conftest import Stack, adamw, config, differences, everything, loss_of, stack_batches, train
from fineprune import (
    L0,
    BFloat16Scores,
    Constant,
    FromMagnitude,
    FullScores,
    InvalidInputError,
    LowRankScores,
    Magnitude,
    Movement,
    Pruner,
    PruningConfig,
    Rows,
    Rule,
    SoftMovement,
)
from fineprune.methods.base import Method
from fineprune.methods.inits import ScoreInit
from fineprune.scores.base import ScoreForm

Attach = Callable[..., Pruner]

FORMS = [BFloat16Scores(), LowRankScores(2)]


@pytest.mark.parametrize("init", [Constant(0.0), FromMagnitude(0.3)], ids=repr)
def test_the_gradient_of_a_product_is_autograds(attach: Attach, init: ScoreInit) -> None:
    """Straight through: dL/dS = G * W, and from there by S = initialised(W) + A B, as autograd makes it."""
    model = Stack()
    dense = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = adamw(model)
    pruner = attach(model, optimizer, method=Movement(init), scores=LowRankScores(3))
    batches = stack_batches(2)
    train(model, optimizer, batches[:1])  # B is 0 before the first step, and A has no gradient
    dense = {site.name: site.weights[0].dense.clone() for site in pruner._masked.sites}
    before = {site.name: copy.deepcopy(site.scores.tensors()) for site in pruner._masked.sites}
    loss_of(model, batches[1]).backward()
    G = {name: model.get_parameter(name).grad.clone() for name in pruner.names}
    optimizer.step()
    for site in pruner._masked.sites:
        A, B = (before[site.name][f"scores.{name}"].clone().requires_grad_() for name in "AB")
        S = A @ B
        S.backward(G[site.name] * dense[site.name])
        for name, factor in (("A", A), ("B", B)):
            expected = 0.9 * before[site.name][f"moments.{name}.exp_avg"] + 0.1 * factor.grad
            assert torch.allclose(site.scores.tensors()[f"moments.{name}.exp_avg"], expected, rtol=1e-10, atol=1e-18)
            assert factor.grad.abs().max() > 0


def test_a_product_is_born_as_the_scores_in_full(attach: Attach) -> None:
    model = Stack()
    twin = copy.deepcopy(model)
    full = attach(model, adamw(model))
    product = attach(twin, adamw(twin), scores=LowRankScores(2))
    assert all(torch.equal(full.scores()[name], product.scores()[name]) for name in full.names)


@pytest.mark.parametrize("form", FORMS, ids=repr)
@pytest.mark.parametrize("scope", ["local", "global"])
def test_a_run_keeps_the_density_and_learns(attach: Attach, form: ScoreForm, scope: str) -> None:
    model = Stack()
    optimizer = adamw(model)
    pruner = attach(model, optimizer, scores=form, scope=scope, max_grad_norm=0.1)
    initialised = pruner.scores()
    train(model, optimizer, stack_batches(10))
    held = sum(int(model.get_parameter(name).count_nonzero()) for name in pruner.names)
    total = sum(model.get_parameter(name).numel() for name in pruner.names)
    assert 0.29 < held / total <= 0.3
    assert pruner.finished
    assert all(not torch.equal(pruner.scores()[name], initialised[name]) for name in pruner.names)
    assert torch.isfinite(torch.tensor(list(pruner.statistics().values()))).all()


@pytest.mark.parametrize("form", FORMS, ids=repr)
def test_site_by_site_is_all_at_once(attach: Attach, form: ScoreForm, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the local scope S is made for one site at a time, to save memory."""
    found = []
    for one_by_one in (True, False):
        monkeypatch.setattr(type(form), "on_demand", one_by_one)
        torch.manual_seed(5)
        model = Stack()
        optimizer = adamw(model)
        pruner = attach(model, optimizer, scores=form)
        train(model, optimizer, stack_batches(10))
        found.append(everything(pruner))
    assert differences(*found) == []


@pytest.mark.parametrize(
    ("form", "method"),
    [
        *((form, Movement()) for form in FORMS),
        (BFloat16Scores(), SoftMovement()),
        (BFloat16Scores(), L0()),
        (LowRankScores(2), SoftMovement(penalty=10.0)),
        (LowRankScores(2), L0(penalty=10.0)),
    ],
    ids=repr,
)
def test_a_run_resumes_exactly(attach: Attach, tmp_path: Path, form: ScoreForm, method: Method) -> None:
    settings = {"method": method, "scores": form, "density": None if method.decides_density else 0.3}
    batches = stack_batches(10)
    model = Stack()
    optimizer = adamw(model)
    pruner = attach(model, optimizer, **settings)
    train(model, optimizer, batches[:5])
    pruner.save(tmp_path)
    weights, moments = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    train(model, optimizer, batches[5:])

    other = Stack()
    other.load_state_dict(weights)
    again = adamw(other)
    again.load_state_dict(moments)
    torch.manual_seed(99)  # what the rounding draws is part of the state
    resumed = attach(other, again, **settings)
    resumed.load(tmp_path)
    train(other, again, batches[5:])
    assert differences(everything(pruner), everything(resumed)) == []


def test_a_state_of_another_form_is_refused(attach: Attach, tmp_path: Path) -> None:
    model = Stack()
    attach(model, adamw(model), scores=BFloat16Scores()).save(tmp_path)
    other = Stack()
    pruner = attach(other, adamw(other))
    with pytest.raises(InvalidInputError, match="saved with another config: scores"):
        pruner.load(tmp_path)


def test_a_config_keeps_its_form() -> None:
    for form in (FullScores(), BFloat16Scores(), LowRankScores(5)):
        made = config(scores=form, frozen_weights=True, dense_on_cpu=True)
        assert PruningConfig.from_dict(made.to_dict()) == made
    assert "scores" in config().to_dict()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"scores": "bfloat16"},
            r"scores must be one of BFloat16Scores\(\), FullScores\(\), LowRankScores\(\), got 'bfloat16'",
        ),
        ({"scores": BFloat16Scores}, "scores must be one of BFloat16Scores"),
        ({"scores": BFloat16Scores(), "method": Magnitude()}, "scores that learn"),
        ({"scores": LowRankScores(), "method": SoftMovement()}, "Give SoftMovement a penalty"),
        ({"scores": LowRankScores(), "rules": [Rule(["up"], method=L0())]}, "The rule for ..up.. cannot be used: .*Give L0"),
    ],
)
def test_what_does_not_go_together(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        config(**settings)


def test_groups_that_are_no_matrix(attach: Attach) -> None:
    model = Stack()
    with pytest.raises(InvalidInputError, match="a matrix with one score a weight"):
        attach(model, adamw(model), scores=LowRankScores(), structure=Rows())


@pytest.mark.parametrize("method", [Movement(), Magnitude(), SoftMovement(), L0()], ids=repr)
def test_dense_weights_on_the_cpu_change_nothing_there(attach: Attach, tmp_path: Path, method: Method) -> None:
    found = []
    for on_cpu in (True, False):
        torch.manual_seed(5)
        model = Stack()
        optimizer = adamw(model)
        pruner = attach(model, optimizer, method=method, dense_on_cpu=on_cpu)
        train(model, optimizer, stack_batches(5))
        if on_cpu:
            pruner.save(tmp_path)
        found.append(everything(pruner))
    assert differences(*found) == []
    pruner.load(tmp_path)  # where they lie is no part of what a run is
