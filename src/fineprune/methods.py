"""How scores are born, learn, and become a mask. One class a method; the paper's table 1."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .errors import InvalidInputError, is_number
from .ranks import ALONE, Ranks
from .selection import Select, groups, keep_above, keep_global_and_least, keep_highest, kept, least_of, refuse_nan


class Birth(ABC):
    """How the scores S start."""

    @abstractmethod
    def scores(self, magnitude: Tensor, generator: torch.Generator) -> Tensor:
        """Returns new scores, given the magnitude of each group of one site: abs(W) for single weights; for larger groups their
        root mean square, stretched about its mean until it spreads as single weights do.

        Random numbers are drawn on the CPU from the generator, so that they are the same on every device.
        """


@dataclass(frozen=True)
class Constant(Birth):
    """S = value, the paper's birth (0 for movement). All scores tie, and the lower index is kept."""

    value: float = 0.0

    def __post_init__(self) -> None:
        if not is_number(self.value) or not math.isfinite(self.value):
            raise InvalidInputError(f"Constant was given value={self.value!r}; scores are born as finite numbers.")

    def scores(self, magnitude: Tensor, generator: torch.Generator) -> Tensor:
        return torch.full_like(magnitude, self.value)


@dataclass(frozen=True)
class Uniform(Birth):
    """S is drawn uniformly from -bound to bound."""

    bound: float = 0.01

    def __post_init__(self) -> None:
        _refuse_unless_positive(self, "bound", self.bound)

    def scores(self, magnitude: Tensor, generator: torch.Generator) -> Tensor:
        return _uniform(magnitude, generator).mul_(2 * self.bound).sub_(self.bound)


@dataclass(frozen=True)
class KaimingUniform(Birth):
    """S is drawn uniformly within 1 / sqrt(the last dimension of the scores), as a linear layer is (a = sqrt 5)."""

    def scores(self, magnitude: Tensor, generator: torch.Generator) -> Tensor:
        return Uniform(1 / math.sqrt(magnitude.shape[-1])).scores(magnitude, generator)


@dataclass(frozen=True)
class FromMagnitude(Birth):
    """S = scale * abs(W) / mean abs(W), per matrix: pruning starts as magnitude pruning, and movement corrects it.

    The scale is the exchange rate between magnitude and movement: the larger it is, the more
    evidence it takes to overturn the magnitude's order. What a score can gather is bounded by the sum of the score rates
    over the run, score_lr * steps / 2 where they decay to 0: a scale of 0.3 was settled at a sum of 4
    (docs/defaults.md). The scores of a matrix of zeros are 0. The magnitudes of groups of weights are stretched first, so that
    the same scale means as much as for single weights.
    """

    scale: float = 0.3

    def __post_init__(self) -> None:
        _refuse_unless_positive(self, "scale", self.scale)

    def scores(self, magnitude: Tensor, generator: torch.Generator) -> Tensor:
        mean = magnitude.mean()
        return self.scale * magnitude / mean if mean > 0 else torch.zeros_like(magnitude)


def _refuse_unless_positive(owner: object, name: str, value: float) -> None:
    if not is_number(value) or not 0 < value < math.inf:
        raise InvalidInputError(f"{type(owner).__name__} was given {name}={value!r}; it takes a number above 0.")


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    """Returns numbers from 0 to 1 in the shape, type and device of `like`."""
    return torch.rand(like.shape, generator=generator, dtype=like.dtype).to(like.device)


def refuse_wrong_penalty(owner: object, penalty: float | None) -> None:
    """Raises InvalidInputError unless a penalty is lambda or None."""
    if penalty is not None and (not is_number(penalty) or not 0 <= penalty < math.inf):
        raise InvalidInputError(
            f"{type(owner).__name__} was given penalty={penalty!r}; it takes lambda, a number from 0, or None."
        )


class Method(ABC):
    """What ranks the groups. A new method is a frozen dataclass that overrides what differs.

    The pruner owns the scores of each site (a matrix, or linked matrices) and asks the method to
    let them be born, to turn movement into their gradient, and to turn all of them into masks.
    """

    learns: ClassVar[bool] = False
    """Whether the scores have a gradient and an optimiser."""

    draws: ClassVar[bool] = False
    """Whether M is drawn anew for the forward passes of each step, see `gate`."""

    ranks: ClassVar[bool] = True
    """Whether M is the top of a ranking, so that every structure and scope can share out its budget."""

    steers: ClassVar[bool] = False
    """Whether a density is reached with a penalty that a controller sets, see `control`. Its hardest pull is `strongest`."""

    strongest: ClassVar[float] = 0.0

    contracts: ClassVar[bool] = False
    """Whether its penalty shrinks the weights themselves, see `contraction`."""

    @property
    def decides_density(self) -> bool:
        """Whether the method itself settles how much is kept, so that it takes no density."""
        return False

    def values(self, density: float | None) -> tuple[float, float]:
        """Returns the initial and the final value of the schedule: here the density kept.

        Raises InvalidInputError if the method needs a density and there is none.
        """
        if density is None:
            raise InvalidInputError(
                f"{type(self).__name__} was given no density; set density to the fraction of weights to keep, as 0.1."
            )
        return 1.0, density

    def contraction(self, magnitude: Tensor, amount: float) -> Tensor:
        """Returns what each group's weights are multiplied with after the optimiser's step, for a method that shrinks them.

        Args:
            magnitude: root mean square of the weights of each group.
            amount: the learning rate of the weights times lambda_t.
        """
        raise NotImplementedError

    @abstractmethod
    def birth_scores(self, magnitude: Tensor, generator: torch.Generator) -> Tensor | None:
        """Returns the scores with which a site starts; None if they are made anew from the weights at each step."""

    def current(self, scores: Tensor | None, magnitude: Callable[[], Tensor]) -> Tensor:
        """Returns the scores that rank the groups now."""
        return magnitude() if scores is None else scores

    def score_gradient(self, scores: Tensor, movement: Tensor, mask: Tensor, penalty: float) -> Tensor:
        """Returns dL/dS of one site, given sum(G * W) over each group.

        Args:
            scores: S.
            movement: reduce(G * W) in the shape of S; may be changed in place and returned.
            mask: M of the forward pass, in the shape of S.
            penalty: lambda_t over the number of sites and of this site's scores: what a sum over them
                is to be multiplied by, for a mean over sites of means over scores.
        """
        return movement

    def penalty_at(self, value: float) -> float:
        """Returns lambda_t, given the schedule's value; 0 for methods without a penalty."""
        return 0.0

    def optimizer(self, scores: Tensor) -> torch.optim.Optimizer:
        """Returns the optimiser of one tensor of scores; the pruner sets its learning rate at each step."""
        raise NotImplementedError

    def score_rate(self, factor: float) -> float:
        """Returns the learning rate of the scores when the weights' own rate is `factor` of its base."""
        raise NotImplementedError

    def masks(self, scores: Sequence[Tensor], sizes: Sequence[int], value: float, select: Select) -> list[Tensor]:
        """Returns M of every site: here the top v of the scores, within the scope that `select` stands for."""
        return select(scores, sizes, value)

    def gate(self, scores: Tensor, noise: Callable[[Tensor], Tensor]) -> Tensor:
        """Returns M of one site for the forward passes of one step, for a method that draws it.

        Args:
            scores: S.
            noise: makes a tensor like its argument of logit(u), u drawn uniformly from 1e-4 to 1 - 1e-4.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Magnitude(Method):
    """MaP, zeroth order: S = abs(W), the dense weight (Han et al. 2015; Zhu & Gupta 2017)."""

    def birth_scores(self, magnitude: Tensor, generator: torch.Generator) -> None:
        return None


@dataclass(frozen=True)
class Random(Method):
    """The control: S is random and never changes, so a random set is kept."""

    def birth_scores(self, magnitude: Tensor, generator: torch.Generator) -> Tensor:
        return _uniform(magnitude, generator)


class _Learned(Method):
    """Scores that learn by Adam without decay, at a rate that follows that of the weights."""

    birth: Birth
    score_lr: float

    learns: ClassVar[bool] = True

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not isinstance(self.birth, Birth):
            raise InvalidInputError(f"{name} was given birth={self.birth!r}; it takes a birth, as Constant(0.0).")
        _refuse_unless_positive(self, "score_lr", self.score_lr)

    def birth_scores(self, magnitude: Tensor, generator: torch.Generator) -> Tensor:
        return self.birth.scores(magnitude, generator)

    def optimizer(self, scores: Tensor) -> torch.optim.Optimizer:
        fused = scores.device.type in ("cpu", "cuda")
        return torch.optim.Adam([scores], lr=self.score_lr, weight_decay=0.0, fused=fused)

    def score_rate(self, factor: float) -> float:
        return self.score_lr * factor


@dataclass(frozen=True)
class Movement(_Learned):
    """MvP, hard movement pruning, first order (Sanh et al. 2020, section 4).

        M = top_v(S),    dL/dS = G * W    with G = dL/dW', W' = W * M

    The straight-through gradient reaches kept and pruned weights alike: a score falls while the
    weight moves toward zero and rises while it moves away. S learns by Adam without decay.

    By default the scores are born from the magnitude, not as the paper's 0: in runs of 800 steps scores born at 0
    lose to magnitude pruning, and those born so do not (measured: docs/defaults.md). The paper's form is
    `Movement(birth=Constant(0.0))`.

    Args:
        birth: how the scores start.
        score_lr: the scores' base learning rate. It follows the warm-up and the decay of the
            weights' own rate. With a constant birth it has no effect, since ranking is scale-free.
    """

    birth: Birth = FromMagnitude()
    score_lr: float = 1e-2


class Penalised(_Learned):
    """A method whose scores are pushed down by lambda_t * R(S), and whose cut lies at a fixed score.

        R(S) = mean over sites of mean over scores of sigmoid(S - shift)
        dL/dS = the method's own gradient + lambda_t / (sites * scores) * sigmoid'(S - shift)

    With `penalty` given, lambda_t follows the schedule (the paper's form) and the density is what comes
    out. With a `density` in the config, a controller sets lambda_t, see `control`; it needs an optimiser of the
    scores with Adam's second moment.
    """

    penalty: float | None

    ranks: ClassVar[bool] = False
    steers: ClassVar[bool] = True

    cuts: ClassVar[bool] = True
    """Whether M is cut at `cut` also where a density is asked for; otherwise where the density is."""

    strongest: ClassVar[float] = 6.0
    """How hard the penalty may pull where a density is asked for, see `control.Controller`."""

    LEAST: ClassVar[float] = 0.005
    """Share of each matrix that is always kept, as in Sanh et al.'s released example."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_wrong_penalty(self, self.penalty)

    @property
    @abstractmethod
    def last(self) -> float:
        """The final value of the schedule in the paper's form, where lambda_t = penalty."""

    @property
    @abstractmethod
    def cut(self) -> float:
        """The score at or below which a group is pruned at the end."""

    @property
    def shift(self) -> float:
        """What is taken from the scores inside R."""
        return 0.0

    @property
    def decides_density(self) -> bool:
        return self.penalty is not None

    def values(self, density: float | None) -> tuple[float, float]:
        name = type(self).__name__
        if density is None and self.penalty is None:
            raise InvalidInputError(
                f"{name} was given neither a density nor a penalty. Set density to the fraction of weights to keep, as 0.1, "
                f"or {name}(penalty=...) to the paper's lambda."
            )
        if density is not None and self.penalty is not None:
            raise InvalidInputError(
                f"{name} was given density={density} and penalty={self.penalty}: each decides how much is kept. Give one."
            )
        return (0.0, self.last) if density is None else (1.0, density)

    def penalty_at(self, value: float) -> float:
        return 0.0 if self.penalty is None else self.penalty * value / self.last

    def threshold_in_force(
        self, scores: Sequence[Tensor], masks: Sequence[Tensor], value: float, ranks: Ranks = ALONE
    ) -> float | None:
        """Returns the cut on sigmoid(S); None for a method without one."""
        return None

    def slope(self, scores: Tensor) -> Tensor:
        """Returns sigmoid'(S - shift)."""
        sigmoid = torch.sigmoid(scores - self.shift) if self.shift else torch.sigmoid(scores)
        slope: Tensor = torch.ops.aten.sigmoid_backward(sigmoid.new_ones(()).expand_as(sigmoid), sigmoid)
        return slope

    def score_gradient(self, scores: Tensor, movement: Tensor, mask: Tensor, penalty: float) -> Tensor:
        return movement.add_(self.slope(scores), alpha=penalty) if penalty else movement


@dataclass(frozen=True)
class SoftMovement(Penalised):
    """SMvP, soft movement pruning, first order (Sanh et al. 2020, section 4).

        M = sigmoid(S) > tau,    dL/dS = G * W + lambda_t * R'(S)

    At least floor(0.005 n) + 1 of the n groups of a matrix are kept. One threshold holds for all matrices, so
    that each keeps as much as its scores deserve, whatever the scope.

    With `penalty`, tau rises from 0 to `threshold` by the schedule, lambda_t = penalty * tau / threshold, and the
    density is what comes out. With a density in the config, the density falls by the schedule: tau is where it
    must be to keep exactly that many, and lambda_t is set so that tau ends near `threshold`.

    Args:
        penalty: lambda. None: the config gives a density.
        threshold: the cut tau on sigmoid(S) at the end.
        birth: how the scores start. None: with a penalty at 0, as in the paper; with a density from the magnitude, which in
            short runs keeps more of the accuracy (measured: docs/defaults.md).
        score_lr: the scores' base learning rate; it follows that of the weights.
    """

    penalty: float | None = None
    threshold: float = 0.1
    birth: Birth | None = None  # type: ignore[assignment]  # what it stands for is put in its place
    score_lr: float = 1e-2

    cuts: ClassVar[bool] = False
    strongest: ClassVar[float] = 0.5  # the density is kept without it

    def __post_init__(self) -> None:
        if self.birth is None:
            object.__setattr__(self, "birth", FromMagnitude() if self.penalty is None else Constant(0.0))
        super().__post_init__()
        if not is_number(self.threshold) or not 0 < self.threshold < 1:
            raise InvalidInputError(
                f"SoftMovement was given threshold={self.threshold!r}; it is a cut on sigmoid(S), between 0 and 1."
            )

    @property
    def last(self) -> float:
        return self.threshold

    @property
    def cut(self) -> float:
        return _logit(self.threshold)

    def masks(self, scores: Sequence[Tensor], sizes: Sequence[int], value: float, select: Select) -> list[Tensor]:
        if self.penalty is None:
            return keep_global_and_least(scores, sizes, value, self.LEAST, select.ranks)
        return keep_above(scores, _logit(value), self.LEAST, select.ranks)

    def threshold_in_force(
        self, scores: Sequence[Tensor], masks: Sequence[Tensor], value: float, ranks: Ranks = ALONE
    ) -> float:
        """Returns tau: with a density, sigmoid of the highest score that is pruned, 0 while none is."""
        if self.penalty is not None:
            return value
        pairs = zip(scores, masks, strict=True)
        highest = [tensor.masked_fill(mask, -math.inf).amax() for tensor, mask in pairs if tensor.numel()]
        highest.append(scores[0].new_tensor(-math.inf))  # where this process holds none
        return float(ranks.highest(torch.stack(highest).amax()).sigmoid())


@dataclass(frozen=True)
class L0(Penalised):
    """L0 regularisation by hard concrete gates, first order (Louizos et al. 2018; Sanh et al. 2020, table 1).

        s = sigmoid((logit(u) + S) / b) in training, sigmoid(S) otherwise
        M = clamp(s * (r - l) + l, 0, 1),    l = -0.1, r = 1.1, b = 2/3
        dL/dS = G * W * dM/dS + lambda_t * R'(S),    R'(S) = sigmoid'(S - b * ln(-l / r))

    M is a continuous gate. u is drawn once for each optimiser step. Between steps, for evaluation and
    in what is saved, the gate without noise holds. At least floor(0.005 n) + 1 of the n groups of a
    matrix are kept then: where fewer gates are open, the highest scores' gates are s. The scope has no say.

    With `penalty`, lambda_t rises from 0 to it by the schedule and the density is what comes out. With a
    density in the config, the density falls by the schedule, by a controller that sets lambda_t.

    Args:
        penalty: lambda. None: the config gives a density.
        birth: how the scores start; by default so that the gates are 0.98.
        score_lr: the scores' base learning rate; it follows that of the weights.
    """

    penalty: float | None = None
    birth: Birth = Constant(2.197)
    score_lr: float = 1e-1

    draws: ClassVar[bool] = True
    LOW: ClassVar[float] = -0.1
    HIGH: ClassVar[float] = 1.1
    TEMPERATURE: ClassVar[float] = 2 / 3

    @property
    def last(self) -> float:
        return 1.0

    @property
    def cut(self) -> float:
        return _logit(-self.LOW / (self.HIGH - self.LOW))

    @property
    def shift(self) -> float:
        return self.TEMPERATURE * math.log(-self.LOW / self.HIGH)

    def masks(self, scores: Sequence[Tensor], sizes: Sequence[int], value: float, select: Select) -> list[Tensor]:
        refuse_nan(scores, select.ranks)
        gates = [self._stretch(tensor.sigmoid()) for tensor in scores]
        least = [least_of(number, self.LEAST) for number in groups(scores, select.ranks)]
        return [
            gate if count >= enough else self._with_least(gate, tensor, enough, select.ranks)
            for gate, tensor, count, enough in zip(gates, scores, kept(gates, select.ranks), least, strict=True)
        ]

    def _with_least(self, gate: Tensor, scores: Tensor, least: int, ranks: Ranks) -> Tensor:
        """M, with s in place of the closed gates of the scores that are kept in any case."""
        (chosen,) = keep_highest([scores], [1], least, ranks)
        return gate.where(~chosen | (gate > 0), scores.sigmoid())

    def gate(self, scores: Tensor, noise: Callable[[Tensor], Tensor]) -> Tensor:
        return self._stretch(noise(scores).add_(scores).div_(self.TEMPERATURE).sigmoid_())

    def _stretch(self, sigmoid: Tensor) -> Tensor:
        """clamp(s * (r - l) + l, 0, 1), in place."""
        return sigmoid.mul_(self.HIGH - self.LOW).add_(self.LOW).clamp_(0, 1)

    def score_gradient(self, scores: Tensor, movement: Tensor, mask: Tensor, penalty: float) -> Tensor:
        # dM/dS = (r - l) * s * (1 - s) / b while 0 < M < 1, with s = (M - l) / (r - l)
        sigmoid = (mask - self.LOW).mul_(1 / (self.HIGH - self.LOW))
        through = torch.ops.aten.hardtanh_backward(torch.ops.aten.sigmoid_backward(movement, sigmoid), mask, 0.0, 1.0)
        return super().score_gradient(scores, through.mul_((self.HIGH - self.LOW) / self.TEMPERATURE), mask, penalty)


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability)) if probability > 0 else -math.inf
