"""Selects the tokens that a corpus uses, in a copy of a model and of its tokenizer."""

import copy
import json
import logging
from collections.abc import Iterable
from typing import Any, TypeVar

from torch import nn

from ...errors import InvalidInputError, enumeration, require
from .rows import named_ids, of_tokens, select_rows
from .tokenizer import rewritten
from .tokens import Sample, closed, indispensable, used_ids

logger = logging.getLogger(__name__)

Model = TypeVar("Model", bound=nn.Module)
Tokenizer = TypeVar("Tokenizer")

KINDS = ("BPE", "Unigram", "WordLevel", "WordPiece")


def select_vocabulary(model: Model, tokenizer: Tokenizer, texts: Iterable[Sample]) -> tuple[Model, Tokenizer]:
    """Returns a copy of a model and of its tokenizer with those tokens only that a corpus uses.

    For every text of the corpus the new tokenizer gives the same tokens, and the new model the same outputs (logits over the
    vocabulary: those of the tokens kept). Other text is still encoded: by shorter pieces, or as unknown.

    Kept are the tokens of the texts, in full length; the special and the added ones; those that the config names; and those
    that the tokenizer cannot do without, such as its bytes and the pieces of which BPE builds a token. They keep their order:
    the new id of a token is its rank among the old ids kept. Rows that belong to no token go too.

    Args:
        model: of Transformers, with one table of tokens, which heads and further embeddings may share. It stays as it is.
        tokenizer: the model's fast tokenizer: WordPiece, BPE, Unigram or WordLevel. It stays as it is.
        texts: the corpus, read once; a sample may be a pair of texts.

    Returns:
        The new model and the new tokenizer. Saved, they load with plain `from_pretrained`.

    Raises:
        InvalidInputError: if model or tokenizer are of another form, do not fit, or the texts hold no token.
    """
    require("hub", "transformers")
    given: Any = tokenizer
    state = _checked_state(model, given)
    backend = given.backend_tokenizer
    selected = copy.deepcopy(model)
    rows, parameters = of_tokens(selected)
    used = used_ids(backend, state["model"], texts)
    if max(used) >= rows:
        raise InvalidInputError(
            f"The texts use the token {backend.id_to_token(max(used))!r} with the id {max(used)}, and the model's table has "
            f"{rows} rows. Give the tokenizer that belongs to the model, or resize the model's embeddings first."
        )
    wanted = used | indispensable(state) | set(given.all_special_ids) | named_ids(selected, rows, parameters)
    ids = {old: new for new, old in enumerate(sorted(closed(wanted, state["model"])))}
    select_rows(selected, rows, parameters, ids)
    matching: Tokenizer = rewritten(given, state, ids)
    before, after = (sum(parameter.numel() for parameter in one.parameters()) for one in (model, selected))
    logger.info("Kept %d of %d tokens: %d parameters fewer.", len(ids), backend.get_vocab_size(), before - after)
    return selected, matching


def _checked_state(model: Any, tokenizer: Any) -> dict[str, Any]:
    """Returns the content of the tokenizer.json of a tokenizer that can be rewritten."""
    import transformers

    if not isinstance(model, transformers.PreTrainedModel):
        raise InvalidInputError(f"The model is a {type(model).__name__}; give a PreTrainedModel of Transformers, not wrapped.")
    if not isinstance(tokenizer, transformers.PreTrainedTokenizerBase) or not tokenizer.is_fast:
        raise InvalidInputError(
            f"The tokenizer is a {type(tokenizer).__name__}; give a fast one of Transformers, which has a tokenizer.json."
        )
    state: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    kind = state["model"]["type"]
    if kind not in KINDS:
        raise InvalidInputError(f"The tokenizer is of the kind {kind}; a vocabulary can be selected for {enumeration(KINDS)}.")
    if state["model"].get("dropout"):
        raise InvalidInputError(
            "The tokenizer drops merges at random, so no text has tokens of its own. Set its dropout to None."
        )
    return state
