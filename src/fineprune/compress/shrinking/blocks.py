"""Takes out whole blocks that add nothing to the residual stream, so that the model is shallower."""

from typing import TYPE_CHECKING, Any

from torch import nn

from ...models.anatomy import Block, find_blocks, stacks
from ...models.placeholders import RemovedAttention
from ..resizing.weights import Weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def take_out_blocks(model: "PreTrainedModel") -> None:
    """Takes the blocks that add nothing out of a shrunken model, and out of its config; one block at least stays.

    Models of several stacks keep theirs, as do those whose attention depends on the number of the layer.
    """
    (name, blocks), *more = stacks(find_blocks(model)).items()
    config: Any = model.config
    depends = getattr(config, "scale_attn_by_inverse_layer_idx", False)
    if more or depends or getattr(config, "num_hidden_layers", None) != len(blocks):
        return
    kept = [number for number, block in enumerate(blocks) if not _adds_nothing(model, block)] or [0]
    if len(kept) == len(blocks):
        return
    layers: Any = model.get_submodule(name)
    model.set_submodule(name, nn.ModuleList(layers[number] for number in kept).train(layers.training))
    _renumber(model.get_submodule(name))
    config.num_hidden_layers = len(kept)
    types = getattr(config, "layer_types", None)
    if types is not None:
        config.layer_types = [types[number] for number in kept]


def _adds_nothing(model: nn.Module, block: Block) -> bool:
    if not block.layout.removable or block.attentions:
        return False
    module = model.get_submodule(block.name)
    weights, second = Weights(module), block.feed_forward.second.removeprefix(f"{block.name}.")
    outputs = [f"{name}.{one.output}" for name, one in module.named_modules() if isinstance(one, RemovedAttention)]
    biases = [weights.bias(name) for name in (second, *outputs)]
    return weights.matrix(second).shape[1] == 0 and not any(bias is not None and bool(bias.any()) for bias in biases)


def _renumber(layers: nn.Module) -> None:
    """Gives attentions the number of their layer, by which they look for keys and values in a cache."""
    for number, layer in enumerate(layers.children()):
        for module in layer.modules():
            if isinstance(module, RemovedAttention) and module.layer is not None:
                module.layer = number
            if "layer_idx" in vars(module):
                vars(module)["layer_idx"] = number
