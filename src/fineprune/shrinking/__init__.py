"""Removes physically what pruning has made superfluous: fewer heads, neurons, columns and features, and the same output."""

from .building import from_pretrained
from .removal import shrink
from .saving import save

__all__ = ["from_pretrained", "save", "shrink"]
