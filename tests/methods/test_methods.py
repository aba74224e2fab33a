"""How scores are initialised, what learns, and what is refused."""

import math
import re

import pytest
import torch

from fineprune import (
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
from fineprune.methods.base import LearnedMethod, Method
from fineprune.methods.inits import ScoreInit
from fineprune.selection.scopes import keep_local

INITS = [Constant(0.5), Uniform(0.2), KaimingUniform(), FromMagnitude(2.0)]


def initialised(init: ScoreInit | Method, magnitude: torch.Tensor, seed: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return init.scores(magnitude, generator) if isinstance(init, ScoreInit) else init.init_scores(magnitude, generator)


@pytest.mark.parametrize("init", [*INITS, Movement(Uniform(1.0)), Random()], ids=repr)
def test_an_init_is_reproducible_and_leaves_the_magnitude_alone(init: ScoreInit | Method) -> None:
    magnitude = torch.rand(16, 25)
    before, stream = magnitude.clone(), torch.get_rng_state()
    first, second, other = initialised(init, magnitude), initialised(init, magnitude), initialised(init, magnitude, seed=4)
    assert torch.equal(first, second)
    assert torch.equal(magnitude, before)
    assert first.shape == magnitude.shape
    assert first.dtype == magnitude.dtype
    assert first.data_ptr() != magnitude.data_ptr()
    assert torch.equal(torch.get_rng_state(), stream)
    drawn = not isinstance(init, Constant | FromMagnitude)
    assert torch.equal(first, other) is not drawn


def test_constant() -> None:
    assert (initialised(Constant(-1.5), torch.rand(2, 3)) == -1.5).all()


@pytest.mark.parametrize(("init", "bound"), [(Uniform(0.2), 0.2), (KaimingUniform(), 1 / 5)], ids=repr)
def test_uniform_inits_fill_their_range(init: ScoreInit, bound: float) -> None:
    scores = initialised(init, torch.rand(400, 25))
    assert -bound <= scores.min() < -0.98 * bound
    assert 0.98 * bound < scores.max() <= bound
    assert abs(scores.mean()) < 0.03 * bound


def test_from_magnitude() -> None:
    magnitude = torch.tensor([[1.0, 2.0], [3.0, 2.0]])
    assert torch.allclose(initialised(FromMagnitude(3.0), magnitude), 3.0 * magnitude / 2.0)
    assert torch.equal(initialised(FromMagnitude(), torch.zeros(2, 2)), torch.zeros(2, 2))


def test_what_each_method_starts_with() -> None:
    magnitude, generator = torch.rand(3, 4), torch.Generator().manual_seed(0)
    assert Magnitude().init_scores(magnitude, generator) is None
    assert torch.equal(Movement(Constant(2.0)).init_scores(magnitude, generator), torch.full((3, 4), 2.0))
    assert Random().init_scores(magnitude, generator).shape == magnitude.shape
    assert [isinstance(method, LearnedMethod) for method in (Magnitude(), Random(), Movement())] == [False, False, True]


def test_the_path_goes_from_dense_to_the_density() -> None:
    assert Movement().values(0.25) == (1.0, 0.25)
    with pytest.raises(InvalidInputError, match="Magnitude needs a density"):
        Magnitude().values(None)


def test_the_scores_learn_by_adam_without_decay() -> None:
    scores = torch.zeros(4)
    optimizer = Movement(score_lr=0.5).optimizer(scores)
    assert type(optimizer) is torch.optim.Adam
    assert optimizer.defaults["weight_decay"] == 0
    assert optimizer.param_groups[0]["params"][0] is scores
    assert Movement(score_lr=0.5).score_rate(0.25) == 0.125


def test_the_score_gradient_is_the_movement() -> None:
    movement = torch.randn(3)
    assert torch.equal(Movement().score_gradient(torch.zeros(3), movement.clone(), torch.ones(3)), movement)


def test_the_mask_is_the_top_of_the_scores() -> None:
    (mask,) = Movement().masks([torch.tensor([1.0, 3.0, 2.0])], [1], 2 / 3, keep_local)
    assert mask.tolist() == [False, True, True]


@pytest.mark.parametrize("kind", [Uniform, FromMagnitude, lambda value: Movement(score_lr=value)])
@pytest.mark.parametrize("value", [0, 0.0, -1.0, math.nan, math.inf, True, "0.1", None])
def test_a_number_above_zero_is_asked_for(kind: type, value: object) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(f"must be a number above 0, got {value!r}")):
        kind(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, False, "0", None])
def test_a_constant_is_a_finite_number(value: object) -> None:
    with pytest.raises(InvalidInputError, match="must be a finite number"):
        Constant(value)


@pytest.mark.parametrize("init", [0.0, "constant", None, Constant, Magnitude()])
def test_an_init_is_asked_for(init: object) -> None:
    with pytest.raises(InvalidInputError, match="init must be a score initialisation"):
        Movement(init)


def test_soft_movement_is_born_as_the_paper_does_with_a_penalty_and_from_magnitude_with_a_density() -> None:
    assert SoftMovement(penalty=500.0) == SoftMovement(penalty=500.0, init=Constant(0.0))
    assert SoftMovement() == SoftMovement(init=FromMagnitude())
    assert SoftMovement(penalty=500.0, init=Uniform(0.1)).init == Uniform(0.1)
