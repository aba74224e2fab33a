"""The encoders of the BERT family, and how they run fused. Which classes they are, `models.architectures` says."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..models.architectures import layout_of
from ..models.layouts import EncoderLayout
from .format import Activations
from .fused_encoder import CompiledEncoder, EncoderLayer
from .linear import SparseLinear
from .reference import Activation

HIDDEN = -1e4
"""A mask that is added hides a token by a number below this."""

UNUSED = {"position_ids", "return_dict", "use_cache"}
"""Arguments of an encoder that change nothing in a forward pass without a cache."""


def encoders(model: nn.Module) -> list[tuple[nn.Module, Any, list[str]]]:
    """Returns the encoders that can run fused once their linear layers are sparse, with their configs and the layers' names."""
    found = []
    for name, parent in model.named_modules():
        config = getattr(parent, "config", None)
        for child_name, child in parent.named_children():
            layout = layout_of(type(child), EncoderLayout)
            if layout is None or config is None or getattr(config, "is_decoder", False) or "forward" in vars(child):
                continue
            if layers := _known_layers(child):
                prefix = f"{name}.{child_name}.layer".lstrip(".")
                names = [f"{prefix}.{number}.{matrix}" for number in range(len(layers)) for matrix in layout.matrices]
                found.append((child, config, names))
    return found


def fuse(encoder: nn.Module, config: Any, activations: Activations) -> None:
    """Makes an encoder whose linear layers are sparse run fused. Its other passes stay as they are.

    Args:
        encoder, config: see `encoders`.
        activations: how inputs of products are stored.
    """
    layers = _known_layers(encoder)
    kind: Any = type(encoder)
    encoder.__class__ = _fused_class(kind)
    assert isinstance(encoder, FusedEncoder)
    encoder.fused, encoder.fused_config = CompiledEncoder(layers, activations), config


def _known_layers(encoder: nn.Module) -> tuple[EncoderLayer, ...]:
    """Returns its layers; none if one cannot run fused, or if they differ in width or activation."""
    layers, layout = encoder.get_submodule("layer"), layout_of(type(encoder), EncoderLayout)
    assert isinstance(layers, nn.ModuleList)
    assert layout is not None
    known = tuple(found for layer in layers if (found := _known_layer(layer, layout)) is not None)
    alike = len({(layer.linear[0].in_features, layer.activation) for layer in known}) == 1
    return known if alike and len(known) == len(layers) else ()


def _known_layer(layer: nn.Module, layout: EncoderLayout) -> EncoderLayer | None:
    """Returns the modules of a layer; None if one is missing or of another class, or if their sizes do not fit together."""
    modules = dict(layer.named_modules())
    attention, feed_forward = layout.block.attentions[0], layout.block.feed_forwards[0]
    linear = [modules.get(name) for name in layout.matrices]
    norms = [norm for name in layout.norms if (norm := _norm(modules.get(name))) is not None]
    activation = activation_of(modules.get(feed_forward.activation))
    size = getattr(modules.get(attention.core), attention.head_size, None)
    known = [one for one in linear if isinstance(one, nn.Linear | SparseLinear)]
    if len(known) < len(linear) or len(norms) < len(layout.norms) or activation is None or not isinstance(size, int):
        return None
    hidden, features, neurons = known[0].in_features, known[0].out_features, known[4].out_features
    shapes = [(features, hidden)] * 3 + [(hidden, features), (neurons, hidden), (hidden, neurons)]
    if [(one.out_features, one.in_features) for one in known] != shapes or features % size:
        return None
    if any(len(tensor) != hidden for norm in norms for tensor in norm[:2]):
        return None
    return EncoderLayer(tuple(known), tuple(norms), features // size, activation)


def _norm(norm: nn.Module | None) -> tuple[Tensor, Tensor, float] | None:
    """Returns scale, shift and epsilon of a LayerNorm on the CPU in float32."""
    if not isinstance(norm, nn.LayerNorm):
        return None
    tensors = [tensor.detach() for tensor in norm.parameters() if tensor.dtype == torch.float32 and tensor.device.type == "cpu"]
    return (tensors[0], tensors[1], norm.eps) if len(tensors) == 2 else None


def activation_of(function: Callable[[Tensor], Tensor] | None) -> Activation | None:
    """Returns the activation that a function computes, by trying it; None if the kernels do not have it."""
    if function is None:
        return None
    near = torch.linspace(-8, 8, 1025, dtype=torch.float32)
    points = torch.cat([near, near * 12.5, near * 1e3])
    with torch.no_grad():
        values = function(points)
        return next((one for one in Activation if torch.allclose(one(points), values, rtol=1e-5, atol=1e-6)), None)


def seen_tokens(mask: Tensor | None, hidden: Tensor) -> Tensor | None:
    """Returns which tokens are attended to, sequences x length; None where that differs between queries, or none is.

    Args:
        mask: as Transformers hands it to an encoder: None, sequences x length, or sequences x 1 x queries x keys, where True
            or 0.0 is seen.
        hidden: sequences x length x features.
    """
    sequences, length, _ = hidden.shape
    if mask is None:
        return torch.ones(sequences, length, dtype=torch.bool)
    if not isinstance(mask, Tensor) or mask.ndim not in (2, 4) or mask.shape[-1] != length:
        return None
    if mask.ndim == 4:
        rows = mask[:, :1, :1]
        if mask.shape[1] * mask.shape[2] > 1 and not bool((mask == rows).all()):
            return None
        mask = rows[:, 0, 0]
        if mask.is_floating_point():
            if not bool(((mask == 0) | (mask < HIDDEN)).all()):
                return None
            mask = mask == 0
    seen = mask.bool().expand(sequences, length)
    return seen if bool(seen.any(dim=1).all()) else None


class FusedEncoder(nn.Module):
    """The base class that `fuse` adds to a stock encoder: it runs fused where it can, else layer by layer as before.

    It runs layer by layer when hidden states, attentions or a cache are requested, with a mask that differs between queries
    or hides all of a text, and in training mode.
    """

    fused: CompiledEncoder
    fused_config: Any

    def forward(self, hidden_states: Tensor, attention_mask: Any = None, *arguments: Any, **more: Any) -> Any:
        """Returns the last hidden state as the stock encoder does, in a tuple if `return_dict` is False."""
        seen = None if self.training or self._asks_for_more(arguments, more) else seen_tokens(attention_mask, hidden_states)
        if seen is None:
            return super().forward(hidden_states, attention_mask, *arguments, **more)
        layout = layout_of(type(self).__mro__[2], EncoderLayout)
        assert layout is not None
        positions = getattr(self, layout.positions)(hidden_states[:1])[0] if layout.positions else None
        outputs = self.fused(hidden_states, seen, positions)
        if not more.get("return_dict", True):
            return (outputs,)
        from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=outputs)

    def _asks_for_more(self, arguments: tuple[Any, ...], more: dict[str, Any]) -> bool:
        given = [*arguments, *(value for name, value in more.items() if name not in UNUSED)]
        asked = [value for value in given if value is not None and value is not False]
        return bool(asked) or self.fused_config.output_attentions or self.fused_config.output_hidden_states


@functools.cache
def _fused_class(kind: type[nn.Module]) -> type[nn.Module]:
    return type(f"Fused{kind.__name__}", (FusedEncoder, kind), {"__module__": __name__})


def unfuse(encoder: nn.Module) -> None:
    """Restores the own class of a fused encoder."""
    if isinstance(encoder, FusedEncoder):
        encoder.__class__ = type(encoder).__mro__[2]
        del encoder.fused, encoder.fused_config
