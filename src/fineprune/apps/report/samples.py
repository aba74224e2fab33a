"""Samples of the weights: the same places of a run's matrices before and after training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InvalidInputError
from ..training.weight_samples import FILE, WeightSamples
from .setting_runs import SettingRuns, few_of_each_method, shown_settings

Array = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class RunSample:
    """Weights of a setting's first seed, by matrix, at the same places before and after training.

    Args:
        setting: whose first seed it is.
        pretrained, weights: a weight of 0 was pruned.
        scores: empty where the method has none of its own.
    """

    setting: SettingRuns
    pretrained: Mapping[str, Array]
    weights: Mapping[str, Array]
    scores: Mapping[str, Array]

    @property
    def name(self) -> str:
        return self.setting.name

    @property
    def finite(self) -> bool:
        """Whether all values are finite. Those of a run that diverged are not, and no axis can hold them."""
        arrays = (array for kind in (self.pretrained, self.weights, self.scores) for array in kind.values())
        return all(bool(np.isfinite(array).all()) for array in arrays)

    def remaining(self) -> Array:
        """Returns the weights that are not pruned, of all matrices."""
        weights: Array = np.concatenate(list(self.weights.values()))
        remaining: Array = weights[weights != 0]
        return remaining


def samples_to_show(settings: Sequence[SettingRuns]) -> list[RunSample]:
    """Reads a few samples of each method, side by side. Raises InvalidInputError for a damaged one."""
    found = []
    for setting in few_of_each_method(shown_settings(settings)):
        saved = setting.first.read_weight_samples()
        if saved is not None and saved.weights:
            _check_same_places(saved, setting.first.folder)
            kinds = (saved.pretrained, saved.weights, saved.scores)
            found.append(RunSample(setting, *({name: tensor.numpy() for name, tensor in kind.items()} for kind in kinds)))
    return found


def _check_same_places(saved: WeightSamples, folder: Path) -> None:
    for name, sample in (saved.scores | saved.weights).items():
        others = (saved.pretrained.get(name), saved.weights.get(name), saved.scores.get(name, sample))
        if any(other is None or other.shape != sample.shape for other in others):
            raise InvalidInputError(
                f"{folder / FILE} is damaged: the samples of {name} do not fit together. Train this run again."
            )


def last_shared(runs: Sequence[Mapping[str, Array]]) -> str | None:
    """Returns the name of the last matrix that all runs have; None if they share none."""
    shared = [name for name in runs[0] if all(name in run for run in runs)]
    return shared[-1] if shared else None
