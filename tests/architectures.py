"""The architectures people use: small random models, batches with labels, and the weights to be pruned by default."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import transformers
from torch import Tensor, nn

VOCABULARY = 100
ROWS = 4
LENGTH = 12


@dataclass(frozen=True)
class Architecture:
    """How to make one.

    Args:
        settings: of the config; two layers, and no dropout.
        task: the head, as in the names of the AutoModelFor classes.
        targets: the list of blocks -> the linear layers of each of its two blocks.
    """

    settings: dict[str, object]
    task: str
    targets: dict[str, set[str]]


LAYERS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
SIZES = {"vocab_size": VOCABULARY, **LAYERS}
DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}

BERT_LAYER = {
    *(f"attention.self.{part}" for part in ("query", "key", "value")),
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
}
BART_LAYER = {*(f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")), "fc1", "fc2"}
LLAMA_LAYER = {*(f"self_attn.{part}_proj" for part in "qkvo"), *(f"mlp.{part}_proj" for part in ("gate", "up", "down"))}

ARCHITECTURES = {
    "bert": Architecture(SIZES | DROPOUT, "SequenceClassification", {"bert.encoder.layer": BERT_LAYER}),
    "roberta": Architecture(SIZES | DROPOUT, "QuestionAnswering", {"roberta.encoder.layer": BERT_LAYER}),
    "distilbert": Architecture(
        {"vocab_size": VOCABULARY, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
        | {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0},
        "SequenceClassification",
        {"distilbert.transformer.layer": {*(f"attention.{p}_lin" for p in ("q", "k", "v", "out")), "ffn.lin1", "ffn.lin2"}},
    ),
    "electra": Architecture(SIZES | DROPOUT, "TokenClassification", {"electra.encoder.layer": BERT_LAYER}),
    "mpnet": Architecture(
        SIZES | DROPOUT,
        "SequenceClassification",
        {"mpnet.encoder.layer": {*(f"attention.attn.{part}" for part in "qkvo"), "intermediate.dense", "output.dense"}},
    ),
    "deberta-v2": Architecture(
        SIZES
        | DROPOUT
        | {"conv_kernel_size": 3, "norm_rel_ebd": "layer_norm", "position_biased_input": False}
        | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 4, "share_att_key": True},
        "SequenceClassification",
        {
            "deberta.encoder.layer": {
                *(f"attention.self.{part}_proj" for part in ("query", "key", "value")),
                "attention.output.dense",
                "intermediate.dense",
                "output.dense",
            }
        },
    ),
    "modernbert": Architecture(
        SIZES | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
        "SequenceClassification",
        {"model.layers": {"attn.Wqkv", "attn.Wo", "mlp.Wi", "mlp.Wo"}},
    ),
    "t5": Architecture(
        {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
        | {"dropout_rate": 0.0, "decoder_start_token_id": 0},
        "Seq2SeqLM",
        {
            "encoder.block": {
                *(f"layer.0.SelfAttention.{part}" for part in "qkvo"),
                *(f"layer.1.DenseReluDense.w{part}" for part in "io"),
            },
            "decoder.block": {
                *(f"layer.0.SelfAttention.{part}" for part in "qkvo"),
                *(f"layer.1.EncDecAttention.{part}" for part in "qkvo"),
                *(f"layer.2.DenseReluDense.w{part}" for part in "io"),
            },
        },
    ),
    "bart": Architecture(
        {"vocab_size": VOCABULARY, "d_model": 32, "max_position_embeddings": 32, "dropout": 0.0}
        | {"encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 64}
        | {"decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 64},
        "Seq2SeqLM",
        {
            "model.encoder.layers": BART_LAYER,
            "model.decoder.layers": BART_LAYER | {name.replace("self_attn", "encoder_attn") for name in BART_LAYER},
        },
    ),
    "gpt2": Architecture(
        {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32}
        | {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 1, "eos_token_id": 1},
        "CausalLM",
        {"transformer.h": {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}},
    ),
    "llama": Architecture(SIZES | {"num_key_value_heads": 1}, "CausalLM", {"model.layers": LLAMA_LAYER}),
    "qwen2": Architecture(
        SIZES | {"num_key_value_heads": 1, "tie_word_embeddings": True}, "CausalLM", {"model.layers": LLAMA_LAYER}
    ),
    "qwen3": Architecture(SIZES | {"num_key_value_heads": 1, "head_dim": 8}, "CausalLM", {"model.layers": LLAMA_LAYER}),
    "vit": Architecture(
        LAYERS | DROPOUT | {"image_size": 8, "patch_size": 4},
        "ImageClassification",
        {"vit.layers": {*(f"attention.{part}_proj" for part in "qkvo"), "mlp.fc1", "mlp.fc2"}},
    ),
    "wav2vec2": Architecture(
        SIZES
        | {"conv_dim": (16, 16), "conv_stride": (5, 2), "conv_kernel": (10, 3)}
        | {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
        | {"hidden_dropout": 0.0, "activation_dropout": 0.0, "attention_dropout": 0.0, "layerdrop": 0.0}
        | {"feat_proj_dropout": 0.0, "final_dropout": 0.0, "apply_spec_augment": False},
        "CTC",
        {
            "wav2vec2.encoder.layers": {
                *(f"attention.{part}_proj" for part in ("q", "k", "v", "out")),
                "feed_forward.intermediate_dense",
                "feed_forward.output_dense",
            }
        },
    ),
}


def build(kind: str) -> nn.Module:
    """Returns a random model of the stock class, in training mode."""
    architecture = ARCHITECTURES[kind]
    config = transformers.AutoConfig.for_model(kind, **architecture.settings)
    return getattr(transformers, f"AutoModelFor{architecture.task}").from_config(config)


def target_names(kind: str) -> set[str]:
    """Returns the names of the parameters to be pruned by default."""
    lists = ARCHITECTURES[kind].targets.items()
    return {f"{blocks}.{number}.{name}.weight" for blocks, names in lists for number in (0, 1) for name in names}


def batches(kind: str, number: int) -> list[dict[str, Tensor]]:
    """Returns batches with labels, random; the last tokens of the first text are padding."""
    generator = torch.Generator().manual_seed(7)
    return [BATCHES[ARCHITECTURES[kind].task](generator) for _ in range(number)]


def _tokens(generator: torch.Generator) -> Tensor:
    return torch.randint(3, VOCABULARY, (ROWS, LENGTH), generator=generator)  # below are the special ones


def _text(generator: torch.Generator) -> dict[str, Tensor]:
    mask = torch.ones(ROWS, LENGTH, dtype=torch.int64)
    mask[0, -3:] = 0
    return {"input_ids": _tokens(generator), "attention_mask": mask}


def _classes(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randint(0, 2, shape, generator=generator)


def _spans(generator: torch.Generator) -> dict[str, Tensor]:
    start, length = torch.randint(0, LENGTH // 2, (2, ROWS), generator=generator)
    return {"start_positions": start, "end_positions": start + length}


def _continuation(text: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**text, "labels": text["input_ids"].masked_fill(text["attention_mask"] == 0, -100)}


BATCHES: dict[str, Callable[[torch.Generator], dict[str, Tensor]]] = {
    "SequenceClassification": lambda generator: {**_text(generator), "labels": _classes(generator, ROWS)},
    "TokenClassification": lambda generator: {**_text(generator), "labels": _classes(generator, ROWS, LENGTH)},
    "QuestionAnswering": lambda generator: {**_text(generator), **_spans(generator)},
    "CausalLM": lambda generator: _continuation(_text(generator)),
    "Seq2SeqLM": lambda generator: {**_text(generator), "labels": _tokens(generator)},
    "ImageClassification": lambda generator: {
        "pixel_values": torch.randn(ROWS, 3, 8, 8, generator=generator),
        "labels": _classes(generator, ROWS),
    },
    "CTC": lambda generator: {"input_values": torch.randn(ROWS, 400, generator=generator), "labels": _tokens(generator)},
}
"""A task -> one batch for it."""
