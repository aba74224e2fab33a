"""Samples of the weights: the same places of a run's matrices before and after, as its portrait holds them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InvalidInputError
from ..portrait import FILE, Portrait
from .settings import Setting, few_a_method, largest_contest, side_by_side

Array = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Sample:
    """Weights of one run, at the same places before and after.

    Args:
        setting: whose first seed it is.
        pretrained, weights: by matrix; a weight of 0 was pruned.
        scores: by matrix; empty where the method has none of its own.
    """

    setting: Setting
    pretrained: Mapping[str, Array]
    weights: Mapping[str, Array]
    scores: Mapping[str, Array]

    @property
    def name(self) -> str:
        return self.setting.name

    @property
    def finite(self) -> bool:
        """Whether all of it are numbers. Those of a run that diverged are not, and no axis can hold them."""
        arrays = (array for kind in (self.pretrained, self.weights, self.scores) for array in kind.values())
        return all(bool(np.isfinite(array).all()) for array in arrays)

    def remaining(self) -> Array:
        """Returns the weights that are left, of all matrices."""
        together: Array = np.concatenate(list(self.weights.values()))
        remaining: Array = together[together != 0]
        return remaining


def samples(settings: Sequence[Setting]) -> list[Sample]:
    """Reads the portraits to show: of each method, side by side, the first seed.

    Raises:
        InvalidInputError: for a damaged portrait.
    """
    found = []
    for setting in few_a_method(side_by_side(largest_contest(settings))):
        portrait = setting.first.portrait()
        if portrait is not None and portrait.weights:
            _refuse_unlike(portrait, setting.first.folder)
            kinds = (portrait.pretrained, portrait.weights, portrait.scores)
            found.append(Sample(setting, *({name: tensor.numpy() for name, tensor in kind.items()} for kind in kinds)))
    return found


def _refuse_unlike(portrait: Portrait, folder: Path) -> None:
    """Raises unless a portrait holds the same places before and after, and no scores of others."""
    for name, sample in (portrait.scores | portrait.weights).items():
        others = (portrait.pretrained.get(name), portrait.weights.get(name), portrait.scores.get(name, sample))
        if any(other is None or other.shape != sample.shape for other in others):
            raise InvalidInputError(
                f"{folder / FILE} is damaged: the samples of {name} do not fit together. Train this run again."
            )


def last_shared(runs: Sequence[Mapping[str, Array]]) -> str | None:
    """Returns the name of the last matrix that all runs have; None if they share none."""
    shared = [name for name in runs[0] if all(name in run for run in runs)]
    return shared[-1] if shared else None
