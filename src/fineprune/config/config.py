"""PruningConfig: what is pruned, how, and how far. Typed in Python; strings only at the JSON edge."""

import dataclasses
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidInputError, is_number, nearest
from ..methods.base import LearnedMethod, Method, StochasticMethod
from ..methods.inits import ScoreInit
from ..methods.penalised import PenalisedScores
from ..scores.base import ScoreForm
from ..scores.full import FullScores
from ..selection.scopes import SCOPES, Scope
from ..structures.base import Structure
from ..structures.within_matrix import Unstructured
from ..version import VERSION
from .budgets import Budget, InWeights
from .schedules import CubicSchedule, Schedule

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rule:
    """Other settings for some modules. What is left None is as in the config that the rule stands in.

    The modules of one rule share a budget of their own.

    A rule without target_modules, for a structure that links matrices (`Heads()`, say), takes out whole groups wherever they
    are, before the others: the config's own settings and the other rules hold for what it leaves.

    Args:
        target_modules: modules that follow this rule and no other, as in PruningConfig; pruned even if the config's
            own target_modules do not name them. exclude_modules still holds.
        method, density, structure, schedule, scope, budget: as in PruningConfig.
    """

    target_modules: list[str] | str | None = None
    method: Method | None = None
    density: float | None = None
    structure: Structure | None = None
    schedule: Schedule | None = None
    scope: Scope | None = None
    budget: Budget | None = None

    def __post_init__(self) -> None:
        _check_patterns("target_modules", self.target_modules)

    @property
    def comes_first(self) -> bool:
        """Whether it takes out whole groups before the others share out what is left."""
        return self.target_modules is None


@dataclass(frozen=True)
class PruningConfig:
    """A method, a structure, a density and a schedule, on some of a model's weights.

    Args:
        method: how scores are initialised, learn and become a mask: Magnitude, Movement, SoftMovement, L0 or Random.
        density: fraction of the prunable weights kept at the end, above 0 and at most 1. None where the
            method (by its penalty) or the structure (n of m) decides it.
        structure: which weights fall together.
        schedule: the path from dense to the density, in optimizer steps.
        scope: where the budget is shared out: "local" (each matrix keeps the density), "global" (all
            matrices together do) or "adaptive" (those of one kind do, by the mean sigmoid of their scores).
        target_modules: modules whose weight is pruned, as in PEFT: names or endings of names, or one
            regular expression that matches the whole name. None: the linear weights inside the
            transformer blocks; of a structure that links matrices, all that it finds.
        exclude_modules: modules left out, in the same forms.
        rules: other settings for some modules, or whole groups to take out first. The first rule that names a module holds
            for it.
        budget: what the density is a share of where groups of several sizes share it: InWeights() or InFlops().
        scores: how scores are kept: FullScores() in float32, BFloat16Scores() or LowRankScores() in less memory.
        frozen_weights: whether only the scores learn, and the pruned weights stay what they are (SMP, Jiang et al. 2022): what
            comes out is a mask, see `Pruner.save_mask`. Other parameters train as the optimizer has them.
        dense_on_cpu: whether the dense weights wait in the memory of the CPU while the model is on a GPU: 4 bytes less a weight
            there, and two copies over the bus at each step.

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
    rules: list[Rule] | None = None
    budget: Budget = InWeights()
    scores: ScoreForm = FullScores()
    frozen_weights: bool = False
    dense_on_cpu: bool = False

    def __post_init__(self) -> None:
        for name, base in BASES.items():
            if not isinstance(getattr(self, name), base) or not dataclasses.is_dataclass(getattr(self, name)):
                raise InvalidInputError(
                    f"{name} was given as {getattr(self, name)!r}; it takes one of "
                    f"{', '.join(sorted(kind.__name__ + '()' for kind in kinds(base)))}."
                )
        if self.scope not in tuple(SCOPES):  # a list would not be hashable
            raise InvalidInputError(f"scope was given as {self.scope!r}; {nearest(str(self.scope), SCOPES)}")
        for name in ("target_modules", "exclude_modules"):
            _check_patterns(name, getattr(self, name))
        for name in ("frozen_weights", "dense_on_cpu"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidInputError(f"{name} was given as {getattr(self, name)!r}; it takes true or false.")
        self._check_density()
        self.scores.check(self.method)
        if self.frozen_weights and not isinstance(self.method, LearnedMethod):
            raise InvalidInputError(
                f"frozen_weights was given, and the scores of {self.method} do not learn, so nothing would. Take a method "
                "whose scores do, as Movement(), or leave it out."
            )
        if self.budget != InWeights() and not isinstance(self.method, PenalisedScores):
            if self.method.decides_density:
                raise InvalidInputError(f"budget was given as {self.budget}, and {self.method} shares out none. Leave it out.")
            if self.scope != "global":
                raise InvalidInputError(
                    f"budget was given as {self.budget}, and scope as {self.scope!r}, where each matrix counts its own groups. "
                    "Take scope='global'."
                )
        if self.rules is not None and not (_is_list(self.rules) and all(isinstance(rule, Rule) for rule in self.rules)):
            raise InvalidInputError(f"rules was given as {self.rules!r}; it takes a list of Rule(...).")
        for rule in self.rules or ():
            self.under(rule)

    def _check_density(self) -> None:
        if self.density is not None:
            if not is_number(self.density):
                raise InvalidInputError(f"density was given as {self.density!r}; it takes a number.")
            if not 0 < self.density <= 1 or math.isnan(self.density):
                raise InvalidInputError(
                    f"density was given as {self.density}; it is the fraction of weights kept, above 0 and at most 1. "
                    "To keep 10 %, give 0.1."
                )
        fixed = self.structure.density()
        if fixed is not None and not self.method.ranks:
            raise InvalidInputError(
                f"{self.structure} keeps so many of every few by rank, which {type(self.method).__name__} does not do. Take a "
                "method that ranks, as Movement()."
            )
        if fixed is not None and self.density not in (None, fixed):
            raise InvalidInputError(
                f"{self.structure} keeps {fixed} of the weights; density was given as {self.density}. Leave it out."
            )
        self.values()

    def values(self) -> tuple[float, float]:
        """Returns the initial and the final value of the schedule."""
        fixed = self.structure.density()
        return self.method.values(self.density if fixed is None else fixed)

    def under(self, rule: Rule) -> "PruningConfig":
        """Returns the settings that hold for the modules of a rule."""
        names = ("method", "density", "structure", "schedule", "scope", "budget")
        given = {name: getattr(rule, name) for name in names if getattr(rule, name) is not None}
        method, structure = given.get("method", self.method), given.get("structure", self.structure)
        if isinstance(method, Method) and isinstance(structure, Structure):
            decided = method.decides_density or structure.density() is not None
            given = {"density": None if decided else self.density, **given}
        if rule.comes_first and not (isinstance(structure, Structure) and structure.linked):
            raise InvalidInputError(
                "A rule was given no target_modules; name the modules that follow it. Only one whose structure links matrices, "
                f"as Heads(), goes without; {structure} does not."
            )
        if rule.comes_first and isinstance(method, StochasticMethod):
            raise InvalidInputError(
                f"A rule for {structure} without target_modules was given {type(method).__name__}, whose gates are drawn at "
                "each step, so that what they leave is never settled. Give the rule another method, as Movement(), or name its "
                "modules."
            )
        try:
            return dataclasses.replace(self, **given, target_modules=rule.target_modules, rules=None)
        except InvalidInputError as error:
            named = repr(structure) if rule.comes_first else repr(rule.target_modules)
            raise InvalidInputError(f"The rule for {named} cannot be used: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Returns the config as plain JSON values, with this library's version; `from_dict` reads them back.

        A recipe's `pruning:` has this form, too.
        """
        return {**_plain(self)["init_args"], "version": VERSION}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "PruningConfig":
        """Reads what `to_dict` wrote. Class names are looked up among the known ones; nothing is imported.

        A setting that this version does not know is an error, with the nearest known name; where a newer
        version wrote the values, it is left out with a warning.

        Raises:
            InvalidInputError: for an unknown key or class, with the nearest known name.
        """
        written = values.get("version", VERSION) if isinstance(values, dict) else VERSION
        config: PruningConfig = _build(cls, values, _warn_of if _is_newer(written) else _check_setting)
        return config


def _check_patterns(name: str, patterns: list[str] | str | None) -> None:
    if patterns is None or (isinstance(patterns, str) and patterns):
        return
    if _is_list(patterns) and patterns and all(isinstance(entry, str) and entry for entry in patterns):
        return
    raise InvalidInputError(
        f"{name} was given as {patterns!r}; it takes a list of module names (or endings of them), or one regular expression."
    )


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def class_name(choice: Mapping[str, Any]) -> str:
    """Returns `Movement` of a choice as `to_dict` writes it, with the module before the class."""
    return str(choice["class_path"]).rpartition(".")[2]


def in_short(choice: Mapping[str, Any]) -> str:
    """Returns a choice as `to_dict` writes it in a few words: `Blocks 32 x 32`; of choices in a list, `Heads + Neurons`."""
    settings = list((choice.get("init_args") or {}).values())
    several = [entry for setting in settings if isinstance(setting, list) for entry in setting]
    if several:
        return " + ".join(in_short(entry) for entry in several)
    return f"{class_name(choice)} {' x '.join(map(str, settings))}".strip()


def kinds(base: type[Any]) -> Iterator[type[Any]]:
    """Yields the classes that can be made of an abstract one, those written outside this package too."""
    for kind in base.__subclasses__():
        if dataclasses.is_dataclass(kind):
            yield kind
        yield from kinds(kind)


def _plain(value: Any) -> Any:
    if isinstance(value, Rule):
        settings = _plain_settings(value)
        return {name: setting for name, setting in settings.items() if setting is not None}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"class_path": f"{type(value).__module__}.{type(value).__qualname__}", "init_args": _plain_settings(value)}
    return [_plain(entry) for entry in value] if isinstance(value, tuple | list) else value


def _plain_settings(value: Any) -> dict[str, Any]:
    return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}


Unknown = Callable[[type, str, list[str]], None]
"""What to do about a setting that a class does not know: the class, the setting, the known ones."""


def _check_setting(kind: type, key: str, known: list[str]) -> None:
    raise InvalidInputError(f"{kind.__name__} has no setting {key!r}; {nearest(key, known)}")


def _warn_of(kind: type, key: str, known: list[str]) -> None:
    logger.warning("%s: the setting %r of a newer fineprune than this (%s) is left out.", kind.__name__, key, VERSION)


def _is_newer(written: Any) -> bool:
    """Whether a version, as 0.2.0 or 0.2.0rc1, comes after this library's."""
    if not isinstance(written, str) or not re.match(r"\d+(\.\d+)*", written):
        raise InvalidInputError(
            f"version was given as {written!r}; it is the version of fineprune that wrote it, as {VERSION!r}."
        )

    def numbers(version: str) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", version)[:3]]

    return numbers(written) > numbers(VERSION)


def _build(kind: type, arguments: Any, unknown: Unknown) -> Any:
    """Makes a dataclass from plain values, nested choices included."""
    if not isinstance(arguments, dict):
        raise InvalidInputError(f"{kind.__name__} was given as {arguments!r}; it takes keys and values.")
    known = [field.name for field in dataclasses.fields(kind)]
    values = {}
    for key, value in arguments.items():
        if key in known:
            values[key] = _rules(value, unknown) if (kind, key) == (PruningConfig, "rules") else _choice(value, unknown)
        elif (kind, key) != (PruningConfig, "version"):
            unknown(kind, str(key), known)
    try:
        return kind(**values)
    except TypeError as error:
        raise InvalidInputError(f"{kind.__name__} could not be made from {arguments!r}: {error}.") from error


def _rules(value: Any, unknown: Unknown) -> Any:
    return [_build(Rule, rule, unknown) for rule in value] if isinstance(value, list) else value


def _choice(value: Any, unknown: Unknown) -> Any:
    if isinstance(value, list):
        return [_choice(entry, unknown) for entry in value]
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
    return _build(known[path], value.get("init_args") or {}, unknown)


BASES: dict[str, type[Any]] = {
    "method": Method,
    "structure": Structure,
    "schedule": Schedule,
    "budget": Budget,
    "scores": ScoreForm,
}
"""The settings that are one of several choices, each with the abstract class of them."""

CHOICES: tuple[type[Any], ...] = (*BASES.values(), ScoreInit)
"""The abstract classes of which a config holds one of several."""
