"""A fused encoder: the forward pass of a stock encoder of the BERT family, in one piece of compiled code."""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .format import Activations
from .kernels.encoder import LAYER, MATRICES, run_encoder
from .kernels.matmul import MATRIX
from .kernels.simd import LANES, ROWS_TOGETHER
from .linear import checked
from .records import Array, MatrixRecord, address, buffer, run_job, step_of, tiles_of
from .reference import Activation

FLOATS: Any = {"dtype": torch.float32, "device": "cpu"}
"""The type and device that the kernels read, whatever PyTorch's default types are."""


@dataclass(frozen=True, eq=False)
class EncoderLayer:
    """The modules of one layer, and the sizes read from them.

    Args:
        linear: of queries, keys, values, the output of the attention, and the two of the feed-forward layer. A
            `CompiledEncoder` takes sparse ones.
        norms: scale, shift and epsilon of the LayerNorm after the attention, and of the one at the end.
        heads: of the attention.
        activation: after the first feed-forward matrix.
    """

    linear: tuple[Any, ...]
    norms: tuple[tuple[Tensor, Tensor, float], ...]
    heads: int
    activation: Activation


class CompiledEncoder:
    """The layers of an encoder as records for compiled code. A copy has its own addresses.

    Args:
        layers: in order; not empty, all with the same activation and the same type of stored values.
        activations: how the inputs of products are stored.
    """

    def __init__(self, layers: tuple[EncoderLayer, ...], activations: Activations) -> None:
        self.layers, self.activations = layers, activations
        self.hidden = layers[0].linear[0].in_features
        self.features = [layer.linear[0].out_features for layer in layers]
        self.seconds = [MatrixRecord(layer.linear[5].weight, layer.linear[5].bias, bands=2) for layer in layers]
        self.matrices = np.zeros((len(layers), MATRICES), dtype=MATRIX)
        self.scalings = torch.empty(len(layers), ROWS_TOGETHER, **FLOATS)
        self.records = np.zeros(len(layers), dtype=LAYER)
        for number, layer in enumerate(layers):
            self._describe(number, layer)

    def _describe(self, number: int, layer: EncoderLayer) -> None:
        matrices = [*(linear.matrix for linear in layer.linear[:5]), self.seconds[number]]
        self.matrices[number] = [matrix.record[0] for matrix in matrices]
        size = self.features[number] // max(layer.heads, 1)
        self.scalings[number] = max(size, 1) ** -0.5
        record, (first, second) = self.records[number], layer.norms
        record["matrices"], record["scaling"] = address(self.matrices[number]), address(self.scalings[number])
        record["heads"], record["head_size"], record["features"] = layer.heads, size, self.features[number]
        record["attention_scale"], record["attention_shift"], record["attention_epsilon"] = (*map(address, first[:2]), first[2])
        record["scale"], record["shift"], record["epsilon"] = (*map(address, second[:2]), second[2])

    def __reduce__(self) -> tuple[type["CompiledEncoder"], tuple[tuple[EncoderLayer, ...], Activations]]:
        return CompiledEncoder, (self.layers, self.activations)

    @torch.compiler.disable
    def __call__(self, inputs: Tensor, seen: Tensor, positions: Tensor | None = None) -> Tensor:
        """Returns the outputs of the last layer.

        Args:
            inputs: sequences x length x hidden, floating point.
            seen: sequences x length, bool: whether a token is attended to.
            positions: heads x queries x keys, added to the scores of every sequence.
        """
        return checked(functools.partial(self._apply_to, seen=seen, positions=positions), inputs, self.hidden)

    def _apply_to(self, inputs: Tensor, seen: Tensor, positions: Tensor | None) -> Tensor:
        source, seen = inputs.to(torch.float32).contiguous(), seen.to(torch.uint8).contiguous()
        target = torch.empty_like(source)
        if not source.numel():
            return target.to(inputs.dtype)
        sequences, length, _ = source.shape
        tiles, first = tiles_of(sequences, length, step_of(self.activations)), self.layers[0]
        widest, stream = max(*self.features, 1), buffer(tiles.tokens, self.hidden)
        arrays: dict[str, Tensor | Array] = {
            "source": source,
            "target": target,
            "seen": seen,
            "lengths": (seen * torch.arange(1, length + 1, device="cpu")).amax(dim=1),
            "layers": self.records,
            "stream": stream,
            "lowered": stream if tiles.step == 1 else buffer(tiles.tokens, self.hidden, tiles.step),
            "projected": buffer(tiles.tokens, 3 * widest),
            "inner": buffer(tiles.tokens, max(layer.linear[4].out_features for layer in self.layers), tiles.step),
            "context": buffer(tiles.tokens, widest, tiles.step),
        }
        if positions is not None:
            arrays["positions"] = _padded(positions, tiles.each * LANES)
        numbers = {"depth": len(self.layers), "hidden": self.hidden, "widest": widest, "activation": first.activation.value}
        run_job(run_encoder, first.linear[0].weight.values.dtype, tiles, arrays, **numbers)
        return target.to(inputs.dtype)


def _padded(positions: Tensor, each: int) -> Tensor:
    """Returns heads x keys x queries, padded to whole vectors."""
    heads, queries, keys = positions.shape
    padded = torch.zeros(heads, each, each, **FLOATS)
    padded[:, :keys, :queries] = positions.detach().transpose(1, 2)
    return padded
