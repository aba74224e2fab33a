"""The errors, and the phrases that they are made of."""

from fineprune import FileError, FinepruneError, InvalidInputError, MissingExtraError, TrainingError
from fineprune.errors import enumeration, is_number, nearest


def test_each_error_is_also_the_usual_one() -> None:
    pairs = {InvalidInputError: ValueError, TrainingError: RuntimeError, FileError: OSError, MissingExtraError: ImportError}
    for kind, usual in pairs.items():
        assert issubclass(kind, FinepruneError)
        assert issubclass(kind, usual)
        assert str(kind("a sentence.")) == "a sentence."


def test_the_nearest_words() -> None:
    assert nearest("qurey", ["query", "key", "value"]) == "did you mean 'query'?"
    assert nearest("globl", ["local", "global"]) == "did you mean 'global' or 'local'?"
    assert nearest("frobnicate", ["b", "a", "b"]) == "known are a, b."


def test_a_long_list_is_cut_short() -> None:
    assert enumeration([]) == "none"
    assert enumeration("abc") == "a, b, c"
    assert enumeration((str(number) for number in range(12)), most=3) == "0, 1, 2 and 9 more"


def test_what_is_a_number() -> None:
    assert [is_number(value) for value in (1, 0.5, float("nan"))] == [True] * 3
    assert [is_number(value) for value in (True, None, "1", 1j)] == [False] * 4
