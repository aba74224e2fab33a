"""Scores as a product of two thin matrices: its gradients are autograd's, and it starts as initialised."""

import math
import re
from dataclasses import dataclass, replace

import pytest
import torch
from test_scores import SHAPE, initialised, learn, magnitude, value
from torch import Tensor

from fineprune import (
    L0,
    Constant,
    FromMagnitude,
    FullScores,
    InvalidInputError,
    KaimingUniform,
    LowRankScores,
    Movement,
    SoftMovement,
    Uniform,
)
from fineprune.methods.inits import ScoreInit


def of_loss(S: Tensor) -> Tensor:
    """A loss that is no simple function of S."""
    return (S.sin() * torch.linspace(-1, 2, S.numel(), dtype=S.dtype).view_as(S)).sum() + (S @ S.T).square().mean()


@pytest.mark.parametrize("init", [Constant(0.3), FromMagnitude()], ids=repr)
@pytest.mark.parametrize("rank", [1, 3, 9])
def test_the_gradients_are_autograds(init: ScoreInit, rank: int) -> None:
    method = Movement(init)
    kept = LowRankScores(rank).initialised(method, magnitude(dtype=torch.float64), torch.Generator(), 0, 0)
    tensors = kept.tensors()
    tensors["scores.B"].normal_()
    A, B = (tensors[f"scores.{name}"].clone().requires_grad_() for name in "AB")
    S = init.scores(magnitude(dtype=torch.float64), torch.Generator()) + A @ B
    held = kept.value(lambda: magnitude(dtype=torch.float64))
    assert torch.allclose(held, S, rtol=1e-14)
    expected = torch.autograd.grad(of_loss(S), (A, B))
    leaf = held.requires_grad_()
    (gradient,) = torch.autograd.grad(of_loss(leaf), leaf)
    found = kept.gradients(gradient)
    for mine, autograds in zip(found, expected, strict=True):
        assert torch.allclose(mine, autograds, rtol=1e-12, atol=1e-14)


def test_a_product_learns_by_the_methods_optimizer() -> None:
    kept = initialised(LowRankScores(3))
    A, B = (kept.tensors()[f"scores.{name}"].clone() for name in "AB")
    adam = torch.optim.Adam([A, B], lr=0.05, fused=True)
    for _ in range(4):
        gradient = torch.randn(SHAPE)
        A.grad, B.grad = gradient @ B.T, A.T @ gradient
        kept.learn(kept.gradients(gradient), 0.05)
        adam.step()
    assert torch.equal(kept.tensors()["scores.A"], A)
    assert torch.equal(kept.tensors()["scores.B"], B)
    assert torch.equal(value(kept), torch.addmm(value(initialised(FullScores())), A, B))


def test_a_product_starts_as_born_and_follows_the_weights() -> None:
    kept = initialised(LowRankScores(3), Movement(FromMagnitude(2.0)))
    assert torch.equal(value(kept), value(initialised(FullScores(), Movement(FromMagnitude(2.0)))))
    flipped = magnitude().flip(0)
    assert torch.equal(kept.value(lambda: flipped), value(kept).flip(0))
    learn(kept, range(1, 6))
    product = value(kept) - value(initialised(FullScores(), Movement(FromMagnitude(2.0))))
    assert int(torch.linalg.matrix_rank(product, rtol=1e-4)) == 3


def test_the_birth_of_a_product() -> None:
    A, B = (initialised(LowRankScores(16), shape=(500, 40)).tensors()[f"scores.{name}"] for name in "AB")
    assert (A.shape, B.shape) == ((500, 16), (16, 40))
    assert not B.any()
    assert float(A.var()) == pytest.approx(1 / 16, rel=0.05)  # 8,000 draws: a standard error of 1.6 %
    assert abs(float(A.mean())) < 4 / math.sqrt(16 * A.numel())


def test_a_magnitude_is_left_alone() -> None:
    @dataclass(frozen=True)
    class Itself(ScoreInit):
        def scores(self, magnitude: Tensor, generator: torch.Generator) -> Tensor:
            return magnitude

    kept = initialised(LowRankScores(3), Movement(Itself()))
    learn(kept, range(1, 3))
    held = magnitude()
    kept.value(lambda: held)
    assert torch.equal(held, magnitude())


def test_autocast_makes_no_product_of_lower_precision() -> None:
    kept = initialised(LowRankScores(3))
    learn(kept, range(1, 6))
    gradient = torch.randn(SHAPE)
    outside: tuple[Tensor, ...] = (value(kept), *kept.gradients(gradient))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside: tuple[Tensor, ...] = (value(kept), *kept.gradients(gradient))
    assert all(one.dtype is torch.float32 and torch.equal(one, other) for one, other in zip(inside, outside, strict=True))


def test_a_product_has_no_second_moment_of_its_scores() -> None:
    kept = initialised(LowRankScores(3))
    learn(kept, range(1, 3))
    assert kept.second_moment(lambda tensor: tensor) is None


@pytest.mark.parametrize("init", [Uniform(), KaimingUniform()], ids=repr)
@pytest.mark.parametrize("method", [Movement(), SoftMovement(penalty=1.0)], ids=repr)
def test_a_product_takes_no_birth_that_draws(method: Movement | SoftMovement, init: ScoreInit) -> None:
    with pytest.raises(InvalidInputError, match=r"those of .* are random\. Take an init that is not"):
        LowRankScores().check(replace(method, init=init))
    for drawn_by_none in (Constant(0.1), FromMagnitude()):
        LowRankScores().check(replace(method, init=drawn_by_none))


@pytest.mark.parametrize("method", [SoftMovement(), L0()], ids=repr)
def test_a_product_serves_no_controller(method: SoftMovement | L0) -> None:
    with pytest.raises(InvalidInputError, match=rf"Give {type(method).__name__} a penalty instead of the density"):
        LowRankScores().check(method)
    LowRankScores().check(replace(method, penalty=1.0))


@pytest.mark.parametrize("shape", [(12,), (2, 3, 4), ()])
def test_a_product_is_of_a_matrix(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(f"got scores of shape {[*shape]}")):
        initialised(LowRankScores(), shape=shape)


@pytest.mark.parametrize("rank", [0, -1, 1.5, True, "8", None])
def test_a_rank_is_a_whole_number(rank: object) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(f"must be a whole number, 1 or above, got {rank!r}")):
        LowRankScores(rank)
