"""How scores are kept: in full, in bfloat16 with random rounding, and as a product of two thin matrices."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import Tensor

from fineprune import (
    L0,
    Constant,
    FromMagnitude,
    InvalidInputError,
    KaimingUniform,
    Magnitude,
    Movement,
    Random,
    SoftMovement,
    Uniform,
)
from fineprune import scores as room
from fineprune.methods import Birth, Method
from fineprune.noise import CHUNK, random_bits
from fineprune.scores import BFloat16Scores, FullScores, LowRankScores, ScoreForm, Scores, round_at_random

FORMS = [FullScores(), BFloat16Scores(), LowRankScores(3)]
SHAPE = (5, 7)
ALL_BITS = torch.arange(1 << 16, dtype=torch.int32)
LARGEST = torch.finfo(torch.bfloat16).max


def born(
    form: ScoreForm, method: Method | None = None, shape: tuple[int, ...] = SHAPE, *, seed: int = 11, place: int = 2
) -> Scores:
    """Scores of a site whose magnitudes are the same at each call."""
    method = method or Movement()
    form.check(method)
    kept = form.born(method, magnitude(shape), torch.Generator().manual_seed(5), seed, place)
    assert kept is not None
    return kept


def magnitude(shape: tuple[int, ...] = SHAPE, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def value(kept: Scores, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return kept.value(lambda: magnitude(shape)).clone()


def learn(kept: Scores, steps: range, shape: tuple[int, ...] = SHAPE, rate: float = 1e-2) -> None:
    """Takes steps whose gradients depend on their numbers alone."""
    for step in steps:
        gradient = torch.randn(shape, generator=torch.Generator().manual_seed(step))
        kept.learn(kept.gradients(gradient), rate / step)


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


# All forms.


@pytest.mark.parametrize("form", FORMS, ids=repr)
@pytest.mark.parametrize("before", [0, 3])
def test_what_is_saved_goes_on_to_the_bit(form: ScoreForm, before: int) -> None:
    kept = born(form)
    learn(kept, range(1, 1 + before))
    saved = copied(kept.tensors())
    other = born(form, seed=12)
    learn(other, range(7, 9))
    untouched, at_save = copied(other.tensors()), value(kept)
    resumed = other.like_saved({**saved, "scores.2": torch.zeros(1), "moments.2.exp_avg": torch.zeros(1)})
    assert type(resumed) is type(kept)
    assert torch.equal(value(resumed), at_save)
    learn(kept, range(4, 9))
    learn(resumed, range(4, 9))
    assert torch.equal(value(resumed), value(kept))
    assert not torch.equal(value(resumed), at_save)
    for mine, theirs in ((resumed.tensors(), kept.tensors()), (other.tensors(), untouched)):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) and mine[name].dtype == theirs[name].dtype for name in mine)


@pytest.mark.parametrize("form", FORMS, ids=repr)
def test_what_is_taken_up_is_a_copy(form: ScoreForm) -> None:
    kept = born(form)
    learn(kept, range(1, 3))
    saved = kept.tensors()
    before = copied(saved)
    learn(kept.like_saved(saved), range(3, 5))
    assert all(torch.equal(saved[name], before[name]) for name in saved)


@pytest.mark.parametrize("form", FORMS, ids=repr)
def test_the_names_of_what_is_saved(form: ScoreForm) -> None:
    kept = born(form)
    learn(kept, range(1, 2))
    moments = ["exp_avg", "exp_avg_sq", "step"]
    expected = {
        FullScores(): {"scores", *(f"moments.{each}" for each in moments)},
        BFloat16Scores(): {"scores", "moments.seed", *(f"moments.{each}" for each in moments)},
        LowRankScores(3): {"scores.A", "scores.B", *(f"moments.{name}.{each}" for each in moments for name in "AB")},
    }
    assert kept.tensors().keys() == expected[form]


@pytest.mark.parametrize("form", FORMS, ids=repr)
def test_a_saved_tensor_of_another_kind_is_refused(form: ScoreForm) -> None:
    kept = born(form)
    learn(kept, range(1, 3))
    saved = copied(kept.tensors())
    for name, tensor in saved.items():
        if name.startswith("scores") or "exp_avg" in name:
            for wrong in (tensor[:-1], tensor.double()):
                with pytest.raises(
                    InvalidInputError, match=re.escape(f"{name} was saved as {wrong.dtype} of shape {[*wrong.shape]}")
                ):
                    kept.like_saved({**saved, name: wrong})
    for name in (name for name in saved if name.startswith("scores")):
        with pytest.raises(KeyError, match=name):
            kept.like_saved({other: tensor for other, tensor in saved.items() if other != name})


@pytest.mark.parametrize("form", FORMS, ids=repr)
@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (1, 1)])
def test_scores_of_nothing_and_of_one(form: ScoreForm, shape: tuple[int, int]) -> None:
    kept = born(form, shape=shape)
    learn(kept, range(1, 4), shape)
    assert value(kept, shape).shape == shape
    assert torch.equal(value(kept.like_saved(kept.tensors()), shape), value(kept, shape))
    moment = kept.second_moment(lambda tensor: tensor.flatten()[::3])
    assert moment is None or len(moment) == math.prod(shape)


@pytest.mark.parametrize("form", FORMS, ids=repr)
def test_gradients_of_any_layout(form: ScoreForm) -> None:
    one, other = born(form), born(form)
    gradient = torch.randn(SHAPE)
    one.learn(one.gradients(gradient.clone()), 0.1)
    other.learn(other.gradients(gradient.t().contiguous().t()), 0.1)
    assert torch.allclose(value(one), value(other))


@pytest.mark.parametrize("form", FORMS[1:], ids=repr)
@pytest.mark.parametrize("method", [Magnitude(), Random()], ids=repr)
def test_scores_that_do_not_learn_are_kept_in_full(form: ScoreForm, method: Method) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(f"{form}, which is for scores that learn, and those of {method}")):
        form.check(method)
    FullScores().check(method)


# In full.


@pytest.mark.parametrize("birth", [Constant(0.5), Uniform(0.2), KaimingUniform(), FromMagnitude(2.0)], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_full_scores_are_those_of_the_method_and_its_optimizer_to_the_bit(birth: Birth, dtype: torch.dtype) -> None:
    method, generator = Movement(birth), torch.Generator().manual_seed(3)
    kept = FullScores().born(method, magnitude(dtype=dtype), generator, 0, 0)
    scores = birth.scores(magnitude(dtype=dtype), plain := torch.Generator().manual_seed(3))
    assert kept is not None
    assert torch.equal(generator.get_state(), plain.get_state())
    adam = torch.optim.Adam([scores], lr=1.0, weight_decay=0.0, fused=True)
    for step in range(1, 9):
        gradient = torch.randn(SHAPE, dtype=dtype)
        kept.learn(kept.gradients(gradient.clone()), 0.1 / step)
        adam.param_groups[0]["lr"] = 0.1 / step
        scores.grad = gradient
        adam.step()
        held = kept.value(lambda: pytest.fail("the weights have no say"))
        assert held is kept.tensors()["scores"]
        assert torch.equal(held, scores)
    state = adam.state[scores]
    assert all(torch.equal(kept.tensors()[f"moments.{name}"], tensor) for name, tensor in state.items())
    moment = kept.second_moment(lambda tensor: tensor[1:])
    assert moment is not None
    assert torch.equal(moment, state["exp_avg_sq"][1:] / (1 - 0.999**8))


def test_full_scores_that_the_method_does_not_train_or_keep() -> None:
    assert FullScores().born(Magnitude(), magnitude(), torch.Generator(), 0, 0) is None
    kept = FullScores().born(Random(), magnitude(), torch.Generator().manual_seed(2), 0, 0)
    assert kept is not None
    assert not kept.learns
    assert kept.tensors().keys() == {"scores"}
    other = FullScores().born(Random(), magnitude(), torch.Generator().manual_seed(3), 0, 0)
    assert other is not None
    assert torch.equal(value(other.like_saved(kept.tensors())), value(kept))


@dataclass(frozen=True)
class Plain(Movement):
    def optimizer(self, scores: Tensor) -> torch.optim.Optimizer:
        return torch.optim.SGD([scores], lr=self.score_lr, momentum=0.9)


def test_full_scores_take_any_optimizer() -> None:
    kept = born(FullScores(), Plain())
    before = value(kept)
    kept.learn([torch.ones(SHAPE)], 0.5)
    assert torch.equal(value(kept), before - 0.5)
    assert kept.second_moment(lambda tensor: tensor) is None
    resumed = kept.like_saved(kept.tensors())
    for each in (kept, resumed):
        each.learn([torch.ones(SHAPE)], 0.5)
    assert torch.equal(value(kept), value(resumed))


# Rounding at random.


def as_bits(bits: Tensor | int) -> Tensor:
    """The float32 of these 32 bits."""
    return torch.as_tensor(bits, dtype=torch.int64).to(torch.int32).view(torch.float32)


any_float = some.integers(-(1 << 31), (1 << 31) - 1).map(lambda bits: as_bits(torch.tensor([bits])))
"""All 2^32 of them: subnormal, infinite and NaN ones too."""


@given(any_float)
@settings(max_examples=60, deadline=None)
def test_the_mean_over_all_random_numbers_is_the_value_itself(x: Tensor) -> None:
    """Exactly, since float64 holds the sum of 65,536 neighbours; of the two there are, and of no others."""
    rounded = round_at_random(x.expand(1 << 16), ALL_BITS.clone())
    assert rounded.dtype is torch.bfloat16
    if x.isnan():
        assert bool(rounded.isnan().all())
    elif x.abs() > LARGEST:
        assert bool((rounded == (x if x.isinf() else x.clamp(-LARGEST, LARGEST))).all())
    else:
        assert float(rounded.double().mean()) == float(x)
        assert bool((rounded.signbit() == x.signbit()).all())
        toward_zero = as_bits(x.view(torch.int32) & -0x10000)
        away = as_bits((x.view(torch.int32) & -0x10000) + 0x10000)
        assert bool(((rounded == toward_zero) | (rounded == away)).all())


@given(some.integers(-(1 << 15), (1 << 15) - 1), some.integers(0, (1 << 16) - 1))
@settings(max_examples=200, deadline=None)
def test_what_bfloat16_holds_stays(upper: int, r: int) -> None:
    x = as_bits(torch.tensor([upper << 16]))
    rounded = round_at_random(x, torch.tensor([r], dtype=torch.int32)).float()
    assert torch.equal(rounded.view(torch.int32), x.view(torch.int32)) or bool(x.isnan() & rounded.isnan())


def test_values_at_the_edges() -> None:
    exact = [0.0, -0.0, 1.0, -1.5, LARGEST, -LARGEST, math.inf, -math.inf, 2.0**-133]
    beyond = torch.finfo(torch.float32).max
    for r in (0, 1, 0x8000, 0xFFFF):
        bits = torch.full((len(exact),), r, dtype=torch.int32)
        held = round_at_random(torch.tensor(exact), bits)
        assert held.tolist() == exact
        assert held.signbit().tolist() == torch.tensor(exact).signbit().tolist()
        largest = round_at_random(torch.tensor([beyond, -beyond]), torch.full((2,), r, dtype=torch.int32))
        assert largest.tolist() == [LARGEST, -LARGEST]  # to the nearest it would be infinite
        nans = as_bits(torch.tensor([0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0xFF800001]))  # of GPUs, and odd ones
        assert bool(round_at_random(nans, torch.full((5,), r, dtype=torch.int32)).isnan().all())


def test_the_mean_over_many_draws_is_the_value() -> None:
    """With bits as they are drawn: within 5 standard errors, of at most half a unit of the last place over sqrt(draws)."""
    draws = 1 << 14
    values = torch.tensor([0.3, -0.3, 1.001, 7.77e-9, -3.3e12, 1 + 2.0**-9])
    spread = values.repeat_interleave(draws)
    bits = random_bits(len(spread), spread.device, seed=4, step=1, place=0, stream=1)
    means = round_at_random(spread, bits).double().view(-1, draws).mean(1)
    unit = 2.0 ** (values.double().abs().log2().floor() - 7)
    assert bool(((means - values).abs() < 5 * 0.5 * unit / math.sqrt(draws)).all())
    nearest = values.to(torch.bfloat16).double()
    assert bool(((nearest - values).abs() > 5 * 0.5 * unit / math.sqrt(draws)).all())  # the tolerance tells them apart


# In bfloat16.


def test_bfloat16_scores_take_six_bytes_a_group() -> None:
    kept = born(BFloat16Scores(), shape=(30, 40))
    learn(kept, range(1, 3), (30, 40))
    assert sum(tensor.nbytes for tensor in kept.tensors().values()) == 6 * 30 * 40 + 2 * 8
    assert value(kept, (30, 40)).dtype is torch.float32
    assert value(kept, (30, 40)).shape == (30, 40)


def test_scores_are_born_to_the_nearest_so_that_ties_stay_and_order_does() -> None:
    assert value(born(BFloat16Scores(), Movement(Constant(2.197)))).unique().numel() == 1
    assert torch.equal(value(born(BFloat16Scores())), value(born(FullScores())).bfloat16().float())
    double = BFloat16Scores().born(Movement(), magnitude(dtype=torch.float64), torch.Generator(), 0, 0)
    assert double is not None
    assert double.tensors()["scores"].dtype is torch.bfloat16


def of_float64(gradients: list[Tensor], rates: list[float], start: Tensor) -> tuple[Tensor, Tensor]:
    """Adam as the paper writes it, in float64: S and v."""
    S, m, v = start.double(), torch.zeros(()), torch.zeros(())
    for t, (G, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        m, v = 0.9 * m + 0.1 * G.double(), 0.999 * v + 0.001 * G.double() ** 2
        S = S - rate * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
    return S, v


@pytest.mark.parametrize("shape", [(40,), (3, 5, 2)])
def test_one_step_is_adams_to_the_last_place_of_bfloat16(shape: tuple[int, ...]) -> None:
    kept, start = born(BFloat16Scores(), shape=shape), value(born(BFloat16Scores(), shape=shape), shape)
    gradient = torch.randn(shape)
    kept.learn([gradient], 0.3)
    S, v = of_float64([gradient], [0.3], start)
    assert bool(((value(kept, shape) - S).abs() <= 2.0**-7 * S.abs() + 1e-6).all())
    moment = kept.second_moment(lambda tensor: tensor)
    assert moment is not None
    assert moment.dtype is torch.float32
    assert torch.allclose(moment.double(), v / 0.001, rtol=2.0**-7)


def test_there_is_no_second_moment_before_the_first_step() -> None:
    assert born(BFloat16Scores()).second_moment(lambda tensor: pytest.fail("nothing is looked at")) is None


def to_the_nearest(values: Tensor, bits: Tensor) -> Tensor:
    return values.to(torch.bfloat16)


def test_the_mean_trajectory_is_adams_where_rounding_to_the_nearest_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """4,096 scores at 1, the same gradients, a rate of 0.001: each step is a quarter of the way to the next bfloat16 below,
    and so is lost to the nearest. At random, the mean is that of exact Adam within 2 % of the way."""
    count, steps = 4096, 100
    gradients = [torch.tensor(1.0 + 0.5 * math.sin(step)).expand(count) for step in range(steps)]
    exact, _ = of_float64(gradients, [1e-3] * steps, torch.ones(count))
    means = {}
    for rounding in (round_at_random, to_the_nearest):
        monkeypatch.setattr(room, "round_at_random", rounding)
        kept = born(BFloat16Scores(), Movement(Constant(1.0)), (count,))
        for gradient in gradients:
            kept.learn([gradient], 1e-3)
        means[rounding] = float(value(kept, (count,)).double().mean())
    way = 1 - float(exact.mean())
    assert abs(means[round_at_random] - float(exact.mean())) < 0.02 * way
    assert means[to_the_nearest] == 1.0


def test_the_second_moment_falls_as_adams_where_rounding_to_the_nearest_keeps_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large gradient once, then small ones: v falls by a thousandth a step, which to the nearest is nothing."""
    count, steps = 4096, 200
    gradients = [torch.full((count,), 1.0 if step == 0 else 1e-3) for step in range(steps)]
    _, exact = of_float64(gradients, [0.0] * steps, torch.ones(count))
    found = {}
    for rounding in (round_at_random, to_the_nearest):
        monkeypatch.setattr(room, "round_at_random", rounding)
        kept = born(BFloat16Scores(), shape=(count,))
        for gradient in gradients:
            kept.learn([gradient], 0.0)
        found[rounding] = float(kept.tensors()["moments.exp_avg_sq"].double().mean())
    assert found[round_at_random] == pytest.approx(float(exact.mean()), rel=5e-3)
    assert found[to_the_nearest] > 1.15 * float(exact.mean())


def test_a_rate_of_zero_leaves_the_scores_as_they_are() -> None:
    kept = born(BFloat16Scores())
    before = value(kept)
    learn(kept, range(1, 5), rate=0.0)
    assert torch.equal(value(kept), before)


def test_the_bits_follow_from_seed_step_place_and_tensor_alone() -> None:
    def after(steps: int = 3, **names: int) -> dict[str, Tensor]:
        kept = born(BFloat16Scores(), shape=(50, 40), **names)
        learn(kept, range(1, 1 + steps), (50, 40))
        return kept.tensors()

    first = after()
    torch.manual_seed(9), torch.rand(3)
    again = after()
    assert all(torch.equal(first[name], again[name]) for name in first)
    for others in (after(seed=12), after(place=3)):
        assert not any(torch.equal(first[name], others[name]) for name in ("scores", "moments.exp_avg", "moments.exp_avg_sq"))


def test_each_step_is_rounded_by_bits_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    names = []

    def noting(count: int, device: torch.device, **given: int) -> Tensor:
        names.append(tuple(given.values()))
        assert given["stream"] > 0  # the noise of L0's gates has that of 0
        return random_bits(count, device, **given)

    monkeypatch.setattr(room, "random_bits", noting)
    kept = born(BFloat16Scores(), shape=(CHUNK + 3,))
    learn(kept, range(1, 4), (CHUNK + 3,))
    assert len(set(names)) == len(names) == 3 * 2  # S, m and v share theirs


def test_pieces_are_what_the_whole_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (2, CHUNK + 5)
    found = []
    for size in (CHUNK, 4 * CHUNK):
        monkeypatch.setitem(room.PIECE, "cpu", size)
        kept = born(BFloat16Scores(), shape=shape)
        learn(kept, range(1, 3), shape)
        found.append(kept.tensors())
    # The last values of a piece may be reckoned without the processor's fused instructions, and differ in a last place.
    assert all((found[0][name] != found[1][name]).sum() <= 4 for name in found[0])


def test_ranks_that_hold_parts_round_as_one_that_holds_all() -> None:
    whole, gradient = magnitude((9, 7)), torch.randn(9, 7)
    found = []
    for rows in ([9], [2, 0, 7]):
        starts = [sum(rows[:number]) for number in range(len(rows))]
        parts = []
        for count, G, start in zip(rows, gradient.split(rows), starts, strict=True):
            held = slice(start, start + count)
            kept = BFloat16Scores().born(Movement(Constant(0.7)), whole, torch.Generator(), 1, 2, held)
            assert kept is not None
            kept.learn([G], 0.01)
            resumed = kept.like_saved(kept.tensors())
            resumed.learn([G], 0.01)
            parts.append(resumed.value(lambda: pytest.fail("the weights have no say")))
        found.append(torch.cat(parts))
    assert int((found[0] != found[1]).sum()) <= 2  # as for pieces, above


@pytest.mark.parametrize("seed", [0, (1 << 63) + 5, (1 << 64) - 1])
def test_a_seed_of_64_bits_is_saved(seed: int) -> None:
    kept = born(BFloat16Scores(), seed=seed)
    resumed = born(BFloat16Scores(), seed=1).like_saved(copied(kept.tensors()))
    learn(kept, range(1, 4))
    learn(resumed, range(1, 4))
    assert all(torch.equal(kept.tensors()[name], resumed.tensors()[name]) for name in kept.tensors())


@dataclass(frozen=True)
class Decaying(Movement):
    def optimizer(self, scores: Tensor) -> torch.optim.Optimizer:
        return torch.optim.Adam([scores], lr=self.score_lr, weight_decay=0.1)


@dataclass(frozen=True)
class Quick(Movement):
    def optimizer(self, scores: Tensor) -> torch.optim.Optimizer:
        return torch.optim.Adam([scores], lr=self.score_lr, betas=(0.5, 0.75), eps=1e-3)


def test_bfloat16_scores_bring_their_own_adam_and_take_the_place_of_no_other() -> None:
    for method, name in ((Plain(), "SGD"), (Decaying(), "Adam")):
        with pytest.raises(InvalidInputError, match=rf"learn by {name}: only torch.optim.Adam without weight_decay"):
            BFloat16Scores().check(method)
    for method in (Movement(), Quick(), SoftMovement(), L0(), L0(penalty=1.0), Movement(Uniform())):
        BFloat16Scores().check(method)


def test_the_settings_of_the_methods_adam_hold() -> None:
    kept, full = born(BFloat16Scores(), Quick(Constant(0.0))), born(FullScores(), Quick(Constant(0.0)))
    for each in (kept, full):
        learn(each, range(1, 3))
    assert torch.allclose(value(kept), value(full), rtol=0.03, atol=1e-4)
    moments = [each.second_moment(lambda tensor: tensor) for each in (kept, full)]
    assert moments[0] is not None
    assert moments[1] is not None
    assert torch.allclose(*moments, rtol=0.02)


# As a product.


def of_loss(S: Tensor) -> Tensor:
    """A loss that is no simple function of S."""
    return (S.sin() * torch.linspace(-1, 2, S.numel(), dtype=S.dtype).view_as(S)).sum() + (S @ S.T).square().mean()


@pytest.mark.parametrize("birth", [Constant(0.3), FromMagnitude()], ids=repr)
@pytest.mark.parametrize("rank", [1, 3, 9])
def test_the_gradients_are_autograds(birth: Birth, rank: int) -> None:
    method = Movement(birth)
    kept = LowRankScores(rank).born(method, magnitude(dtype=torch.float64), torch.Generator(), 0, 0)
    tensors = kept.tensors()
    tensors["scores.B"].normal_()
    A, B = (tensors[f"scores.{name}"].clone().requires_grad_() for name in "AB")
    S = birth.scores(magnitude(dtype=torch.float64), torch.Generator()) + A @ B
    held = kept.value(lambda: magnitude(dtype=torch.float64))
    assert torch.allclose(held, S, rtol=1e-14)
    expected = torch.autograd.grad(of_loss(S), (A, B))
    leaf = held.requires_grad_()
    (gradient,) = torch.autograd.grad(of_loss(leaf), leaf)
    found = kept.gradients(gradient)
    for mine, autograds in zip(found, expected, strict=True):
        assert torch.allclose(mine, autograds, rtol=1e-12, atol=1e-14)


def test_a_product_learns_by_the_methods_optimizer() -> None:
    kept = born(LowRankScores(3))
    A, B = (kept.tensors()[f"scores.{name}"].clone() for name in "AB")
    adam = torch.optim.Adam([A, B], lr=0.05, fused=True)
    for _ in range(4):
        gradient = torch.randn(SHAPE)
        A.grad, B.grad = gradient @ B.T, A.T @ gradient
        kept.learn(kept.gradients(gradient), 0.05)
        adam.step()
    assert torch.equal(kept.tensors()["scores.A"], A)
    assert torch.equal(kept.tensors()["scores.B"], B)
    assert torch.equal(value(kept), torch.addmm(value(born(FullScores())), A, B))


def test_a_product_starts_as_born_and_follows_the_weights() -> None:
    kept = born(LowRankScores(3), Movement(FromMagnitude(2.0)))
    assert torch.equal(value(kept), value(born(FullScores(), Movement(FromMagnitude(2.0)))))
    flipped = magnitude().flip(0)
    assert torch.equal(kept.value(lambda: flipped), value(kept).flip(0))
    learn(kept, range(1, 6))
    product = value(kept) - value(born(FullScores(), Movement(FromMagnitude(2.0))))
    assert int(torch.linalg.matrix_rank(product, rtol=1e-4)) == 3


def test_the_birth_of_a_product() -> None:
    A, B = (born(LowRankScores(16), shape=(500, 40)).tensors()[f"scores.{name}"] for name in "AB")
    assert (A.shape, B.shape) == ((500, 16), (16, 40))
    assert not B.any()
    assert float(A.var()) == pytest.approx(1 / 16, rel=0.05)  # 8,000 draws: a standard error of 1.6 %
    assert abs(float(A.mean())) < 4 / math.sqrt(16 * A.numel())


def test_a_magnitude_is_left_alone() -> None:
    @dataclass(frozen=True)
    class Itself(Birth):
        def scores(self, magnitude: Tensor, generator: torch.Generator) -> Tensor:
            return magnitude

    kept = born(LowRankScores(3), Movement(Itself()))
    learn(kept, range(1, 3))
    held = magnitude()
    kept.value(lambda: held)
    assert torch.equal(held, magnitude())


def test_autocast_makes_no_product_of_lower_precision() -> None:
    kept = born(LowRankScores(3))
    learn(kept, range(1, 6))
    gradient = torch.randn(SHAPE)
    outside: tuple[Tensor, ...] = (value(kept), *kept.gradients(gradient))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside: tuple[Tensor, ...] = (value(kept), *kept.gradients(gradient))
    assert all(one.dtype is torch.float32 and torch.equal(one, other) for one, other in zip(inside, outside, strict=True))


def test_a_product_has_no_second_moment_of_its_scores() -> None:
    kept = born(LowRankScores(3))
    learn(kept, range(1, 3))
    assert kept.second_moment(lambda tensor: tensor) is None


@pytest.mark.parametrize("birth", [Uniform(), KaimingUniform()], ids=repr)
@pytest.mark.parametrize("method", [Movement(), SoftMovement(penalty=1.0)], ids=repr)
def test_a_product_takes_no_birth_that_draws(method: Movement | SoftMovement, birth: Birth) -> None:
    with pytest.raises(InvalidInputError, match=r"draws random numbers for it. Take a birth that draws none"):
        LowRankScores().check(replace(method, birth=birth))
    for drawn_by_none in (Constant(0.1), FromMagnitude()):
        LowRankScores().check(replace(method, birth=drawn_by_none))


@pytest.mark.parametrize("method", [SoftMovement(), L0()], ids=repr)
def test_a_product_serves_no_controller(method: SoftMovement | L0) -> None:
    with pytest.raises(InvalidInputError, match=rf"Give {type(method).__name__} a penalty instead of the density"):
        LowRankScores().check(method)
    LowRankScores().check(replace(method, penalty=1.0))


@pytest.mark.parametrize("shape", [(12,), (2, 3, 4), ()])
def test_a_product_is_of_a_matrix(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(f"here the scores are of shape {[*shape]}")):
        born(LowRankScores(), shape=shape)


@pytest.mark.parametrize("rank", [0, -1, 1.5, True, "8", None])
def test_a_rank_is_a_whole_number(rank: object) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(f"rank={rank!r}; it takes a whole number, 1 or more")):
        LowRankScores(rank)


def test_forms_are_choices_that_can_be_compared_and_written() -> None:
    makers: list[Callable[[], ScoreForm]] = [FullScores, BFloat16Scores, LowRankScores, lambda: LowRankScores(4)]
    assert len({make() for make in makers}) == 4
    assert repr(LowRankScores()) == "LowRankScores(rank=8)"
