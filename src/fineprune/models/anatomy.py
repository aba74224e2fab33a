"""Finds the heads, neurons, embedding tables and residual stream of a model of a known architecture in its matrices."""

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ..errors import InvalidInputError, enumeration
from .architectures import all_heads, class_names, layout_of
from .layers import is_linear, is_transposed
from .layouts import AttentionLayout, BlockLayout, Projection, StreamLayout
from .placeholders import RemovedAttention
from .targets import blocks, unwrap


@dataclass(frozen=True)
class Attention:
    """One attention; names are those of modules in the whole model.

    Args:
        core, query, key, value, output, constant: see `AttentionLayout`.
        head_size: features of one head.
        heads: query heads.
        groups: key and value heads; each serves heads / groups query heads that lie side by side.
    """

    core: str
    query: Projection
    key: Projection
    value: Projection
    output: str
    head_size: int
    heads: int
    groups: int
    constant: bool
    layout: AttentionLayout

    @property
    def projections(self) -> tuple[Projection, Projection, Projection]:
        return self.query, self.key, self.value

    @property
    def positions(self) -> str | None:
        """Its table of position biases, which may not exist."""
        return None if self.layout.positions is None else f"{self.core}.{self.layout.positions}"


@dataclass(frozen=True)
class FeedForward:
    """One feed-forward layer: second(activation(first)), or second(activation(first) * gated) with two first ones.

    Args:
        first, second: see `FeedForwardLayout`; a row of the first is a neuron.
        activation: element by element.
    """

    first: tuple[str, ...]
    second: str
    activation: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Block:
    """One transformer block.

    Args:
        norms: its RMSNorms before each sublayer; empty in a model with LayerNorm.
    """

    name: str
    attentions: tuple[Attention, ...]
    feed_forward: FeedForward
    norms: tuple[str, ...]
    layout: BlockLayout

    @property
    def inputs(self) -> list[str]:
        """The linear layers that its attentions apply to features, each once."""
        return list(dict.fromkeys(projection.module for one in self.attentions for projection in one.projections))

    @property
    def linear(self) -> list[str]:
        """All its linear layers, each once."""
        outputs = [one.output for one in self.attentions]
        return [*self.inputs, *outputs, *self.feed_forward.first, self.feed_forward.second]


def find_blocks(model: nn.Module) -> list[Block]:
    """Returns the blocks of a model, in order; raises InvalidInputError if one is not known, or not built as its class is."""
    model = unwrap(model)
    modules = dict(model.named_modules())
    layouts = {name: layout_of(type(module), BlockLayout) for name, module in modules.items()}
    found = [_block(name, layout, modules) for name, layout in layouts.items() if layout is not None]
    inside = [name for name, _ in blocks(model)]
    strange = {type(modules[name]).__name__ for name in inside if name not in {block.name for block in found}}
    if not found or strange:
        raise InvalidInputError(
            f"The blocks of this model ({enumeration(sorted(strange)) if strange else 'there are none'}) are not among those "
            f"whose heads and neurons are known: {enumeration(class_names(BlockLayout), most=20)}. Register the "
            "architecture with fineprune.models.architectures.register, or take a structure within one matrix, as Rows() or "
            "Blocks(32, 32)."
        )
    return found


def stacks(blocks: Sequence[Block]) -> dict[str, list[Block]]:
    """Returns the blocks by the list that they are in."""
    found: dict[str, list[Block]] = {}
    for block in blocks:
        found.setdefault(block.name.rpartition(".")[0], []).append(block)
    return found


def _block(name: str, layout: BlockLayout, modules: dict[str, nn.Module]) -> Block:
    cores = {one: modules.get(f"{name}.{one.core}") for one in layout.attentions}
    present = [one for one, core in cores.items() if core is not None and not isinstance(core, RemovedAttention)]
    attentions = tuple(_attention(name, one, modules) for one in present)
    norms = tuple(f"{name}.{norm}" for norm in layout.norms if f"{name}.{norm}" in modules)
    feed_forward = _feed_forward(name, layout, modules)
    _check_known_layers(name, layout, modules)
    return Block(name, attentions, feed_forward, norms, layout)


def _attention(block: str, layout: AttentionLayout, modules: dict[str, nn.Module]) -> Attention:
    core = modules[f"{block}.{layout.core}"]
    query, key, value = (Projection(f"{block}.{one.module}", one.place, one.parts) for one in layout.projections)
    output = f"{block}.{layout.output}"
    _check_linear([query.module, key.module, value.module, output], modules, block)
    size: int = getattr(core, layout.head_size)
    heads, groups = (_outputs(modules[one.module]) // one.parts // size for one in (query, key))
    constant = layout.constant and not core.is_causal
    return Attention(f"{block}.{layout.core}", query, key, value, output, size, heads, groups, constant, layout)


def _feed_forward(block: str, layout: BlockLayout, modules: dict[str, nn.Module]) -> FeedForward:
    for one in layout.feed_forwards:
        first, second = tuple(f"{block}.{name}" for name in one.first), f"{block}.{one.second}"
        if all(name in modules for name in first):
            _check_linear([*first, second], modules, block)
            return FeedForward(first, second, operator.attrgetter(one.activation)(modules[block]))
    raise InvalidInputError(f"{block} has no feed-forward layer of the form that its class is known to have.")


def _check_known_layers(block: str, layout: BlockLayout, modules: dict[str, nn.Module]) -> None:
    """Raises if a block holds linear layers that its class is not known to have."""
    known = {projection.module for one in layout.attentions for projection in one.projections}
    known |= {one.output for one in layout.attentions}
    known |= {name for one in layout.feed_forwards for name in (*one.first, one.second)}
    inside = [name for name, module in modules.items() if name.startswith(f"{block}.") and is_linear(module)]
    strange = [name for name in inside if name.removeprefix(f"{block}.") not in known]
    if strange:
        raise InvalidInputError(
            f"{block} is a {type(modules[block]).__name__} with {enumeration(strange)}, which its heads and neurons are not "
            "known to have (adapted, or a form of its own?). Merge adapters, or take a structure within one matrix, as Rows()."
        )


def _check_linear(names: list[str], modules: dict[str, nn.Module], block: str) -> None:
    strange = [name for name in names if name not in modules or not is_linear(modules[name])]
    if strange:
        raise InvalidInputError(
            f"{block} is a {type(modules[block]).__name__}, but {enumeration(strange)} is no plain linear layer (adapted, or "
            "quantised?). Merge adapters, or load the model without them."
        )


def _outputs(linear: nn.Module) -> int:
    return linear.get_parameter("weight").shape[1 if is_transposed(linear) else 0]


def find_tables(model: nn.Module) -> list[str]:
    """Returns the names of the embedding tables at the entrance of each stack; raises InvalidInputError if none is known."""
    model = unwrap(model)
    found = [f"{name}.{table}".lstrip(".") for name, layout in _streams(model) for table in layout.tables]
    modules = dict(model.named_modules())
    tables = [name for name in found if isinstance(modules.get(name), nn.Embedding)]
    if not tables:
        raise InvalidInputError(
            "This model holds no embedding tables that are known: they are those of "
            f"{enumeration(class_names(StreamLayout), most=20)}."
        )
    return tables


def _streams(model: nn.Module) -> Iterator[tuple[str, StreamLayout]]:
    for name, module in model.named_modules():
        layout = layout_of(type(module), StreamLayout)
        if layout is not None:
            yield name, layout


@dataclass(frozen=True)
class Stream:
    """The residual stream of a model with RMSNorm, of `width` features: names of modules.

    Args:
        tables: whose columns write features.
        writers, readers: linear layers whose rows write features, and whose columns read them, all behind a norm.
        norms: RMSNorms over features.
    """

    tables: tuple[str, ...]
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    norms: tuple[str, ...]
    width: int


def find_stream(model: nn.Module) -> Stream:
    """Finds the modules that write and read the residual stream.

    Raises:
        InvalidInputError: if the model has LayerNorm, is not known, or has a module on top that is not.
    """
    model = unwrap(model)
    found = find_blocks(model)
    if not all(block.norms for block in found):
        raise InvalidInputError(
            "The model has LayerNorm, whose mean changes with the number of features: one cannot be removed without changing "
            "the output. HiddenFeatures() takes models with RMSNorm (T5, Llama, Mistral, Qwen); EmbeddingColumns() takes both."
        )
    modules = dict(model.named_modules())
    heads = [name for name in all_heads() if name in modules]
    known = tuple(f"{name}." for name in (*(name for name, _ in _streams(model)), *heads))
    own = [name for name, module in modules.items() if any(True for _ in module.parameters(recurse=False))]
    strange = [name for name in own if not f"{name}.".startswith(known) and name not in _aside(model, heads)]
    if strange:
        raise InvalidInputError(
            f"{enumeration(strange)} may read the residual stream, and how is not known. HiddenFeatures() knows a head "
            f"named {enumeration(all_heads())}."
        )
    writers = [name for block in found for name in (*(one.output for one in block.attentions), block.feed_forward.second)]
    writers += [
        f"{name}.{module.output}" for name, module in modules.items() if isinstance(module, RemovedAttention) and module.output
    ]
    readers = [name for block in found for name in (*block.inputs, *block.feed_forward.first)]
    norms = [norm for block in found for norm in block.norms]
    norms += [f"{name}.{layout.norm}".lstrip(".") for name, layout in _streams(model) if layout.norm is not None]
    tables = tuple(find_tables(model))
    width = modules[norms[-1]].get_parameter("weight").numel()
    return Stream(tables, tuple(writers), (*readers, *heads), tuple(norms), width)


def _aside(model: nn.Module, heads: list[str]) -> set[str]:
    """Modules that see no features of the stream: shared tables under another name, and the second layer of a head."""
    tables = {id(model.get_submodule(name).get_parameter("weight")) for name in find_tables(model)}
    shared = {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and id(module.get_parameter("weight")) in tables
    }
    behind = {"classification_head.out_proj"} if "classification_head.dense" in heads else set()
    return shared | behind


def stream_of(model: nn.Module) -> Stream | None:
    """Returns the residual stream of a model, None where its features cannot be cut."""
    try:
        return find_stream(model)
    except InvalidInputError:
        return None
