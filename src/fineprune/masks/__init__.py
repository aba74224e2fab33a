"""Masks alone, for weights that stay the pretrained ones: one bit a weight, and several tasks on one backbone.

    save                W, M, trained  ->  one file: M as packed bits, a fingerprint of W, the trained values
    apply_mask          p = W where M, else +0.0;  the trained parameters take their values
    AppliedMask.remove  p = W, to the bit

The file is specified in docs/masks.md.
"""

from .applying import AppliedMask, apply_mask
from .file import MaskFile, fingerprint, read, save

__all__ = ["AppliedMask", "MaskFile", "apply_mask", "fingerprint", "read", "save"]
