"""A fused encoder: the forward pass of a stock encoder of the BERT family, in one piece of compiled code."""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .format import Float32
from .kernels import launch
from .kernels.encoder import ENCODE, LAYER, MATRICES, phases, run_encoder
from .kernels.matmul import MATRIX
from .kernels.simd import ROWS_TOGETHER
from .kernels.tiles import tiles_of
from .kernels.work import counters
from .linear import check_inputs, without_gradient
from .records import Activations, Array, MatrixRecord, address, buffer, inputs_like, step, vector_bytes
from .reference import Activation

FLOATS: Any = {"dtype": torch.float32, "device": "cpu"}
"""The type and device that the kernels read, whatever PyTorch's default types are."""


@dataclass(frozen=True, eq=False)
class FusedLayer:
    """The matrices, norms and sizes of one layer.

    Args:
        matrices: of queries, keys, values, the output of the attention, and the two of the feed-forward layer.
        norms: scale, shift and epsilon of the LayerNorm after the attention, and of the one at the end.
        heads: of the attention.
        activation: after the first feed-forward matrix.
    """

    matrices: tuple[MatrixRecord, ...]
    norms: tuple[tuple[Tensor, Tensor, float], tuple[Tensor, Tensor, float]]
    heads: int
    activation: Activation


class CompiledEncoder:
    """The layers of an encoder as records for compiled code. A copy has its own addresses.

    Args:
        layers: in order; not empty, all with the same activation and the same type of stored values.
        activations: how the inputs of products are stored.
    """

    def __init__(self, layers: tuple[FusedLayer, ...], activations: Activations | None = None) -> None:
        self.layers, self.activations = layers, Float32() if activations is None else activations
        self.hidden = layers[0].matrices[0].weight.cols
        self.features = [layer.matrices[0].weight.rows for layer in layers]
        self.neurons = [layer.matrices[4].weight.rows for layer in layers]
        self.ones, self.zeros = (torch.full((ROWS_TOGETHER,), number, **FLOATS) for number in (1.0, 0.0))
        self.seconds = [MatrixRecord(layer.matrices[5].weight, layer.matrices[5].bias, bands=2) for layer in layers]
        self.matrices = np.zeros((len(layers), MATRICES), dtype=MATRIX)
        self.scalings = torch.empty(len(layers), ROWS_TOGETHER, **FLOATS)
        self.records = np.zeros(len(layers), dtype=LAYER)
        for number, layer in enumerate(layers):
            self._describe(number, layer)

    def _describe(self, number: int, layer: FusedLayer) -> None:
        self.matrices[number] = [matrix.record[0] for matrix in (*layer.matrices[:5], self.seconds[number])]
        size = self.features[number] // max(layer.heads, 1)
        self.scalings[number] = max(size, 1) ** -0.5
        record, (first, second) = self.records[number], layer.norms
        record["matrices"], record["scaling"] = address(self.matrices[number]), address(self.scalings[number])
        record["heads"], record["head_size"] = layer.heads, size
        record["features"], record["neurons"] = self.features[number], self.neurons[number]
        record["attention_scale"], record["attention_shift"], record["attention_epsilon"] = (*map(address, first[:2]), first[2])
        record["scale"], record["shift"], record["epsilon"] = (*map(address, second[:2]), second[2])

    def __reduce__(self) -> tuple[type["CompiledEncoder"], tuple[tuple[FusedLayer, ...], Activations]]:
        return CompiledEncoder, (self.layers, self.activations)

    @torch.compiler.disable
    def __call__(self, inputs: Tensor, seen: Tensor, positions: Tensor | None = None) -> Tensor:
        """Returns the outputs of the last layer.

        Args:
            inputs: sequences x length x hidden, floating point.
            seen: sequences x length, bool: whether a token is attended to.
            positions: heads x queries x keys, added to the scores of every sequence.
        """
        check_inputs(inputs, self.hidden)
        return without_gradient(functools.partial(self._apply_to, seen=seen, positions=positions), inputs)

    def _apply_to(self, inputs: Tensor, seen: Tensor, positions: Tensor | None) -> Tensor:
        source = inputs.to(torch.float32).contiguous()
        target = torch.empty_like(source)
        if source.numel():
            self._run(source, target, seen.to(torch.uint8).contiguous(), positions)
        return target.to(inputs.dtype)

    def _run(self, source: Tensor, target: Tensor, seen: Tensor, positions: Tensor | None) -> None:
        sequences, length, _ = source.shape
        many, like = step(self.activations), inputs_like(self.activations)
        place = tiles_of(sequences, length, many)
        lengths = (seen * torch.arange(1, length + 1, device="cpu")).amax(dim=1)
        widest, neurons = max(*self.features, 1), max(*self.neurons, 1)
        numbers = {"stream": self.hidden, "projected": 3 * widest}
        stored = {"inner": neurons, "context": widest} | ({"lowered": self.hidden} if many > 1 else {})
        buffers = {name: buffer(place.tokens * features, Float32()) for name, features in numbers.items()}
        buffers |= {name: buffer(place.tokens * features, self.activations) for name, features in stored.items()}
        added = None if positions is None else _padded(positions, place.each * place.lanes)
        arrays: dict[str, Tensor | Array] = {
            "lowered": buffers["stream"],  # float32 inputs of products are the stream itself
            **buffers,
            "source": source,
            "target": target,
            "seen": seen,
            "lengths": lengths,
            "queries": place.queries,
            "ones": self.ones,
            "zeros": self.zeros,
            "layers": self.records,
            "counters": counters(phases(len(self.layers))),
        }
        job = np.zeros(1, dtype=ENCODE)
        for name, array in arrays.items():
            job[name] = address(array)
        job["positions"] = 0 if added is None else address(added)
        job["sequences"], job["length"], job["each"], job["vectors"] = sequences, length, place.each, place.vectors
        job["step"], job["vector_bytes"], job["groups"] = many, vector_bytes(self.activations), len(place.queries)
        job["depth"], job["hidden"], job["widest"] = len(self.layers), self.hidden, widest
        job["activation"] = self.layers[0].activation.value
        values = self.layers[0].matrices[0].weight.values.dtype
        launch.run(launch.entry(run_encoder, ENCODE, values, like.dtype), job, (arrays, added))


def _padded(positions: Tensor, each: int) -> Tensor:
    """Returns heads x keys x queries, padded to whole vectors."""
    heads, queries, keys = positions.shape
    padded = torch.zeros(heads, each, each, **FLOATS)
    padded[:, :keys, :queries] = positions.detach().transpose(1, 2)
    return padded
