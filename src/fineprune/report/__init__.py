"""One HTML page about runs: what they were, what they came to, and what pruning did to the weights."""

from .page import write

__all__ = ["write"]
