"""What the configs of known models say about sizes, and by which names."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Stated:
    """Names of settings, of one class of block.

    Args:
        neurons: of a feed-forward layer.
        heads, groups: query heads, and key and value heads, where a head size of its own is stated too; else None,
            as the size of a head follows from their number, and fewer of the same size cannot be said.
        head_size: features of a head.
        width, epsilon: features of the residual stream and what its RMSNorms add; None in a model with LayerNorm.
    """

    neurons: str
    heads: str | None = None
    groups: str | None = None
    head_size: str | None = None
    width: str | None = None
    epsilon: str | None = None


_LLAMA = Stated("intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_size", "rms_norm_eps")

STATED = {
    **dict.fromkeys(("BertLayer", "RobertaLayer", "XLMRobertaLayer", "ElectraLayer"), Stated("intermediate_size")),
    "TransformerBlock": Stated("hidden_dim"),
    "BartEncoderLayer": Stated("encoder_ffn_dim"),
    "BartDecoderLayer": Stated("decoder_ffn_dim"),
    "T5Block": Stated("d_ff", "num_heads", None, "d_kv", "d_model", "layer_norm_epsilon"),
    "GPT2Block": Stated("n_inner"),
    **dict.fromkeys(("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer"), _LLAMA),
    "ViTLayer": Stated("intermediate_size", "num_attention_heads", None, "head_dim"),
}
"""Class of a block in Transformers -> the names."""
