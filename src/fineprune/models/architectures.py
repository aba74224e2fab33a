"""Where the classes of each architecture keep their heads, neurons, embedding tables and residual stream.

Linked structures, shrinking and the fused encoder all read these entries. `register` adds one for classes of your own.
"""

from dataclasses import dataclass
from typing import Any, TypeVar

from .layouts import (
    AttentionLayout,
    BlockLayout,
    ClassLayout,
    EncoderLayout,
    FeedForwardLayout,
    Projection,
    SizeSettings,
    StreamLayout,
)

L = TypeVar("L", bound=ClassLayout)

HEADS = ("lm_head", "score", "qa_outputs", "classifier", "classification_head.dense")
"""Linear layers on top of a whole model that read its residual stream after the final norm."""


@dataclass(frozen=True)
class Architecture:
    """One architecture: all that the library knows of its classes. A class is matched by its exact name and module.

    Args:
        module: the module, or the package around it, that defines the classes.
        blocks: its transformer blocks: for linked structures, and for shrinking.
        streams: its embedding tables: for EmbeddingColumns(), HiddenFeatures(), and for shrinking.
        encoders: those that can run fused, see `to_sparse`.
        heads: linear layers on top of a whole model that read its residual stream after the final norm.
    """

    module: str
    blocks: tuple[BlockLayout, ...] = ()
    streams: tuple[StreamLayout, ...] = ()
    encoders: tuple[EncoderLayout, ...] = ()
    heads: tuple[str, ...] = HEADS

    def layouts(self, role: type[L]) -> list[L]:
        """Returns the entries of a role, as `BlockLayout`."""
        return [layout for layout in (*self.blocks, *self.streams, *self.encoders) if isinstance(layout, role)]


def _attention(core: str, names: tuple[str, ...], output: str, head_size: str, *counts: str, **more: Any) -> AttentionLayout:
    query, key, value = (Projection(f"{core}.{name}") for name in names)
    return AttentionLayout(core, query, key, value, output, head_size, counts, **{"constant": True, **more})


def _bert_attention(name: str, **more: Any) -> AttentionLayout:
    counts, widths = "num_attention_heads", ("all_head_size",)
    core, names, output = f"{name}.self", ("query", "key", "value"), f"{name}.output.dense"
    return _attention(core, names, output, "attention_head_size", counts, widths=widths, **more)


def _bart(part: str, *attentions: str) -> BlockLayout:
    return BlockLayout(
        (f"Bart{part.capitalize()}Layer",),
        tuple(
            _attention(core, _QKV, f"{core}.out_proj", "head_dim", "num_heads", cross=core != "self_attn")
            for core in attentions
        ),
        (FeedForwardLayout(("fc1",), "fc2", "activation_fn"),),
        SizeSettings(f"{part}_ffn_dim"),
    )


def _t5_attention(core: str, **more: Any) -> AttentionLayout:
    more |= {"widths": ("inner_dim",), "extra_outputs": 2, "passes_bias": True}
    return _attention(core, ("q", "k", "v"), f"{core}.o", "key_value_proj_dim", "n_heads", **more)


def _t5_feed_forward(number: int, *first: str) -> FeedForwardLayout:
    inside = f"layer.{number}.DenseReluDense"
    return FeedForwardLayout(tuple(f"{inside}.{name}" for name in first), f"{inside}.wo", f"{inside}.act")


_QKV = ("q_proj", "k_proj", "v_proj")
_BERTS = ("Bert", "Roberta", "XLMRoberta", "Electra")
_LLAMAS = ("Llama", "Mistral", "Qwen2", "Qwen3")
_DENSE = FeedForwardLayout(("intermediate.dense",), "output.dense", "intermediate.intermediate_act_fn")
_BERT_LAYER = BlockLayout(
    tuple(f"{name}Layer" for name in _BERTS),
    (_bert_attention("attention"), _bert_attention("crossattention", cross=True)),
    (_DENSE,),
    SizeSettings("intermediate_size"),
)
_DISTILBERT_LAYER = BlockLayout(
    ("TransformerBlock",),
    (_attention("attention", ("q_lin", "k_lin", "v_lin"), "attention.out_lin", "attention_head_size", "n_heads"),),
    (FeedForwardLayout(("ffn.lin1",), "ffn.lin2", "ffn.activation"),),
    SizeSettings("hidden_dim"),
)
_MPNET_LAYER = BlockLayout(
    ("MPNetLayer",),
    (_attention("attention.attn", ("q", "k", "v"), "attention.attn.o", "attention_head_size", "num_attention_heads"),),
    (_DENSE,),
    SizeSettings("intermediate_size"),
)
_T5_CROSS = _t5_attention("layer.1.EncDecAttention", cross=True)
_T5_BLOCK = BlockLayout(
    ("T5Block",),
    (_t5_attention("layer.0.SelfAttention", positions="relative_attention_bias"), _T5_CROSS),
    tuple(_t5_feed_forward(number, *first) for number in (1, 2) for first in (("wi",), ("wi_0", "wi_1"))),
    SizeSettings("d_ff", "num_heads", None, "d_kv", "d_model", "layer_norm_epsilon"),
    norms=("layer.0.layer_norm", "layer.1.layer_norm", "layer.2.layer_norm"),
)
_C_ATTN = (Projection("attn.c_attn", 0, 3), Projection("attn.c_attn", 1, 3), Projection("attn.c_attn", 2, 3))
_GPT2_BLOCK = BlockLayout(
    ("GPT2Block",),
    (AttentionLayout("attn", *_C_ATTN, "attn.c_proj", "head_dim", ("num_heads",), ("split_size",)),),
    (FeedForwardLayout(("mlp.c_fc",), "mlp.c_proj", "mlp.act"),),
    SizeSettings("n_inner"),
    removable=True,
)
_LLAMA_LAYER = BlockLayout(
    tuple(f"{name}DecoderLayer" for name in _LLAMAS),
    (_attention("self_attn", _QKV, "self_attn.o_proj", "head_dim", constant=False),),
    (FeedForwardLayout(("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj", "mlp.act_fn"),),
    SizeSettings("intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_size", "rms_norm_eps"),
    norms=("input_layernorm", "post_attention_layernorm"),
    removable=True,
)
_VIT_LAYER = BlockLayout(
    ("ViTLayer",),
    (_attention("attention", _QKV, "attention.o_proj", "head_dim", "num_attention_heads", constant=False),),
    (FeedForwardLayout(("mlp.fc1",), "mlp.fc2", "mlp.activation_fn"),),
    SizeSettings("intermediate_size", "num_attention_heads", None, "head_dim"),
    removable=True,
)
_WORD_POSITION_TYPE = ("word_embeddings", "position_embeddings", "token_type_embeddings")
_MPNET_NORMS = ("attention.LayerNorm", "output.LayerNorm")
_BERT_NORMS = ("attention.output.LayerNorm", "output.LayerNorm")

_STOCK = "transformers.models"
ARCHITECTURES: list[Architecture] = [
    Architecture(
        _STOCK,
        (_BERT_LAYER,),
        (StreamLayout(tuple(f"{name}Embeddings" for name in _BERTS), _WORD_POSITION_TYPE),),
        (EncoderLayout(tuple(f"{name}Encoder" for name in _BERTS), _BERT_LAYER, _BERT_NORMS),),
    ),
    Architecture(
        _STOCK,
        (_DISTILBERT_LAYER,),
        (StreamLayout(("Embeddings",), ("word_embeddings", "position_embeddings")),),
        (EncoderLayout(("Transformer",), _DISTILBERT_LAYER, ("sa_layer_norm", "output_layer_norm")),),
    ),
    Architecture(  # its blocks share one table of position biases, so that none can lose heads
        _STOCK,
        encoders=(EncoderLayout(("MPNetEncoder",), _MPNET_LAYER, _MPNET_NORMS, "compute_position_bias"),),
    ),
    Architecture(
        _STOCK,
        (_bart("encoder", "self_attn"), _bart("decoder", "self_attn", "encoder_attn")),
        (StreamLayout(("BartEncoder", "BartDecoder"), ("embed_tokens", "embed_positions")),),
    ),
    Architecture(_STOCK, (_T5_BLOCK,), (StreamLayout(("T5Stack",), ("embed_tokens",), "final_layer_norm"),)),
    Architecture(_STOCK, (_GPT2_BLOCK,), (StreamLayout(("GPT2Model",), ("wte", "wpe")),)),
    Architecture(
        _STOCK, (_LLAMA_LAYER,), (StreamLayout(tuple(f"{name}Model" for name in _LLAMAS), ("embed_tokens",), "norm"),)
    ),
    Architecture(_STOCK, (_VIT_LAYER,)),
]
"""All that are known, the last registered first."""


def register(architecture: Architecture) -> None:
    """Makes an architecture known. For a class of an earlier entry, the later one is taken."""
    ARCHITECTURES.insert(0, architecture)


def layout_of(kind: type, role: type[L]) -> L | None:
    """Returns the layout of a class in a role, as `BlockLayout`; None if it is not known in it."""
    inside = f"{kind.__module__}."
    found = (layout for one in ARCHITECTURES if inside.startswith(f"{one.module}.") for layout in one.layouts(role))
    return next((layout for layout in found if kind.__name__ in layout.classes), None)


def all_heads() -> list[str]:
    """Returns the names of all linear layers that are known to read a residual stream after the final norm."""
    return list(dict.fromkeys(head for architecture in reversed(ARCHITECTURES) for head in architecture.heads))


def class_names(role: type[ClassLayout]) -> list[str]:
    """Returns the names of all classes that are known in a role, sorted."""
    return sorted({name for architecture in ARCHITECTURES for layout in architecture.layouts(role) for name in layout.classes})
