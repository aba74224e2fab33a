"""How the classes of Transformers name the parts of their blocks. A new architecture is an entry in `BLOCKS` and `BODIES`."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Projection:
    """Rows of a linear layer: the `place`-th of `parts` equal parts of its output features."""

    module: str
    place: int = 0
    parts: int = 1

    @property
    def weight(self) -> str:
        return f"{self.module}.weight"

    @property
    def bias(self) -> str:
        return f"{self.module}.bias"


@dataclass(frozen=True)
class AttentionNames:
    """How a class of block names an attention: relative to the block."""

    core: str
    projections: tuple[Projection, Projection, Projection]
    output: str
    head_size: str
    nothings: int = 1
    cross: bool = False
    constant: bool = True
    counts: tuple[str, ...] = ()
    widths: tuple[str, ...] = ()
    positions: str | None = None
    passes_bias: bool = False


@dataclass(frozen=True)
class FeedForwardNames:
    """How a class of block names a feed-forward layer: relative to the block."""

    first: tuple[str, ...]
    second: str
    activation: str


@dataclass(frozen=True)
class Plan:
    """How a class of block names its parts. Of several attentions and feed-forward layers those are taken that exist."""

    attentions: tuple[AttentionNames, ...]
    feed_forwards: tuple[FeedForwardNames, ...]
    norms: tuple[str, ...] = ()


def _apart(inside: str, *names: str) -> tuple[Projection, Projection, Projection]:
    query, key, value = (Projection(f"{inside}.{name}") for name in names)
    return query, key, value


def _bert(attention: str, cross: bool) -> AttentionNames:
    inside = f"{attention}.self"
    projections = _apart(inside, "query", "key", "value")
    counts, widths = ("num_attention_heads",), ("all_head_size",)
    output = f"{attention}.output.dense"
    return AttentionNames(inside, projections, output, "attention_head_size", cross=cross, counts=counts, widths=widths)


def _named(core: str, names: tuple[str, ...], head_size: str, counts: tuple[str, ...] = (), **more: Any) -> AttentionNames:
    query, key, value, output = names
    return AttentionNames(core, _apart(core, query, key, value), f"{core}.{output}", head_size, counts=counts, **more)


def _t5(core: str, **more: Any) -> AttentionNames:
    more |= {"nothings": 2, "widths": ("inner_dim",), "passes_bias": True}
    return _named(core, ("q", "k", "v", "o"), "key_value_proj_dim", ("n_heads",), **more)


_QKVO = ("q_proj", "k_proj", "v_proj", "o_proj")
_BERT = Plan(
    (_bert("attention", cross=False), _bert("crossattention", cross=True)),
    (FeedForwardNames(("intermediate.dense",), "output.dense", "intermediate.intermediate_act_fn"),),
)
_DISTILBERT = Plan(
    (_named("attention", ("q_lin", "k_lin", "v_lin", "out_lin"), "attention_head_size", ("n_heads",)),),
    (FeedForwardNames(("ffn.lin1",), "ffn.lin2", "ffn.activation"),),
)
_BART = Plan(
    (
        _named("self_attn", ("q_proj", "k_proj", "v_proj", "out_proj"), "head_dim", ("num_heads",)),
        _named("encoder_attn", ("q_proj", "k_proj", "v_proj", "out_proj"), "head_dim", ("num_heads",), cross=True),
    ),
    (FeedForwardNames(("fc1",), "fc2", "activation_fn"),),
)
_T5 = Plan(
    (
        _t5("layer.0.SelfAttention", positions="relative_attention_bias"),
        _t5("layer.1.EncDecAttention", cross=True),
    ),
    tuple(
        FeedForwardNames(tuple(f"layer.{number}.DenseReluDense.{name}" for name in first), f"{inside}.wo", f"{inside}.act")
        for number in (1, 2)
        for inside in (f"layer.{number}.DenseReluDense",)
        for first in (("wi",), ("wi_0", "wi_1"))
    ),
    ("layer.0.layer_norm", "layer.1.layer_norm", "layer.2.layer_norm"),
)
_GPT2 = Plan(
    (
        AttentionNames(
            "attn",
            (Projection("attn.c_attn", 0, 3), Projection("attn.c_attn", 1, 3), Projection("attn.c_attn", 2, 3)),
            "attn.c_proj",
            "head_dim",
            constant=False,
            counts=("num_heads",),
            widths=("split_size",),
        ),
    ),
    (FeedForwardNames(("mlp.c_fc",), "mlp.c_proj", "mlp.act"),),
)
_LLAMA = Plan(
    (_named("self_attn", _QKVO, "head_dim", constant=False),),
    (FeedForwardNames(("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj", "mlp.act_fn"),),
    ("input_layernorm", "post_attention_layernorm"),
)
_VIT = Plan(
    (_named("attention", _QKVO, "head_dim", ("num_attention_heads",), constant=False),),
    (FeedForwardNames(("mlp.fc1",), "mlp.fc2", "mlp.activation_fn"),),
)

BLOCKS = {
    **dict.fromkeys(("BertLayer", "RobertaLayer", "XLMRobertaLayer", "ElectraLayer"), _BERT),
    "TransformerBlock": _DISTILBERT,
    **dict.fromkeys(("BartEncoderLayer", "BartDecoderLayer"), _BART),
    "T5Block": _T5,
    "GPT2Block": _GPT2,
    **dict.fromkeys(("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer"), _LLAMA),
    "ViTLayer": _VIT,
}
"""Class of a block in Transformers -> what it is made of."""


@dataclass(frozen=True)
class Body:
    """What a class holds beside its blocks.

    Args:
        tables: embedding tables that are summed, relative to it.
        norm: its final RMSNorm; None in a model with LayerNorm.
    """

    tables: tuple[str, ...]
    norm: str | None = None


_WORD_POSITION_TYPE = Body(("word_embeddings", "position_embeddings", "token_type_embeddings"))

BODIES = {
    **dict.fromkeys(("BertEmbeddings", "RobertaEmbeddings", "XLMRobertaEmbeddings", "ElectraEmbeddings"), _WORD_POSITION_TYPE),
    "Embeddings": Body(("word_embeddings", "position_embeddings")),
    **dict.fromkeys(("BartEncoder", "BartDecoder"), Body(("embed_tokens", "embed_positions"))),
    "T5Stack": Body(("embed_tokens",), "final_layer_norm"),
    "GPT2Model": Body(("wte", "wpe")),
    **dict.fromkeys(("LlamaModel", "MistralModel", "Qwen2Model", "Qwen3Model"), Body(("embed_tokens",), "norm")),
}
"""Class of Transformers that holds embedding tables -> which."""

HEADS = ("lm_head", "score", "qa_outputs", "classifier", "classification_head.dense")
"""Linear layers on top of a whole model that read its residual stream after the final norm."""
