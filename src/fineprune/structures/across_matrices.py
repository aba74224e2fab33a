"""Structures whose groups span several matrices: whole heads, neurons, columns of the embedding tables, features, blocks.

A whole group can be removed from the model by `shrink`. Which matrices hold it is known for the architectures in
`models.architectures`; other models raise a clear error.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ..errors import InvalidInputError, enumeration
from ..models.anatomy import Attention, Block, find_blocks, find_stream, find_tables, stacks
from ..models.layers import is_transposed, own_parameter
from .base import Grouping, Structure, Transposed
from .linked import Linked, Runs, Whole


@dataclass(frozen=True)
class Heads(Linked):
    """Whole heads: the rows of query, key and value, their biases, and the columns of the output that read them.

    In grouped-query attention a group is a key and value head with all the query heads that it serves.
    """

    def sites(self, model: nn.Module) -> list[Grouping]:
        return [_heads(model, attention) for block in find_blocks(model) for attention in block.attentions]


def _heads(model: nn.Module, attention: Attention) -> Grouping:
    serves = attention.heads // attention.groups
    grouping: Grouping = {}
    for projection, heads in zip(attention.projections, (serves, 1, 1), strict=True):
        if f"{projection.module}.weight" not in grouping:
            attending = serves * attention.head_size if projection is attention.query else 0
            parts = sum(other.module == projection.module for other in attention.projections)
            grouping |= _rows(model, projection.module, heads * attention.head_size, parts, attending)
    return grouping | _columns(model, attention.output, serves * attention.head_size)


def _rows(model: nn.Module, module: str, width: int = 1, parts: int = 1, attending: int = 0) -> Grouping:
    grouping = {f"{module}.weight": _as_stored(model, module, Runs(0, width, parts, attending=attending))}
    if own_parameter(model.get_submodule(module), "bias") is not None:
        grouping[f"{module}.bias"] = Runs(0, width, parts, per_weight=0)
    return grouping


def _columns(model: nn.Module, module: str, width: int = 1) -> Grouping:
    return {f"{module}.weight": _as_stored(model, module, Runs(1, width))}


def _as_stored(model: nn.Module, module: str, structure: Structure) -> Structure:
    """A structure of outputs x inputs, for a weight as it lies in memory."""
    return Transposed(structure) if is_transposed(model.get_submodule(module)) else structure


@dataclass(frozen=True)
class Neurons(Linked):
    """Whole neurons of the feed-forward layers: a row of the first matrix (of both, where one gates the other), its bias, and
    the column of the second matrix that reads it."""

    def sites(self, model: nn.Module) -> list[Grouping]:
        found = []
        for block in find_blocks(model):
            grouping: Grouping = {}
            for first in block.feed_forward.first:
                grouping |= _rows(model, first)
            if model.get_submodule(block.feed_forward.second).get_parameter("weight").numel():  # none left by shrinking
                found.append(grouping | _columns(model, block.feed_forward.second))
        return found


@dataclass(frozen=True)
class EmbeddingColumns(Linked):
    """Columns of the embedding tables: a column is pruned in the word, position and type tables of a model at once.

    The paper's feature selection. A table that is also the output head raises an error: its columns would be missed there.
    """

    def sites(self, model: nn.Module) -> list[Grouping]:
        grouping, tied = _tables(model)
        if tied:
            raise InvalidInputError(
                f"The embedding table is also the output head ({enumeration(tied)}), which would lose the same columns. Give "
                f"the head a weight of its own before training: model.{tied[0]}.weight = "
                f"torch.nn.Parameter(model.{tied[0]}.weight.detach().clone()), and model.config.tie_word_embeddings = False."
            )
        return [grouping]


def _tables(model: nn.Module) -> tuple[Grouping, list[str]]:
    """The columns of the tables, each weight once by its name in `named_parameters`; and the linear layers that share one."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    weights = [id(model.get_submodule(table).get_parameter("weight")) for table in find_tables(model)]
    linear = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    tied = [name for name, module in linear if id(own_parameter(module, "weight")) in weights]
    return {names[weight]: Runs(1, per_weight=0) for weight in weights}, tied


@dataclass(frozen=True)
class HiddenFeatures(Linked):
    """Features of the residual stream, in models with RMSNorm: a column of the tables, and every row that writes it and column
    that reads it, in the whole model. Models with LayerNorm raise an error: there a feature cannot be removed exactly."""

    def sites(self, model: nn.Module) -> list[Grouping]:
        stream = find_stream(model)
        grouping, tied = _tables(model)
        for writer in stream.writers:
            grouping |= _rows(model, writer)
        for reader in stream.readers:
            if reader not in tied:
                grouping |= _columns(model, reader)
        return [grouping]


@dataclass(frozen=True)
class Layers(Linked):
    """Whole transformer blocks: all the linear layers of one, with their biases. A stack, as the encoder, is one site."""

    def sites(self, model: nn.Module) -> list[Grouping]:
        return [_blocks(model, stack) for stack in stacks(find_blocks(model)).values()]


def _blocks(model: nn.Module, stack: Sequence[Block]) -> Grouping:
    layers = [[model.get_submodule(module) for module in block.linear] for block in stack]
    sizes = {sum(weight.numel() for layer in inside for weight in layer.parameters(recurse=False)) for inside in layers}
    if len(sizes) > 1:
        raise InvalidInputError(
            f"The blocks of this model hold {enumeration(str(size) for size in sorted(sizes))} weights, as after shrinking. "
            "Layers() takes blocks of one size."
        )
    return {
        f"{module}.{name}": Whole(place, len(stack))
        for place, block in enumerate(stack)
        for module in block.linear
        for name, _ in model.get_submodule(module).named_parameters(recurse=False)
    }


@dataclass(frozen=True)
class Together(Linked):
    """Several linked structures under one budget, as Together([Heads(), Neurons()]) with scope="global".

    Args:
        structures: two or more, none within another.
    """

    structures: list[Linked]

    def __post_init__(self) -> None:
        several = isinstance(self.structures, list | tuple) and len(self.structures) >= 2
        if not several or not all(isinstance(one, Linked) for one in self.structures):
            raise InvalidInputError(
                f"Together's structures must be two or more linked ones, as [Heads(), Neurons()], got {self.structures!r}."
            )

    def sites(self, model: nn.Module) -> list[Grouping]:
        found = [grouping for structure in self.structures for grouping in structure.sites(model)]
        names = [name for grouping in found for name in grouping]
        twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
        if twice:
            raise InvalidInputError(
                f"{enumeration(twice)} would be pruned by two structures of {self}. Give each a rule of its own: rules "
                "come one after the other."
            )
        return found
