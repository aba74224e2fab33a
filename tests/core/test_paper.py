"""The pruner against the paper's equations, run by autograd: the same numbers, step by step."""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import straight_through
from conftest import Batch, Stack, adamw, bert_batches, dense, loss_of, scores, stack_batches, tiny_bert
from fineprune import (
    L0,
    Blocks,
    Columns,
    Constant,
    CubicSchedule,
    FromMagnitude,
    KaimingUniform,
    Magnitude,
    Movement,
    NofM,
    Pruner,
    PruningConfig,
    Random,
    Rows,
    SoftMovement,
    Uniform,
    Unstructured,
)
from fineprune.methods.base import LearnedMethod, Method
from fineprune.methods.penalised import PenalisedScores
from fineprune.selection import scopes
from fineprune.structures.base import Structure
from straight_through import Moment, Setting, run

STEPS = 40
TOLERANCE = 1e-12

CUTS: dict[Structure, straight_through.Cut] = {
    Unstructured(): straight_through.singles,
    Blocks(4, 2): straight_through.blocks(4, 2),
    Rows(): straight_through.rows,
    Columns(): straight_through.columns,
    NofM(1, 4): straight_through.singles,
    NofM(2, 4): straight_through.singles,
}

KINDS = {Magnitude: "magnitude", Random: "fixed", Movement: "movement", SoftMovement: "soft", L0: "l0"}


def run_pruner(
    model: nn.Module,
    batches: list[Batch],
    method: Method,
    *,
    total: int = STEPS,
    warmup: int = 6,
    cooldown: int = 12,
    structure: Structure = Unstructured(),  # noqa: B008, it is immutable
    cut: straight_through.Cut | None = None,
    scope: str = "local",
    density: float | None = 0.1,
    decay: float = 0.0,
    max_norm: float | None = None,
    accumulation: int = 1,
    shape: Callable[[int], float] = lambda step: 1.0,
) -> tuple[list[Moment], Setting]:
    """Trains with a Pruner, and returns what it held at each step and the same run in plain numbers."""
    optimizer = adamw(model, weight_decay=decay)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, shape)
    config = PruningConfig(method, density, structure, CubicSchedule(warmup, cooldown), scope)
    moments, penalties = [], []
    with Pruner(model, optimizer, config, total_steps=total, max_grad_norm=max_norm) as pruner:
        steered = isinstance(method, PenalisedScores) and density is not None
        setting = Setting(
            names=pruner.names,
            method=KINDS[type(method)],
            scores=flat_scores(pruner),
            total=total,
            warmup=warmup,
            cooldown=cooldown,
            density=config.values()[1] if config.method.ranks else density,
            scope=scope,
            cut=cut or CUTS[structure],
            n_of_m=(structure.n, structure.m) if isinstance(structure, NofM) else None,
            threshold=getattr(method, "threshold", 0.1),
            penalty=getattr(method, "penalty", None) or 0.0,
            penalties=penalties if steered else None,
            seed=torch.initial_seed(),
            score_rate=getattr(method, "score_lr", 0.0),
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
            moments.append(Moment(torch.stack(losses).mean(), flat_scores(pruner), dense(pruner), effective, norm))
            if steered:
                penalties.append(pruner.statistics()["penalty"])  # the controller's, at this step
    return moments, setting


def flat_scores(pruner: Pruner) -> dict[str, Tensor]:
    return {name: tensor.flatten() for name, tensor in scores(pruner).items()}


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


def kept_of(moment: Moment) -> Tensor:
    return torch.cat([weight.flatten() != 0 for weight in moment.effective.values()])


def compare(method: Method, model: nn.Module | None = None, **settings: object) -> tuple[list[Moment], list[Moment]]:
    """Runs both on a stack of blocks and asserts that they agree, on a model that was pruned."""
    model = model or Stack()
    twin = copy.deepcopy(model)
    batches = settings.pop("batches", None) or stack_batches(settings.get("total", STEPS) * settings.get("accumulation", 1))
    mine, setting = run_pruner(model, batches, method, **settings)
    reference = run(twin, batches, setting)
    assert_same(mine, reference)
    kept = kept_of(mine[-1])
    assert kept.any(), "something must be left"
    assert not kept.all(), "the comparison must be of pruned models"
    if method.ranks:
        assert kept.sum() <= setting.density * len(kept)
    if isinstance(method, LearnedMethod):
        assert all((mine[-1].scores[name] - setting.scores[name]).abs().max() > 1e-3 for name in mine[-1].scores)
    if setting.penalties is not None:
        assert len(set(setting.penalties)) > STEPS // 2, "the penalty must be steered"
    return mine, reference


STRUCTURES = [Unstructured(), Blocks(4, 2), Rows(), Columns()]
RANKING = [Magnitude(), Random(), Movement(Constant(0.0)), Movement(FromMagnitude(0.1))]

PENALISED = {
    "soft movement by its penalty": (SoftMovement(penalty=3.0, score_lr=0.1), None),
    "soft movement to a density": (SoftMovement(init=Constant(0.0), score_lr=0.1), 0.3),
    "L0 by its penalty": (L0(penalty=3.0, score_lr=0.2), None),
    "L0 to a density": (L0(score_lr=0.3), 0.3),
}
EVERY = {
    "magnitude": (Magnitude(), 0.3),
    "random": (Random(), 0.3),
    "movement": (Movement(Constant(0.0)), 0.3),
    "movement initialised from magnitude": (Movement(FromMagnitude(0.1)), 0.3),
    **PENALISED,
}


def assert_order_changes(method: Method, mine: list[Moment]) -> None:
    """Asserts that, where scores learn, a mask changes as no falling schedule alone would make it."""
    if isinstance(method, LearnedMethod):
        in_cool_down = [bool((kept_of(a) != kept_of(b)).any()) for a, b in pairwise(mine[-11:])]
        comes_back = [bool((~kept_of(a) & kept_of(b)).any()) for a, b in pairwise(mine)]
        assert any(in_cool_down + comes_back)


# Each method with each structure, in each scope where that has a say.


@pytest.mark.parametrize("scope", ["local", "global", "adaptive"])
@pytest.mark.parametrize("structure", STRUCTURES, ids=repr)
@pytest.mark.parametrize("method", RANKING, ids=repr)
def test_a_ranking(method: Method, structure: Structure, scope: str) -> None:
    mine, _ = compare(method, structure=structure, scope=scope, density=0.3)
    assert_order_changes(method, mine)


@pytest.mark.parametrize("structure", [NofM(1, 4), NofM(2, 4)], ids=repr)
@pytest.mark.parametrize("method", RANKING, ids=repr)
def test_n_of_m(method: Method, structure: NofM) -> None:
    mine, _ = compare(method, structure=structure, density=None)
    assert_order_changes(method, mine)
    assert kept_of(mine[-1]).view(-1, 4).sum(1).eq(structure.n).all()


@pytest.mark.parametrize("structure", STRUCTURES, ids=repr)
@pytest.mark.parametrize("name", PENALISED)
def test_a_penalty(name: str, structure: Structure) -> None:
    method, density = PENALISED[name]
    mine, _ = compare(method, structure=structure, density=density)
    assert_order_changes(method, mine)


@pytest.mark.parametrize("name", EVERY)
def test_gradient_accumulation(name: str) -> None:
    method, density = EVERY[name]
    mine, _ = compare(method, density=density, accumulation=3)
    assert_order_changes(method, mine)


@pytest.mark.parametrize("name", EVERY)
def test_clipping_by_the_joint_norm(name: str) -> None:
    method, density = EVERY[name]
    mine, reference = compare(method, density=density, max_norm=1.0)
    norms = [moment.norm for moment in reference]
    assert max(norms) > 1.0 > min(norms), "some steps must be clipped, some not"
    assert [moment.norm for moment in mine] == pytest.approx(norms, abs=1e-10)


def warm_up_and_decay(step: int) -> float:
    return step / 8 if step < 8 else (STEPS - step) / (STEPS - 8)


@pytest.mark.parametrize("name", EVERY)
def test_everything_at_once(name: str) -> None:
    """Blocks, accumulation, clipping, weight decay and a scheduler. L0's rate is higher, for its way is long."""
    method, density = EVERY[name]
    if isinstance(method, PenalisedScores):
        method = dataclasses.replace(method, score_lr=0.5)
    settings = {"structure": Blocks(4, 2), "scope": "global", "accumulation": 2, "decay": 0.1, "shape": warm_up_and_decay}
    mine, reference = compare(method, density=density, max_norm=0.8, **settings)
    norms = [moment.norm for moment in reference]
    assert max(norms) > 0.8 > min(norms), "some steps must be clipped, some not"
    assert [moment.norm for moment in mine] == pytest.approx(norms, abs=1e-10)
    assert_order_changes(method, mine)


# Births, schedules, rates.


@pytest.mark.parametrize("init", [Uniform(0.01), KaimingUniform()], ids=repr)
def test_other_births(init: object) -> None:
    mine, _ = compare(Movement(init))
    assert_order_changes(Movement(init), mine)


@pytest.mark.parametrize("structure", STRUCTURES, ids=repr)
def test_scores_are_born_from_the_magnitude_of_groups(structure: Structure) -> None:
    model = Stack()
    _, setting = run_pruner(
        model, stack_batches(1), Movement(FromMagnitude(0.5)), structure=structure, density=0.3, total=1, warmup=0, cooldown=0
    )
    torch.manual_seed(92)
    for name, weight in Stack().named_parameters():
        if name in setting.names:
            magnitude = straight_through.root_mean_square(weight.detach(), straight_through.group_of_each(weight, setting.cut))
            above = (magnitude - magnitude.mean()) / magnitude.std()
            spread = math.sqrt(math.pi / 2 - 1)  # of abs(W), in units of its mean, where W is normally distributed
            single = structure == Unstructured()
            expected = magnitude / magnitude.mean() if single else 1 + spread * above
            assert torch.allclose(setting.scores[name], 0.5 * expected, rtol=1e-12)


def test_two_hundred_steps() -> None:
    mine, _ = compare(Movement(Constant(0.0)), total=200, warmup=20, cooldown=60)
    assert_order_changes(Movement(Constant(0.0)), mine)


def test_no_warm_up_and_no_cool_down() -> None:
    compare(Movement(), warmup=0, cooldown=0)


def test_weight_decay_reaches_dense_weights_and_not_scores() -> None:
    with_decay, _ = compare(Movement(FromMagnitude()), decay=10.0)
    without, _ = run_pruner(Stack(), stack_batches(STEPS), Movement(FromMagnitude()))
    shrunk, whole = (mine[-1].dense["blocks.0.up.weight"].abs().mean() for mine in (with_decay, without))
    assert shrunk < 0.9 * whole


def test_the_rate_of_the_scores_follows_a_scheduler_made_first() -> None:
    mine, _ = compare(Movement(FromMagnitude()), shape=warm_up_and_decay)
    moves = [(b.scores["blocks.0.up.weight"] - a.scores["blocks.0.up.weight"]).abs().max() for a, b in pairwise(mine)]
    assert moves[10] > 10 * moves[-1] > 0


# Ties, and what is kept in any case.


@pytest.mark.parametrize("scope", ["local", "global", "adaptive"])
def test_ties_go_to_the_lower_index(scope: str) -> None:
    batches = stack_batches(STEPS)
    for batch in batches:
        batch["features"][:, :5] = 0.0  # five columns of the first matrix never get a gradient: their scores stay at 0
    _, reference = compare(Movement(Constant(0.0)), batches=batches, scope=scope, density=0.5)
    first = reference[-1].scores["blocks.0.up.weight"].view(12, 8)
    assert (first[:, :5] == 0).all()
    kept = (reference[-1].effective["blocks.0.up.weight"] != 0)[:, :5].flatten()
    assert kept.any(), "the cut must go through the ties"
    assert not kept.all(), "the cut must go through the ties"


@pytest.mark.parametrize("method", [SoftMovement(penalty=1000.0, score_lr=0.3), L0(penalty=1000.0, score_lr=0.5)], ids=repr)
def test_a_heavy_penalty_leaves_the_least(method: PenalisedScores) -> None:
    mine, _ = compare(method, density=None)
    assert [int(weight.count_nonzero()) for weight in mine[-1].effective.values()] == [1, 1, 1, 1]  # floor(0.005 * 96) + 1
    cut = -2.197 if isinstance(method, SoftMovement) else -2.398
    assert all((score < cut).all() for score in mine[-1].scores.values()), "no score may be kept for its own sake"


def test_a_low_density_of_soft_movement_leaves_the_least_of_each() -> None:
    batches = stack_batches(STEPS)
    for batch in batches:
        batch["features"].zero_()  # no gradient reaches the scores of the first matrix: the penalty alone moves them
    mine, _ = compare(SoftMovement(init=Constant(0.0), score_lr=0.1), batches=batches, density=0.02)
    assert int(kept_of(mine[-1]).sum()) == 7  # floor(0.02 * 384)
    plain = [straight_through.globally(list(moment.scores.values()), [1] * 4, 0.02) for moment in mine[-12:]]
    assert any(not mask.any() for masks in plain for mask in masks), "the least must have a say"


def problems(number: int) -> Iterator[tuple[list[Tensor], list[int], float]]:
    """Yields scores of matrices with equally many groups in pairs, many of them equal, weights per group, a density."""
    generator = torch.Generator().manual_seed(11)
    for _ in range(number):
        counts = torch.randint(1, 40, (3,), generator=generator).repeat_interleave(2).tolist()
        spread = 4 * torch.rand((), generator=generator, dtype=torch.float64)
        shift = 3 * torch.randn(6, generator=generator, dtype=torch.float64)
        scores = [
            (spread * torch.randn(n, generator=generator, dtype=torch.float64)).round() + m
            for n, m in zip(counts, shift, strict=True)
        ]
        sizes = torch.randint(1, 5, (6,), generator=generator).tolist()
        yield scores, sizes, float(torch.rand((), generator=generator, dtype=torch.float64))


def test_the_adaptive_scope_by_its_definition() -> None:
    kinds, different, full = list("aabbcc"), 0, 0
    for scores_of, sizes, density in problems(300):
        mine = scopes.keep_adaptive(scores_of, sizes, density, kinds)
        reference = straight_through.adaptively(scores_of, kinds, density)
        assert all(map(torch.equal, mine, reference))
        different += any(
            int(a.sum()) != int(b.sum()) for a, b in zip(mine, straight_through.locally(scores_of, density), strict=True)
        )
        full += any(bool(mask.all()) for mask in mine) and density < 0.9
    assert different > 200
    assert full > 20


def test_the_least_of_each_matrix_by_its_definition() -> None:
    different = 0
    for scores_of, sizes, density in problems(300):
        if math.floor(density * sum(len(s) * n for s, n in zip(scores_of, sizes, strict=True))) < sum(
            (math.floor(0.1 * len(s)) + 1) * n for s, n in zip(scores_of, sizes, strict=True)
        ):
            continue  # which a pruner refuses
        mine = scopes.keep_global_and_least(scores_of, sizes, density, 0.1)
        assert all(map(torch.equal, mine, straight_through.globally(scores_of, sizes, density, least=0.1)))
        plain = straight_through.globally(scores_of, sizes, density)
        different += not all(map(torch.equal, mine, plain))
    assert different > 50


# Other models.


@pytest.mark.parametrize("method", [Movement(), EVERY["L0 to a density"][0]], ids=repr)
def test_a_block_used_twice(method: Method) -> None:
    model = Stack()
    model.blocks[1] = model.blocks[0]
    mine, _ = compare(method, model=model, density=0.3)
    assert list(mine[0].dense) == ["blocks.0.up.weight", "blocks.0.down.weight"]


@pytest.mark.parametrize("method", [Movement(), EVERY["L0 to a density"][0]], ids=repr)
def test_tied_weights(method: Method) -> None:
    model = Stack()
    model.blocks[1].up.weight = model.blocks[0].up.weight
    mine, _ = compare(method, model=model, scope="global", density=0.3)
    assert list(mine[0].dense) == ["blocks.0.up.weight", "blocks.0.down.weight", "blocks.1.down.weight"]


@pytest.mark.parametrize(
    ("structure", "cut"), [(Rows(), straight_through.columns), (Columns(), straight_through.rows)], ids=["rows", "columns"]
)
def test_weights_that_lie_transposed(structure: Structure, cut: straight_through.Cut) -> None:
    model = Stack()
    for block in model.blocks:
        block.up, block.down = Conv1D(12, 8).double(), Conv1D(8, 12).double()
    mine, _ = compare(SoftMovement(init=Constant(0.0), score_lr=0.1), model=model, structure=structure, cut=cut, density=0.3)
    assert_order_changes(SoftMovement(), mine)


@pytest.mark.parametrize("name", ["movement", "soft movement by its penalty", "L0 by its penalty"])
def test_a_transformer_with_dropout(name: str) -> None:
    method, density = EVERY[name]
    model = tiny_bert(dropout=0.1).double()
    twin = copy.deepcopy(model)
    batches = bert_batches(20)
    torch.manual_seed(5)
    mine, setting = run_pruner(model, batches, method, total=20, warmup=2, cooldown=6, density=density)
    torch.manual_seed(5)  # the same dropout
    assert_same(mine, run(twin, batches, setting))


# The reference itself.


def test_the_reference_falls_by_the_equation() -> None:
    path = [round(straight_through.cubic(t, 10, 2, 3, 1.0, 0.1), 3) for t in range(11)]
    assert path == [1, 1, 1, 0.561, 0.294, 0.158, 0.107, 0.1, 0.1, 0.1, 0.1]


def test_the_reference_keeps_by_the_equations() -> None:
    scores_of = torch.tensor([0.0, 2.0, 0.0, -1.0, 2.0])
    assert straight_through.locally([scores_of], 0.6)[0].tolist() == [True, True, False, False, True]
    two = [torch.tensor([1.0, 5.0]), torch.tensor([4.0, 3.0])]
    assert [mask.tolist() for mask in straight_through.globally(two, [1, 2], 0.5)] == [[False, True], [True, False]]
    assert [mask.tolist() for mask in straight_through.globally(two, [1, 2], 0.4)] == [[False, True], [False, False]]
    low = [torch.tensor([0.0, 1.0]), torch.tensor([4.0, 3.0])]
    assert [mask.tolist() for mask in straight_through.globally(low, [1, 1], 0.5, least=0.0)] == [[False, True], [True, False]]
    runs = torch.tensor([1.0, 3, 2, 2, 0, 0, 0, 0])
    assert straight_through.n_of_m(runs, 2, 4).nonzero().flatten().tolist() == [1, 2, 4, 5]
    # R is 0.5 and 0.75: of floor(0.5 * 8) = 4 groups 1.6 and 2.4, the remainder to the larger fraction
    kind = [torch.zeros(4, dtype=torch.float64), torch.full((4,), math.log(3), dtype=torch.float64)]
    assert [int(mask.sum()) for mask in straight_through.adaptively(kind, ["a", "a"], 0.5)] == [2, 2]
    assert [int(mask.sum()) for mask in straight_through.adaptively(kind, ["a", "a"], 0.9)] == [3, 4]  # of 7, 4.2 do not fit
    assert straight_through.above(torch.tensor([-3.0, -2.0, 0.0]), 0.1).tolist() == [False, True, True]
    assert straight_through.above(torch.tensor([-4.0, -3.0, -3.0]), 0.1).tolist() == [False, True, False]


def test_the_references_gates() -> None:
    assert straight_through.quiet_gate(torch.tensor([2.197225, 20.0, -2.5], dtype=torch.float64)).tolist() == pytest.approx(
        [0.98, 1, 0]
    )
    closed = straight_through.quiet_gate(torch.tensor([-5.0, -4.0], dtype=torch.float64))
    assert closed.tolist() == pytest.approx([0.0, 1 / (1 + math.exp(4))])
    half = straight_through.drawn_gate(torch.zeros(1, dtype=torch.float64), torch.full((1,), 0.5, dtype=torch.float64))
    assert half.item() == pytest.approx(0.5)
    u = straight_through.uniform(10000, 1, 2, 3)
    assert 1e-4 < u.min() < 1e-3
    assert u.mean().item() == pytest.approx(0.5, abs=0.01)
