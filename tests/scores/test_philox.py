"""Noise that depends on its seed, step and place, and on nothing else."""

import math
from unittest import mock

import pytest
import torch
from torch import Tensor

from fineprune.scores import philox
from fineprune.scores.philox import CHUNK, EPSILON, logit_noise, random_bits

LARGE = 2 * CHUNK + 5


def draw(
    seed: int = 1, step: int = 2, place: int = 3, shape: tuple[int, ...] = (6, 7), dtype: torch.dtype = torch.float32
) -> Tensor:
    return logit_noise(torch.empty(shape, dtype=dtype), seed, step, place)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(6, 7), (1,), (2, 3, 5), (LARGE,)])
def test_the_same_names_give_the_same_numbers(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    first = draw(shape=shape, dtype=dtype)
    draw(seed=9), draw(step=9)  # earlier draws
    torch.manual_seed(4)
    like = torch.randn(shape, dtype=dtype)
    before = like.clone()
    again = logit_noise(like, 1, 2, 3)
    assert (again.shape, again.dtype, again.device) == (like.shape, dtype, like.device)
    assert torch.equal(first, again)
    assert torch.equal(like, before)


def test_the_layout_of_what_it_is_like_does_not_matter() -> None:
    transposed = torch.empty(7, 6).t()
    assert torch.equal(logit_noise(transposed, 1, 2, 3), draw())


@pytest.mark.parametrize("number", [2, 3])
def test_the_number_of_threads_does_not_matter(number: int) -> None:
    with mock.patch.object(philox, "ThreadPoolExecutor", wraps=philox.ThreadPoolExecutor) as pool:
        with mock.patch.object(torch, "get_num_threads", return_value=1):
            alone = draw(shape=(LARGE,))
        pool.assert_not_called()
        with mock.patch.object(torch, "get_num_threads", return_value=number):
            assert torch.equal(draw(shape=(LARGE,)), alone)
        pool.assert_called_once_with(number)


def test_the_global_generators_are_left_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = draw()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert torch.equal(draw(), first)


NAMES = [
    {},
    {"seed": 2},
    {"seed": 1 + (1 << 32)},
    {"seed": (1 << 64) - 1},
    {"step": 3},
    {"step": 1 << 20},
    {"place": 4},
    {"place": 0},
    {"seed": 2, "step": 1},
    {"step": 3, "place": 2},
]


def test_each_seed_step_and_place_has_numbers_of_its_own() -> None:
    """Equal ones would be as rare as 1 in 65,536; numbers shifted against each other would show as well."""
    drawn = [draw(**names, shape=(4096,)) for names in NAMES]
    for number, first in enumerate(drawn):
        for second in drawn[:number]:
            for shift in (0, 1, 4, 16):
                assert int((first[shift:] == second[: len(second) - shift]).sum()) < 10


def test_the_chunks_of_one_tensor_differ() -> None:
    drawn = draw(shape=(LARGE,))
    assert int((drawn[:CHUNK] == drawn[CHUNK : 2 * CHUNK]).sum()) < 40  # 4 are to be expected


def test_a_shorter_tensor_has_the_beginning_of_a_longer_one() -> None:
    long = draw(shape=(LARGE,))
    for count in (1, 3, 4, 5, CHUNK - 1, CHUNK, CHUNK + 1):
        assert torch.equal(draw(shape=(count,)), long[:count])


def test_a_seed_below_zero_is_one_too() -> None:
    assert torch.equal(draw(seed=-1), draw(seed=(1 << 64) - 1))


def test_u_is_uniform() -> None:
    """Chi-square over 64 equal parts of what u can be; for one name it always gives the same."""
    drawn = draw(shape=(200_000,), dtype=torch.float64)
    u = (drawn.sigmoid() - EPSILON) / (1 - 2 * EPSILON)
    counts = torch.histc(u, bins=64, min=0, max=1)
    assert int(counts.sum()) == len(u)
    expected = len(u) / 64
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert 30 < chi_square < 110  # 63 degrees of freedom: one run in 10,000 lies outside
    pairs = torch.histc(8 * torch.floor(8 * u[::2]) + torch.floor(8 * u[1::2]), bins=64, min=0, max=64)
    expected = len(u) / 2 / 64
    assert 30 < float(((pairs - expected) ** 2 / expected).sum()) < 110  # neighbours know nothing of each other


def test_the_logits_lie_around_zero_within_bounds() -> None:
    drawn = draw(shape=(200_000,), dtype=torch.float64)
    bound = math.log((1 - EPSILON) / EPSILON)
    assert float(drawn.abs().amax()) < bound
    assert float(drawn.abs().amax()) > bound - 0.2
    deviation = math.pi / math.sqrt(3)  # of the logistic distribution
    assert abs(float(drawn.mean())) < 4 * deviation / math.sqrt(len(drawn))
    assert float(drawn.std()) == pytest.approx(deviation, rel=0.01)


def test_both_precisions_agree() -> None:
    assert torch.equal(draw(shape=(5000,), dtype=torch.float64).float(), draw(shape=(5000,)))


def bits(count: int = 1000, seed: int = 1, step: int = 2, place: int = 3, stream: int = 1, start: int = 0) -> Tensor:
    return random_bits(count, torch.device("cpu"), seed=seed, step=step, place=place, stream=stream, start=start)


def test_the_logits_are_those_of_the_first_release() -> None:
    """What is saved goes on with the same numbers."""
    assert draw(shape=(4,)).tolist() == pytest.approx(
        [0.15601575374603271, 0.4529009759426117, 0.7139971852302551, -2.6906771659851074], rel=1e-6
    )
    assert draw(shape=(CHUNK + 2,))[-2:].tolist() == pytest.approx([0.3300153911113739, 4.2377543449401855], rel=1e-6)


def test_bits_are_numbers_of_16_bits_evenly_spread() -> None:
    drawn = bits(1 << 20)
    assert drawn.dtype is torch.int32
    assert (int(drawn.min()), int(drawn.max())) == (0, 65535)
    places = (drawn[:, None] >> torch.arange(16)) & 1
    assert torch.allclose(places.double().mean(0), torch.full((16,), 0.5).double(), atol=5 * 0.5 / 1024)
    counts = torch.bincount(drawn >> 10, minlength=64)
    expected = len(drawn) / 64
    assert 30 < float(((counts - expected) ** 2 / expected).sum()) < 110  # chi-square, 63 degrees of freedom


def test_bits_of_pieces_are_those_of_the_whole() -> None:
    whole = bits(LARGE)
    for first in (1, 6, CHUNK, CHUNK + 3):
        assert torch.equal(torch.cat([bits(first), bits(LARGE - first, start=first)]), whole)
    assert torch.equal(bits(5), whole[:5])
    assert bits(0).shape == (0,)


@pytest.mark.parametrize("number", [2, 3])
def test_bits_are_the_same_on_any_number_of_threads(number: int) -> None:
    alone = bits(LARGE)
    with mock.patch.object(torch, "get_num_threads", return_value=number):
        assert torch.equal(bits(LARGE), alone)


def test_each_name_and_stream_has_bits_of_its_own_and_none_those_of_the_logits() -> None:
    names = [*NAMES, {"stream": 2}, {"stream": 3}, {"start": CHUNK}]
    drawn = [bits(4096, **each) for each in names]
    drawn.append(
        ((draw(shape=(4096,), dtype=torch.float64).sigmoid() - EPSILON) / (1 - 2 * EPSILON) * 65536 - 0.5).round().int()
    )
    assert torch.equal(drawn[-1], bits(4096, stream=0))
    for number, first in enumerate(drawn):
        for second in drawn[:number]:
            for shift in (0, 1, 4, 16):
                assert int((first[shift:] == second[: len(second) - shift]).sum()) < 10


def test_nothing_can_be_drawn_for_nothing() -> None:
    assert draw(shape=(0, 4)).shape == (0, 4)
