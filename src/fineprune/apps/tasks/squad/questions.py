"""Questions on texts, read from SQuAD's JSON layout and checked: no missing keys, no duplicate ids."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ....errors import InvalidInputError

Answer = tuple[str, int]
"""The text, and its start in the context, in characters; -1 where the data does not say."""

RawQuestion = tuple[str, dict[str, Any], dict[str, Any]]
"""A question's place, for error texts; its paragraph; and the question itself, both as in the file."""


@dataclass(frozen=True)
class Question:
    """A question, the text to find its answer in, and the answers that people gave; none if the text does not hold it."""

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Questions:
    """The questions of a split.

    Args:
        rows: in the order of the data, with ids of their own.
        version2: whether the data is of SQuAD v2, whose questions may have no answer.
    """

    rows: tuple[Question, ...]
    version2: bool


def read(paths: Iterable[str | Path]) -> Questions:
    """Reads files in SQuAD's own JSON layout, one after the other.

    Raises:
        InvalidInputError: for a file that is missing or not in this layout, and for a duplicate id.
    """
    return collect(found for path in paths for found in raw_questions(path))


def collect(found: Iterable[RawQuestion]) -> Questions:
    """Checks questions. Raises InvalidInputError for a missing key, or a duplicate id."""
    rows, seen, version2 = [], dict[str, str](), False
    for where, paragraph, entry in found:
        if entry["id"] in seen:
            raise InvalidInputError(
                f"{where} has the same id as {seen[entry['id']]}. Predictions are matched by id: give each question its own."
            )
        seen[entry["id"]] = where
        question = required(entry, "question", str, where).strip()  # leading spaces would shift the windows
        rows.append(Question(entry["id"], question, required(paragraph, "context", str, where), _answers(entry, where)))
        version2 |= "is_impossible" in entry or not entry["answers"]
    return Questions(tuple(rows), version2)


def raw_questions(path: str | Path) -> Iterator[RawQuestion]:
    """Yields each question of a file in SQuAD's own JSON layout: data, paragraphs, qas.

    Raises:
        InvalidInputError: for a file that is missing, is not JSON, holds no questions or lacks one of these keys.
    """
    count = 0
    for number, article in enumerate(required(read_json(path), "data", list, str(path)), start=1):
        name = f"Article {number} of {path}"
        for place, paragraph in enumerate(required(article, "paragraphs", list, name), start=1):
            where = f"Paragraph {place} of article {number} of {path}"
            for entry in required(paragraph, "qas", list, where):
                count += 1
                yield f"Question {required(entry, 'id', str, where)!r} of {path}", paragraph, entry
    if not count:
        raise InvalidInputError(f"{path} holds no questions. Give a file with at least one.")


def _answers(entry: dict[str, Any], where: str) -> tuple[Answer, ...]:
    """Returns a question's answers. Raises InvalidInputError for answers to a question that says it has none."""
    given = required(entry, "answers", list, where)
    if given and entry.get("is_impossible", False):
        raise InvalidInputError(f"{where} has answers and says is_impossible. Remove one of the two.")
    return tuple(
        (required(answer, "text", str, where), required({"answer_start": -1, **answer}, "answer_start", int, where))
        for answer in given
    )


def check_answer_places(rows: Sequence[Question], name: str) -> None:
    """Raises InvalidInputError, naming the first, for training answers that are blank, or not where they should start."""

    def is_placed(context: str, text: str, start: int) -> bool:
        return bool(text.strip()) and start >= 0 and context.startswith(text, start)

    if misplaced := [row for row in rows if row.answers and not is_placed(row.context, *row.answers[0])]:
        text, start = misplaced[0].answers[0]
        raise InvalidInputError(
            f"The answers to {len(misplaced)} of {len(rows)} questions of {name} are blank or not where answer_start says. The "
            f"first: question {misplaced[0].id!r}, the answer {text!r} at character {start}. Correct them, or leave the "
            "questions out."
        )


KINDS = {str: "a text", list: "a list", int: "a whole number"}

Kind = TypeVar("Kind", str, list[Any], int)


def required(found: Any, key: str, kind: type[Kind], where: str) -> Kind:
    """Returns an object's value for a key. Raises InvalidInputError if it is missing, or not of this type."""
    if not isinstance(found, dict) or not isinstance(found.get(key), kind):
        held = f"holds {type(found).__name__}" if not isinstance(found, dict) else f"has {found.get(key)!r:.60}"
        raise InvalidInputError(
            f"{where} must have {KINDS[kind]} under the key {key!r}, but {held}. Give a file in SQuAD's own layout."
        )
    return found[key]  # type: ignore[no-any-return]


def read_json(path: str | Path) -> Any:
    """Reads a JSON file. Raises InvalidInputError if it is missing or not JSON."""
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise InvalidInputError(f"{path} could not be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path} is not JSON: {error}.") from error
