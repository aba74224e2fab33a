"""Exact match and F1 of answers by the official rules of SQuAD v1.1 and v2.0, to the last digit."""

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ....errors import InvalidInputError
from .questions import Questions, read, read_json

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Returns a text in the form that is compared: lower case, no ASCII punctuation, no articles, single spaces.

    In this order, so "the-end" is one word, and "A. Smith" loses its A. Curly quotes, dashes and accents stay.
    """
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match(prediction: str, gold: str) -> float:
    """Returns 1 if the normalised texts are equal, else 0."""
    return float(normalise(prediction) == normalise(gold))


def f1(prediction: str, gold: str) -> float:
    """Returns the harmonic mean of precision and recall over words, each counted as often as in both; 0 for no words."""
    predicted, wanted = normalise(prediction).split(), normalise(gold).split()
    same = (Counter(predicted) & Counter(wanted)).total()
    if same == 0:
        return 0.0
    precision, recall = same / len(predicted), same / len(wanted)
    return (2 * precision * recall) / (precision + recall)  # in the official order, for the last digit


def f1_or_neither(prediction: str, gold: str) -> float:
    """Returns F1, and 1 where both texts normalise to nothing."""
    return f1(prediction, gold) if normalise(prediction) or normalise(gold) else 1.0


def with_words(golds: Sequence[str]) -> Sequence[str]:
    """Returns the answers that have words when normalised; an empty one if there are none."""
    return [gold for gold in golds if normalise(gold)] or [""]


@dataclass(frozen=True)
class Rules:
    """The rules in which the two official scorers differ.

    Args:
        golds: selects the answers that count.
        f1: of a prediction and one of them.
    """

    golds: Callable[[Sequence[str]], Sequence[str]]
    f1: Callable[[str, str], float]


VERSION_1 = Rules(golds=lambda golds: golds, f1=f1)
VERSION_2 = Rules(golds=with_words, f1=f1_or_neither)


def score_answers(
    golds: Iterable[tuple[str, Sequence[str]]], predictions: Mapping[str, object], rules: Rules
) -> dict[str, float]:
    """Returns `f1` and `exact_match` in percent: the mean over the questions of the best over the answers of each.

    A question without a prediction counts as 0, under both rules (the official scorer of v2.0 leaves it out of the mean);
    a prediction for no question is ignored.

    Args:
        golds: id and answers of each question, at least one question.
        predictions: id -> text.
        rules: VERSION_1 or VERSION_2.

    Raises:
        InvalidInputError: for a prediction that is not a text.
    """
    total, f1_sum, exact_sum = 0, 0.0, 0.0
    for name, texts in golds:  # added one by one: sum() rounds otherwise from Python 3.12 on
        total += 1
        if name not in predictions:
            continue
        prediction = predictions[name]
        if not isinstance(prediction, str):
            raise InvalidInputError(
                f"The prediction for the question {name!r} must be a text, got {prediction!r:.60}. Give an empty text for "
                "no answer."
            )
        counted = rules.golds(texts)
        f1_sum += max(rules.f1(prediction, gold) for gold in counted)
        exact_sum += max(exact_match(prediction, gold) for gold in counted)
    return {"f1": 100.0 * f1_sum / total, "exact_match": 100.0 * exact_sum / total}


def score_questions(questions: Questions, predictions: Mapping[str, object]) -> dict[str, float]:
    """Scores predictions as `score_answers`, by the rules of v2.0 if the data has questions without an answer."""
    golds = [(row.id, [text for text, _ in row.answers]) for row in questions.rows]
    return score_answers(golds, predictions, VERSION_2 if questions.version2 else VERSION_1)


def score_files(data: str | Path, predictions: str | Path) -> dict[str, float]:
    """Scores a file of predictions, by the rules of v2.0 if the data has questions without an answer.

    Args:
        data: JSON in SQuAD's own layout.
        predictions: JSON object: id of a question -> text.

    Raises:
        InvalidInputError: for a file that cannot be read, or has another layout.
    """
    questions = read([data])
    given = read_json(predictions)
    if not isinstance(given, dict):
        raise InvalidInputError(f"{predictions} must hold a JSON object from ids to texts, got {type(given).__name__}.")
    return score_questions(questions, given)
