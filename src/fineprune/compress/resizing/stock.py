"""The config of a shrunken model: that of a stock one where it can be, else marked as shrunken, with the sizes of its layers.

Where every block has the same sizes, and the config states each of them, the shrunken model is a stock one and loads
anywhere. Else the config keeps its old sizes, which no longer fit the tensors: loading it without this library is an error.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from ...errors import InvalidInputError
from ...models import architectures
from ...models.anatomy import find_blocks, stacks, stream_of
from ...version import VERSION
from .weights import Weights

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

MARK = "fineprune"
"""The setting by which a config says that its model is a shrunken one; the sizes are those of the tensors."""

PER_LAYER = "per_layer_config"
"""Transformers' own setting for sizes that differ from layer to layer; it is written for other programs only."""

READABLE = "allow_global_per_layer_attribute_access"
"""Transformers' own setting that makes the other sizes of a config with sizes per layer readable."""

FACTS = ("scaling", "num_key_value_groups", "variance_epsilon", "eps", "has_relative_attention_bias", "layer_idx")
"""Numbers of modules that the output depends on, beside the shapes of tensors, and the numbers of heads and their sizes."""


def describe(model: "PreTrainedModel") -> None:
    """Writes the sizes of a model into its config: as those of a stock one where that is possible, else the mark."""
    for settings in _candidates(model):
        if _builds(model, settings):
            _state(model, settings)
            return
    mark(model)


def mark(model: "PreTrainedModel") -> None:
    """Marks the config of a model as that of a shrunken one, whenever it is saved."""
    config: Any = model.config
    setattr(config, MARK, {"shrunken": True, "version": VERSION})
    for name in (PER_LAYER, READABLE):
        vars(config).pop(name, None)
    layers = per_layer(model)
    if layers:
        # As a plain attribute the config would raise an error for its own sizes.
        vars(config)[PER_LAYER] = layers
        try:
            type(config).from_dict({**plain(config), PER_LAYER: layers})
        except RuntimeError:  # that of Llama, for sizes that differ from layer to layer
            vars(config)[READABLE] = True


def plain(config: "PreTrainedConfig") -> dict[str, Any]:
    """Returns the settings without those that are written for other programs."""
    return {name: value for name, value in config.to_dict().items() if name not in (PER_LAYER, READABLE)}


def is_marked(config: "PreTrainedConfig") -> bool:
    """Whether a config says that its model is a shrunken one; raises InvalidInputError if the setting holds anything else."""
    mark = vars(config).get(MARK)
    if mark is not None and not (isinstance(mark, Mapping) and mark.get("shrunken") is True):
        raise InvalidInputError(
            f'The config says {MARK}: {str(mark)[:80]!r}; it can say {{"shrunken": true}}. Choose a whole checkpoint.'
        )
    return mark is not None


def _candidates(model: "PreTrainedModel") -> Iterator[dict[str, Any]]:
    """Yields settings that may say the sizes of all blocks, the shortest first."""
    yield {}
    head_sizes = {block.layout.sizes.head_size for block in find_blocks(model)}
    found = _sizes(model)
    if all(len(values) == 1 and 0 not in values for values in found.values()):
        settings = {name: values.pop() for name, values in found.items()}
        yield {name: value for name, value in settings.items() if name not in head_sizes}
        yield settings


def _sizes(model: "PreTrainedModel") -> dict[str, set[Any]]:
    """Returns the name of each setting -> the values that blocks have."""
    found: dict[str, set[Any]] = {}
    weights, blocks = Weights(model), find_blocks(model)
    for block in blocks:
        names = block.layout.sizes
        found.setdefault(names.neurons, set()).add(weights.matrix(block.feed_forward.second).shape[1])
        for attention in block.attentions:
            sizes = {names.heads: attention.heads, names.groups: attention.groups, names.head_size: attention.head_size}
            for name, size in sizes.items():
                if name is not None:
                    found.setdefault(name, set()).add(size)
    stream, names = stream_of(model), blocks[0].layout.sizes
    if stream is not None and names.width is not None and names.epsilon is not None:
        found[names.width] = {stream.width}
        found[names.epsilon] = {vars(model.get_submodule(name))["variance_epsilon"] for name in stream.norms}
    return found


def _builds(model: "PreTrainedModel", settings: Mapping[str, Any]) -> bool:
    """Whether a new model with these settings is like this one: in the names and shapes of its state, and in the facts."""
    raw = {name: value for name, value in plain(model.config).items() if name != MARK}
    from huggingface_hub.errors import StrictDataclassError

    try:
        config = type(model.config).from_dict({**raw, **settings})
        with torch.device("meta"):
            stock = type(model)._from_config(config)
    except (ValueError, TypeError, ArithmeticError, StrictDataclassError):  # sizes that the config does not allow
        return False
    shapes = [{name: tensor.shape for name, tensor in one.state_dict().items()} for one in (model, stock)]
    blocks = [block for architecture in architectures.ARCHITECTURES for block in architecture.blocks]
    attentions = [one for block in blocks for one in block.attentions]
    facts = {*FACTS, *(name for one in attentions for name in (one.head_size, *one.counts, *one.widths))}
    facts |= {"model_dim"} if getattr(config, "scale_decoder_outputs", False) else set()
    pairs = [(vars(module), vars(other)) for module, other in zip(model.modules(), stock.modules(), strict=False)]
    return shapes[0] == shapes[1] and all(one.get(fact) == other.get(fact) for one, other in pairs for fact in facts)


def _state(model: "PreTrainedModel", settings: Mapping[str, Any]) -> None:
    """Writes settings into the config, and into those that stacks have of their own."""
    configs = {id(module.config): module.config for module in model.modules() if "config" in vars(module)}
    for config in configs.values():
        for name in (MARK, PER_LAYER, READABLE):
            vars(config).pop(name, None)
        for name, value in settings.items():
            setattr(config, name, value)


def per_layer(model: "PreTrainedModel") -> dict[str, dict[str, int]]:
    """Returns the sizes of each layer that differ from what the config says: none for several stacks, or a config without
    `num_hidden_layers`.

    The format is that of `per_layer_config` in Transformers: number of the layer -> settings.
    """
    (blocks, *more) = stacks(find_blocks(model)).values()
    weights, config = Weights(model), model.config
    if more or getattr(config, "num_hidden_layers", None) != len(blocks):
        return {}
    layers = {}
    for number, block in enumerate(blocks):
        attention = block.attentions[0] if block.attentions else None
        sizes = {
            block.layout.sizes.neurons: weights.matrix(block.feed_forward.second).shape[1],
            config.attribute_map.get("num_attention_heads", "num_attention_heads"): attention.heads if attention else 0,
            config.attribute_map.get("num_key_value_heads", "num_key_value_heads"): attention.groups if attention else 0,
        }
        differing = {name: size for name, size in sizes.items() if getattr(config, name, size) != size}
        if differing:
            layers[str(number).zfill(len(str(len(blocks) - 1)))] = differing
    return layers
