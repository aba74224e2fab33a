"""Settings as text: a grid's values apart, and a name for them that a folder can bear."""

import hashlib
import re
from collections.abc import Iterable, Sequence

from ...errors import InvalidInputError

OPENING, CLOSING, QUOTES = "[{", "]}", "'\""


def read_grids(texts: Iterable[str]) -> dict[str, list[str]]:
    """Reads `KEY=VALUE,VALUE,...` texts into the values of each key.

    Raises:
        InvalidInputError: for a text that is not so, and a key or a value that is given twice.
    """
    grids: dict[str, list[str]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals or not key or key.startswith("-"):
            raise InvalidInputError(f"--grid was given as {text!r}; it is KEY=VALUE,VALUE as in pruning.density=0.3,0.1")
        if key in grids:
            raise InvalidInputError(f"--grid {key} was given twice. Give all its values in one: --grid {key}=A,B,C")
        grids[key] = [_unquoted(value) for value in split(values)]
        if len(set(grids[key])) < len(grids[key]) or "" in grids[key]:
            raise InvalidInputError(f"--grid was given as {text!r}, with a value that is empty or that is there twice.")
    return grids


def split(text: str) -> list[str]:
    """Splits at the commas that stand in no brackets, braces or quotes.

    Raises:
        InvalidInputError: if one of those is not closed, or closed and never opened.
    """
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in QUOTES and parts[-1].rstrip()[-1:] in ("", ",", ":", *OPENING):
            quote = character
        else:
            depth += (character in OPENING) - (character in CLOSING)
        if depth < 0:
            break
        if character == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += character
    if depth or quote:
        raise InvalidInputError(f"{text!r} has brackets, braces or quotes that do not match.")
    return [part.strip() for part in parts]


def _unquoted(value: str) -> str:
    whole = re.fullmatch(r"(['\"])(.*)\1", value)
    return whole[2] if whole and whole[1] not in whole[2] else value


def short_keys(keys: Sequence[str]) -> list[str]:
    """Returns the last word of each key, or the whole keys where two end alike."""
    last = [key.rpartition(".")[2] for key in keys]
    return last if len(set(last)) == len(last) else list(keys)


def slug(text: str, most: int = 40) -> str:
    """Returns a text as a piece of a file name: as it is where it can be, else what is readable of it and a hash of it."""
    if re.fullmatch(r"[A-Za-z0-9_+-][A-Za-z0-9._+-]*", text) and len(text) <= most:
        return text
    readable = re.sub(r"[^A-Za-z0-9._+]+", "-", re.sub(r"class_path|init_args", "", text)).strip("-.")
    return f"{readable[:most]}-{hashlib.sha256(text.encode()).hexdigest()[:6]}".lstrip("-")
