"""PruningConfig: which weights are pruned, how, and to which density."""

import dataclasses
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidInputError, is_number, nearest
from ..methods import group_lasso, l0, magnitude, movement  # noqa: F401, choices are found among the classes that are imported
from ..methods.base import LearnedMethod, Method, StochasticMethod
from ..methods.penalised import PenalisedScores
from ..scores import bfloat16, low_rank  # noqa: F401
from ..scores.base import ScoreForm
from ..scores.full import FullScores
from ..selection.scopes import SCOPES, Scope
from ..structures import across_matrices  # noqa: F401
from ..structures.base import Structure
from ..structures.within_matrix import Unstructured
from ..version import VERSION
from .budgets import Budget, InWeights
from .schedules import CubicSchedule, Schedule
from .serialization import Reader, annotations, kinds, plain_settings


@dataclass(frozen=True)
class Rule:
    """Other settings for the modules that it names. A setting that is None is that of the config.

    The modules of one rule share a budget of their own.

    A rule without target_modules, for a structure that links matrices such as `Heads()`, prunes whole groups everywhere,
    before the others: the config's own settings and the other rules apply to the groups that it keeps.

    Args:
        target_modules: modules that follow this rule and no other, as in PruningConfig; pruned even if the config's
            own target_modules do not name them. exclude_modules still applies.
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
        """Whether it prunes whole groups before the other settings apply."""
        return self.target_modules is None


@dataclass(frozen=True)
class PruningConfig:
    """How a model is pruned: method, density, structure and schedule, and the modules that they apply to.

    Args:
        method: how scores are initialised, learn and become a mask: Magnitude, Movement, SoftMovement, L0 or Random.
        density: fraction of the prunable weights kept at the end, above 0 and at most 1. None where the
            method (by its penalty) or the structure (n of m) decides it.
        structure: which weights are pruned together.
        schedule: the path from dense to the density, in optimizer steps.
        scope: which matrices share a budget: "local" (each has its own), "global" (all share one) or "adaptive" (those of
            one kind share one, by the mean sigmoid of their scores).
        target_modules: modules whose weight is pruned, as in PEFT: names or endings of names, or one
            regular expression that matches the whole name. None: the linear weights inside the
            transformer blocks; of a structure that links matrices, all that it finds.
        exclude_modules: modules left out, in the same forms.
        rules: other settings for the modules that they name, or whole groups to prune first. The first rule that names a
            module applies to it.
        budget: the unit of the density where groups of several sizes share a budget: InWeights() or InFlops().
        scores: how scores are stored: FullScores() in float32, BFloat16Scores() or LowRankScores() in less memory.
        frozen_weights: whether only the scores learn and the pruned weights keep their values (SMP, Jiang et al. 2022); the
            run yields a mask, see `Pruner.save_mask`. Other parameters train as usual.
        dense_on_cpu: whether the dense weights are kept in CPU memory while the model is on a GPU: 4 bytes less per weight
            there, and two copies over the bus per step.

    Raises:
        InvalidInputError: if a setting has a value that it does not allow, or the wrong type.
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
        self._check_types()
        self._check_density()
        self.scores.check(self.method)
        if self.frozen_weights and not isinstance(self.method, LearnedMethod):
            raise InvalidInputError(
                f"frozen_weights needs a method whose scores learn, and those of {self.method} do not, so nothing would. Take "
                "another, as Movement(), or leave frozen_weights out."
            )
        self._check_budget()
        for rule in self.rules or ():
            self.under(rule)

    def _check_types(self) -> None:
        for name, base in annotations(PruningConfig).items():
            value = getattr(self, name)
            if inspect.isabstract(base) and not (isinstance(value, base) and dataclasses.is_dataclass(value)):
                choices = ", ".join(sorted(f"{kind.__name__}()" for kind in kinds(base)))
                raise InvalidInputError(f"{name} must be one of {choices}, got {value!r}.")
        if self.scope not in tuple(SCOPES):  # a list would not be hashable
            scopes = ", ".join(map(repr, SCOPES))
            raise InvalidInputError(f"scope must be one of {scopes}, got {self.scope!r}; {nearest(str(self.scope), SCOPES)}")
        for name in ("target_modules", "exclude_modules"):
            _check_patterns(name, getattr(self, name))
        for name in ("frozen_weights", "dense_on_cpu"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidInputError(f"{name} must be true or false, got {getattr(self, name)!r}.")
        if self.rules is not None and not (_is_list(self.rules) and all(isinstance(rule, Rule) for rule in self.rules)):
            raise InvalidInputError(f"rules must be a list of Rule(...), got {self.rules!r}.")

    def _check_budget(self) -> None:
        if self.budget == InWeights() or isinstance(self.method, PenalisedScores):
            return
        if self.method.decides_density:
            raise InvalidInputError(f"budget must be left out for {self.method}, whose penalty sets the density.")
        if self.scope != "global":
            raise InvalidInputError(
                f"budget={self.budget} needs scope='global', got {self.scope!r}, where each matrix counts its own groups."
            )

    def _check_density(self) -> None:
        if self.density is not None and not (is_number(self.density) and 0 < self.density <= 1):
            raise InvalidInputError(
                f"density must be a number above 0 and at most 1, the fraction of weights kept, got {self.density!r}. "
                "To keep 10 %, give 0.1."
            )
        fixed = self.structure.density()
        if fixed is not None and not self.method.ranks:
            raise InvalidInputError(
                f"{self.structure} needs a method that ranks scores, which {type(self.method).__name__} does not do. Take one "
                "that does, as Movement()."
            )
        if fixed is not None and self.density not in (None, fixed):
            raise InvalidInputError(
                f"density must be left out for {self.structure}, which keeps {fixed} of the weights, got {self.density}."
            )
        self.values()

    def values(self) -> tuple[float, float]:
        """Returns the initial and the final value of the schedule."""
        fixed = self.structure.density()
        return self.method.values(self.density if fixed is None else fixed)

    def under(self, rule: Rule) -> "PruningConfig":
        """Returns the settings that apply to the modules of a rule."""
        names = ("method", "density", "structure", "schedule", "scope", "budget")
        given = {name: getattr(rule, name) for name in names if getattr(rule, name) is not None}
        method, structure = given.get("method", self.method), given.get("structure", self.structure)
        if isinstance(method, Method) and isinstance(structure, Structure):
            decided = method.decides_density or structure.density() is not None
            given = {"density": None if decided else self.density, **given}
        if rule.comes_first:
            _check_comes_first(method, structure)
        try:
            return dataclasses.replace(self, **given, target_modules=rule.target_modules, rules=None)
        except InvalidInputError as error:
            named = repr(structure) if rule.comes_first else repr(rule.target_modules)
            raise InvalidInputError(f"The rule for {named} cannot be used: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Returns the config as plain JSON values, with this library's version; `from_dict` reads them back.

        A recipe's `pruning:` has this form, too.
        """
        return {**plain_settings(self), "version": VERSION}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "PruningConfig":
        """Reads what `to_dict` wrote. Classes are looked up among those that are imported already; nothing is imported.

        A setting that this version does not know is an error, with the nearest known name; where a newer
        version wrote the values, it is left out with a warning.

        Raises:
            InvalidInputError: for an unknown key or class, with the nearest known name, or a value that cannot be.
        """
        reader = Reader()
        config: PruningConfig = reader.make(cls, reader.versioned(cls, values))
        return config


def _check_comes_first(method: object, structure: object) -> None:
    if not (isinstance(structure, Structure) and structure.linked):
        raise InvalidInputError(
            f"A rule must name its target_modules unless its structure links matrices, as Heads() does; {structure} does not."
        )
    if isinstance(method, StochasticMethod):
        raise InvalidInputError(
            f"A rule for {structure} without target_modules needs a method whose masks are fixed between steps, and "
            f"{type(method).__name__} samples its gates at each step. Give the rule another method, as Movement(), or name its "
            "modules."
        )


def _check_patterns(name: str, patterns: list[str] | str | None) -> None:
    if patterns is None or (isinstance(patterns, str) and patterns):
        return
    if _is_list(patterns) and patterns and all(isinstance(entry, str) and entry for entry in patterns):
        return
    raise InvalidInputError(
        f"{name} must be a list of module names or endings of names, or one regular expression, got {patterns!r}."
    )


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
