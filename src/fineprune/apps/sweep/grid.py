"""Settings as text: the values of a grid, and folder names made of them."""

import hashlib
import re
from collections.abc import Iterable

from ...errors import InvalidInputError

OPENING, CLOSING, QUOTES = "[{", "]}", "'\""


def read_grids(texts: Iterable[str]) -> dict[str, list[str]]:
    """Reads `KEY=VALUE,VALUE,...` texts into the values of each key."""
    grids: dict[str, list[str]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals or not key or key.startswith("-"):
            raise InvalidInputError(f"--grid must be KEY=VALUE,VALUE as in pruning.density=0.3,0.1, got {text!r}.")
        if key in grids:
            raise InvalidInputError(f"--grid must be given once for {key}, with all its values: --grid {key}=A,B,C")
        grids[key] = [_unquoted(value) for value in split(values)]
        if len(set(grids[key])) < len(grids[key]) or "" in grids[key]:
            raise InvalidInputError(f"--grid must have different values, none of them empty, got {text!r}.")
    return grids


def split(text: str) -> list[str]:
    """Splits at the commas outside brackets, braces and quotes."""
    pieces, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in QUOTES and pieces[-1].rstrip()[-1:] in ("", ",", ":", *OPENING):
            quote = character
        else:
            depth += (character in OPENING) - (character in CLOSING)
        if depth < 0:
            break
        if character == "," and not depth and not quote:
            pieces.append("")
        else:
            pieces[-1] += character
    if depth or quote:
        raise InvalidInputError(f"{text!r} has brackets, braces or quotes that do not match.")
    return [piece.strip() for piece in pieces]


def _unquoted(value: str) -> str:
    whole = re.fullmatch(r"(['\"])(.*)\1", value)
    return whole[2] if whole and whole[1] not in whole[2] else value


def slug(text: str, most: int = 40) -> str:
    """Returns a text as a piece of a file name: unchanged if possible, otherwise its readable characters and a hash."""
    if re.fullmatch(r"[A-Za-z0-9_+-][A-Za-z0-9._+-]*", text) and len(text) <= most:
        return text
    readable = re.sub(r"[^A-Za-z0-9._+]+", "-", re.sub(r"class_path|init_args", "", text)).strip("-.")
    return f"{readable[:most]}-{hashlib.sha256(text.encode()).hexdigest()[:6]}".lstrip("-")
