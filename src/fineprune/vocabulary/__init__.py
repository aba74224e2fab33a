"""Vocabulary selection: rows of tokens that a corpus never uses leave a model, and its tokenizer is rewritten to match."""

from .selecting import select_vocabulary

__all__ = ["select_vocabulary"]
