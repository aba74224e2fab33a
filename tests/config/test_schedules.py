"""The cubic schedule: its table, its edges, and what it refuses."""

import inspect
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fineprune import CubicSchedule, InvalidInputError


def test_the_table_in_the_docstring_is_right() -> None:
    text = inspect.getdoc(CubicSchedule)
    steps, values = (re.search(rf"^ *{row} .*$", text, re.MULTILINE)[0].split()[1:] for row in ("t", "v"))
    assert [int(step) for step in steps] == list(range(11))
    schedule = CubicSchedule(2, 3)
    assert [round(schedule.value(t, 10, 1.0, 0.1), 3) for t in range(11)] == [float(value) for value in values]


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 60), st.floats(0.001, 0.999))
def test_the_path_falls_between_its_two_flat_ends(warmup: int, cooldown: int, between: int, final: float) -> None:
    total = warmup + cooldown + between
    schedule = CubicSchedule(warmup, cooldown)
    schedule.check(total)
    path = [schedule.value(step, total, 1.0, final) for step in range(total + 5)]
    assert path[: warmup + 1] == [1.0] * (warmup + 1)
    assert all(value == final for value in path[total - cooldown :])
    assert all(a >= b for a, b in pairwise(path))
    assert path[warmup + 1] < 1.0


def test_halfway_an_eighth_is_left_to_go() -> None:
    assert CubicSchedule(0, 0).value(50, 100, 1.0, 0.2) == pytest.approx(0.2 + 0.8 / 8)


def test_it_rises_too() -> None:
    assert CubicSchedule(0, 0).value(50, 100, 0.0, 0.1) == pytest.approx(0.1 - 0.1 / 8)


def test_a_float_is_a_fraction_and_an_int_counts_steps() -> None:
    assert CubicSchedule(0.1, 0.3).steps(1000) == (100, 300)
    assert CubicSchedule(0.1, 0.3).steps(7) == (1, 2)
    assert CubicSchedule(1, 0).steps(1000) == (1, 0)
    assert CubicSchedule(0.0, 5).steps(1000) == (0, 5)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ((-1, 0), "warmup must be 0 steps or more, got -1."),
        ((0, -5), "cooldown must be 0 steps or more, got -5."),
        ((1.0, 0), "warmup must be at least 0 and below 1 as a fraction of the run, got 1.0."),
        ((0, 5400.0), "give an int"),
        ((-0.1, 0), "warmup must be at least 0 and below 1 as a fraction of the run, got -0.1."),
        ((float("nan"), 0), "as a fraction of the run, got nan."),
        ((True, 0), "warmup must be an int (optimizer steps) or a float (fraction of the run), got True."),
        ((0, "0.3"), "or a float (fraction of the run), got '0.3'."),
        ((None, 0), "or a float (fraction of the run), got None."),
    ],
)
def test_what_is_refused(lengths: tuple[object, object], message: str) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        CubicSchedule(*lengths)


@pytest.mark.parametrize("schedule", [CubicSchedule(5, 5), CubicSchedule(0.6, 0.4), CubicSchedule(0.9, 40)], ids=repr)
def test_a_run_without_a_step_to_prune_in_raises(schedule: CubicSchedule) -> None:
    with pytest.raises(InvalidInputError, match="must be shorter than the run, which has 10 optimizer steps"):
        schedule.check(10)


def test_one_step_to_prune_in_is_enough() -> None:
    CubicSchedule(5, 4).check(10)
    CubicSchedule().check(1)
