"""Rewrites a fast tokenizer for fewer tokens, through its own files."""

import copy
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import InvalidInputError

IdPlaces = list[tuple[Any, Any]]
"""Where ids of tokens are held: containers, and the key or index inside each."""

USER_SETTINGS = ("padding_side", "truncation_side", "model_input_names", "clean_up_tokenization_spaces", "split_special_tokens")
"""Attributes of a tokenizer that a user may have set, and that its files do not always hold."""


def id_places(state: Mapping[str, Any]) -> IdPlaces:
    """Returns where a tokenizer.json holds ids beside its vocabulary."""
    places = [(token, "id") for token in state["added_tokens"]]
    if state["padding"] is not None:
        places.append((state["padding"], "pad_id"))
    if state["model"].get("unk_id") is not None:
        places.append((state["model"], "unk_id"))
    return places + ([] if state["post_processor"] is None else _places_of_processor(state["post_processor"]))


def _places_of_processor(processor: dict[str, Any]) -> IdPlaces:
    match processor["type"]:
        case "Sequence":
            return [place for part in processor["processors"] for place in _places_of_processor(part)]
        case "TemplateProcessing":
            lists = [token["ids"] for token in processor["special_tokens"].values()]
            return [(ids, place) for ids in lists for place in range(len(ids))]
        case "BertProcessing" | "RobertaProcessing":
            return [(processor["sep"], 1), (processor["cls"], 1)]
        case "ByteLevel":
            return []
        case kind:
            raise InvalidInputError(f"The tokenizer has a post-processor of the kind {kind}, whose ids are not known here.")


def joined(pair: list[str], model: Mapping[str, Any]) -> str:
    """Returns the token that a merge makes of a pair."""
    left, right = pair
    return left + right[len(model["continuing_subword_prefix"] or "") :]


def rewritten(tokenizer: Any, state: dict[str, Any], ids: Mapping[int, int]) -> Any:
    """Returns a tokenizer of the same class and settings with the kept tokens under their new ids.

    It is made through files, so that its class derives all that depends on ids from the new ones.
    """
    from tokenizers.models import Unigram

    model = state["model"]
    if model["type"] == "BPE":
        merges = ([*pair, joined(pair, model)] for pair in model["merges"])
        model["merges"] = [three[:2] for three in merges if all(model["vocab"][token] in ids for token in three)]
    if model["type"] == "Unigram":
        model["vocab"] = [piece for number, piece in enumerate(model["vocab"]) if number in ids]
    else:
        model["vocab"] = {token: ids[number] for token, number in model["vocab"].items() if number in ids}
    for container, key in id_places(state):
        container[key] = ids[container[key]]
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        text = json.dumps(state, ensure_ascii=False)
        (Path(folder) / "tokenizer.json").write_text(text, encoding="utf-8")
        loaded = type(tokenizer).from_pretrained(folder)
    backend = type(tokenizer.backend_tokenizer).from_str(text)
    if model["type"] == "Unigram":  # the reader of JSON rounds scores; these are the old ones bit for bit
        pieces = [tuple(piece) for piece in model["vocab"]]
        backend.model = Unigram(pieces, unk_id=model["unk_id"], byte_fallback=model["byte_fallback"])
    backend.encode_special_tokens = tokenizer.backend_tokenizer.encode_special_tokens
    _check_stable(loaded.backend_tokenizer, backend, {t: ids[old] for t, old in tokenizer.get_vocab().items() if old in ids})
    vars(loaded).update(_tokenizer=backend, name_or_path=tokenizer.name_or_path)
    vars(loaded).update({name: copy.deepcopy(getattr(tokenizer, name)) for name in USER_SETTINGS})
    loaded.init_kwargs["name_or_path"] = tokenizer.name_or_path
    return loaded


def _check_stable(loaded: Any, backend: Any, expected: Mapping[str, int]) -> None:
    """Raises unless the tokenizer that its class loads has the vocabulary of the files, and that is the expected one."""
    mine, theirs = (json.loads(one.to_str())["model"] for one in (backend, loaded))
    same = all(mine.get(key) == theirs.get(key) for key in ("merges", "unk_id"))
    if not same or not backend.get_vocab() == loaded.get_vocab() == expected:
        raise InvalidInputError(
            "The tokenizer that its class loads from its own files differs: tokens have other ids. Save it, load it with "
            "AutoTokenizer, and give the one loaded, if that still fits the model."
        )
