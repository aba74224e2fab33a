"""What takes the place of a part that was removed, so that the stock classes around it need not know."""

from typing import Any

import torch
from torch import Tensor, nn

COLUMNS = "columns"
"""The buffer of an embedding table that keeps some columns only: True for each that it keeps, as many as it gives."""


class RemovedAttention(nn.Module):
    """An attention of which no head is left: it adds the bias of its output projection, and nothing else.

    Args:
        output: name of the output projection where it lies inside the attention (it has no inputs then); None where it
            lies outside, and is given no features.
        nothings: how many None the caller expects after the output.
        layer: number of the layer in a cache of keys and values; None where there is no cache.
        cross: whether the attention looks at an encoder.
    """

    def __init__(self, output: str | None, nothings: int, layer: int | None, cross: bool) -> None:
        super().__init__()
        self.output, self.nothings, self.layer, self.cross = output, nothings, layer, cross

    def forward(self, hidden_states: Tensor, *args: Any, past_key_values: Any = None, **kwargs: Any) -> tuple[Any, ...]:
        nothing = hidden_states.new_zeros(*hidden_states.shape[:-1], 0)
        if past_key_values is not None and self.layer is not None and not self.cross:
            self._count(past_key_values, hidden_states)
        return (nothing if self.output is None else self.get_submodule(self.output)(nothing), *[None] * self.nothings)

    def _count(self, cache: Any, hidden_states: Tensor) -> None:
        """Tells the cache how many tokens have passed: masks and positions of all layers come from one layer's count.

        A cache of no number at all counts as empty, so it is given one zero a token. What an encoder gives is looked up
        by each layer in its own place, and is not counted.
        """
        batch, tokens = hidden_states.shape[:2]
        zeros = hidden_states.new_zeros(batch, 1, tokens, 1)
        getattr(cache, "self_attention_cache", cache).update(zeros, zeros, self.layer)


class EmptyLinear(nn.Linear):
    """A linear layer that has lost all its inputs, and gives its bias; or all its outputs, and gives nothing.

    No matrix is multiplied: runtimes that models are exported to know no empty ones.
    """

    def forward(self, given: Tensor) -> Tensor:
        if not self.out_features:
            return given[..., :0]
        constant = self.weight.new_zeros(self.out_features) if self.bias is None else self.bias
        return constant.expand(*given.shape[:-1], self.out_features)


def give_columns(table: nn.Embedding, which: Tensor) -> None:
    """Lets a table whose weight is narrow give vectors of full width; `which` is True for each column it keeps."""
    if COLUMNS not in table._buffers:
        table.register_forward_hook(_spread)
    table.register_buffer(COLUMNS, which)


def take_columns(table: nn.Embedding) -> None:
    """Undoes `give_columns`: the table gives vectors as wide as its weight."""
    del table._buffers[COLUMNS]
    for number in [number for number, hook in table._forward_hooks.items() if hook is _spread]:
        del table._forward_hooks[number]


def _spread(table: nn.Module, arguments: Any, narrow: Tensor) -> Tensor:
    columns = table.get_buffer(COLUMNS)
    none = narrow.shape[-1]  # the place of a 0 beside what the table gives
    places = torch.where(columns, columns.cumsum(0) - 1, none)
    return nn.functional.pad(narrow, (0, 1)).index_select(-1, places)


def ignore_shared_bias(attention: nn.Module) -> None:
    """Lets an attention of T5 compute its position bias from its own table, and not take that of the layers before it."""
    if not any(hook is _drop_bias for hook in attention._forward_pre_hooks.values()):
        attention.register_forward_pre_hook(_drop_bias, with_kwargs=True)


def _drop_bias(attention: nn.Module, arguments: Any, settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return arguments, {**settings, "position_bias": None}
