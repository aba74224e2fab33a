"""Methods whose scores do not learn: magnitude pruning, and a random control."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Method
from .inits import uniform


@dataclass(frozen=True)
class Magnitude(Method):
    """MaP, zeroth order: S = abs(W), the dense weight (Han et al. 2015; Zhu & Gupta 2017)."""

    def init_scores(self, magnitude: Tensor, generator: torch.Generator) -> None:
        return None


@dataclass(frozen=True)
class Random(Method):
    """The control: S is random and never changes, so a random set is kept."""

    def init_scores(self, magnitude: Tensor, generator: torch.Generator) -> Tensor:
        return uniform(magnitude, generator)
