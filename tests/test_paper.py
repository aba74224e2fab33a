"""The pruner against the paper's equations, run by autograd: the same numbers, step by step."""

import copy
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from conftest import Batch, Stack, adamw, bert_batches, dense, loss_of, scores, stack_batches, tiny_bert
from fineprune import (
    Constant,
    CubicSchedule,
    FromMagnitude,
    KaimingUniform,
    Magnitude,
    Movement,
    Pruner,
    PruningConfig,
    Random,
    Uniform,
)
from fineprune.methods import Method
from straight_through import Moment, Setting, run

STEPS = 200
TOLERANCE = 1e-12


def run_pruner(
    model: nn.Module,
    batches: list[Batch],
    method: Method,
    *,
    total: int = STEPS,
    warmup: int = 20,
    cooldown: int = 60,
    scope: str = "local",
    density: float = 0.1,
    decay: float = 0.0,
    max_norm: float | None = None,
    accumulation: int = 1,
    shape: Callable[[int], float] = lambda step: 1.0,
) -> tuple[list[Moment], Setting]:
    """Trains with a Pruner, and returns what it held at each step and the same run in plain numbers."""
    optimizer = adamw(model, weight_decay=decay)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, shape)
    config = PruningConfig(method, density, schedule=CubicSchedule(warmup, cooldown), scope=scope)
    moments = []
    with Pruner(model, optimizer, config, total_steps=total, max_grad_norm=max_norm) as pruner:
        setting = Setting(
            names=pruner.names,
            scores=scores(pruner) or None,
            learns=isinstance(method, Movement),
            total=total,
            warmup=warmup,
            cooldown=cooldown,
            density=density,
            scope=scope,
            decay=decay,
            max_norm=max_norm,
            accumulation=accumulation,
            shape=shape,
        )
        parameters = dict(model.named_parameters())
        for step in range(total):
            losses = []
            for batch in batches[step * accumulation : (step + 1) * accumulation]:
                loss = loss_of(model, batch)
                (loss / accumulation).backward()
                losses.append(loss.detach())
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            effective = {name: parameters[name].detach().clone() for name in pruner.names}
            norm = None if pruner.gradient_norm is None else float(pruner.gradient_norm)
            moments.append(Moment(torch.stack(losses).mean(), scores(pruner), dense(pruner), effective, norm))
    return moments, setting


def assert_same(mine: list[Moment], reference: list[Moment]) -> None:
    def distance(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
        assert first.keys() == second.keys()
        return max((float((first[name] - second[name]).abs().max()) for name in first), default=0.0)

    assert len(mine) == len(reference)
    for step, (a, b) in enumerate(zip(mine, reference, strict=True)):
        assert float((a.loss - b.loss).abs()) <= TOLERANCE, f"loss of step {step}"
        assert distance(a.scores, b.scores) <= TOLERANCE, f"scores after step {step}"
        assert distance(a.dense, b.dense) <= TOLERANCE, f"dense weights after step {step}"
        assert distance(a.effective, b.effective) <= TOLERANCE, f"effective weights after step {step}"


def compare(method: Method, model: nn.Module | None = None, **settings: object) -> tuple[list[Moment], list[Moment]]:
    """Runs both on a stack of blocks and asserts that they agree."""
    model = model or Stack()
    twin = copy.deepcopy(model)
    batches = settings.pop("batches", None) or stack_batches(STEPS * settings.get("accumulation", 1))
    mine, setting = run_pruner(model, batches, method, **settings)
    reference = run(twin, batches, setting)
    assert_same(mine, reference)
    kept = [int(weight.count_nonzero()) for weight in mine[-1].effective.values()]
    weights = sum(weight.numel() for weight in mine[-1].effective.values())
    assert 0 < sum(kept) <= setting.density * weights, "the comparison must be of pruned models"
    return mine, reference


BIRTHS = [Constant(0.0), Uniform(0.01), KaimingUniform(), FromMagnitude(0.5)]


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("method", [Magnitude(), Random(), *map(Movement, BIRTHS)], ids=repr)
def test_every_method_follows_the_equations(method: Method, scope: str) -> None:
    mine, _ = compare(method, scope=scope)
    if isinstance(method, Movement):
        moved = [(mine[-1].scores[name] - mine[0].scores[name]).abs().max() for name in mine[0].scores]
        assert min(moved) > 1e-3
        kept = [weight != 0 for moment in mine[-60:] for weight in moment.effective.values()]
        assert any(bool((a != b).any()) for a, b in zip(kept, kept[4:], strict=False)), (
            "the order must change in the cool-down, too"
        )


def test_no_warm_up_and_no_cool_down() -> None:
    compare(Movement(), warmup=0, cooldown=0)


@pytest.mark.parametrize("scope", ["local", "global"])
def test_ties_go_to_the_lower_index(scope: str) -> None:
    batches = stack_batches(STEPS)
    for batch in batches:
        batch["features"][:, :5] = 0.0  # five columns of the first matrix never get a gradient: their scores stay at 0
    _, reference = compare(Movement(), batches=batches, scope=scope, density=0.5)
    first = reference[-1].scores["blocks.0.up.weight"]
    assert (first[:, :5] == 0).all()
    kept = (reference[-1].effective["blocks.0.up.weight"] != 0)[:, :5].flatten()
    assert kept.any(), "the cut must go through the ties"
    assert not kept.all(), "the cut must go through the ties"


def test_gradient_accumulation() -> None:
    compare(Movement(), accumulation=3)


def test_weight_decay_reaches_dense_weights_and_not_scores() -> None:
    with_decay, _ = compare(Movement(FromMagnitude()), decay=0.1)
    assert with_decay[-1].dense["blocks.0.up.weight"].abs().mean() < 0.2


def test_the_rate_of_the_scores_follows_a_scheduler_made_first() -> None:
    def warm_up_and_decay(step: int) -> float:
        return step / 20 if step < 20 else (STEPS - step) / (STEPS - 20)

    mine, _ = compare(Movement(FromMagnitude()), shape=warm_up_and_decay)
    moves = [(b.scores["blocks.0.up.weight"] - a.scores["blocks.0.up.weight"]).abs().max() for a, b in pairwise(mine)]
    assert moves[25] > 10 * moves[-1] > 0


def test_a_block_used_twice() -> None:
    model = Stack()
    model.blocks[1] = model.blocks[0]
    mine, _ = compare(Movement(), model=model)
    assert list(mine[0].dense) == ["blocks.0.up.weight", "blocks.0.down.weight"]


def test_tied_weights() -> None:
    model = Stack()
    model.blocks[1].up.weight = model.blocks[0].up.weight
    mine, _ = compare(Movement(), model=model, scope="global")
    assert list(mine[0].dense) == ["blocks.0.up.weight", "blocks.0.down.weight", "blocks.1.down.weight"]


@pytest.mark.parametrize("method", [Movement(Uniform(0.1)), Magnitude()], ids=repr)
def test_clipping_by_the_joint_norm(method: Method) -> None:
    mine, reference = compare(method, max_norm=1.0)
    norms = [moment.norm for moment in reference]
    assert max(norms) > 1.0 > min(norms), "some steps must be clipped, some not"
    assert [moment.norm for moment in mine] == pytest.approx(norms, abs=1e-10)
    unclipped, _ = run_pruner(Stack(), stack_batches(STEPS), method)
    assert unclipped[-1].loss != mine[-1].loss


def test_a_transformer_with_dropout() -> None:
    model = tiny_bert(dropout=0.1).double()
    twin = copy.deepcopy(model)
    batches = bert_batches(40)
    torch.manual_seed(5)
    mine, setting = run_pruner(model, batches, Movement(), total=40, warmup=4, cooldown=12)
    torch.manual_seed(5)  # the same dropout
    assert_same(mine, run(twin, batches, setting))


def test_the_reference_keeps_by_the_equations() -> None:
    from straight_through import cubic, top

    assert [round(cubic(t, 10, 2, 3, 0.1), 3) for t in range(11)] == [1, 1, 1, 0.561, 0.294, 0.158, 0.107, 0.1, 0.1, 0.1, 0.1]
    assert top([torch.tensor([0.0, 2.0, 0.0, -1.0, 2.0])], 0.6, "local")[0].tolist() == [True, True, False, False, True]
