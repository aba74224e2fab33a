"""The errors that a user can cause. Each message says what is wrong, what is allowed and what to do.

The command line turns a `FinepruneError` into one sentence and an exit code; any other exception
is a fault of this library and keeps its traceback.
"""

import difflib
import importlib.util
from collections.abc import Iterable


class FinepruneError(Exception):
    """Base of every error that this library raises on purpose."""


class InvalidInputError(FinepruneError, ValueError):
    """An argument, a setting or a file that cannot be used."""


class TrainingError(FinepruneError, RuntimeError):
    """Something that went wrong while training: a NaN gradient, a weight changed by somebody else."""


class FileError(FinepruneError, OSError):
    """A file that could not be read or written."""


class MissingExtraError(FinepruneError, ImportError):
    """Optional dependencies of a feature that are not installed."""


def is_number(value: object) -> bool:
    """Returns whether a value is an int or a float; True and False are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns a phrase to end an error with: the known words most like `word`; if none is, the first of them all."""
    known = sorted(set(known))
    close = difflib.get_close_matches(word, known, n=3)
    if close:
        return "did you mean " + " or ".join(repr(name) for name in close) + "?"
    return f"known are {enumeration(known)}."


def enumeration(names: Iterable[str], most: int = 8) -> str:
    """Returns `a, b, c and 12 more`: at most `most` of the names, and the number of those left out."""
    names = list(names)
    listed = ", ".join(names[:most]) or "none"
    return listed if len(names) <= most else f"{listed} and {len(names) - most} more"


def require(extra: str, *modules: str) -> None:
    """Raises MissingExtraError, which names the extra to install, if one of the modules is missing."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(f"This needs {', '.join(missing)}, not installed here: pip install 'fineprune[{extra}]'")
