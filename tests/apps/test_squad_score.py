"""The official rules of SQuAD, one by one, and files of predictions scored by them."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fineprune import InvalidInputError
from fineprune.apps.tasks.squad.score import VERSION_1, VERSION_2, Rules, exact_match, f1, normalise, score_answers, score_files

NORMALISED = [
    ("The Cat", "cat"),
    ("a cat, an owl and the dog", "cat owl and dog"),
    ("Theatre another than", "theatre another than"),
    ("U.S.A.", "usa"),
    ("well-known", "wellknown"),
    ("the-end", "theend"),
    ("A. Jones", "jones"),
    ("q&a", "qa"),
    ("vitamin a", "vitamin"),
    ("it_is $3.50 (50%)", "itis 350 50"),
    ("a’s", "’s"),
    ("l’a’b", "l’ ’b"),
    ("“so”–‘so’", "“so”–‘so’"),
    ("caf\u00e9", "caf\u00e9"),
    ("cafe\u0301", "cafe\u0301"),
    ("Stra\u00dfe", "stra\u00dfe"),
    ("5\u00a0km\u2003\n\tor\u3000so ", "5 km or so"),
    ("\u00e0 a \u00e0", "\u00e0 \u00e0"),
    ("1\u00ba a", "1\u00ba"),
    ("The!", ""),
    (" ... ", ""),
]


@pytest.mark.parametrize(("text", "wanted"), NORMALISED)
def test_normalises(text: str, wanted: str) -> None:
    assert normalise(text) == wanted


def one(prediction: str, golds: list[str], rules: Rules) -> tuple[float, float]:
    figures = score_answers([("q", golds)], {"q": prediction}, rules)
    return figures["exact_match"], figures["f1"]


CASES = [
    ("Paris", ["paris."], 100.0, 100.0),
    ("Paris", ["London"], 0.0, 0.0),
    ("Paris in France", ["Paris"], 0.0, 50.0),
    ("river Thames", ["Thames river"], 0.0, 100.0),
    ("so so so so", ["so so"], 0.0, 66.66666666666666),
    ("10 of 11 cities", ["in 10 of 11 cities"], 0.0, 88.8888888888889),  # of 2pr / (p + r); 2 * 4 / 9 gives ...889
    ("big red bus", ["red", "red bus"], 0.0, 80.0),
    ("bus", ["red bus", "bus", "blue"], 100.0, 100.0),
    ("", ["Paris"], 0.0, 0.0),
]


@pytest.mark.parametrize("rules", [VERSION_1, VERSION_2])
@pytest.mark.parametrize(("prediction", "golds", "exact", "f1"), CASES)
def test_the_best_over_the_answers_counts(prediction: str, golds: list[str], exact: float, f1: float, rules: Rules) -> None:
    assert one(prediction, golds, rules) == (exact, f1)


def test_the_versions_differ_where_nothing_is_left() -> None:
    assert one("a", ["The"], VERSION_1) == (100.0, 0.0)
    assert one("a", ["The"], VERSION_2) == (100.0, 100.0)
    assert one("", ["!", "Paris"], VERSION_1) == (100.0, 0.0)
    assert one("", ["!", "Paris"], VERSION_2) == (0.0, 0.0)
    assert one("", [], VERSION_2) == one("the", [], VERSION_2) == (100.0, 100.0)
    assert one("Paris", [], VERSION_2) == (0.0, 0.0)


@pytest.mark.parametrize("rules", [VERSION_1, VERSION_2])
def test_missing_predictions_count_as_nothing_and_unknown_ones_not_at_all(rules: Rules) -> None:
    golds = [("1", ["x"]), ("2", ["y"]), ("3", ["z"]), ("4", ["z"])]
    assert score_answers(golds, {"1": "x", "3": "z w", "9": None}, rules) == {"f1": 100 * (1 + 2 / 3) / 4, "exact_match": 25.0}


@pytest.mark.parametrize("wrong", [None, 7, True, ["x"], {"text": "x"}])
def test_a_prediction_that_is_not_a_text_raises(wrong: object) -> None:
    with pytest.raises(InvalidInputError, match=r"The prediction for the question 'q' must be a text, got "):
        score_answers([("q", ["x"])], {"q": wrong}, VERSION_1)


def test_sums_are_rounded_as_the_official_scorer_rounds_them() -> None:
    """Added one by one, in the order of the questions; sum() of Python 3.12 and fsum come to another last digit."""
    golds = [(str(row), [" ".join("x" * (row % 7 + 1))]) for row in range(500)]
    predictions = {name: "x y" for name, _ in golds}
    each = [f1(predictions[name], gold) for name, [gold] in golds]
    total = 0.0
    for value in each:
        total += value
    assert total != math.fsum(each)
    assert score_answers(golds, predictions, VERSION_1)["f1"] == 100.0 * total / 500


phrase = st.text(st.sampled_from("ab the.,'-’é \u00a0A1"), max_size=12)


@given(phrase, phrase)
def test_case_articles_punctuation_and_white_space_change_nothing(text: str, gold: str) -> None:
    changed = f"\u2003THE {text.swapcase()} !a  "
    assert f1(changed, gold) == f1(text, gold) == f1(gold, text)
    assert exact_match(changed, gold) == exact_match(text, gold) == exact_match(gold, text)
    assert normalise(normalise(text)) == normalise(text) == normalise(f"'{text}'")


@given(phrase, st.lists(phrase, min_size=1, max_size=4), st.sampled_from([VERSION_1, VERSION_2]))
def test_scores_are_shares_and_more_answers_never_harm(prediction: str, golds: list[str], rules: Rules) -> None:
    exact, overlap = one(prediction, golds, rules)
    assert exact in (0.0, 100.0)
    assert 0 <= overlap <= 100
    if normalise(prediction):
        assert overlap >= exact
        assert (exact, overlap) == tuple(
            max(each) for each in zip(*(one(prediction, [gold], rules) for gold in golds), strict=True)
        )
        assert one(prediction, [*golds, prediction], rules) == (100.0, 100.0)


@given(phrase, phrase)
def test_the_versions_agree_where_something_is_left(prediction: str, gold: str) -> None:
    if normalise(prediction) or normalise(gold):
        assert one(prediction, [gold], VERSION_1) == one(prediction, [gold], VERSION_2)


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def files(folder: Path, questions: list[dict[str, object]], predictions: object) -> tuple[Path, Path]:
    data = {"data": [{"paragraphs": [{"context": "", "qas": [question]}]} for question in questions]}
    return write(folder / "data.json", data), write(folder / "predictions.json", predictions)


def question(name: str, *golds: str, **more: object) -> dict[str, object]:
    return {"id": name, "question": "", "answers": [{"text": gold} for gold in golds], **more}


def test_scores_files(tmp_path: Path) -> None:
    data, predictions = files(tmp_path, [question("1", "x", "y"), question("2", "The")], {"1": "y", "2": "a", "3": ""})
    assert score_files(data, str(predictions)) == {"f1": 50.0, "exact_match": 100.0}


@pytest.mark.parametrize("third", [question("3", is_impossible=True), question("3"), question("3", "the", is_impossible=False)])
def test_data_that_says_of_an_answer_whether_there_is_one_goes_by_version_2(tmp_path: Path, third: dict[str, object]) -> None:
    paths = files(tmp_path, [question("1", "x", "y"), question("2", "The"), third], {"1": "y", "2": "a", "3": ""})
    assert score_files(*paths) == {"f1": 100.0, "exact_match": 100.0}


def test_files_that_cannot_be_scored_raise(tmp_path: Path) -> None:
    data, predictions = files(tmp_path, [question("1", "x")], [["1", "x"]])
    with pytest.raises(InvalidInputError, match=r"predictions.json must hold a JSON object from ids to texts, got list"):
        score_files(data, predictions)
    with pytest.raises(InvalidInputError, match=r"none.json could not be read: No such file"):
        score_files(data, tmp_path / "none.json")
    with pytest.raises(InvalidInputError, match="is not JSON"):
        score_files(data, write(predictions, '{"1": "x"'))
    data, predictions = files(tmp_path, [question("1", "x"), question("1", "y")], {})
    with pytest.raises(InvalidInputError, match=r"Question '1' of .*data.json has the same id as"):
        score_files(data, predictions)
