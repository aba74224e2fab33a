"""Samples of every pruned matrix before and after training, from which the report draws without loading the models."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...distributed import process_group
from ...errors import InvalidInputError
from ...models.targets import unwrap
from ...pruner.pruner import Pruner

FILE = "weight_samples.safetensors"

MOST = 200_000
"""Weights that are sampled at most, over all matrices."""


@dataclass(frozen=True)
class WeightSamples:
    """Weights and scores at the same places of each matrix, evenly spread, as flat float32 tensors by the matrix's name.

    Args:
        pretrained: weights before training.
        weights: effective weights after training; empty before.
        scores: scores after training; empty for a method that stores none.
    """

    pretrained: dict[str, Tensor]
    weights: dict[str, Tensor]
    scores: dict[str, Tensor]

    @classmethod
    def of(cls, model: nn.Module, names: Iterable[str]) -> "WeightSamples":
        """Samples the named parameters of a model before training."""
        names = list(names)
        return cls({name: _sample(tensor, len(names)) for name, tensor in _parameters(model, names).items()}, {}, {})

    def finished(self, model: nn.Module, pruner: Pruner | None) -> "WeightSamples":
        """Returns the samples with the trained weights and the scores."""
        weights = {name: _sample(tensor, len(self.pretrained)) for name, tensor in _parameters(model, self.pretrained).items()}
        scores = {} if pruner is None else pruner.scores()
        return WeightSamples(self.pretrained, weights, {name: _sample(tensor, len(weights)) for name, tensor in scores.items()})

    def save(self, folder: str | Path) -> None:
        """Writes `weight_samples.safetensors` into a folder."""
        kinds = {"pretrained": self.pretrained, "weight": self.weights, "score": self.scores}
        tensors = {f"{kind}.{name}": tensor for kind, sample in kinds.items() for name, tensor in sample.items()}
        save_file(tensors, Path(folder) / FILE)

    @classmethod
    def load(cls, folder: str | Path) -> "WeightSamples":
        """Reads what `save` wrote. Raises InvalidInputError for a file that is missing or damaged."""
        try:
            tensors = load_file(Path(folder) / FILE)
        except Exception as error:  # safetensors raises its own, and OSError
            raise InvalidInputError(f"{Path(folder) / FILE} could not be read: {error}. Train again to write it.") from error

        def of_kind(kind: str) -> dict[str, Tensor]:
            return {name.removeprefix(kind): tensor for name, tensor in tensors.items() if name.startswith(kind)}

        return cls(of_kind("pretrained."), of_kind("weight."), of_kind("score."))


def _parameters(model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    parameters = dict(unwrap(model).named_parameters())
    return {name: parameters[name].detach() for name in names}


def _sample(tensor: Tensor, matrices: int) -> Tensor:
    """Returns evenly spread places of a matrix, one of `matrices`, as a copy in float32 on the CPU."""
    tensor = process_group.of(tensor).joined(process_group.local(tensor))
    stride = max(-(-tensor.numel() * matrices // MOST), 1)
    while math.gcd(stride, math.prod(tensor.shape[1:])) > 1:  # a shared factor would skip the same columns in every row
        stride += 1
    return tensor.reshape(-1)[::stride].to("cpu", torch.float32, copy=True)
