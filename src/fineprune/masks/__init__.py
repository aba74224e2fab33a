"""A mask as a file: one bit a weight, applied to the same pretrained model."""

from .apply import AppliedMask, apply_mask

__all__ = ["AppliedMask", "apply_mask"]
