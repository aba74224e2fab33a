"""Loads pretrained models and tokenizers, from the Hub or a folder; what cannot be used is refused with a clear error."""

import logging
from typing import Any

from torch import nn

from ...compress.packing.load import load_packed
from ...compress.packing.settings import is_packed, read_settings
from ...compress.resizing.building import load_marked
from ...compress.resizing.reading import loading_errors, read_config
from ...compress.resizing.stock import is_marked
from ...errors import InvalidInputError, enumeration, nearest, require
from ...models import targets

require("hub", "transformers")

import transformers  # noqa: E402
from transformers import (  # noqa: E402
    AutoModel,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

logger = logging.getLogger(__name__)

LOADING_ERRORS = loading_errors()
"""What Transformers raises for a folder, a file or a setting of which it cannot make a model."""

HEADS = {
    "AutoModelForSequenceClassification": "text classifier",
    "AutoModelForQuestionAnswering": "model for extractive question answering",
    "AutoModelForCausalLM": "causal language model",
}
"""The heads that tasks ask for, in words."""


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
    try:
        settings = read_settings(name) if is_packed(name) else read_config(name)
        for key, value in config.items():
            _check_known(key, settings, name)
            setattr(settings, key, value)
        if is_packed(name):
            return AutoTokenizer.from_pretrained(name, config=settings), load_packed(name, settings, head)
        if is_marked(settings):
            return AutoTokenizer.from_pretrained(name, config=settings), load_marked(name, settings, head)
        tokenizer = AutoTokenizer.from_pretrained(name)
        return tokenizer, _load(getattr(transformers, head), name, config=settings)
    except InvalidInputError:
        raise
    except LOADING_ERRORS as error:
        raise InvalidInputError(
            f"{name} could not be loaded as a {HEADS.get(head, head)}: {' '.join(str(error).split())}"
        ) from error


def _check_known(key: str, settings: PreTrainedConfig, name: str) -> None:
    known = {*settings.to_dict(), "num_labels", "problem_type"}
    if key not in known:
        raise InvalidInputError(f"The config of {name} has no setting {key!r}; {nearest(key, known)}")


def load_any(name: str) -> PreTrainedModel:
    """Loads any checkpoint, of a shrunken or packed model too, as the class that its config names.

    Raises:
        InvalidInputError: if it is no checkpoint, or lacks weights of that class.
    """
    try:
        if is_packed(name):
            return load_packed(name, read_settings(name))
        settings = read_config(name)
        if is_marked(settings):
            return load_marked(name, settings, None)
        architectures = settings.architectures or []
        return _load(getattr(transformers, architectures[0], AutoModel) if architectures else AutoModel, name)
    except InvalidInputError:
        raise
    except LOADING_ERRORS as error:
        raise InvalidInputError(f"{name} is not a checkpoint that can be read: {' '.join(str(error).split())}") from error


def _load(kind: Any, name: str, **settings: Any) -> PreTrainedModel:
    """Loads a model; raises if weights inside its blocks were not in the checkpoint and would be random."""
    loaded: tuple[PreTrainedModel, dict[str, Any]] = kind.from_pretrained(
        name, output_loading_info=True, ignore_mismatched_sizes=True, **settings
    )
    model, report = loaded
    missing = targets.inside_blocks(model, sorted(report["missing_keys"]))
    if missing:
        raise InvalidInputError(f"{name} lacks weights that its config names: {enumeration(missing)}.")
    _check_sizes(model, name, [key for key, *_ in report["mismatched_keys"]])
    return model


def _check_sizes(model: PreTrainedModel, name: str, mismatched: list[str]) -> None:
    """Raises if weights of other sizes than the config says were left out, but for those of a head: it is made anew."""
    body = [key for key in sorted(mismatched) if key.startswith(f"{model.base_model_prefix}.")]
    if body:
        raise InvalidInputError(f"{name} holds weights of other sizes than its config says: {enumeration(body)}.")
    if mismatched:
        logger.warning("The head of %s has other sizes (%s), and a new one is trained.", name, enumeration(sorted(mismatched)))


def give_padding(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Lets a tokenizer without a token for padding, as GPT-2's, pad with the one that ends a text.

    A sequence ends before its padding, so the model sees none of it.

    Raises:
        InvalidInputError: if there is no token that ends a text either.
    """
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise InvalidInputError(
                f"The tokenizer of {tokenizer.name_or_path} has no token for padding. Add one, and save it."
            )
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
    """Stops every parameter inside the named modules from being trained.

    Raises:
        InvalidInputError: for a name that matches no module.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    targets.check_matched(frozen_modules, modules, what="module")
    for name, module in modules.items():
        if targets.matches(name, frozen_modules):
            module.requires_grad_(False)
