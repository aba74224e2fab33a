"""Fits the modules of a model to tensors that rows and columns were cut out of: all sizes are read from the tensors.

The same function ends a cut and a load, so that a saved model is built just as the one that was cut.
"""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InvalidInputError
from ...models.anatomy import Attention, Block, find_blocks, stacks, stream_of
from ...models.layers import is_transposed, own_buffer
from ...models.placeholders import COLUMNS, EmptyLinear, RemovedAttention, give_columns, ignore_shared_bias, take_columns
from .weights import WHOLE, Slots, name_sizes


def fit(model: nn.Module, tensors: Mapping[str, Tensor], new: Collection[str] = ()) -> None:
    """Gives a model tensors in place of its own, and its modules the sizes that follow.

    Args:
        model: one that the tensors were cut out of, or a new one of its class and config. Its parameters may lie on the
            meta device: only their shapes are looked at, and all are replaced. It is of no use after an error.
        tensors: by name in the model's state; tied weights under one of their names, or more.
        new: names of parameters, of a new head, that need no tensor: they get their size and stay as they are.

    Raises:
        InvalidInputError: if tensors are missing or left over, or sizes do not belong together.
    """
    _remove_empty(model, tensors)
    gives = _give_tables(model, tensors)
    slots = Slots(model)
    gives |= _resize_stream(model, slots, tensors)
    _resize_tables(model, slots, gives)
    for stack in stacks(find_blocks(model)).values():
        for block in stack:
            for attention in block.attentions:
                _resize_attention(model, slots, attention, tensors)
            neurons = _inputs(model, tensors, block.feed_forward.second)
            for first in block.feed_forward.first:
                slots.resize(first, 0, neurons)
            slots.resize(block.feed_forward.second, 1, neurons)
        _resize_positions(model, slots, stack)
    slots.place(tensors, new)


def _sizes(tensors: Mapping[str, Tensor], name: str, number: int) -> torch.Size:
    if name not in tensors:
        raise InvalidInputError(f"The tensor {name} is missing. {WHOLE}")
    if tensors[name].dim() != number:
        raise InvalidInputError(f"The tensor {name} has {tensors[name].dim()} dimensions instead of {number}. {WHOLE}")
    return tensors[name].shape


def _inputs(model: nn.Module, tensors: Mapping[str, Tensor], linear: str) -> int:
    sizes = _sizes(tensors, f"{linear}.weight", 2)
    return 0 if 0 in sizes else sizes[0 if is_transposed(model.get_submodule(linear)) else 1]


def _count(number: int, unit: int, most: int, name: str) -> int:
    """The number of heads, or of other units, that a number of features makes."""
    if number % unit or not 0 < number <= unit * most:
        raise InvalidInputError(f"{name} has {number} features; there may be 1 to {most} times {unit}. {WHOLE}")
    return number // unit


# Modules that are replaced.


def _remove_empty(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Replaces the attentions and the linear layers that are given no features, or give none."""
    for block in find_blocks(model):
        for attention in block.attentions:
            if not _inputs(model, tensors, attention.output):
                _empty(model, attention.output, 1)
                _remove_attention(model, attention)
        if not _inputs(model, tensors, block.feed_forward.second):
            _empty(model, block.feed_forward.second, 1)
            for first in block.feed_forward.first:
                _empty(model, first, 0)


def _remove_attention(model: nn.Module, attention: Attention) -> None:
    core, layout = model.get_submodule(attention.core), attention.layout
    inside = layout.output.removeprefix(f"{layout.core}.") if layout.output.startswith(f"{layout.core}.") else None
    removed = RemovedAttention(inside, layout.extra_outputs, vars(core).get("layer_idx"), layout.cross)
    if inside is not None:
        removed.add_module(inside, core.get_submodule(inside))
    model.set_submodule(attention.core, removed.train(core.training))


def _empty(model: nn.Module, name: str, axis: int) -> None:
    """Leaves a linear layer no outputs (axis 0) or no inputs (axis 1)."""
    layer: Any = model.get_submodule(name)
    if is_transposed(layer) and axis == 0:
        return  # a Conv1D without outputs computes as it is
    outputs, inputs = layer.weight.t().shape if is_transposed(layer) else layer.weight.shape
    empty = EmptyLinear(1, 1, device="meta")  # of none, PyTorch warns that there is nothing to initialise
    shape = (0, inputs) if axis == 0 else (outputs, 0)
    empty.weight = nn.Parameter(layer.weight.new_empty(shape, device="meta"), layer.weight.requires_grad)
    bias = layer.bias
    if bias is not None and axis == 0:
        bias = nn.Parameter(bias.new_empty(0, device="meta"), bias.requires_grad)
    empty.bias = bias
    name_sizes(empty)
    model.set_submodule(name, empty.train(layer.training))


def _give_tables(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Notes the columns that tables lack, and gives attentions tables of their own; returns the widths of tables' vectors."""
    gives = {}
    for name, table in list(model.named_modules()):
        if isinstance(table, nn.Embedding):
            before, which = own_buffer(table, COLUMNS), tensors.get(f"{name}.{COLUMNS}")
            gives[name] = table.embedding_dim if before is None else len(before)
            if which is not None and (which.dtype != torch.bool or which.dim() != 1):
                raise InvalidInputError(
                    f"The tensor {name}.{COLUMNS} holds {which.dim()} dimensions of {which.dtype}; it is one line of bool."
                )
            if which is not None:
                give_columns(table, which)
            elif before is not None:
                take_columns(table)
    for attention in [one for block in find_blocks(model) for one in block.attentions]:
        core: Any = model.get_submodule(attention.core)
        name = attention.layout.positions
        if name is not None and f"{attention.positions}.weight" in tensors and not core.has_relative_attention_bias:
            core.add_module(name, nn.Embedding(core.relative_attention_num_buckets, attention.heads, device="meta"))
            core.has_relative_attention_bias = True
    return gives


# Sizes.


def _resize_stream(model: nn.Module, slots: Slots, tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Reads the number of features k from the last norm; sets epsilons to eps d / k; returns the widths of tables' vectors."""
    stream = stream_of(model)
    if stream is None:
        return {}
    (width,) = _sizes(tensors, f"{stream.norms[-1]}.weight", 1)
    _count(width, 1, stream.width, "The residual stream")
    for axis, names in ((0, stream.writers), (1, stream.readers), (1, stream.tables), (0, stream.norms)):
        for name in names:
            slots.resize(name, axis, width)
    for name in stream.norms:
        norm: Any = model.get_submodule(name)
        norm.variance_epsilon = _epsilon(model, norm.variance_epsilon, stream.width, width)
    return {name: width for table in stream.tables for name, _ in slots.owners(f"{table}.weight")}


def _epsilon(model: nn.Module, epsilon: float, before: int, after: int) -> float:
    """The epsilon of a norm after a cut; from the config where that states it, to be the same after any number of cuts."""
    config: Any = model.config
    settings = find_blocks(model)[0].layout.sizes
    first, width = (getattr(config, str(name)) for name in (settings.epsilon, settings.width))
    return float(first * (width / after) if epsilon == first * (width / before) else epsilon * (before / after))


def _resize_tables(model: nn.Module, slots: Slots, gives: Mapping[str, int]) -> None:
    for name, width in gives.items():
        which = own_buffer(model.get_submodule(name), COLUMNS)
        if which is None:
            continue
        if len(which) != width:
            raise InvalidInputError(f"{name}.{COLUMNS} is of {len(which)} columns; {name} gives {width}. {WHOLE}")
        slots.resize(name, 1, int(which.sum()))


def _resize_attention(model: nn.Module, slots: Slots, attention: Attention, tensors: Mapping[str, Tensor]) -> None:
    serves = attention.heads // attention.groups
    features = _inputs(model, tensors, attention.output)
    groups = _count(features, serves * attention.head_size, attention.groups, attention.output)
    widths = dict.fromkeys((projection.module for projection in attention.projections), 0)
    for projection, heads in zip(attention.projections, (groups * serves, groups, groups), strict=True):
        widths[projection.module] += heads * attention.head_size
    for module, width in widths.items():
        slots.resize(module, 0, width)
    slots.resize(attention.output, 1, features)
    core = model.get_submodule(attention.core)
    for name in attention.layout.counts:
        setattr(core, name, groups * serves)
    for name in attention.layout.widths:
        setattr(core, name, features)


def _resize_positions(model: nn.Module, slots: Slots, stack: list[Block]) -> None:
    """Sizes the tables of position biases; where attentions differ in their heads, none takes the bias of another."""
    passing = [one for block in stack for one in block.attentions if one.layout.passes_bias]
    for attentions in ([one for one in passing if not one.layout.cross], [one for one in passing if one.layout.cross]):
        cores: list[Any] = [model.get_submodule(one.core) for one in attentions]
        counts = [getattr(core, one.layout.counts[0]) for core, one in zip(cores, attentions, strict=True)]
        own = [core.has_relative_attention_bias for core in cores]
        for one, count in zip(attentions, counts, strict=True):
            if one.positions is not None and model.get_submodule(one.core).has_relative_attention_bias:
                slots.resize(one.positions, 1, count)
        alone = sum(own) == 1 and own[0] and len(set(counts)) == 1
        if any(own) and not all(own) and not alone:
            inside = stack[0].name.rpartition(".")[0]
            raise InvalidInputError(f"Attentions of {inside} share a table of position biases, and have other heads. {WHOLE}")
        if sum(own) > 1 or len(set(counts)) > 1:
            for core in cores:
                ignore_shared_bias(core)
