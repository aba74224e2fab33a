"""Shrinks a model: removes the heads, neurons and features that pruning has made superfluous; the output stays the same."""

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...errors import InvalidInputError, enumeration, require
from ...models import placeholders
from ...models.anatomy import Block, find_blocks, stacks
from ...models.placeholders import RemovedAttention
from ...models.targets import unwrap
from ..resizing.fitting import fit
from ..resizing.stock import describe
from ..resizing.weights import Weights
from .cut import cut

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def shrink(model: nn.Module, multiple: int = 1) -> "PreTrainedModel":
    """Returns a new, smaller model, without the groups of weights that zeros have made superfluous.

    Removed are heads, neurons, attentions, feed-forward layers, blocks, columns of embedding tables and, with RMSNorm,
    features of the residual stream (not in float64). What a removed group added for every input is folded into the next
    bias. The output in evaluation is the same to rounding, and the model given stays as it is.

    Args:
        model: a pruned model of Transformers, of a known architecture; wrappers of PyTorch are removed.
        multiple: neurons and features are kept in multiples of it where there are as many, for the kernels of a GPU: 8
            or 16.

    Raises:
        InvalidInputError: if the architecture is not known, or the model is quantised, adapted, not in memory, or carries
            hooks, which a copy would carry too.
    """
    if isinstance(multiple, bool) or not isinstance(multiple, int) or multiple < 1:
        raise InvalidInputError(
            f"multiple must be a whole number from 1, got {multiple!r}. With 1 no more than needed are kept."
        )
    whole = _checked(unwrap(model))
    tensors = {name: tensor.clone() for name, tensor in Weights(whole).tensors.items()}
    smaller = _fitted(whole, tensors)
    while _sizes(tensors) != _sizes(tensors := cut(smaller, multiple)):  # a cut may make more of them dead
        smaller = _fitted(smaller, tensors)
    _take_out_blocks(smaller)
    describe(smaller)
    return smaller


def _sizes(tensors: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _fitted(model: "PreTrainedModel", tensors: dict[str, Tensor]) -> "PreTrainedModel":
    """Returns a copy of a model with other tensors."""
    memo: dict[int, Any] = {
        id(parameter): nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
        for parameter in model.parameters()
    }
    smaller = copy.deepcopy(model, memo)
    fit(smaller, tensors)
    return smaller


def _take_out_blocks(model: "PreTrainedModel") -> None:
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


_HOOKS = [f"_{kind}_hooks" for at in ("forward", "backward", "state_dict") for kind in (at, f"{at}_pre")]


def _checked(model: nn.Module) -> "PreTrainedModel":
    """Returns the model, if it can be copied and cut."""
    require("hub", "transformers")
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise InvalidInputError(
            f"shrink() takes a PreTrainedModel of Transformers, got a {type(model).__name__}. Merge adapters of PEFT first: "
            "model.merge_and_unload()."
        )
    if getattr(model, "hf_quantizer", None) is not None:
        raise InvalidInputError(
            "The model is quantised, and its weights are no plain matrices. Shrink it first, then quantise."
        )
    strange = [name for name, p in model.named_parameters() if type(p) is not nn.Parameter or p.device.type == "meta"]
    if strange:
        raise InvalidInputError(
            f"{enumeration(strange)} is not a plain tensor in memory (on the meta device, offloaded, or sharded?). Load the "
            "model as a whole."
        )
    hooked = [name or "the model" for name, module in model.named_modules() if _is_hooked(module)]
    if hooked:
        raise InvalidInputError(
            f"{enumeration(hooked)} carries hooks, which a copy would carry too (of a Pruner that is still at work, or of "
            "Accelerate?). Close the Pruner, or save the model and load it."
        )
    return model


def _is_hooked(module: nn.Module) -> bool:
    """Whether a module has hooks that are neither Transformers' own nor of a placeholder, or a changed forward pass."""
    hooks = [str(getattr(hook, "__module__", None)) for kind in _HOOKS for hook in vars(module)[kind].values()]
    return "forward" in vars(module) or not all(hook.startswith(("transformers.", placeholders.__name__)) for hook in hooks)
