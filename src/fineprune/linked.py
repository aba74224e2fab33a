"""Structures whose groups span several matrices: whole heads, neurons, columns of the embedding tables, features, blocks.

The groups are linked so that a whole one can be removed from the model, see `shrinking`. Which matrices hold them is known for
the models in `anatomy`; others are refused.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from . import targets
from .anatomy import Attention, Block, find_blocks, find_stream, find_tables, stacks
from .errors import InvalidInputError, enumeration
from .layers import is_transposed
from .plans import Projection
from .structures import Structure, Transposed

Cuts = dict[str, Structure]
"""Name of a parameter -> how it is cut."""


class Runs(Structure):
    """A group is a run of neighbours along one axis; in a fused matrix, the same run of each of its parts.

    Args:
        axis: 0 for output features, 1 for input features.
        width: neighbours in a run.
        parts: equal parts of the axis.
        per_weight: operations for each weight and token: 2 in a linear layer, 0 in a bias or a table.
        attending: features of a run that attend to every token.
    """

    def __init__(self, axis: int, width: int = 1, parts: int = 1, per_weight: int = 2, attending: int = 0) -> None:
        self.axis, self.width, self.parts = axis, width, parts
        self.per_weight, self.attending = per_weight, attending

    def groups(self, shape: torch.Size) -> torch.Size:
        return torch.Size([shape[self.axis] // (self.width * self.parts)])

    def reduce(self, tensor: Tensor) -> Tensor:
        shape = tensor.shape
        parted = tensor.reshape(*shape[: self.axis], self.parts, -1, self.width, *shape[self.axis + 1 :])
        return parted.sum([axis for axis in range(parted.dim()) if axis != self.axis + 1])

    def expand(self, groups: Tensor, shape: torch.Size) -> Tensor:
        line = groups.repeat_interleave(self.width).repeat(self.parts)
        return line.view([-1 if axis == self.axis else 1 for axis in range(len(shape))]).expand(shape)

    def flops(self, shape: torch.Size, tokens: int) -> int:
        return self.per_weight * self.size(shape) + 4 * tokens * self.attending  # q k' and the sum over values


class Whole(Structure):
    """The parameter as a whole belongs to one of several groups.

    Args:
        place: which.
        groups: of how many.
    """

    def __init__(self, place: int, groups: int) -> None:
        self.place, self.of = place, groups

    def groups(self, shape: torch.Size) -> torch.Size:
        return torch.Size([self.of])

    def reduce(self, tensor: Tensor) -> Tensor:
        return nn.functional.pad(tensor.sum().view(1), (self.place, self.of - self.place - 1))

    def expand(self, groups: Tensor, shape: torch.Size) -> Tensor:
        return groups[self.place].expand(shape)


class Linked(Structure):
    """A structure whose groups span several matrices. A new one says in `sites` which weights share their scores."""

    linked: ClassVar[bool] = True

    @abstractmethod
    def sites(self, model: nn.Module) -> list[Cuts]:
        """Returns, for each site of a model, its parameters and how each is cut, all into the same number of groups.

        Raises InvalidInputError, with the reason, for a model that has no such groups or is not known.
        """

    def find(
        self, model: nn.Module, target_modules: list[str] | str | None, exclude_modules: list[str] | str | None
    ) -> dict[str, nn.Parameter]:
        """Returns the parameters of the sites all of whose modules are targets.

        Raises:
            InvalidInputError: if some modules of a site are targets and others are not, or nothing is left.
        """
        parameters = dict(model.named_parameters())
        sites = [list(cuts) for cuts in self.sites(model)]
        modules = {name.rpartition(".")[0] for names in sites for name in names}
        if target_modules is not None:
            targets.refuse_unmatched(target_modules, modules, what=f"module that {self} takes")
        if exclude_modules is not None:  # which may be meant for other rules
            targets.refuse_unmatched(exclude_modules, {name.rpartition(".")[0] for name in parameters})
        shared = [name for names in sites for name in names if name not in parameters]
        if shared:
            raise InvalidInputError(
                f"{enumeration(shared)} is shared with another layer under another name, so a group of one cannot fall alone. "
                f"{self} takes models whose layers have weights of their own."
            )
        kept = [name for names in sites if self._chosen(names, target_modules, exclude_modules) for name in names]
        if not kept:
            why = "the model has none left" if not sites else f"exclude_modules={exclude_modules!r} takes away all of {self}"
            raise InvalidInputError(f"Nothing is left to prune: {why}.")
        frozen = [name for name in kept if not parameters[name].requires_grad]
        if frozen:
            raise InvalidInputError(
                f"{self} takes {enumeration(frozen)}, frozen (requires_grad=False). Unfreeze them, or leave their sites out "
                "with exclude_modules."
            )
        return {name: parameters[name] for name in kept}

    def _chosen(self, names: list[str], target: list[str] | str | None, exclude: list[str] | str | None) -> bool:
        modules = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
        chosen = [
            module
            for module in modules
            if (target is None or targets.matches(module, target)) and (exclude is None or not targets.matches(module, exclude))
        ]
        if chosen and len(chosen) < len(modules):
            raise InvalidInputError(
                f"{self} links {enumeration(modules, most=8)}, and only {enumeration(chosen)} would be pruned. Name all "
                "of them in target_modules or exclude_modules, or none."
            )
        return bool(chosen)

    def link(self, model: nn.Module, weights: Mapping[str, Tensor]) -> list[Cuts]:
        return [cuts for cuts in self.sites(model) if set(cuts) <= set(weights)]

    def groups(self, shape: torch.Size) -> torch.Size:
        raise NotImplementedError(f"{self} cuts no weight by itself: link() gives a cut for each.")

    def reduce(self, tensor: Tensor) -> Tensor:
        raise NotImplementedError(f"{self} cuts no weight by itself: link() gives a cut for each.")

    def expand(self, groups: Tensor, shape: torch.Size) -> Tensor:
        raise NotImplementedError(f"{self} cuts no weight by itself: link() gives a cut for each.")


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
