"""Loads pretrained models and tokenizers for tasks, from the Hub or a folder, and prepares them."""

import logging
from typing import Any

import transformers
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ...compress.loading import open_saved
from ...compress.resizing.building import loading
from ...errors import InvalidInputError, nearest
from ...models import targets

logger = logging.getLogger(__name__)

HEADS = {
    "AutoModelForSequenceClassification": "text classifier",
    "AutoModelForQuestionAnswering": "model for extractive question answering",
    "AutoModelForCausalLM": "causal language model",
}
"""The heads of tasks, as error messages name them."""


def load_pretrained(
    name: str, head: str = "AutoModelForSequenceClassification", **config: Any
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Loads a tokenizer and a model with a head; a shrunken or packed model too.

    Args:
        name: name on the Hub, or folder.
        head: the class of Transformers that loads it.
        config: settings of the model's config to change.

    Raises:
        InvalidInputError: if it is no checkpoint of such a model, lacks weights, or the config has no such setting.
    """
    with loading(name, f"a {HEADS.get(head, head)}"):
        saved = open_saved(name, use_safetensors=None)
        known = {*saved.config.to_dict(), "num_labels", "problem_type"}
        for key, value in config.items():
            if key not in known:
                raise InvalidInputError(f"The config of {name} has no setting {key!r}; {nearest(key, known)}")
            setattr(saved.config, key, value)
        return AutoTokenizer.from_pretrained(name, config=saved.config), saved.load(head)


def load_any(name: str) -> PreTrainedModel:
    """Loads any checkpoint, of a shrunken or packed model too, as the class that its config names, or else without a head."""
    with loading(name):
        saved = open_saved(name, use_safetensors=None)
        architecture = (saved.config.architectures or ["AutoModel"])[0]
        return saved.load(architecture if hasattr(transformers, architecture) else "AutoModel")


def give_padding(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Makes a tokenizer without a token for padding, as GPT-2's, pad with the one that ends a text.

    A sequence ends before its padding, so the model sees none of it.
    """
    if tokenizer.pad_token is not None:
        return
    if tokenizer.eos_token is None:
        raise InvalidInputError(f"The tokenizer of {tokenizer.name_or_path} has no token for padding. Add one, and save it.")
    logger.warning("The tokenizer has no token for padding; %r, which ends a text, is taken.", tokenizer.eos_token)
    tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id


def check_length(model: PreTrainedModel, tokens: int) -> None:
    """Raises InvalidInputError if the longest text has more tokens than the model has learned positions for."""
    most = learned_positions(model)
    if most is not None and tokens > most:
        raise InvalidInputError(
            f"A text has {tokens} tokens, and this {model.config.model_type} model has positions for {most} at most. "
            f"Set max_length to {most} or less."
        )


def learned_positions(model: PreTrainedModel) -> int | None:
    """Returns for how many positions the model has a vector each; None where positions are relative, or computed.

    RoBERTa's family counts from behind the number of the padding; BART's has two rows more than positions.
    """
    most, words = getattr(model.config, "max_position_embeddings", None), model.get_input_embeddings()
    if most is None:
        return None
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding) and module is not words]
    unused = [0 if table.padding_idx is None else table.padding_idx + 1 for table in tables]
    sizes = {table.num_embeddings: most - rows for table, rows in zip(tables, unused, strict=True)}
    return sizes.get(most, most if most + 2 in sizes else None)


def freeze(model: nn.Module, frozen_modules: list[str] | str) -> None:
    """Stops every parameter inside the named modules from being trained."""
    modules = {name: module for name, module in model.named_modules() if name}
    targets.check_matched(frozen_modules, modules, kind="module")
    for name, module in modules.items():
        if targets.matches(name, frozen_modules):
            module.requires_grad_(False)
