"""How scores are stored: in full precision, in bfloat16, or as a product of two thin matrices."""

from .base import ScoreForm, Scores
from .bfloat16 import BFloat16Scores
from .full import FullScores
from .low_rank import LowRankScores

__all__ = ["BFloat16Scores", "FullScores", "LowRankScores", "ScoreForm", "Scores"]
