"""How scores are kept: what holds for every form, and scores in full."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from fineprune import (
    BFloat16Scores,
    Constant,
    FromMagnitude,
    FullScores,
    InvalidInputError,
    KaimingUniform,
    LowRankScores,
    Magnitude,
    Movement,
    Random,
    Uniform,
)
from fineprune.methods.base import Method
from fineprune.methods.inits import ScoreInit
from fineprune.scores.base import ScoreForm, Scores

FORMS = [FullScores(), BFloat16Scores(), LowRankScores(3)]
SHAPE = (5, 7)


def initialised(
    form: ScoreForm, method: Method | None = None, shape: tuple[int, ...] = SHAPE, *, seed: int = 11, place: int = 2
) -> Scores:
    """Scores of a site whose magnitudes are the same at each call."""
    method = method or Movement()
    form.check(method)
    kept = form.initialised(method, magnitude(shape), torch.Generator().manual_seed(5), seed, place)
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
    kept = initialised(form)
    learn(kept, range(1, 1 + before))
    saved = copied(kept.tensors())
    other = initialised(form, seed=12)
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
    kept = initialised(form)
    learn(kept, range(1, 3))
    saved = kept.tensors()
    before = copied(saved)
    learn(kept.like_saved(saved), range(3, 5))
    assert all(torch.equal(saved[name], before[name]) for name in saved)


@pytest.mark.parametrize("form", FORMS, ids=repr)
def test_the_names_of_what_is_saved(form: ScoreForm) -> None:
    kept = initialised(form)
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
    kept = initialised(form)
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
    kept = initialised(form, shape=shape)
    learn(kept, range(1, 4), shape)
    assert value(kept, shape).shape == shape
    assert torch.equal(value(kept.like_saved(kept.tensors()), shape), value(kept, shape))
    moment = kept.second_moment(lambda tensor: tensor.flatten()[::3])
    assert moment is None or len(moment) == math.prod(shape)


@pytest.mark.parametrize("form", FORMS, ids=repr)
def test_gradients_of_any_layout(form: ScoreForm) -> None:
    one, other = initialised(form), initialised(form)
    gradient = torch.randn(SHAPE)
    one.learn(one.gradients(gradient.clone()), 0.1)
    other.learn(other.gradients(gradient.t().contiguous().t()), 0.1)
    assert torch.allclose(value(one), value(other))


@pytest.mark.parametrize("form", FORMS[1:], ids=repr)
@pytest.mark.parametrize("method", [Magnitude(), Random()], ids=repr)
def test_scores_that_do_not_learn_are_kept_in_full(form: ScoreForm, method: Method) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(f"{form} is for scores that learn, and those of {method}")):
        form.check(method)
    FullScores().check(method)


def test_forms_are_choices_that_can_be_compared_and_written() -> None:
    makers: list[Callable[[], ScoreForm]] = [FullScores, BFloat16Scores, LowRankScores, lambda: LowRankScores(4)]
    assert len({make() for make in makers}) == 4
    assert repr(LowRankScores()) == "LowRankScores(rank=8)"


# In full.


@pytest.mark.parametrize("init", [Constant(0.5), Uniform(0.2), KaimingUniform(), FromMagnitude(2.0)], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_full_scores_are_those_of_the_method_and_its_optimizer_to_the_bit(init: ScoreInit, dtype: torch.dtype) -> None:
    method, generator = Movement(init), torch.Generator().manual_seed(3)
    kept = FullScores().initialised(method, magnitude(dtype=dtype), generator, 0, 0)
    scores = init.scores(magnitude(dtype=dtype), plain := torch.Generator().manual_seed(3))
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
    assert FullScores().initialised(Magnitude(), magnitude(), torch.Generator(), 0, 0) is None
    kept = FullScores().initialised(Random(), magnitude(), torch.Generator().manual_seed(2), 0, 0)
    assert kept is not None
    assert not kept.learns
    assert kept.tensors().keys() == {"scores"}
    other = FullScores().initialised(Random(), magnitude(), torch.Generator().manual_seed(3), 0, 0)
    assert other is not None
    assert torch.equal(value(other.like_saved(kept.tensors())), value(kept))


@dataclass(frozen=True)
class Plain(Movement):
    def optimizer(self, scores: Tensor) -> torch.optim.Optimizer:
        return torch.optim.SGD([scores], lr=self.score_lr, momentum=0.9)


def test_full_scores_take_any_optimizer() -> None:
    kept = initialised(FullScores(), Plain())
    before = value(kept)
    kept.learn([torch.ones(SHAPE)], 0.5)
    assert torch.equal(value(kept), before - 0.5)
    assert kept.second_moment(lambda tensor: tensor) is None
    resumed = kept.like_saved(kept.tensors())
    for each in (kept, resumed):
        each.learn([torch.ones(SHAPE)], 0.5)
    assert torch.equal(value(kept), value(resumed))
