"""Structures whose groups span several matrices: whole heads, neurons, columns of the embedding tables, features, blocks.

The groups are linked so that a whole one can be removed from the model, see `shrinking`. Which matrices hold them is known for
the models in `anatomy`; others are refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ..errors import InvalidInputError, enumeration
from ..models.anatomy import Attention, Block, find_blocks, find_stream, find_tables, stacks
from ..models.layers import is_transposed
from ..models.layouts import Projection
from .base import Structure, Transposed
from .linked import Cuts, Linked, Runs, Whole


@dataclass(frozen=True)
class Heads(Linked):
    """Whole heads: the rows of query, key and value, their biases, and the columns of the output that read them.

    In grouped-query attention a group is a key and value head with all the query heads that it serves.
    """

    def sites(self, model: nn.Module) -> list[Cuts]:
        return [_heads(model, attention) for block in find_blocks(model) for attention in block.attentions]


def _heads(model: nn.Module, attention: Attention) -> Cuts:
    serves = attention.heads // attention.groups
    cuts: Cuts = {}
    for part, heads in ((attention.query, serves), (attention.key, 1), (attention.value, 1)):
        if part.weight not in cuts:
            attending = serves * attention.head_size if part is attention.query else 0
            cuts |= _rows(model, part, heads * attention.head_size, _parts_of(attention, part), attending)
    return cuts | _columns(model, attention.output, serves * attention.head_size)


def _parts_of(attention: Attention, part: Projection) -> int:
    """How many of an attention's projections lie in the same matrix."""
    return sum(other.module == part.module for other in (attention.query, attention.key, attention.value))


def _rows(model: nn.Module, part: Projection, width: int = 1, parts: int = 1, attending: int = 0) -> Cuts:
    cuts = {part.weight: _laid(model, part.module, Runs(0, width, parts, attending=attending))}
    if model.get_submodule(part.module)._parameters.get("bias") is not None:
        cuts[part.bias] = Runs(0, width, parts, per_weight=0)
    return cuts


def _columns(model: nn.Module, module: str, width: int = 1) -> Cuts:
    return {f"{module}.weight": _laid(model, module, Runs(1, width))}


def _laid(model: nn.Module, module: str, cut: Structure) -> Structure:
    """A cut of outputs x inputs for a weight as it lies in memory."""
    return Transposed(cut) if is_transposed(model.get_submodule(module)) else cut


@dataclass(frozen=True)
class Neurons(Linked):
    """Whole neurons of the feed-forward layers: a row of the first matrix (of both, where one gates the other), its bias, and
    the column of the second matrix that reads it."""

    def sites(self, model: nn.Module) -> list[Cuts]:
        found = []
        for block in find_blocks(model):
            cuts: Cuts = {}
            for first in block.feed_forward.first:
                cuts |= _rows(model, Projection(first))
            if model.get_submodule(block.feed_forward.second).get_parameter("weight").numel():  # none left by shrinking
                found.append(cuts | _columns(model, block.feed_forward.second))
        return found


@dataclass(frozen=True)
class EmbeddingColumns(Linked):
    """Columns of the embedding tables: a column of the word, position and type tables of a model falls in all of them.

    The paper's feature selection. A table that is also the output head is refused: its columns would be missed there.
    """

    def sites(self, model: nn.Module) -> list[Cuts]:
        cuts = {name: Runs(1, per_weight=0) for name in _table_weights(model)}
        tied = _names_of_shared(model, set(cuts), nn.Linear)
        if tied:
            raise InvalidInputError(
                f"The embedding table is also the output head ({enumeration(tied)}), which would lose the same columns. Give "
                f"the head a weight of its own before training: model.{tied[0]}.weight = "
                f"torch.nn.Parameter(model.{tied[0]}.weight.detach().clone()), and model.config.tie_word_embeddings = False."
            )
        return [dict(cuts)]


def _table_weights(model: nn.Module) -> list[str]:
    """The weights of the tables, each once, by their names in `named_parameters`."""
    by_id = {id(parameter): name for name, parameter in model.named_parameters()}
    tables = [model.get_submodule(table).get_parameter("weight") for table in find_tables(model)]
    return list(dict.fromkeys(by_id[id(table)] for table in tables))


def _names_of_shared(model: nn.Module, names: set[str], kind: type[nn.Module]) -> list[str]:
    """The modules of a kind whose weight is one of the named parameters."""
    shared = {id(model.get_parameter(name)) for name in names}
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, kind) and id(module._parameters.get("weight")) in shared
    ]


@dataclass(frozen=True)
class HiddenFeatures(Linked):
    """Features of the residual stream, in models with RMSNorm: a column of the tables, and every row that writes it and column
    that reads it, in the whole model. Models with LayerNorm are refused, since there a feature cannot be removed exactly."""

    def sites(self, model: nn.Module) -> list[Cuts]:
        stream = find_stream(model)
        cuts: Cuts = {name: Runs(1, per_weight=0) for name in _table_weights(model)}
        tied = _names_of_shared(model, set(cuts), nn.Linear)
        for writer in stream.writers:
            cuts |= _rows(model, Projection(writer))
        for reader in stream.readers:
            if reader not in tied:
                cuts |= _columns(model, reader)
        return [cuts]


@dataclass(frozen=True)
class Layers(Linked):
    """Whole transformer blocks: all the linear layers of one, with their biases. A stack, as the encoder, is one site."""

    def sites(self, model: nn.Module) -> list[Cuts]:
        return [_blocks(model, stack) for stack in stacks(find_blocks(model)).values()]


def _weights(model: nn.Module, modules: Sequence[str]) -> int:
    return sum(parameter.numel() for module in modules for parameter in model.get_submodule(module).parameters(recurse=False))


def _blocks(model: nn.Module, stack: Sequence[Block]) -> Cuts:
    sizes = {_weights(model, block.linear) for block in stack}
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
                f"Together was given {self.structures!r}; it takes two or more linked structures, as [Heads(), Neurons()]."
            )

    def sites(self, model: nn.Module) -> list[Cuts]:
        found = [cuts for structure in self.structures for cuts in structure.sites(model)]
        names = [name for cuts in found for name in cuts]
        twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
        if twice:
            raise InvalidInputError(
                f"{enumeration(twice)} would be cut by two structures of {self}. Give each a rule of its own, which come one "
                "after the other."
            )
        return found
