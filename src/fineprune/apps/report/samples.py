"""Samples of the weights: the same places of a run's matrices before and after, as its weight_samples holds them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InvalidInputError
from ..training.weight_samples import FILE, WeightSamples
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
    """Reads the weight_samples to show: of each method, side by side, the first seed.

    Raises:
        InvalidInputError: for a damaged weight_samples.
    """
    found = []
    for setting in few_a_method(side_by_side(largest_contest(settings))):
        weight_samples = setting.first.weight_samples()
        if weight_samples is not None and weight_samples.weights:
            _check_alike(weight_samples, setting.first.folder)
            kinds = (weight_samples.pretrained, weight_samples.weights, weight_samples.scores)
            found.append(Sample(setting, *({name: tensor.numpy() for name, tensor in kind.items()} for kind in kinds)))
    return found


def _check_alike(weight_samples: WeightSamples, folder: Path) -> None:
    """Raises unless a weight_samples holds the same places before and after, and no scores of others."""
    for name, sample in (weight_samples.scores | weight_samples.weights).items():
        others = (
            weight_samples.pretrained.get(name),
            weight_samples.weights.get(name),
            weight_samples.scores.get(name, sample),
        )
        if any(other is None or other.shape != sample.shape for other in others):
            raise InvalidInputError(
                f"{folder / FILE} is damaged: the samples of {name} do not fit together. Train this run again."
            )


def last_shared(runs: Sequence[Mapping[str, Array]]) -> str | None:
    """Returns the name of the last matrix that all runs have; None if they share none."""
    shared = [name for name in runs[0] if all(name in run for run in runs)]
    return shared[-1] if shared else None
