"""The controller of a penalty: on a plant that is known, on samples, and in whole runs that it was not tuned on."""

import logging
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from conftest import Stack, loss_of, stack_batches
from fineprune import L0, CubicSchedule, GroupLasso, Method, Pruner, PruningConfig, Rows, SoftMovement
from fineprune.methods.controller import Controller, density_above, penalty_unit, scores_at


@pytest.mark.parametrize("gain", [0.3, 1.0])
@pytest.mark.parametrize("drift", [-0.2, 0.0, 0.2])
@pytest.mark.parametrize("unit", [1e-3, 50.0])
@pytest.mark.parametrize("rate", [1e-3, 0.1])
def test_a_score_is_taken_to_the_cut_against_a_drift(gain: float, drift: float, unit: float, rate: float) -> None:
    """The score moves by rate * (drift - gain * pull) a step, after a lag like that of Adam's first moment."""
    controller, score, cut, speed = Controller(horizon=40.0, strongest=6.0), 30 * rate, -20 * rate, 0.0
    for _ in range(1500):
        controller.steer(score - cut, rate, unit)
        assert abs(controller.penalty) <= 6.0 * unit * (1 + 1e-12)
        speed += 0.1 * (drift - gain * controller.penalty / unit - speed)
        score += rate * speed
    assert abs(score - cut) < 0.5 * rate
    assert controller.integral == pytest.approx(drift / gain, abs=0.02)


def test_nothing_is_changed_without_a_rate_a_unit_or_an_error() -> None:
    controller = Controller(10.0, 6.0, penalty=2.0, integral=0.1)
    for error, rate, unit in ((1.0, 0.0, 1.0), (1.0, 0.1, 0.0), (math.nan, 0.1, 1.0), (math.inf, 0.1, 1.0)):
        controller.steer(error, rate, unit)
    assert controller == Controller(10.0, 6.0, penalty=2.0, integral=0.1)


def test_the_integral_does_not_wind_up() -> None:
    far, near = Controller(10.0, 6.0), Controller(10.0, 6.0)
    for _ in range(10_000):
        far.steer(1e6, 0.1, 1.0)
        near.steer(0.5, 0.1, 1.0)
    assert far == Controller(10.0, 6.0, penalty=6.0, integral=0.0)
    assert near == Controller(10.0, 6.0, penalty=1.5, integral=1.0)


tensors = st.lists(st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=9), min_size=1, max_size=4)


@settings(deadline=None)
@given(tensors, st.data())
def test_the_score_at_a_density(values: list[list[float]], data: st.DataObject) -> None:
    samples = [torch.tensor(part) for part in values]
    weights = data.draw(st.lists(st.integers(1, 9), min_size=len(samples), max_size=len(samples)))
    density = data.draw(st.floats(0.01, 1.0))
    each = [(value, weight / len(part)) for part, weight in zip(values, weights, strict=True) for value in part]
    (found,) = scores_at(samples, weights, [density])

    def above(cut: float, or_equal: bool) -> float:
        return sum(w for value, w in each if value > cut or (or_equal and value == cut)) / sum(weights)

    assert above(found, or_equal=True) >= density - 1e-6
    assert above(found, or_equal=False) <= density + 1e-6
    assert density_above(samples, weights, found) == pytest.approx(above(found, or_equal=False), abs=1e-6)


def test_the_unit_is_where_penalty_and_gradient_are_equal() -> None:
    """lambda * slope / (sites * scores of the site) = root of the second moment; the median over all."""
    first = torch.tensor([0.25, 0.1]), torch.tensor([0.04, 0.09]), 2 * 10
    second = torch.tensor([0.2]), torch.tensor([0.01]), 2 * 30
    lambdas = sorted([0.2 * 20 / 0.25, 0.3 * 20 / 0.1, 0.1 * 60 / 0.2])
    assert penalty_unit([first, second]) == pytest.approx(lambdas[1])
    assert penalty_unit([(torch.zeros(2), torch.zeros(2), 2)]) == penalty_unit([]) == 0.0


def test_a_matrix_without_a_gradient_does_not_stop_the_controller() -> None:
    model = Stack(width=32, inner=64)
    model.unused = torch.nn.ModuleList([torch.nn.Sequential(torch.nn.Linear(4, 4, dtype=torch.float64))])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    with Pruner(model, optimizer, PruningConfig(L0(), 0.3), total_steps=30) as pruner:
        for batch in stack_batches(30, rows=8, width=32):
            loss_of(model, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert pruner.statistics()["penalty"] > 0


def train(method: L0 | SoftMovement, density: float, rate: float, steps: int, constant: bool = False) -> Pruner:
    """Trains a stack of 8,192 weights, at a rate that rises and falls, or stays."""
    model = Stack(width=32, inner=64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)

    def shape(step: int) -> float:
        return 1.0 if constant else min((step + 1) / 20, (steps - step) / (steps - 20))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, shape)
    config = PruningConfig(method, density, schedule=CubicSchedule(0.1, 0.3))
    with Pruner(model, optimizer, config, total_steps=steps, max_grad_norm=1.0) as pruner:
        for batch in stack_batches(steps, rows=8, width=32):
            loss_of(model, batch).backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    return pruner


@pytest.mark.parametrize("density", [0.3, 0.1, 0.03])
@pytest.mark.parametrize(
    ("method", "constant"), [(L0(), False), (L0(), True), (L0(score_lr=0.05), False), (SoftMovement(), False)], ids=repr
)
def test_a_run_lands_on_its_density(method: L0 | SoftMovement, density: float, constant: bool) -> None:
    pruner = train(method, density, rate=3e-3, steps=400, constant=constant)
    kept = pruner.summary().density
    assert abs(kept / density - 1) < 0.05
    assert kept == pruner.density()
    if isinstance(method, SoftMovement):
        assert kept == math.floor(density * 8192) / 8192


def test_a_run_that_does_not_land_says_so(caplog: pytest.LogCaptureFixture) -> None:
    pruner = train(L0(score_lr=1e-3), 0.1, rate=3e-3, steps=60)
    assert pruner.density() > 0.5
    assert [message for message in caplog.messages if "0.1000 was asked for: the scores had no time" in message]


def test_the_path_is_logged_and_steered() -> None:
    paths: dict[str, list[float]] = {"density": [], "density_asked": [], "penalty": [], "threshold": []}
    model = Stack(width=32, inner=64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    with Pruner(model, optimizer, PruningConfig(SoftMovement(score_lr=3e-2), 0.1), total_steps=400) as pruner:
        for batch in stack_batches(400, rows=8, width=32):
            for name, path in paths.items():
                path.append(pruner.statistics()[name])
            loss_of(model, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert paths["penalty"][:40] == [0.0] * 40
    assert len(set(paths["penalty"][50:])) > 300
    assert paths["density"] == pytest.approx(paths["density_asked"], abs=1 / 8192)
    assert paths["threshold"][-1] == pytest.approx(0.1, rel=0.1), "the penalty takes the threshold to where it should be"


def test_the_threshold_is_the_cut_that_is_in_force() -> None:
    pruner = train(SoftMovement(), 0.1, rate=3e-3, steps=200)
    threshold = pruner.statistics()["threshold"]
    for site in pruner._masked.sites:
        scores: Tensor = site.value()
        assert (scores[~site.mask].sigmoid() <= threshold + 1e-12).all()
    kept = torch.cat([site.value()[site.mask].sigmoid() for site in pruner._masked.sites])
    assert (kept > threshold).float().mean() > 0.99  # but for the least that each matrix keeps


@pytest.mark.parametrize("method", [SoftMovement(), GroupLasso()], ids=repr)
def test_whole_groups_within_the_budget_are_no_missed_density(method: Method, caplog: pytest.LogCaptureFixture) -> None:
    """Of 12 rows 3 are kept at density 0.3: a quarter, and exactly the budget."""
    caplog.set_level(logging.INFO)
    model = Stack()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    config = PruningConfig(method, 0.3, structure=Rows(), schedule=CubicSchedule(0.1, 0.3))
    with Pruner(model, optimizer, config, total_steps=20) as pruner:
        for batch in stack_batches(20):
            loss_of(model, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert pruner.density() < 0.95 * 0.3
    assert [message for message in caplog.messages if message.startswith("Pruned. ")]
    assert not [message for message in caplog.messages if "had no time" in message]
