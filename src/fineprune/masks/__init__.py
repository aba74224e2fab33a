"""Masks as files, one bit a weight, and how they are applied to the pretrained model that they were made on."""

from .apply import AppliedMask, apply_mask

__all__ = ["AppliedMask", "apply_mask"]
