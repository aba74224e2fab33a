"""The interface of a form of scores, and a tensor that learns."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import InvalidInputError
from ..methods.base import LearnedMethod, Method

MOMENTS = ("exp_avg", "exp_avg_sq")
"""PyTorch's names of Adam's moments, which have the shape of the scores; other optimizers may keep theirs otherwise."""
ALL = slice(0, None)
"""A process that holds the whole."""


class ScoreForm(ABC):
    """How scores are kept. A new form is a frozen dataclass, with a class of `Scores` that it makes."""

    shards: ClassVar[bool] = True
    """Whether each process can keep only its own rows of them, as FSDP2 shards a weight."""

    on_demand: ClassVar[bool] = False
    """Whether S in full takes memory only while it is asked for, so that it is better asked for one site at a time."""

    @abstractmethod
    def check(self, method: Method) -> None:
        """Raises InvalidInputError for a method whose scores cannot be kept so."""

    @abstractmethod
    def initialised(
        self, method: Method, magnitude: Tensor, generator: torch.Generator, seed: int, place: int, rows: slice = ALL
    ) -> "Scores | None":
        """Returns the scores with which a site starts; None if they are the magnitude of the weights at each step.

        Args:
            method: one that passes `check`.
            magnitude: of each group, see `methods.ScoreInit`.
            generator: of the random numbers of all sites, one after the other.
            seed: of the random numbers of later steps.
            place: number of the site among all of the pruner's.
            rows: which rows of the scores this process holds; the others are initialised and dropped.

        Raises:
            InvalidInputError: if scores of this shape cannot be kept so.
        """


class Scores(ABC):
    """S of one site: how it is kept, and how it learns."""

    learns: bool
    """Whether there is an optimizer."""

    @abstractmethod
    def value(self, magnitude: Callable[[], Tensor]) -> Tensor:
        """Returns S in the groups' shape, in float32 or wider. It is not to be changed: it may be the stored tensor.

        Args:
            magnitude: makes the magnitude from which the scores of this site were initialised, of the weights as they are now.
        """

    @abstractmethod
    def gradients(self, gradient: Tensor) -> list[Tensor]:
        """Returns the gradients of the trained tensors, given dL/dS in the groups' shape; may use its memory."""

    @abstractmethod
    def learn(self, gradients: Sequence[Tensor], rate: float) -> None:
        """Takes one step of the optimizer, or of each.

        Args:
            gradients: as `gradients` returns them, perhaps clipped.
            rate: the learning rate.
        """

    @abstractmethod
    def second_moment(self, select: Callable[[Tensor], Tensor]) -> Tensor | None:
        """Returns Adam's running mean of the squared gradient of selected scores, bias corrected, in float32 or wider;
        None before its first step, and of a form that has none."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Returns the tensors to save: `scores`, or `scores.` with a name, and `moments.` with names. Not copies."""

    @abstractmethod
    def like_saved(self, tensors: Mapping[str, Tensor]) -> "Scores":
        """Returns scores of the same form with copies of saved tensors; unknown names are ignored.

        Raises:
            KeyError: if one is missing.
            InvalidInputError: if one has another shape or type than here.
        """


def held(scores: Tensor, rows: slice) -> Tensor:
    """Returns rows of the scores, contiguous, in memory of their own."""
    own = scores[rows]
    return scores.contiguous() if len(own) == len(scores) else own.clone(memory_format=torch.contiguous_format)


class Trained:
    """A tensor with the method's optimizer for it, if it learns.

    Args:
        name: a dot and a name, where a site has several.
    """

    def __init__(self, method: Method, tensor: Tensor, name: str = "") -> None:
        self.tensor = tensor
        self.name = name
        self.optimizer = method.optimizer(tensor) if isinstance(method, LearnedMethod) else None

    def learn(self, gradient: Tensor, rate: float) -> None:
        assert self.optimizer is not None
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.tensor.grad = gradient.contiguous()  # Adam's fused form on a CPU takes both to lie alike in memory
        self.optimizer.step()
        self.tensor.grad = None

    def second_moment(self, select: Callable[[Tensor], Tensor]) -> Tensor | None:
        assert self.optimizer is not None
        moments = self.optimizer.state[self.tensor]
        if "exp_avg_sq" not in moments:
            return None
        _, beta = self.optimizer.param_groups[0]["betas"]
        unbiased: Tensor = select(moments["exp_avg_sq"]) / (1 - beta ** float(moments["step"]))
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
                self.optimizer.state[self.tensor][moment] = saved(tensors, name, like)


def saved(tensors: Mapping[str, Tensor], name: str, like: Tensor) -> Tensor:
    """Returns a copy of a saved tensor on the device where its like is."""
    tensor = tensors[name]
    if (tensor.shape, tensor.dtype) != (like.shape, like.dtype):
        raise InvalidInputError(
            f"{name} was saved as {tensor.dtype} of shape {list(tensor.shape)}; here it is {like.dtype} of shape "
            f"{list(like.shape)}. Choose a checkpoint of the same model and config."
        )
    return tensor.to(like.device, copy=True).contiguous()


def check_learns(form: ScoreForm, method: Method) -> None:
    """Raises InvalidInputError for a method whose scores do not learn."""
    if not isinstance(method, LearnedMethod):
        raise InvalidInputError(f"{form} is for scores that learn, and those of {method} do not. Take FullScores().")
