"""Scores in bfloat16, with Adam's moments in bfloat16, rounded at random."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import InvalidInputError
from ..methods.base import LearnedMethod, Method
from .base import ALL, ScoreForm, Scores, check_learns, held, saved
from .philox import CHUNK, random_bits

PIECE = {"cpu": CHUNK}
LARGE_PIECE = 16 * CHUNK
"""Number of scores that are computed in float32 at once: as many as a CPU's caches nearly hold, enough to keep a GPU busy."""

LARGEST = torch.finfo(torch.bfloat16).max


@dataclass(frozen=True)
class BFloat16Scores(ScoreForm):
    """One score a group in bfloat16, with Adam's two moments in bfloat16: 6 bytes a group.

    Each step is computed in float32 and written back by `round_at_random`. Rounded to the nearest, bfloat16's 8 bits would
    lose any change of a value by less than 1 part in 512: scores would stand still where the rate is small, and the second
    moment (which changes by 1 in 1,000) would never decrease. Rounded at random, all three are right on average. Scores that
    round to the same value tie, and the lower index is kept.
    """

    on_demand: ClassVar[bool] = True

    def check(self, method: Method) -> None:
        check_learns(self, method)
        _adam_of(self, method)

    def initialised(
        self, method: Method, magnitude: Tensor, generator: torch.Generator, seed: int, place: int, rows: slice = ALL
    ) -> "BFloat16Store | None":
        scores = method.init_scores(magnitude, generator)
        if scores is None:
            return None
        kept = held(scores.to(torch.bfloat16), rows)  # to the nearest: equal scores stay equal, and an order stays
        moments, start = (torch.zeros_like(kept), torch.zeros_like(kept)), (rows.start or 0) * math.prod(kept.shape[1:])
        return BFloat16Store(_adam_of(self, method), kept, moments, step=0, seed=seed, place=place, start=start)


@dataclass(frozen=True)
class _Adam:
    """The settings of Adam without decay (Kingma & Ba 2015)."""

    betas: tuple[float, float]
    eps: float


def _adam_of(form: ScoreForm, method: Method) -> _Adam:
    """Returns the settings of the Adam with which a method's scores learn; raises InvalidInputError if it is none."""
    assert isinstance(method, LearnedMethod)  # by `check_learns`
    optimizer = method.optimizer(torch.zeros(1))
    settings = optimizer.defaults
    if type(optimizer) is not torch.optim.Adam or settings["weight_decay"] or settings["amsgrad"] or settings["maximize"]:
        raise InvalidInputError(
            f"{form} brings its own Adam, and the scores of {method} learn by {type(optimizer).__name__}: only "
            "torch.optim.Adam without weight_decay, amsgrad and maximize can be replaced. Take FullScores()."
        )
    first, second = settings["betas"]
    return _Adam((float(first), float(second)), float(settings["eps"]))


class BFloat16Store(Scores):
    """S and Adam's moments in bfloat16.

        m <- beta1 m + (1 - beta1) G,    v <- beta2 v + (1 - beta2) G^2    with G = dL/dS
        S <- S - rate * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    S follows m and v as they are before they are rounded. The same random numbers round all three: each is right on average.
    """

    learns = True

    def __init__(
        self, adam: _Adam, scores: Tensor, moments: tuple[Tensor, Tensor], *, step: int, seed: int, place: int, start: int
    ) -> None:
        self.adam = adam
        self.scores = scores
        self.moments = moments
        self.step = step
        self.seed = seed
        self.place = place
        self.start = start

    def value(self, magnitude: Callable[[], Tensor]) -> Tensor:
        return self.scores.float()

    def gradients(self, gradient: Tensor) -> list[Tensor]:
        return [gradient]

    def learn(self, gradients: Sequence[Tensor], rate: float) -> None:
        gradient = gradients[0].reshape(-1)
        self.step += 1
        size = PIECE.get(gradient.device.type, LARGE_PIECE)
        for first in range(0, len(gradient), size):
            piece = slice(first, first + size)
            kept = [tensor.view(-1)[piece] for tensor in (self.scores, *self.moments)]
            changed = self._adam_step([tensor.float() for tensor in kept], gradient[piece].float(), rate)
            names = {"seed": self.seed, "step": self.step, "place": self.place, "stream": 1}
            bits = random_bits(len(gradient[piece]), gradient.device, **names, start=self.start + first)
            for tensor, values in zip(kept, changed, strict=True):
                tensor.copy_(round_at_random(values, bits))

    def _adam_step(self, kept: Sequence[Tensor], G: Tensor, rate: float) -> tuple[Tensor, Tensor, Tensor]:
        """S, m and v after a step, in the memory of those before it."""
        S, m, v = kept
        (beta1, beta2), t = self.adam.betas, self.step
        m.lerp_(G, 1 - beta1)
        v.mul_(beta2).addcmul_(G, G, value=1 - beta2)
        scale = v.sqrt().div_(math.sqrt(1 - beta2**t)).add_(self.adam.eps)
        S.addcdiv_(m, scale, value=-rate / (1 - beta1**t))
        return S, m, v

    def second_moment(self, select: Callable[[Tensor], Tensor]) -> Tensor | None:
        _, beta2 = self.adam.betas
        return select(self.moments[1]).float() / (1 - beta2**self.step) if self.step else None

    def tensors(self) -> dict[str, Tensor]:
        seed = (self.seed + (1 << 63)) % (1 << 64) - (1 << 63)  # the same 64 bits with a sign, as tensors hold them
        m, v = self.moments
        return {
            "scores": self.scores,
            "moments.exp_avg": m,
            "moments.exp_avg_sq": v,
            "moments.step": torch.tensor(self.step),
            "moments.seed": torch.tensor(seed),
        }

    def like_saved(self, tensors: Mapping[str, Tensor]) -> "BFloat16Store":
        S, m, v, step, seed = (saved(tensors, name, like) for name, like in self.tensors().items())
        return BFloat16Store(self.adam, S, (m, v), step=int(step), seed=int(seed), place=self.place, start=self.start)


def round_at_random(values: Tensor, bits: Tensor) -> Tensor:
    """Rounds to bfloat16 up or down, by the odds of the distances, so that the mean is the value itself.

    A bfloat16 is the upper half of a float32, and the lower half is how far the value lies from it towards the next one, in
    65,536ths of the way. So the next one is taken where the lower half and a random number carry over:

        rounded = upper half of (value + r),    r uniform from 0 to 65,535, in the last places of the value

    Values that bfloat16 can hold stay. Finite values stay finite: those beyond its largest become it. Infinities and NaN stay.

    Args:
        values: float32.
        bits: r in the same shape, as int32.
    """
    within = values.clamp(-LARGEST, LARGEST)
    rounded = (bits + within.view(torch.int32)).bitwise_and_(-0x10000).view(torch.float32)
    return rounded.where(values.abs() < math.inf, values).to(torch.bfloat16)
