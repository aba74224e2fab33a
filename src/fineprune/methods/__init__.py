"""How scores start, learn and become a mask."""

from .base import Method
from .group_lasso import GroupLasso
from .inits import Constant, FromMagnitude, KaimingUniform, ScoreInit, Uniform
from .l0 import L0
from .magnitude import Magnitude, Random
from .movement import Movement, SoftMovement

__all__ = [
    "L0",
    "Constant",
    "FromMagnitude",
    "GroupLasso",
    "KaimingUniform",
    "Magnitude",
    "Method",
    "Movement",
    "Random",
    "ScoreInit",
    "SoftMovement",
    "Uniform",
]
