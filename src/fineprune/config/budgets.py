"""The unit of a density: weights, or floating-point operations."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import InvalidInputError


class Budget(ABC):
    """The cost of a group in the budget that groups share."""

    @abstractmethod
    def cost(self, size: int, flops: Callable[[int], int]) -> int:
        """Returns the cost of a group of `size` weights and `flops(n)` operations per token of a text of n tokens."""


@dataclass(frozen=True)
class InWeights(Budget):
    """The density is a share of the weights."""

    def cost(self, size: int, flops: Callable[[int], int]) -> int:
        return size


@dataclass(frozen=True)
class InFlops(Budget):
    """The density is a share of the operations of the prunable weights: 2 per weight and token in a linear layer; for a
    head also the products of queries with keys and of attention with values, which grow with the length of the text.

    It matters where groups of several kinds share a budget, as Together([Heads(), Neurons()]) with scope="global".

    Args:
        tokens: length of the text, in tokens.

    Raises:
        InvalidInputError: if tokens is not a whole number above 0.
    """

    tokens: int = 128

    def __post_init__(self) -> None:
        if isinstance(self.tokens, bool) or not isinstance(self.tokens, int) or self.tokens < 1:
            raise InvalidInputError(f"InFlops(tokens) must be the length of a text, 1 or more, got {self.tokens!r}.")

    def cost(self, size: int, flops: Callable[[int], int]) -> int:
        return flops(self.tokens)
