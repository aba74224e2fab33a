"""Placeholders for what shrinking removed: they fit into the stock classes around them, which stay as they are."""

from typing import Any

import torch
from torch import Tensor, nn

from .layers import own_buffer

COLUMNS = "columns"
"""The buffer of an embedding table that has lost columns: for each feature of its vectors, whether the column is kept."""


class RemovedAttention(nn.Module):
    """An attention without heads: it adds the bias of its output projection, and nothing else.

    Args:
        output: name of the output projection where it lies inside the attention (it has no inputs then); None where it
            lies outside, and is given no features.
        extra_outputs: how many values the caller expects after the output; they are None.
        layer: number of the layer in a cache of keys and values; None where there is no cache.
        cross: whether keys and values come from an encoder.
    """

    def __init__(self, output: str | None, extra_outputs: int, layer: int | None, cross: bool) -> None:
        super().__init__()
        self.output, self.extra_outputs, self.layer, self.cross = output, extra_outputs, layer, cross

    def forward(self, hidden_states: Tensor, *args: Any, past_key_values: Any = None, **kwargs: Any) -> tuple[Any, ...]:
        empty = hidden_states.new_zeros(*hidden_states.shape[:-1], 0)
        if past_key_values is not None and self.layer is not None and not self.cross:
            self._count(past_key_values, hidden_states)
        output = empty if self.output is None else self.get_submodule(self.output)(empty)
        return (output, *[None] * self.extra_outputs)

    def _count(self, cache: Any, hidden_states: Tensor) -> None:
        """Counts the tokens in the cache: masks and positions of all layers come from one layer's count.

        A cache without numbers counts as empty, so one zero is added for each token. The tokens of an encoder are not
        counted: each layer looks its keys and values up by itself.
        """
        batch, tokens = hidden_states.shape[:2]
        zeros = hidden_states.new_zeros(batch, 1, tokens, 1)
        getattr(cache, "self_attention_cache", cache).update(zeros, zeros, self.layer)


class EmptyLinear(nn.Linear):
    """A linear layer without inputs, which returns its bias, or without outputs, which returns no features.

    No matrix is multiplied: runtimes that models are exported to have no empty matrices.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.out_features:
            return inputs[..., :0]
        constant = self.weight.new_zeros(self.out_features) if self.bias is None else self.bias
        return constant.expand(*inputs.shape[:-1], self.out_features)


def give_columns(table: nn.Embedding, which: Tensor) -> None:
    """Makes a table that has lost columns return vectors of full width; `which` is True for each column it keeps."""
    if own_buffer(table, COLUMNS) is None:
        table.register_forward_hook(_fill_columns)
    table.register_buffer(COLUMNS, which)


def take_columns(table: nn.Embedding) -> None:
    """Undoes `give_columns`: the table returns vectors as wide as its weight."""
    delattr(table, COLUMNS)
    for number in [number for number, hook in table._forward_hooks.items() if hook is _fill_columns]:
        del table._forward_hooks[number]


def _fill_columns(table: nn.Module, arguments: Any, vectors: Tensor) -> Tensor:
    columns = table.get_buffer(COLUMNS)
    zero = vectors.shape[-1]  # the place of the 0 that is padded
    places = torch.where(columns, columns.cumsum(0) - 1, zero)
    return nn.functional.pad(vectors, (0, 1)).index_select(-1, places)


def ignore_shared_bias(attention: nn.Module) -> None:
    """Makes an attention of T5 compute its position bias from its own table, and ignore that of the layers before it."""
    if not any(hook is _drop_bias for hook in attention._forward_pre_hooks.values()):
        attention.register_forward_pre_hook(_drop_bias, with_kwargs=True)


def _drop_bias(attention: nn.Module, arguments: Any, settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return arguments, {**settings, "position_bias": None}
