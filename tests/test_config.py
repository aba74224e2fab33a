"""PruningConfig: what it takes, what it refuses, and its way through JSON."""

import json
import math
import re
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fineprune import (
    Constant,
    CubicSchedule,
    FromMagnitude,
    InvalidInputError,
    KaimingUniform,
    Magnitude,
    Movement,
    PruningConfig,
    Random,
    Uniform,
    Unstructured,
)
from fineprune.methods import Birth
from fineprune.structures import Structure

positive = st.floats(1e-6, 1e6)
births = st.one_of(
    st.builds(Constant, st.floats(-10, 10)),
    st.builds(Uniform, positive),
    st.just(KaimingUniform()),
    st.builds(FromMagnitude, positive),
)
methods = st.one_of(st.just(Magnitude()), st.just(Random()), st.builds(Movement, births, positive))
lengths = st.one_of(st.integers(0, 10**6), st.floats(0, 1, exclude_max=True))
patterns = st.one_of(st.none(), st.text(min_size=1), st.lists(st.text(min_size=1), min_size=1))
configs = st.builds(
    PruningConfig,
    method=methods,
    density=st.floats(0, 1, exclude_min=True),
    schedule=st.builds(CubicSchedule, lengths, lengths),
    scope=st.sampled_from(["local", "global"]),
    target_modules=patterns,
    exclude_modules=patterns,
)


@given(configs)
def test_json_brings_back_the_same_config(config: PruningConfig) -> None:
    assert PruningConfig.from_dict(json.loads(json.dumps(config.to_dict(), allow_nan=False))) == config


def test_the_form_that_is_written() -> None:
    assert PruningConfig(Movement(), 0.1, target_modules=("query", "key")).to_dict() == {
        "method": {
            "class_path": "fineprune.methods.Movement",
            "init_args": {
                "birth": {"class_path": "fineprune.methods.Constant", "init_args": {"value": 0.0}},
                "score_lr": 0.01,
            },
        },
        "density": 0.1,
        "structure": {"class_path": "fineprune.structures.Unstructured", "init_args": {}},
        "schedule": {"class_path": "fineprune.schedules.CubicSchedule", "init_args": {"warmup": 0.1, "cooldown": 0.3}},
        "scope": "local",
        "target_modules": ["query", "key"],
        "exclude_modules": None,
    }


def test_short_names_and_left_out_settings() -> None:
    values = {"method": {"class_path": "Movement", "init_args": {"birth": {"class_path": "Uniform"}}}, "density": 0.1}
    assert PruningConfig.from_dict(values) == PruningConfig(Movement(Uniform()), 0.1)
    assert PruningConfig(Movement(), 0.1) == PruningConfig(
        Movement(Constant(0.0), 1e-2), 0.1, Unstructured(), CubicSchedule(0.1, 0.3), "local", None, None
    )


@dataclass(frozen=True)
class HomeMade(Birth):
    """A choice from outside the library."""

    value: int = 3

    def scores(self, magnitude: object, generator: object) -> object:
        return magnitude


def test_a_choice_from_outside_is_known_by_its_path() -> None:
    config = PruningConfig(Movement(HomeMade(5)), 0.5)
    assert config.to_dict()["method"]["init_args"]["birth"]["class_path"] == f"{__name__}.HomeMade"
    assert PruningConfig.from_dict(config.to_dict()) == config


METHOD = {"class_path": "Magnitude"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": METHOD, "denstiy": 0.1}, "PruningConfig has no setting 'denstiy'; did you mean 'density'?"),
        ({"method": METHOD, "frobnicate": 1}, "PruningConfig has no setting 'frobnicate'; known are"),
        ({"method": {"class_path": "Movment"}, "density": 0.1}, "did you mean 'Movement'"),
        ({"method": {"class_path": "fineprune.methods.Movment"}, "density": 0.1}, "did you mean 'Movement'"),
        ({"method": {"class_path": "os.system"}, "density": 0.1}, "is not one of the choices"),
        ({"method": {"class_path": 3}, "density": 0.1}, "is not one of the choices"),
        ({"method": {}, "density": 0.1}, "is not one of the choices"),
        ({"method": {**METHOD, "args": {}}, "density": 0.1}, "takes class_path, and init_args"),
        ({"method": {"class_path": "Movement", "init_args": {"scor_lr": 1}}}, "Movement has no setting 'scor_lr'"),
        ({"method": {"class_path": "Movement", "init_args": [1]}}, "Movement was given as [1]"),
        ({"method": {"class_path": "Movement", "init_args": {"birth": METHOD}}}, "it takes a birth"),
        ({"method": {"class_path": "Movement", "init_args": {"score_lr": {"class_path": "Uniform"}}}}, "above 0"),
        ({"method": "Movement", "density": 0.1}, "method was given as 'Movement'; it takes one of"),
        ({"method": {"class_path": "Uniform"}, "density": 0.1}, "method was given as Uniform(bound=0.01); it takes one of"),
        ({"method": METHOD, "density": 0.1, "structure": METHOD}, "structure was given as Magnitude()"),
        ({"method": METHOD, "density": 0.1, "schedule": None}, "schedule was given as None"),
        ({"density": 0.1}, "method"),
        ([], "PruningConfig was given as []"),
        (None, "PruningConfig was given as None"),
    ],
)
def test_what_json_must_not_hold(values: object, message: str) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        PruningConfig.from_dict(values)


@pytest.mark.parametrize("density", [0, 0.0, -0.1, 1.0001, 10, math.nan, math.inf, True, "0.1"])
def test_a_density_is_above_zero_and_at_most_one(density: object) -> None:
    with pytest.raises(InvalidInputError, match="density was given as"):
        PruningConfig(Magnitude(), density)


def test_no_density_is_refused_by_methods_that_rank() -> None:
    with pytest.raises(InvalidInputError, match="Movement was given no density"):
        PruningConfig(Movement())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scope": "globl"}, "did you mean 'global'"),
        ({"scope": None}, "scope was given as None"),
        ({"scope": ["local"]}, "scope was given as ['local']"),
        ({"target_modules": []}, "target_modules was given as []"),
        ({"target_modules": ""}, "target_modules was given as ''"),
        ({"target_modules": ["query", ""]}, "target_modules was given as"),
        ({"exclude_modules": [1]}, "exclude_modules was given as [1]"),
        ({"exclude_modules": {"query"}}, "exclude_modules was given as"),
        ({"structure": Unstructured}, "it takes one of"),
        ({"method": Movement}, "it takes one of"),
    ],
)
def test_wrong_values(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        PruningConfig(**{"method": Magnitude(), "density": 0.1, **settings})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.text(max_size=3), inner, max_size=2)
        | st.fixed_dictionaries({"class_path": st.sampled_from(["Movement", "Uniform", "CubicSchedule"]), "init_args": inner})
    ),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(["method", "density", "schedule", "scope", "target_modules"]), json_values))
def test_any_other_json_is_refused_in_words(values: dict[str, object]) -> None:
    """Whatever the file holds, it is a config or a sentence; never an exception of Python's own."""
    try:
        PruningConfig.from_dict({"method": METHOD, "density": 0.5, **values})
    except InvalidInputError as error:
        assert str(error)  # noqa: PT017


def test_a_structure_that_cannot_be_made_is_not_offered() -> None:
    with pytest.raises(InvalidInputError) as refusal:
        PruningConfig(Magnitude(), 0.1, structure=Structure)
    assert "Structure()" not in re.findall(r"\w+\(\)", str(refusal.value))
