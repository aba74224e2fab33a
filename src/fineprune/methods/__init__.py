"""How scores start, learn and become a mask."""

from .base import LearnedMethod, Method, PenalisedMethod, StochasticMethod
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
    "LearnedMethod",
    "Magnitude",
    "Method",
    "Movement",
    "PenalisedMethod",
    "Random",
    "ScoreInit",
    "SoftMovement",
    "StochasticMethod",
    "Uniform",
]
