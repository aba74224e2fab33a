"""Cuts dead heads, neurons, columns and features out of a model's tensors; the model itself is only read."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ...errors import InvalidInputError, enumeration
from ...models.anatomy import Attention, Block, Stream, find_blocks, find_tables, stacks, stream_of
from ...models.placeholders import COLUMNS
from ..resizing.weights import Weights
from . import dead


def cut(model: nn.Module, multiple: int) -> dict[str, Tensor]:
    """Returns the tensors of a model, those of tied weights once, without dead heads, neurons, columns and features.

    Neurons and features are kept in a multiple of `multiple`.
    """
    weights, blocks = Weights(model), find_blocks(model)
    _check_unshared(weights, blocks)
    stream = stream_of(model)
    if stream is not None and weights[f"{stream.norms[0]}.weight"].dtype != torch.float64:
        _features(weights, stream, multiple)
    for tables in tied_tables(model):
        _columns(weights, tables)
    for stack in stacks(blocks).values():
        kept = {attention.core: dead.heads(weights, attention) for block in stack for attention in block.attentions}
        _positions(weights, stack, {core: groups.kept for core, groups in kept.items()})
        for block in stack:
            for attention in block.attentions:
                _heads(weights, attention, kept[attention.core])
            layer = block.feed_forward
            neurons = dead.neurons(weights, layer, multiple)
            _fold(weights, layer.second, neurons.constant)
            for first in layer.first:
                weights.keep_outputs(first, neurons.kept)
            weights.keep_inputs(layer.second, neurons.kept)
    return weights.tensors


def tied_tables(model: nn.Module) -> list[list[str]]:
    """Returns the embedding tables that may lose columns, in groups that share a weight.

    A table is left alone if something else uses its weight too, as an output head that is tied to it does.
    """
    weights = Weights(model)
    try:
        found = find_tables(model)
    except InvalidInputError:
        return []
    groups = {weights.same(f"{name}.weight"): weights.sharing(f"{name}.weight") for name in found}
    owners = [[name.rpartition(".")[0] for name in names] for names in groups.values()]
    return [names for names in owners if all(isinstance(model.get_submodule(name), nn.Embedding) for name in names)]


def _check_unshared(weights: Weights, blocks: list[Block]) -> None:
    names = [f"{linear}.{kind}" for block in blocks for linear in block.linear for kind in ("weight", "bias")]
    shared = [name for name in names if weights.get(name) is not None and len(weights.sharing(name)) > 1]
    if shared:
        raise InvalidInputError(
            f"{enumeration(shared)} is shared with another layer, so that a group pruned in one would be missing in both. "
            "Only layers with weights and biases of their own can be shrunk."
        )


def _heads(weights: Weights, attention: Attention, groups: dead.GroupsKept) -> None:
    """Removes the dead heads; if all are dead, only the bias of the output stays."""
    size, serves = attention.head_size, attention.heads // attention.groups
    _fold(weights, attention.output, groups.constant)
    if len(groups.kept) == attention.groups:
        return
    weights.keep_inputs(attention.output, _runs(groups.kept, serves * size))
    if not len(groups.kept):
        for module in (attention.core, *(one.module for one in attention.projections)):
            weights.drop(module, but=attention.output)
        return
    widths = {attention.query: serves * size, attention.key: size, attention.value: size}
    for module in dict.fromkeys(projection.module for projection in widths):
        inside = sorted((one for one in widths if one.module == module), key=lambda one: one.place)
        starts = [one.place * (len(weights.matrix(module)) // one.parts) for one in inside]
        rows = [start + _runs(groups.kept, widths[one]) for start, one in zip(starts, inside, strict=True)]
        weights.keep_outputs(module, torch.cat(rows))


def _runs(kept: Tensor, width: int) -> Tensor:
    """The positions in groups of `width` neighbours."""
    return (kept[:, None] * width + torch.arange(width, device=kept.device)).flatten()


def _positions(weights: Weights, stack: list[Block], kept: dict[str, Tensor]) -> None:
    """Cuts the table of position biases that the attentions of a stack share; each gets its own where they keep other heads."""
    attentions = [one for block in stack for one in block.attentions if one.positions is not None]
    if not any(len(kept[one.core]) < one.groups for one in attentions):
        return
    names = {one.core: f"{one.positions}.weight" for one in attentions}
    tables = {core: table for core, name in names.items() if (table := weights.get(name)) is not None}
    shared = tables.get(attentions[0].core)
    apart = len(tables) > 1 or len({tuple(kept[core].tolist()) for core in names}) > 1
    for core, name in names.items():
        table = tables.get(core, shared) if apart else tables.get(core)
        if table is not None and len(kept[core]):
            weights[name] = table.index_select(1, kept[core])


def _fold(weights: Weights, linear: str, constant: Tensor | None) -> None:
    """Adds what dead heads or neurons gave to the bias of the layer that read them."""
    bias = weights.bias(linear)
    if constant is not None and bias is not None:
        weights[f"{linear}.bias"] = (bias.double() + constant).to(bias.dtype)


def _used(weights: Weights, table: str) -> Tensor:
    """Which features of its vectors a table writes: the columns that it has, and that are not all zero."""
    used = weights[f"{table}.weight"].count_nonzero(dim=0) > 0
    which = weights.get(f"{table}.{COLUMNS}")
    return used if which is None else torch.zeros_like(which).masked_scatter(which, used)


def _columns(weights: Weights, tables: list[str]) -> None:
    """Takes the columns that are all zero out of tables that share a weight, and notes those that stay."""
    written = {f"{table}.{COLUMNS}": _used(weights, table) for table in tables}
    kept = weights[f"{tables[0]}.weight"].count_nonzero(dim=0).nonzero().squeeze(-1)
    if len(kept) < weights[f"{tables[0]}.weight"].shape[1]:
        weights.keep(f"{tables[0]}.weight", kept, axis=1)
        for name, used in written.items():
            weights[name] = used


def _features(weights: Weights, stream: Stream, multiple: int) -> None:
    """Removes the features of the residual stream that nothing writes.

    A norm gives g x / sqrt(mean(x^2) + eps). Without d - k features that are 0, the mean is d / k times as large, so
    that sqrt(d / k) g, and eps d / k, give the same; the latter follows from the width, see `fitting`. In float64 features
    stay: RMSNorm takes the mean in fp32 even there, and over fewer of them would give it another rounding, near 1e-8.
    """
    kept = dead.at_least(_written(weights, stream), multiple)
    if len(kept) == stream.width or not len(kept):
        return
    for name in _once(weights, stream.writers):
        weights.keep_outputs(name, kept)
    for name in _once(weights, stream.tables):
        _keep_of_table(weights, name, kept)
    tables = {weights.same(f"{name}.weight") for name in stream.tables}
    for name in _once(weights, [name for name in stream.readers if weights.same(f"{name}.weight") not in tables]):
        weights.keep_inputs(name, kept)
    for name in _once(weights, stream.norms):
        weight = weights[f"{name}.weight"]
        factor = (stream.width / len(kept)) ** 0.5
        weights[f"{name}.weight"] = (weight.index_select(0, kept).double() * factor).to(weight.dtype)


def _once(weights: Weights, modules: Iterable[str]) -> list[str]:
    """Modules, one of those that share a weight."""
    return list({weights.same(f"{name}.weight"): name for name in reversed(list(modules))}.values())


def _written(weights: Weights, stream: Stream) -> Tensor:
    """Whether anything writes each feature."""
    written = torch.zeros(stream.width, dtype=torch.bool, device=weights[f"{stream.norms[0]}.weight"].device)
    for name in stream.writers:
        written |= weights.matrix(name).count_nonzero(dim=1) > 0
        bias = weights.bias(name)
        if bias is not None:
            written |= bias != 0
    for name in stream.tables:
        written |= _used(weights, name)
    return written


def _keep_of_table(weights: Weights, table: str, kept: Tensor) -> None:
    """Keeps these features of a table, which may have lost columns already."""
    which = weights.get(f"{table}.{COLUMNS}")
    if which is None:
        weights.keep(f"{table}.weight", kept, axis=1)
        return
    wanted = torch.zeros_like(which).index_fill(0, kept, True)
    weights.keep(f"{table}.weight", wanted[which].nonzero().squeeze(-1), axis=1)
    for name in weights.sharing(f"{table}.weight"):
        columns = f"{name.rpartition('.')[0]}.{COLUMNS}"
        if bool(which[kept].all()):
            del weights.tensors[columns]  # it has all columns of its vectors again
        else:
            weights[columns] = which[kept]
