"""`fineprune report`: a page that shows runs and what happened to the weights."""

from .page import write

__all__ = ["write"]
