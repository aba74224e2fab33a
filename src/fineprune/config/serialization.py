"""Dataclasses as plain values, the form of JSON and of recipes, and back.

A choice, an object of one of several classes, is `{"class_path": "Movement", "init_args": {"score_lr": 0.01}}`, or its bare
class name where it has no settings. A class of this library goes by its name, any other by its import path.
"""

import dataclasses
import inspect
import logging
import re
import types
import typing
from collections.abc import Mapping
from typing import Any

from ..errors import InvalidInputError, enumeration, is_number, nearest
from ..version import VERSION

logger = logging.getLogger(__name__)

PACKAGE = __name__.partition(".")[0]


def kinds(base: type[Any]) -> list[type[Any]]:
    """Returns the classes that can be made of an abstract one, each once, those written outside this package too."""
    below = [kind for child in base.__subclasses__() for kind in (child, *kinds(child))]
    return [kind for kind in dict.fromkeys(below) if dataclasses.is_dataclass(kind)]


def import_path(kind: type[Any]) -> str:
    """Returns the module and the name of a class."""
    return f"{kind.__module__}.{kind.__qualname__}"


def is_own(path: str) -> bool:
    """Whether an import path is one of this package, of this version or of another."""
    return path.partition(".")[0] == PACKAGE


def class_name(choice: Mapping[str, Any]) -> str:
    """Returns `Movement` of a choice as `to_dict` writes it, whatever module stands before the class."""
    return str(choice["class_path"]).rpartition(".")[2]


def in_short(choice: Mapping[str, Any]) -> str:
    """Returns a choice as `to_dict` writes it in a few words: `Blocks 32 x 32`; of choices in a list, `Heads + Neurons`."""
    settings = list((choice.get("init_args") or {}).values())
    several = [entry for setting in settings if isinstance(setting, list) for entry in setting]
    if several:
        return " + ".join(in_short(entry) for entry in several)
    return f"{class_name(choice)} {' x '.join(map(str, settings))}".strip()


def plain_settings(value: Any) -> dict[str, Any]:
    """Returns the fields of a dataclass as plain values."""
    return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}


def plain(value: Any) -> Any:
    """Returns a choice, other settings without those that are None, or a list of either as plain values; the rest as it is."""
    if isinstance(value, tuple | list):
        return [plain(entry) for entry in value]
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    settings, path = plain_settings(value), import_path(type(value))
    if not is_choice(type(value)):
        return {name: setting for name, setting in settings.items() if setting is not None}
    return {"class_path": type(value).__name__ if is_own(path) else path, "init_args": settings}


def is_choice(kind: type[Any]) -> bool:
    """Whether a class is one of several choices, which share an abstract one."""
    return any(inspect.isabstract(base) for base in kind.__mro__)


def with_bare_names(value: Any) -> Any:
    """Returns plain values with this library's classes by their bare names."""
    if isinstance(value, Mapping):
        path = value.get("class_path")
        bare = {"class_path": path.rpartition(".")[2]} if isinstance(path, str) and is_own(path) else {}
        return {key: with_bare_names(inner) for key, inner in value.items()} | bare
    return [with_bare_names(entry) for entry in value] if isinstance(value, list) else value


class Reader:
    """Reads plain values as the dataclasses that they describe, by the annotations of their fields.

    A class is looked up among the subclasses of the annotated one; nothing is imported.

    Settings that a newer version wrote and this one does not know are left out with a warning; otherwise they are errors.
    """

    _is_newer = False

    def versioned(self, kind: type[Any], values: Any, where: str = "") -> dict[str, Any]:
        """Reads the fields of a dataclass from plain values with the `version` of fineprune that wrote them; see `settings`."""
        if isinstance(values, Mapping):
            self._is_newer = _numbers(values.get("version", VERSION)) > _numbers(VERSION)
            values = {name: value for name, value in values.items() if name != "version"}
        return self.settings(kind, values, where)

    def settings(self, kind: type[Any], values: Any, where: str = "") -> dict[str, Any]:
        """Reads the fields of a dataclass; `where` is the setting that the plain values are for, as `pruning.method`.

        Raises:
            InvalidInputError: for an unknown setting or class, with the nearest known name, or a value of another type.
        """
        if not isinstance(values, Mapping):
            raise InvalidInputError(f"{where or kind.__name__} must be keys and values, got {values!r}.")
        known, read = annotations(kind), {}
        for key, value in values.items():
            if key in known:
                read[key] = self.read(known[key], value, f"{where}.{key}" if where else key)
            elif self._is_newer:
                logger.warning("%s: the setting %r of a newer fineprune than %s is left out.", kind.__name__, key, VERSION)
            else:
                raise InvalidInputError(f"{kind.__name__} has no setting {key!r}; {nearest(str(key), known)}")
        return read

    def read(self, annotation: Any, value: Any, where: str) -> Any:
        """Reads one value, by the annotation of the field that it is for. Raises as `settings`."""
        allowed = options(annotation)
        for option in allowed:
            if inspect.isabstract(option) and isinstance(value, Mapping | str):
                return self._choice(option, value, where)
            if dataclasses.is_dataclass(option) and isinstance(value, Mapping):
                return self.make(option, self.settings(option, value, where))
            if typing.get_origin(option) is list and isinstance(value, list):
                (inner,) = typing.get_args(option)
                return [self.read(inner, entry, f"{where}[{index}]") for index, entry in enumerate(value)]
        if not any(_accepts(option, value) for option in allowed):
            quote = f' Quoted, a number is a text: "{value}".' if str in allowed and is_number(value) else ""
            raise InvalidInputError(f"{where} must be {' or '.join(map(_spoken, allowed))}, got {value!r}.{quote}")
        return value

    def _choice(self, base: type[Any], value: Mapping[str, Any] | str, where: str) -> Any:
        choice: Mapping[str, Any] = {"class_path": value} if isinstance(value, str) else value
        path, settings = choice.get("class_path"), choice.get("init_args")
        if not isinstance(path, str) or set(choice) - {"class_path", "init_args"}:
            return self.without_class(base, choice, where)
        kind = _find(base, path)
        if kind is None:
            return self.unknown_class(base, path, where)
        return self.make(kind, self.settings(kind, {} if settings is None else settings, where))

    def without_class(self, base: type[Any], values: Mapping[str, Any], where: str) -> Any:
        """Raises InvalidInputError for settings of a class that is not named."""
        raise InvalidInputError(
            f"{where} must be class_path, the name of a class, and init_args, its settings, got {dict(values)!r}."
        )

    def unknown_class(self, base: type[Any], path: str, where: str) -> Any:
        """Raises InvalidInputError for a class that is none of the choices."""
        names = [kind.__name__ for kind in kinds(base)]
        raise InvalidInputError(f"{where} has no choice {path!r}; {nearest(path.rpartition('.')[2], names)}")

    def make(self, kind: type[Any], settings: dict[str, Any]) -> Any:
        """Makes an object of a dataclass."""
        try:
            return kind(**settings)
        except TypeError as error:
            raise InvalidInputError(f"{kind.__name__} could not be made from {settings!r}: {error}.") from error


def annotations(kind: type[Any]) -> dict[str, Any]:
    """Returns the annotation of each field of a dataclass; Any where it names something that only type checkers import."""
    names = [field.name for field in dataclasses.fields(kind) if field.init]
    try:
        found = typing.get_type_hints(kind)
    except NameError:
        found = {}
    return {name: found.get(name, Any) for name in names}


def options(annotation: Any) -> tuple[type[Any], ...]:
    """Returns the members of a union, or the annotation alone."""
    return typing.get_args(annotation) if typing.get_origin(annotation) in (typing.Union, types.UnionType) else (annotation,)


def _find(base: type[Any], path: str) -> type[Any] | None:
    """Returns the class of an import path, of a bare name, or of any path of this package that ends in its name."""
    by_path = {import_path(kind): kind for kind in kinds(base)}
    own = {kind.__name__: kind for other, kind in by_path.items() if is_own(other)}
    by_name = {kind.__name__: kind for kind in by_path.values()} | own
    return by_path.get(path) or (own.get(path.rpartition(".")[2]) if is_own(path) else by_name.get(path))


def _accepts(option: Any, value: Any) -> bool:
    """Whether a value can be of a type; a text where it says a number, as `1e-3` does in YAML."""
    if option is types.NoneType:
        return value is None
    if option is str:
        return isinstance(value, str)
    if option is bool:
        return isinstance(value, bool) or value in ("true", "false")
    if option in (int, float):
        return is_number(value) or (isinstance(value, str) and _is_numeral(value))
    if typing.get_origin(option) is typing.Literal:
        return isinstance(value, str | int) and value in typing.get_args(option)
    return typing.get_origin(option) is not list and not inspect.isabstract(option) and not dataclasses.is_dataclass(option)


def _is_numeral(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _spoken(option: Any) -> str:
    if option is types.NoneType:
        return "null"
    if inspect.isabstract(option):
        return f"one of {enumeration(kind.__name__ for kind in kinds(option))}"
    if typing.get_origin(option) is typing.Literal:
        return " or ".join(map(repr, typing.get_args(option)))
    if typing.get_origin(option) is list:
        return f"a list of {_spoken(*typing.get_args(option))}"
    return option.__name__ if isinstance(option, type) else str(option)


def _numbers(version: Any) -> list[int]:
    """Returns the numbers of a version, as 0.2.0 or 0.2.0rc1."""
    if not isinstance(version, str) or not re.match(r"\d+(\.\d+)*", version):
        raise InvalidInputError(f"version must be the version of fineprune that wrote it, as {VERSION!r}, got {version!r}.")
    return [int(number) for number in re.findall(r"\d+", version)[:3]]
