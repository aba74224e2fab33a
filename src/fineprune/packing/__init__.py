"""The compact file: a whole model in one folder, close to the least bits that say it, and refused in words where damaged."""

from .loading import load

__all__ = ["load"]
