"""PruningConfig: what is pruned, how, and how far. Typed in Python; strings only at the JSON edge."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import InvalidInputError, is_number, nearest
from .methods import Birth, Method
from .schedules import CubicSchedule, Schedule
from .selection import SCOPES, Scope
from .structures import Structure, Unstructured


@dataclass(frozen=True)
class PruningConfig:
    """A method, a structure, a density and a schedule, on some of a model's weights.

    Args:
        method: how scores are born, learn and become a mask: Magnitude, Movement or Random.
        density: fraction of the prunable weights kept at the end, above 0 and at most 1.
        structure: which weights fall together.
        schedule: the path from dense to the density, in optimiser steps.
        scope: where the budget is shared out: "local" (each matrix keeps the density) or "global"
            (all matrices together do).
        target_modules: modules whose weight is pruned, as in PEFT: names or endings of names, or one
            regular expression that matches the whole name. None: the linear weights inside the
            transformer blocks.
        exclude_modules: modules left out, in the same forms.

    Raises:
        InvalidInputError: if a field has a value outside what it allows, or the wrong type.
    """

    method: Method
    density: float | None = None
    structure: Structure = Unstructured()
    schedule: Schedule = CubicSchedule()
    scope: Scope = "local"
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None

    def __post_init__(self) -> None:
        for name, base in (("method", Method), ("structure", Structure), ("schedule", Schedule)):
            if not isinstance(getattr(self, name), base):
                raise InvalidInputError(
                    f"{name} was given as {getattr(self, name)!r}; it takes one of "
                    f"{', '.join(sorted(kind.__name__ + '()' for kind in kinds(base)))}."
                )
        if self.density is not None:
            if not is_number(self.density):
                raise InvalidInputError(f"density was given as {self.density!r}; it takes a number.")
            if not 0 < self.density <= 1 or math.isnan(self.density):
                raise InvalidInputError(
                    f"density was given as {self.density}; it is the fraction of weights kept, above 0 and at most 1. "
                    "To keep 10 %, give 0.1."
                )
        self.method.values(self.density)
        if self.scope not in tuple(SCOPES):  # a list would not be hashable
            raise InvalidInputError(f"scope was given as {self.scope!r}; {nearest(str(self.scope), SCOPES)}")
        for name in ("target_modules", "exclude_modules"):
            _check_patterns(name, getattr(self, name))

    def to_dict(self) -> dict[str, Any]:
        """Returns the config as plain JSON values; `from_dict` reads them back. A recipe's `pruning:` has this form."""
        fields: dict[str, Any] = _plain(self)["init_args"]
        return fields

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "PruningConfig":
        """Reads what `to_dict` wrote. Class names are looked up among the known ones; nothing is imported.

        Raises:
            InvalidInputError: for an unknown key or class, with the nearest known name.
        """
        config: PruningConfig = _build(cls, values)
        return config


def _check_patterns(name: str, patterns: list[str] | str | None) -> None:
    if patterns is None or (isinstance(patterns, str) and patterns):
        return
    if isinstance(patterns, Sequence) and patterns and all(isinstance(entry, str) and entry for entry in patterns):
        return
    raise InvalidInputError(
        f"{name} was given as {patterns!r}; it takes a list of module names (or endings of them), or one regular expression."
    )


def kinds(base: type[Any]) -> Iterator[type[Any]]:
    """Yields the classes that can be made of an abstract one, those written outside this package too."""
    for kind in base.__subclasses__():
        if dataclasses.is_dataclass(kind):
            yield kind
        yield from kinds(kind)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        arguments = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"class_path": f"{type(value).__module__}.{type(value).__qualname__}", "init_args": arguments}
    return list(value) if isinstance(value, tuple) else value


def _build(kind: type, arguments: Any) -> Any:
    """Makes a dataclass from plain values, nested choices included."""
    if not isinstance(arguments, dict):
        raise InvalidInputError(f"{kind.__name__} was given as {arguments!r}; it takes keys and values.")
    known = [field.name for field in dataclasses.fields(kind)]
    for key in arguments:
        if key not in known:
            raise InvalidInputError(f"{kind.__name__} has no setting {key!r}; {nearest(str(key), known)}")
    try:
        return kind(**{key: _choice(value) for key, value in arguments.items()})
    except TypeError as error:
        raise InvalidInputError(f"{kind.__name__} could not be made from {arguments!r}: {error}.") from error


def _choice(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    choices = [kind for base in CHOICES for kind in kinds(base)]
    by_name = {kind.__name__: kind for kind in choices}
    known = by_name | {f"{kind.__module__}.{kind.__qualname__}": kind for kind in choices}
    path = value.get("class_path")
    if not isinstance(path, str) or path not in known or set(value) - {"class_path", "init_args"}:
        raise InvalidInputError(
            f"{value!r} is not one of the choices; {nearest(str(path).rpartition('.')[2], by_name)} "
            "A choice takes class_path, and init_args for its settings."
        )
    return _build(known[path], value.get("init_args") or {})


CHOICES = (Method, Birth, Structure, Schedule)
"""The abstract classes of which a config holds one of several."""
