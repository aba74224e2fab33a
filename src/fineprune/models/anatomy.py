"""What known models are made of: which matrices hold their heads, neurons, tables and residual stream.

Blocks are known by their class in Transformers, see `plans`.
"""

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..errors import InvalidInputError, enumeration
from .architectures import BLOCKS, BODIES, HEADS, AttentionNames, Body, Plan, Projection
from .layers import is_linear, is_transposed
from .placeholders import RemovedAttention
from .targets import blocks, unwrap


@dataclass(frozen=True)
class Attention:
    """One attention; names are those of modules in the whole model.

    Args:
        core: the module that is called with the hidden states, and attends.
        query, key, value: whose rows make its heads.
        output: the linear layer whose columns read the heads. It may lie inside the core.
        head_size: features of one head.
        heads: query heads.
        groups: key and value heads; each serves heads / groups query heads that lie side by side.
        nothings: how many values the core returns after its output.
        cross: whether keys and values come from an encoder.
        constant: whether a head with the same values at every position gives just these, to the last digits. Not so where
            a position may see none (causal, and padded on the left), or the softmax is taken in fp32 whatever the dtype.
        counts, widths: attributes of the core that hold the number of query heads, and of their features.
        positions: name of the table of position biases, a column a head, that the first attention of a stack holds.
        passes_bias: whether the attentions of a stack hand on a position bias for all heads from one to the next.
    """

    core: str
    query: Projection
    key: Projection
    value: Projection
    output: str
    head_size: int
    heads: int
    groups: int
    nothings: int
    cross: bool
    constant: bool = False
    counts: tuple[str, ...] = ()
    widths: tuple[str, ...] = ()
    positions: str | None = None
    passes_bias: bool = False


@dataclass(frozen=True)
class FeedForward:
    """One feed-forward layer: second(activation(first)), or second(activation(first) * gated) with two first ones.

    Args:
        first: one linear layer, or two where the second is multiplied with the activation of the first; a row is a neuron.
        second: the linear layer whose columns read the neurons.
        activation: element by element.
    """

    first: tuple[str, ...]
    second: str
    activation: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Block:
    """One transformer block.

    Args:
        name: of its module.
        attentions, feed_forward: what it is made of.
        norms: its RMSNorms before each sublayer; empty in a model with LayerNorm.
    """

    name: str
    attentions: tuple[Attention, ...]
    feed_forward: FeedForward
    norms: tuple[str, ...]

    @property
    def inputs(self) -> list[str]:
        """The linear layers that its attentions apply to features, each once."""
        return list(dict.fromkeys(part.module for one in self.attentions for part in (one.query, one.key, one.value)))

    @property
    def linear(self) -> list[str]:
        """All its linear layers, each once."""
        outputs = [one.output for one in self.attentions]
        return [*self.inputs, *outputs, *self.feed_forward.first, self.feed_forward.second]


def find_blocks(model: nn.Module) -> list[Block]:
    """Returns the blocks of a model, in order.

    Raises:
        InvalidInputError: if it has none that are known, or one is not built as its class is known to be.
    """
    model = unwrap(model)
    modules = dict(model.named_modules())
    found = [_block(name, module, modules) for name, module in modules.items() if _class_in(module, BLOCKS)]
    inside = [name for name, _ in blocks(model)]
    strange = {type(modules[name]).__name__ for name in inside if name not in {block.name for block in found}}
    if not found or strange:
        raise InvalidInputError(
            f"The blocks of this model ({enumeration(sorted(strange)) if strange else 'there are none'}) are not among those "
            f"whose heads and neurons are known: {enumeration(sorted(BLOCKS), most=20)}. Take a structure within one matrix, "
            "as Rows() or Blocks(32, 32)."
        )
    return found


def stacks(blocks: Sequence[Block]) -> dict[str, list[Block]]:
    """Returns the blocks by the list that they are in."""
    found: dict[str, list[Block]] = {}
    for block in blocks:
        found.setdefault(block.name.rpartition(".")[0], []).append(block)
    return found


def _class_in(module: nn.Module, known: dict[str, Any]) -> bool:
    kind = type(module)
    return kind.__name__ in known and kind.__module__.startswith("transformers.models.")


def _block(name: str, module: nn.Module, modules: dict[str, nn.Module]) -> Block:
    plan = BLOCKS[type(module).__name__]
    attentions = [_attention(name, heads, modules) for heads in plan.attentions if f"{name}.{heads.core}" in modules]
    norms = tuple(f"{name}.{norm}" for norm in plan.norms if f"{name}.{norm}" in modules)
    feed_forward = _feed_forward(name, module, plan, modules)
    _check_known_layers(name, plan, modules)
    return Block(name, tuple(one for one in attentions if one is not None), feed_forward, norms)


def _attention(block: str, heads: AttentionNames, modules: dict[str, nn.Module]) -> Attention | None:
    """Reads an attention; None where no head is left of it."""
    core = modules[f"{block}.{heads.core}"]
    if isinstance(core, RemovedAttention):
        return None
    query, key, value = (Projection(f"{block}.{part.module}", part.place, part.parts) for part in heads.projections)
    output = f"{block}.{heads.output}"
    _check_linear([query.module, key.module, value.module, output], modules, block)
    size: int = getattr(core, heads.head_size)
    count = _features(modules[query.module])[0] // query.parts // size
    groups = _features(modules[key.module])[0] // key.parts // size
    return Attention(
        *(f"{block}.{heads.core}", query, key, value, output, size, count, groups, heads.nothings, heads.cross),
        constant=heads.constant and not core.is_causal,
        counts=heads.counts,
        widths=heads.widths,
        positions=heads.positions,
        passes_bias=heads.passes_bias,
    )


def _feed_forward(block: str, module: nn.Module, plan: Plan, modules: dict[str, nn.Module]) -> FeedForward:
    for neurons in plan.feed_forwards:
        first = tuple(f"{block}.{name}" for name in neurons.first)
        if all(name in modules for name in first):
            _check_linear([*first, f"{block}.{neurons.second}"], modules, block)
            return FeedForward(first, f"{block}.{neurons.second}", operator.attrgetter(neurons.activation)(module))
    raise InvalidInputError(f"{block} has no feed-forward layer of the form that its class is known to have.")


def _check_known_layers(block: str, plan: Plan, modules: dict[str, nn.Module]) -> None:
    """Raises if a block holds linear layers that its class is not known to have."""
    known = {part.module for heads in plan.attentions for part in heads.projections}
    known |= {heads.output for heads in plan.attentions}
    known |= {name for neurons in plan.feed_forwards for name in (*neurons.first, neurons.second)}
    inside = [
        name.removeprefix(f"{block}.") for name, module in modules.items() if name.startswith(f"{block}.") and is_linear(module)
    ]
    strange = [f"{block}.{name}" for name in inside if name not in known]
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


def _features(linear: nn.Module) -> tuple[int, int]:
    """Output and input features."""
    weight = linear.get_parameter("weight")
    rows, columns = weight.t().shape if is_transposed(linear) else weight.shape
    return rows, columns


def find_tables(model: nn.Module) -> list[str]:
    """Returns the names of the embedding tables that are summed at the entrance of a model, those of all its stacks.

    Raises:
        InvalidInputError: if there are none that are known.
    """
    model = unwrap(model)
    found = [f"{name}.{table}".lstrip(".") for name, body in _bodies(model) for table in body.tables]
    modules = dict(model.named_modules())
    tables = [name for name in found if isinstance(modules.get(name), nn.Embedding)]
    if not tables:
        raise InvalidInputError(
            f"This model holds no embedding tables that are known: they are those of {enumeration(sorted(BODIES), most=20)}."
        )
    return tables


def _bodies(model: nn.Module) -> Iterator[tuple[str, Body]]:
    for name, module in model.named_modules():
        if _class_in(module, BODIES):
            yield name, BODIES[type(module).__name__]


@dataclass(frozen=True)
class Stream:
    """The residual stream of a model with RMSNorm: names of modules.

    Args:
        tables: whose columns write features.
        writers: linear layers whose rows do.
        readers: linear layers whose columns read features, all of them behind a norm.
        norms: RMSNorms over features.
        width: features.
    """

    tables: tuple[str, ...]
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    norms: tuple[str, ...]
    width: int


def find_stream(model: nn.Module) -> Stream:
    """Returns what writes and reads the residual stream.

    Raises:
        InvalidInputError: if the model has LayerNorm, is not known, or has something on top that is not.
    """
    model = unwrap(model)
    found = find_blocks(model)
    if not all(block.norms for block in found):
        raise InvalidInputError(
            "The model has LayerNorm, whose mean changes with the number of features: one cannot be removed without changing "
            "the output. HiddenFeatures() takes models with RMSNorm (T5, Llama, Mistral, Qwen); EmbeddingColumns() takes both."
        )
    modules = dict(model.named_modules())
    heads = [name for name in HEADS if name in modules]
    inner = [*(f"{name}." for name, _ in _bodies(model)), *(f"{head}." for head in heads)]
    strange = [
        name
        for name, module in modules.items()
        if module._parameters and name not in heads and not any(f"{name}.".startswith(prefix) for prefix in inner)
    ]
    strange = [name for name in strange if name not in _aside(model, heads)]
    if strange:
        raise InvalidInputError(
            f"{enumeration(strange)} may read the residual stream, and how is not known. HiddenFeatures() knows a head "
            f"named {enumeration(HEADS)}."
        )
    writers = [name for block in found for name in (*(one.output for one in block.attentions), block.feed_forward.second)]
    writers += [
        f"{name}.{module.output}" for name, module in modules.items() if isinstance(module, RemovedAttention) and module.output
    ]
    readers = [name for block in found for name in (*block.inputs, *block.feed_forward.first)]
    norms = [norm for block in found for norm in block.norms]
    norms += [f"{name}.{body.norm}".lstrip(".") for name, body in _bodies(model) if body.norm is not None]
    tables = tuple(find_tables(model))
    width = modules[norms[-1]].get_parameter("weight").numel()
    return Stream(tables, tuple(writers), (*readers, *heads), tuple(norms), width)


def _aside(model: nn.Module, heads: list[str]) -> set[str]:
    """Modules that see no features of the stream: shared tables under another name, and what lies behind a head."""
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
