"""Shrinks a model: removes the heads, neurons and features that pruning has made superfluous; the output stays the same."""

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...errors import InvalidInputError, enumeration, require
from ...models import placeholders
from ...models.targets import unwrap
from ..resizing.fitting import fit
from ..resizing.stock import describe
from ..resizing.weights import Weights
from .blocks import take_out_blocks
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
    take_out_blocks(smaller)
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


_HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_state_dict_hooks", "_state_dict_pre_hooks"),
)


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
    hooked = [name or "the model" for name, module in model.named_modules() if any(map(_is_foreign, _hooks(module)))]
    hooked += [name or "the model" for name, module in model.named_modules() if "forward" in vars(module)]
    if hooked:
        raise InvalidInputError(
            f"{enumeration(hooked)} carries hooks, which a copy would carry too (of a Pruner that is still at work, or of "
            "Accelerate?). Close the Pruner, or save the model and load it."
        )
    return model


def _hooks(module: nn.Module) -> list[Any]:
    return [hook for kind in _HOOKS for hook in vars(module)[kind].values()]


def _is_foreign(hook: Any) -> bool:
    """Whether a hook is neither Transformers' own nor of a module that was shrunken before."""
    inside = str(getattr(hook, "__module__", None))
    return not (inside.startswith("transformers.") or inside == placeholders.__name__)
