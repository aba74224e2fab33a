"""Which tokens a corpus needs: those of its texts, and those without which the tokenizer would split them otherwise."""

import copy
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from ...errors import InvalidInputError
from .tokenizer import id_places, joined

Sample = str | tuple[str, str]

BATCH = 1000
BYTE = re.compile(r"<0x[0-9A-F]{2}>")
SURROGATE = re.compile("[\ud800-\udfff]")


def _samples(texts: Iterable[Sample]) -> Iterator[Sample]:
    if isinstance(texts, str | Mapping) or not isinstance(texts, Iterable):
        raise InvalidInputError(f"The texts are of the type {type(texts).__name__}; give a list of str, or another iterable.")
    for number, sample in enumerate(texts):
        parts = sample if isinstance(sample, tuple) and len(sample) == 2 else (sample,)
        if not all(isinstance(part, str) for part in parts):
            raise InvalidInputError(
                f"Text {number} is of the type {type(sample).__name__}: {sample!r:.80}. Give a str, or a pair (str, str)."
            )
        if any(SURROGATE.search(part) for part in parts):
            raise InvalidInputError(
                f"Text {number} holds half of a surrogate pair, which is no character. Decode it again from its bytes."
            )
        yield sample


def used_ids(backend: Any, model: Mapping[str, Any], texts: Iterable[Sample]) -> set[int]:
    """Returns the ids in the encodings of the texts; with WordPiece also those of which `_attempts` tells."""
    encoder, samples, used = copy.deepcopy(backend), _samples(texts), set[int]()
    encoder.encode_special_tokens = backend.encode_special_tokens
    encoder.no_truncation()
    encoder.no_padding()
    unknown = model["vocab"].get(model["unk_token"]) if model["type"] == "WordPiece" else None
    while batch := list(islice(samples, BATCH)):
        for sample, encoding in zip(batch, encoder.encode_batch_fast(batch), strict=True):
            found = set(encoding.ids)
            if unknown in found:
                for text in (sample,) if isinstance(sample, str) else sample:
                    found |= _attempts(encoder, model, text)
            used |= found
    if not used - encoder.get_added_tokens_decoder().keys():
        raise InvalidInputError("The texts hold no token but special ones. Give the texts on which the model is to work.")
    return used


def _attempts(encoder: Any, model: Mapping[str, Any], text: str) -> set[int]:
    """Returns the pieces that WordPiece takes from a text's words before it gives words up as unknown.

    With "ab", "a" and "##bc", the word "abc" is unknown: its longest piece "ab" leaves a "c" behind. Without "ab" it
    would be "a", "##bc"; so a piece that was taken stays, though it is in no encoding.
    """
    encoding, added = encoder.encode(text, add_special_tokens=False), encoder.get_added_tokens_decoder()
    unknown = model["vocab"][model["unk_token"]]
    apart = [  # written out in the text, so no word; an unknown word has the same id as its token written out
        span
        for token, span in zip(encoding.ids, encoding.offsets, strict=True)
        if token in added and (token != unknown or text[slice(*span)].strip() == model["unk_token"])
    ]
    between = zip([0, *(end for _, end in apart)], [*(start for start, _ in apart), len(text)], strict=True)
    words = (word for start, end in between for word in _words(encoder, text[start:end]))
    return {piece for word in words if len(word) <= model["max_input_chars_per_word"] for piece in _greedy(word, model)}


def _words(encoder: Any, text: str) -> list[str]:
    normal = text if encoder.normalizer is None else encoder.normalizer.normalize_str(text)
    if encoder.pre_tokenizer is None:
        return [normal]
    return [word for word, _ in encoder.pre_tokenizer.pre_tokenize_str(normal)]


def _greedy(word: str, model: Mapping[str, Any]) -> Iterator[int]:
    """Yields the longest pieces from left to right, up to where none fits."""
    start, vocabulary = 0, model["vocab"]
    while start < len(word):
        before = model["continuing_subword_prefix"] if start else ""
        end = next((end for end in range(len(word), start, -1) if before + word[start:end] in vocabulary), None)
        if end is None:
            return
        yield vocabulary[before + word[start:end]]
        start = end


def indispensable(state: Mapping[str, Any]) -> set[int]:
    """Returns the ids of tokens without which the tokenizer would work otherwise, or not at all."""
    model, vocabulary = state["model"], state["model"]["vocab"]
    ids = {container[key] for container, key in id_places(state)}
    if model["type"] == "Unigram":
        scores, unknown = [score for _, score in vocabulary], model["unk_id"]
        # The unknown costs 10 more than the worst piece. Some classes state its place, 2 or 3: the pieces before it stay.
        ids |= {scores.index(min(scores)), *range(0 if unknown is None else unknown)}
        vocabulary = {piece: number for number, (piece, _) in enumerate(vocabulary)}
    elif model.get("unk_token") in vocabulary:
        ids.add(vocabulary[model["unk_token"]])
    if model.get("byte_fallback"):
        ids |= {number for piece, number in vocabulary.items() if BYTE.fullmatch(piece)}
    if _has_bytes(state["pre_tokenizer"]) or _has_bytes(state["normalizer"]):
        from tokenizers.pre_tokenizers import ByteLevel

        alphabet = set(ByteLevel.alphabet())
        before, after = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
        ids |= {n for piece, n in vocabulary.items() if piece.removeprefix(before).removesuffix(after) in alphabet}
    return ids


def _has_bytes(step: Any) -> bool:
    """Whether a step, or one inside it, writes text as bytes."""
    if isinstance(step, dict):
        return step.get("type") == "ByteLevel" or any(_has_bytes(part) for part in step.values())
    return isinstance(step, list) and any(_has_bytes(part) for part in step)


def closed(ids: set[int], model: Mapping[str, Any]) -> set[int]:
    """Returns the ids with those of every part of which a merge of BPE makes one of them, and of its parts in turn.

    BPE joins, again and again, that pair of neighbours whose merge comes first in its list. Every merge that it applies to a
    word makes a part of a token of that word, so all three of its tokens are in the closure, and the merge stays. The merges
    that stay are a part of the old list, in its order. So at each step the merge that came first is still there, and none
    comes before it: the steps, and the tokens, are the same.
    """
    if model["type"] != "BPE":
        return ids
    vocabulary, parts = model["vocab"], defaultdict[int, set[int]](set)
    for pair in model["merges"]:
        parts[vocabulary[joined(pair, model)]].update(vocabulary[part] for part in pair)
    closed, waiting = set(ids), list(ids)
    while waiting:
        found = parts[waiting.pop()] - closed
        closed |= found
        waiting.extend(found)
    return closed
