"""Scores in bfloat16: rounding at random is right on average, and Adam's steps with it."""

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from test_scores import Plain, copied, initialised, learn, magnitude, value
from torch import Tensor

from fineprune import L0, BFloat16Scores, Constant, FullScores, InvalidInputError, Movement, SoftMovement, Uniform
from fineprune.scores import bfloat16
from fineprune.scores.bfloat16 import round_at_random
from fineprune.scores.philox import CHUNK, random_bits

ALL_BITS = torch.arange(1 << 16, dtype=torch.int32)
LARGEST = torch.finfo(torch.bfloat16).max


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
    kept = initialised(BFloat16Scores(), shape=(30, 40))
    learn(kept, range(1, 3), (30, 40))
    assert sum(tensor.nbytes for tensor in kept.tensors().values()) == 6 * 30 * 40 + 2 * 8
    assert value(kept, (30, 40)).dtype is torch.float32
    assert value(kept, (30, 40)).shape == (30, 40)


def test_scores_are_born_to_the_nearest_so_that_ties_stay_and_order_does() -> None:
    assert value(initialised(BFloat16Scores(), Movement(Constant(2.197)))).unique().numel() == 1
    assert torch.equal(value(initialised(BFloat16Scores())), value(initialised(FullScores())).bfloat16().float())
    double = BFloat16Scores().initialised(Movement(), magnitude(dtype=torch.float64), torch.Generator(), 0, 0)
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
    kept, start = initialised(BFloat16Scores(), shape=shape), value(initialised(BFloat16Scores(), shape=shape), shape)
    gradient = torch.randn(shape)
    kept.learn([gradient], 0.3)
    S, v = of_float64([gradient], [0.3], start)
    assert bool(((value(kept, shape) - S).abs() <= 2.0**-7 * S.abs() + 1e-6).all())
    moment = kept.second_moment(lambda tensor: tensor)
    assert moment is not None
    assert moment.dtype is torch.float32
    assert torch.allclose(moment.double(), v / 0.001, rtol=2.0**-7)


def test_there_is_no_second_moment_before_the_first_step() -> None:
    assert initialised(BFloat16Scores()).second_moment(lambda tensor: pytest.fail("nothing is looked at")) is None


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
        monkeypatch.setattr(bfloat16, "round_at_random", rounding)
        kept = initialised(BFloat16Scores(), Movement(Constant(1.0)), (count,))
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
        monkeypatch.setattr(bfloat16, "round_at_random", rounding)
        kept = initialised(BFloat16Scores(), shape=(count,))
        for gradient in gradients:
            kept.learn([gradient], 0.0)
        found[rounding] = float(kept.tensors()["moments.exp_avg_sq"].double().mean())
    assert found[round_at_random] == pytest.approx(float(exact.mean()), rel=5e-3)
    assert found[to_the_nearest] > 1.15 * float(exact.mean())


def test_a_rate_of_zero_leaves_the_scores_as_they_are() -> None:
    kept = initialised(BFloat16Scores())
    before = value(kept)
    learn(kept, range(1, 5), rate=0.0)
    assert torch.equal(value(kept), before)


def test_the_bits_follow_from_seed_step_place_and_tensor_alone() -> None:
    def after(steps: int = 3, **names: int) -> dict[str, Tensor]:
        kept = initialised(BFloat16Scores(), shape=(50, 40), **names)
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

    monkeypatch.setattr(bfloat16, "random_bits", noting)
    kept = initialised(BFloat16Scores(), shape=(CHUNK + 3,))
    learn(kept, range(1, 4), (CHUNK + 3,))
    assert len(set(names)) == len(names) == 3 * 2  # S, m and v share theirs


def test_pieces_are_what_the_whole_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (2, CHUNK + 5)
    found = []
    for size in (CHUNK, 4 * CHUNK):
        monkeypatch.setitem(bfloat16.PIECE, "cpu", size)
        kept = initialised(BFloat16Scores(), shape=shape)
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
            kept = BFloat16Scores().initialised(Movement(Constant(0.7)), whole, torch.Generator(), 1, 2, held)
            assert kept is not None
            kept.learn([G], 0.01)
            resumed = kept.like_saved(kept.tensors())
            resumed.learn([G], 0.01)
            parts.append(resumed.value(lambda: pytest.fail("the weights have no say")))
        found.append(torch.cat(parts))
    assert int((found[0] != found[1]).sum()) <= 2  # as for pieces, above


@pytest.mark.parametrize("seed", [0, (1 << 63) + 5, (1 << 64) - 1])
def test_a_seed_of_64_bits_is_saved(seed: int) -> None:
    kept = initialised(BFloat16Scores(), seed=seed)
    resumed = initialised(BFloat16Scores(), seed=1).like_saved(copied(kept.tensors()))
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
    kept, full = initialised(BFloat16Scores(), Quick(Constant(0.0))), initialised(FullScores(), Quick(Constant(0.0)))
    for each in (kept, full):
        learn(each, range(1, 3))
    assert torch.allclose(value(kept), value(full), rtol=0.03, atol=1e-4)
    moments = [each.second_moment(lambda tensor: tensor) for each in (kept, full)]
    assert moments[0] is not None
    assert moments[1] is not None
    assert torch.allclose(*moments, rtol=0.02)
