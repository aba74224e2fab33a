"""The trials of a sweep: variants x grids x seeds, each read as a recipe before anything is written."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainingArguments

from ...errors import InvalidInputError
from ..training import recipe
from ..training.recipe import Recipe
from . import grid
from .engines import Engine

VARIANT = "variant"
"""The column of a variant's name."""

OWN = {"training.seed": "--seeds", "training.output_dir": "--output"}
"""The settings that the sweep itself sets in every trial, and the flags for them."""


@dataclass(frozen=True)
class SweepSetting:
    """One choice of a variant and of a value for each key of the grid; with a seed it is a trial.

    Args:
        choices: the variant's name, if there are variants, and each grid key's value as it was given.
        recipe: all settings as the recipe's keys and values, without those in `OWN`.
    """

    choices: dict[str, str]
    recipe: dict[str, Any]

    @property
    def name(self) -> str:
        """The choices as a file name; empty for a sweep over seeds alone."""
        keys = [key for key in self.choices if key != VARIANT]
        pieces = [grid.slug(self.choices[VARIANT])] if VARIANT in self.choices else []
        last = [key.rpartition(".")[2] for key in keys]
        names = last if len(set(last)) == len(last) else keys
        pieces += [f"{name}-{grid.slug(self.choices[key])}" for key, name in zip(keys, names, strict=True)]
        return grid.slug("-".join(pieces), most=180) if pieces else ""


@dataclass(frozen=True)
class Trial:
    """One run of a sweep."""

    setting: SweepSetting
    seed: int

    @property
    def name(self) -> str:
        """The name of its folder, the same in every start of the sweep."""
        return f"{self.setting.name}-seed{self.seed}".lstrip("-")

    @property
    def source(self) -> str:
        """Its recipe as YAML."""
        training = {**self.setting.recipe.get("training", {}), "seed": self.seed}
        return yaml.safe_dump({**self.setting.recipe, "training": training}, sort_keys=False)

    @property
    def prunes(self) -> bool:
        """Whether it prunes; False for a dense run."""
        return self.setting.recipe.get("pruning") is not None


@dataclass(frozen=True)
class Sweep:
    """A sweep as its flags describe it: each setting with each seed, in the order of the tables.

    Args:
        folder: for everything that it writes.
        engine: where the trials run.
        choices: its flags, for the record.
    """

    settings: Sequence[SweepSetting]
    seeds: Sequence[int]
    folder: Path
    engine: Engine
    choices: dict[str, Any]

    @property
    def trials(self) -> list[Trial]:
        """Each setting with each seed."""
        return [Trial(setting, seed) for setting in self.settings for seed in self.seeds]


def read_settings(
    base: str | None, flags: Sequence[str], grids: Mapping[str, Sequence[str]], variants: Mapping[str, Mapping[str, Any]]
) -> tuple[list[SweepSetting], TrainingArguments]:
    """Reads the recipe of every setting, and returns the settings and the recipe's own training arguments; writes nothing.

    Args:
        base: the recipe's file; None: there are only `flags`.
        flags: of `fineprune train`; they win over the recipe and over the variants.
        grids: the values of each key, as the flags of `fineprune train` take them.
        variants: partial recipes by name, which win over the recipe; if empty, one variant without a name.
    """
    if own := [key for key in grids if key in OWN]:
        raise InvalidInputError(f"--grid must not set {own[0]}, which the sweep itself sets: use {OWN[own[0]]}.")
    content = {} if base is None else recipe.read_yaml(base)
    points = [
        ({VARIANT: name} if name else {}) | dict(zip(grids, values, strict=True))
        for name in variants or {"": {}}
        for values in itertools.product(*grids.values())
    ]
    read = [_read(overlay(content, variants.get(point.get(VARIANT, ""), {})), flags, point) for point in points]
    settings = [_setting(point, one) for point, one in zip(points, read, strict=True)]
    first = read[0].training
    if any((one.training.seed, one.training.output_dir) != (first.seed, first.output_dir) for one in read):
        both = " and ".join(f"{key} ({flag})" for key, flag in OWN.items())
        raise InvalidInputError(
            f"The variants must not set what the sweep itself sets: {both}. Remove these from the variants."
        )
    _check_different(settings)
    return settings, first


def overlay(base: Any, changes: Any) -> Any:
    """Returns a recipe with changes: mappings are merged, but one that names a class replaces the one before."""
    if not isinstance(base, Mapping) or not isinstance(changes, Mapping) or "class_path" in changes:
        return changes
    return {**base, **{key: overlay(base.get(key), value) for key, value in changes.items()}}


def read_variants(path: str) -> dict[str, dict[str, Any]]:
    """Reads a YAML file of partial recipes by name; one that changes nothing may be empty."""
    variants = {str(name): {} if changes is None else changes for name, changes in recipe.read_yaml(path).items()}
    wrong = [name for name, changes in variants.items() if not name or not isinstance(changes, dict)]
    if wrong or not variants:
        raise InvalidInputError(f"{path} must hold variants: a name for each, and under it keys and values as in a recipe.")
    return variants


def _read(content: Mapping[str, Any], flags: Sequence[str], choices: Mapping[str, str]) -> Recipe:
    chosen = [f"--{key}={value}" for key, value in choices.items() if key != VARIANT]
    try:
        return recipe.read([*flags, *chosen], base=content)
    except InvalidInputError as error:
        raise InvalidInputError(f"With {described(choices)}: {error}" if choices else str(error)) from error


def _setting(choices: dict[str, str], read: Recipe) -> SweepSetting:
    if read.resume:
        raise InvalidInputError("--resume must be left out: a sweep that is started again resumes by itself.")
    content: dict[str, Any] = yaml.safe_load(read.source)
    for key in OWN:
        block, _, name = key.partition(".")
        content.get(block, {}).pop(name, None)
    return SweepSetting(choices, content)


def read_seeds(text: str, first: int) -> list[int]:
    """Reads the number of seeds, counted from the first, or the seeds themselves, with commas (`5,6`; one: `5,`)."""
    try:
        numbers = [int(number) for number in text.removesuffix(",").split(",")]
    except ValueError:
        numbers = []
    seeds = numbers if "," in text else [first + number for number in range(numbers[0] if numbers else 0)]
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise InvalidInputError(
            f"--seeds must be their number, 1 or more, or different seeds with commas, as 5,6 (for one: 5,), got {text!r}."
        )
    return seeds


def described(choices: Mapping[str, str]) -> str:
    """Returns choices as a phrase: `pruning.density=0.3, seed=5`."""
    return ", ".join(f"{key}={value}" for key, value in choices.items()) or "no choice"


def _check_different(settings: Sequence[SweepSetting]) -> None:
    for first, second in itertools.combinations(settings, 2):
        if first.recipe == second.recipe:
            both = f"{described(first.choices)} and {described(second.choices)}"
            raise InvalidInputError(f"Two trials are the same: {both}. Leave one out; a flag wins over a variant.")
        if first.name.casefold() == second.name.casefold():
            raise InvalidInputError(f"Two trials have the same folder, {first.name}. Give the variants different names.")
