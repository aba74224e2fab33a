"""The forms in which scores are kept: in full, in bfloat16, or as a product of two thin matrices."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .errors import InvalidInputError
from .methods import Method
from .noise import CHUNK, random_bits

PIECE = {"cpu": CHUNK}
LARGE_PIECE = 16 * CHUNK
"""So many scores in bfloat16 are worked on at once in float32: what a CPU's caches nearly hold, what keeps a GPU busy."""

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What PyTorch calls Adam's moments, which lie as what they are of; other optimisers may keep theirs otherwise."""

LARGEST = torch.finfo(torch.bfloat16).max


ALL = slice(0, None)
"""A process that holds the whole."""


class ScoreForm(ABC):
    """How scores are kept. A new form is a frozen dataclass, with a class of `Scores` that it lets be born."""

    shards: ClassVar[bool] = True
    """Whether each process can keep some rows of them for itself, as FSDP2 shares a weight out."""

    made_anew: ClassVar[bool] = False
    """Whether S in full takes memory only while it is asked for, so that it is better asked for one site at a time."""

    @abstractmethod
    def check(self, method: Method) -> None:
        """Raises InvalidInputError for a method whose scores cannot be kept so."""

    @abstractmethod
    def born(
        self, method: Method, magnitude: Tensor, generator: torch.Generator, seed: int, place: int, rows: slice = ALL
    ) -> "Scores | None":
        """Returns the scores with which a site starts; None if the method makes them anew from the weights at each step.

        Args:
            method: one that passes `check`.
            magnitude: of each group, see `methods.Birth`.
            generator: what the births of all sites draw from, one after the other.
            seed: of what is drawn later, at each step.
            place: number of the site among all of the pruner's.
            rows: which rows of the scores this process holds; the others are born and let go.

        Raises:
            InvalidInputError: if scores of this shape cannot be kept so.
        """


def _held(scores: Tensor, rows: slice) -> Tensor:
    """Returns some rows, contiguous, without what else was born in the same memory."""
    held = scores[rows]
    return scores.contiguous() if len(held) == len(scores) else held.clone(memory_format=torch.contiguous_format)


class Scores(ABC):
    """S of one site: how it is kept, and how it learns."""

    learns: bool
    """Whether there is an optimiser."""

    @abstractmethod
    def value(self, magnitude: Callable[[], Tensor]) -> Tensor:
        """Returns S in the groups' shape, in float32 or wider. It is not to be changed: it may be what is kept.

        Args:
            magnitude: makes the magnitude from which the scores of this site were born, of the weights as they are now.
        """

    @abstractmethod
    def gradients(self, gradient: Tensor) -> list[Tensor]:
        """Returns the gradients of what is trained, given dL/dS in the groups' shape; may use its memory."""

    @abstractmethod
    def learn(self, gradients: Sequence[Tensor], rate: float) -> None:
        """Takes one step of the optimiser, or of each.

        Args:
            gradients: what `gradients` returned, clipped perhaps.
            rate: the learning rate.
        """

    @abstractmethod
    def second_moment(self, part: Callable[[Tensor], Tensor]) -> Tensor | None:
        """Returns Adam's running mean of the squared gradient of some of the scores, bias corrected, in float32 or wider;
        None before its first step, and of a form that has none."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Returns what must be saved: `scores`, or `scores.` with a name, and `moments.` with names. Not copies."""

    @abstractmethod
    def like_saved(self, tensors: Mapping[str, Tensor]) -> "Scores":
        """Returns scores of the same form with copies of saved tensors; names that it does not know are let be.

        Raises:
            KeyError: if one is missing.
            InvalidInputError: if one has another shape or type than here.
        """


# In full.


@dataclass(frozen=True)
class FullScores(ScoreForm):
    """One score a group in float32, in float64 for weights in float64, and the method's own optimiser: with Adam 12 bytes
    a group."""

    def check(self, method: Method) -> None:
        """Every method's scores can be kept so."""

    def born(
        self, method: Method, magnitude: Tensor, generator: torch.Generator, seed: int, place: int, rows: slice = ALL
    ) -> "Full | None":
        scores = method.birth_scores(magnitude, generator)
        return None if scores is None else Full(method, _held(scores, rows))


class Full(Scores):
    """S as one tensor."""

    def __init__(self, method: Method, scores: Tensor) -> None:
        self.method = method
        self.learns = method.learns
        self._scores = _Trained(method, scores)

    def value(self, magnitude: Callable[[], Tensor]) -> Tensor:
        return self._scores.tensor

    def gradients(self, gradient: Tensor) -> list[Tensor]:
        return [gradient]

    def learn(self, gradients: Sequence[Tensor], rate: float) -> None:
        (gradient,) = gradients
        self._scores.learn(gradient, rate)

    def second_moment(self, part: Callable[[Tensor], Tensor]) -> Tensor | None:
        return self._scores.second_moment(part)

    def tensors(self) -> dict[str, Tensor]:
        return self._scores.tensors()

    def like_saved(self, tensors: Mapping[str, Tensor]) -> "Full":
        saved = Full(self.method, _saved(tensors, "scores", self._scores.tensor))
        saved._scores.take_moments(tensors)
        return saved


class _Trained:
    """A tensor with the method's optimiser for it, if it learns.

    Args:
        name: a dot and a name, where a site has several.
    """

    def __init__(self, method: Method, tensor: Tensor, name: str = "") -> None:
        self.tensor = tensor
        self.name = name
        self.optimizer = method.optimizer(tensor) if method.learns else None

    def learn(self, gradient: Tensor, rate: float) -> None:
        assert self.optimizer is not None
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.tensor.grad = gradient.contiguous()  # Adam's fused form on a CPU takes both to lie alike in memory
        self.optimizer.step()
        self.tensor.grad = None

    def second_moment(self, part: Callable[[Tensor], Tensor]) -> Tensor | None:
        assert self.optimizer is not None
        moments = self.optimizer.state[self.tensor]
        if "exp_avg_sq" not in moments:
            return None
        _, beta = self.optimizer.param_groups[0]["betas"]
        unbiased: Tensor = part(moments["exp_avg_sq"]) / (1 - beta ** float(moments["step"]))
        return unbiased

    def tensors(self) -> dict[str, Tensor]:
        moments = {} if self.optimizer is None else self.optimizer.state[self.tensor]
        return {f"scores{self.name}": self.tensor} | {f"moments{self.name}.{key}": each for key, each in moments.items()}

    def take_moments(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes up copies of the saved moments: none, if no step had been taken."""
        if self.optimizer is None:
            return
        for name, tensor in tensors.items():
            owner, _, moment = name.rpartition(".")
            if owner == f"moments{self.name}":
                like = self.tensor if moment in MOMENTS else tensor.to(self.tensor.device)
                self.optimizer.state[self.tensor][moment] = _saved(tensors, name, like)


def _saved(tensors: Mapping[str, Tensor], name: str, like: Tensor) -> Tensor:
    """Returns a copy of a saved tensor on the device where its like is."""
    tensor = tensors[name]
    if (tensor.shape, tensor.dtype) != (like.shape, like.dtype):
        raise InvalidInputError(
            f"{name} was saved as {tensor.dtype} of shape {list(tensor.shape)}; here it is {like.dtype} of shape "
            f"{list(like.shape)}. Choose a checkpoint of the same model and config."
        )
    return tensor.to(like.device, copy=True).contiguous()


# In bfloat16.


@dataclass(frozen=True)
class BFloat16Scores(ScoreForm):
    """One score a group in bfloat16, with Adam's two moments in bfloat16: 6 bytes a group.

    Each step is computed in float32 and written back by `round_at_random`. To the nearest, bfloat16's 8 bits would swallow
    what changes a value by less than 1 part in 512: scores would stand still where the rate has fallen, and the second moment
    (which changes by 1 in 1,000) would never fall. So rounded, all three are right on average. Scores that round to the same
    value tie, and the lower index is kept.
    """

    made_anew: ClassVar[bool] = True

    def check(self, method: Method) -> None:
        _refuse_resting(self, method)
        _adam_of(self, method)

    def born(
        self, method: Method, magnitude: Tensor, generator: torch.Generator, seed: int, place: int, rows: slice = ALL
    ) -> "BFloat16 | None":
        scores = method.birth_scores(magnitude, generator)
        if scores is None:
            return None
        kept = _held(scores.to(torch.bfloat16), rows)  # to the nearest: what is born equal, or in order, stays so
        moments, start = (torch.zeros_like(kept), torch.zeros_like(kept)), (rows.start or 0) * math.prod(kept.shape[1:])
        return BFloat16(_adam_of(self, method), kept, moments, step=0, seed=seed, place=place, start=start)


@dataclass(frozen=True)
class _Adam:
    """The settings of Adam without decay (Kingma & Ba 2015)."""

    betas: tuple[float, float]
    eps: float


def _adam_of(form: ScoreForm, method: Method) -> _Adam:
    """Returns the settings of the Adam with which a method's scores learn; raises InvalidInputError if it is none."""
    optimizer = method.optimizer(torch.zeros(1))
    settings = optimizer.defaults
    if type(optimizer) is not torch.optim.Adam or settings["weight_decay"] or settings["amsgrad"] or settings["maximize"]:
        raise InvalidInputError(
            f"scores was given as {form}, which brings its own Adam, and the scores of {method} learn by "
            f"{type(optimizer).__name__}: only torch.optim.Adam without weight_decay, amsgrad and maximize can be put in its "
            "place. Take FullScores()."
        )
    first, second = settings["betas"]
    return _Adam((float(first), float(second)), float(settings["eps"]))


class BFloat16(Scores):
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

    def second_moment(self, part: Callable[[Tensor], Tensor]) -> Tensor | None:
        _, beta2 = self.adam.betas
        return part(self.moments[1]).float() / (1 - beta2**self.step) if self.step else None

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

    def like_saved(self, tensors: Mapping[str, Tensor]) -> "BFloat16":
        S, m, v, step, seed = (_saved(tensors, name, like) for name, like in self.tensors().items())
        return BFloat16(self.adam, S, (m, v), step=int(step), seed=int(seed), place=self.place, start=self.start)


def round_at_random(values: Tensor, bits: Tensor) -> Tensor:
    """Rounds to bfloat16 up or down, by the odds of the distances, so that the mean is the value itself.

    A bfloat16 is the upper half of a float32, and the lower half is how far the value lies from it towards the next one, in
    65,536ths of the way. So the next one is taken where the lower half and a random number carry over:

        rounded = upper half of (value + r),    r uniform from 0 to 65,535, in the last places of the value

    What bfloat16 can hold stays. Finite values stay finite: those beyond its largest become it. Infinities and NaN stay.

    Args:
        values: float32.
        bits: r in the same shape, as int32.
    """
    within = values.clamp(-LARGEST, LARGEST)
    rounded = (bits + within.view(torch.int32)).bitwise_and_(-0x10000).view(torch.float32)
    return rounded.where(values.abs() < math.inf, values).to(torch.bfloat16)


# As a product.


@dataclass(frozen=True)
class LowRankScores(ScoreForm):
    """S = born(W) + A B, of a matrix with one score a weight (PST, Li et al. 2022: S = abs(W) + A B).

    born(W) is what the method's birth makes of the dense weights, anew at each use, so that it takes no memory and follows
    them. A is outputs x rank, B is rank x inputs, and both learn by the method's optimiser, from the chain rule:

        dL/dA = dL/dS B^T,    dL/dB = A^T dL/dS

    A is born normal with variance 1 / rank, and B as 0, so that S starts as born. With Adam that takes
    12 * rank * (outputs + inputs) bytes a matrix, in place of 12 * outputs * inputs.

    Args:
        rank: of A B.
    """

    rank: int = 8

    shards: ClassVar[bool] = False
    made_anew: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise InvalidInputError(f"LowRankScores was given rank={self.rank!r}; it takes a whole number, 1 or more.")

    def check(self, method: Method) -> None:
        _refuse_resting(self, method)
        if _draws_births(method):
            raise InvalidInputError(
                f"scores was given as {self}, which makes the birth of the scores anew at each step, and {method} draws random "
                "numbers for it. Take a birth that draws none, as FromMagnitude() or Constant(0.0), or FullScores()."
            )
        if method.steers and not method.decides_density:
            raise InvalidInputError(
                f"scores was given as {self}, and {method} without a penalty reaches its density by Adam's second moment of "
                f"each score, which is not kept. Give {type(method).__name__} a penalty instead of the density, or take "
                "Movement(), or BFloat16Scores()."
            )

    def born(
        self, method: Method, magnitude: Tensor, generator: torch.Generator, seed: int, place: int, rows: slice = ALL
    ) -> "LowRank":
        if magnitude.dim() != 2:
            raise InvalidInputError(
                f"scores was given as {self}, which is for a matrix with one score a weight, and here the scores are of shape "
                f"{list(magnitude.shape)}. Take FullScores() or BFloat16Scores(): rows, columns and linked groups are few."
            )
        outputs, inputs = magnitude.shape
        drawn = torch.randn((outputs, self.rank), generator=generator, dtype=magnitude.dtype)
        A = drawn.div_(math.sqrt(self.rank)).to(magnitude.device)
        return LowRank(method, A, magnitude.new_zeros((self.rank, inputs)))


def _draws_births(method: Method) -> bool:
    """Whether a method draws from the generator to let scores be born."""
    generator = torch.Generator()
    before = generator.get_state()
    method.birth_scores(torch.ones(2, 2), generator)
    return not torch.equal(generator.get_state(), before)


class LowRank(Scores):
    """S = born(W) + A B."""

    learns = True

    def __init__(self, method: Method, A: Tensor, B: Tensor) -> None:
        self.method = method
        self._A = _Trained(method, A, ".A")
        self._B = _Trained(method, B, ".B")

    def value(self, magnitude: Callable[[], Tensor]) -> Tensor:
        born = self.method.birth_scores(magnitude(), torch.Generator())
        assert born is not None
        with _in_full(born):
            return torch.addmm(born, self._A.tensor, self._B.tensor)

    def gradients(self, gradient: Tensor) -> list[Tensor]:
        with _in_full(gradient):
            return [gradient @ self._B.tensor.T, self._A.tensor.T @ gradient]

    def learn(self, gradients: Sequence[Tensor], rate: float) -> None:
        for each, gradient in zip((self._A, self._B), gradients, strict=True):
            each.learn(gradient, rate)

    def second_moment(self, part: Callable[[Tensor], Tensor]) -> None:
        return None

    def tensors(self) -> dict[str, Tensor]:
        return self._A.tensors() | self._B.tensors()

    def like_saved(self, tensors: Mapping[str, Tensor]) -> "LowRank":
        saved = LowRank(self.method, *(_saved(tensors, f"scores{each.name}", each.tensor) for each in (self._A, self._B)))
        for each in (saved._A, saved._B):
            each.take_moments(tensors)
        return saved


def _in_full(tensor: Tensor) -> torch.autocast:
    """Keeps autocast, under which a forward pass may ask for S, from making a product of lower precision."""
    return torch.autocast(tensor.device.type, enabled=False)


def _refuse_resting(form: ScoreForm, method: Method) -> None:
    """Raises InvalidInputError for a method whose scores do not learn."""
    if not method.learns:
        raise InvalidInputError(
            f"scores was given as {form}, which is for scores that learn, and those of {method} do not. Take FullScores()."
        )
