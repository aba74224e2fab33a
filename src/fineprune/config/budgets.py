"""What a density is a share of: weights, or the operations that they take."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import InvalidInputError


class Budget(ABC):
    """What a group takes of the budget that groups share."""

    @abstractmethod
    def cost(self, size: int, flops: Callable[[int], int]) -> int:
        """Returns what one group takes.

        Args:
            size: its weights.
            flops: its floating-point operations for each token of a text of so many tokens.
        """


@dataclass(frozen=True)
class InWeights(Budget):
    """The density is a share of the weights."""

    def cost(self, size: int, flops: Callable[[int], int]) -> int:
        return size


@dataclass(frozen=True)
class InFlops(Budget):
    """The density is a share of the operations of what is pruned: 2 a weight and token in a linear layer; of a head
    also the products of queries with keys and of attention with values, which grow with the text.

    It matters where groups of several kinds share a budget, as Together([Heads(), Neurons()]) with scope="global".

    Args:
        tokens: length of the text that is counted for.
    """

    tokens: int = 128

    def __post_init__(self) -> None:
        if isinstance(self.tokens, bool) or not isinstance(self.tokens, int) or self.tokens < 1:
            raise InvalidInputError(f"InFlops was given tokens={self.tokens!r}; it is the length of a text, 1 or more.")

    def cost(self, size: int, flops: Callable[[int], int]) -> int:
        return flops(self.tokens)
