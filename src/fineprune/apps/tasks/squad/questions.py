"""Questions on texts in the layout of SQuAD: read, and refused where a key is missing or an id comes twice."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ....errors import InvalidInputError

Answer = tuple[str, int]
"""The text, and where it starts in the context, in characters; -1 where the data does not say."""

Entry = tuple[str, dict[str, Any], dict[str, Any]]
"""Where a question stands, in words; its paragraph; and the question itself, both as in the file."""


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
        version2: whether the data is of SQuAD v2: it says of its questions whether they have an answer, or some have none.
    """

    rows: tuple[Question, ...]
    version2: bool


def read(paths: Iterable[str | Path]) -> Questions:
    """Reads files in SQuAD's own JSON layout, one after the other.

    Raises:
        InvalidInputError: for a file that is missing, or not in this layout; and for an id that comes twice.
    """
    return collect(entry for path in paths for entry in entries(path))


def collect(found: Iterable[Entry]) -> Questions:
    """Makes questions of entries. Raises InvalidInputError for a missing key, or an id that comes twice."""
    known = list(distinct(found))
    rows = tuple(
        Question(
            entry["id"],
            value(entry, "question", str, where).strip(),  # leading spaces confuse the cutting into windows
            value(paragraph, "context", str, where),
            answers(entry, where),
        )
        for where, paragraph, entry in known
    )
    return Questions(rows, is_version2(entry for _, _, entry in known))


def is_version2(found: Iterable[dict[str, Any]]) -> bool:
    """Whether entries say that a question has an answer or has none, or leave one without answers."""
    return any("is_impossible" in entry or not entry["answers"] for entry in found)


def entries(path: str | Path) -> Iterator[Entry]:
    """Yields each question of a file in SQuAD's own JSON layout: data, paragraphs, qas.

    Raises:
        InvalidInputError: for a file that is missing, is not JSON, holds no questions or lacks one of these keys.
    """
    some = False
    for number, article in enumerate(value(read_json(path), "data", list, str(path)), start=1):
        name = f"Article {number} of {path}"
        for place, paragraph in enumerate(value(article, "paragraphs", list, name), start=1):
            where = f"Paragraph {place} of article {number} of {path}"
            for entry in value(paragraph, "qas", list, where):
                some = True
                yield f"Question {value(entry, 'id', str, where)!r} of {path}", paragraph, entry
    if not some:
        raise InvalidInputError(f"{path} holds no questions. Give a file with at least one.")


def distinct(found: Iterable[Entry]) -> Iterator[Entry]:
    """Yields entries as they come. Raises InvalidInputError for an id that was there before."""
    seen: dict[str, str] = {}
    for where, paragraph, entry in found:
        if entry["id"] in seen:
            raise InvalidInputError(
                f"{where} has an id that was there before ({seen[entry['id']]}). Predictions go by ids: give each its own."
            )
        seen[entry["id"]] = where
        yield where, paragraph, entry


def answers(entry: dict[str, Any], where: str) -> tuple[Answer, ...]:
    """Returns a question's answers. Raises InvalidInputError where there are some though it says that it has none."""
    given = value(entry, "answers", list, where)
    if given and entry.get("is_impossible", False):
        raise InvalidInputError(f"{where} has answers and says is_impossible. Remove one of the two.")
    return tuple(
        (value(answer, "text", str, where), value({"answer_start": -1, **answer}, "answer_start", int, where))
        for answer in given
    )


def check_answer_places(rows: Sequence[Question], name: str) -> None:
    """Raises InvalidInputError, naming the first, if answers to train on are blank, or not where they are said to start."""
    misplaced = [row for row in rows if row.answers and not _is_placed(row.context, *row.answers[0])]
    if misplaced:
        text, start = misplaced[0].answers[0]
        raise InvalidInputError(
            f"The answers to {len(misplaced)} of {len(rows)} questions of {name} are blank or not where answer_start says. The "
            f"first: question {misplaced[0].id!r}, the answer {text!r} at character {start}. Correct them, or leave the "
            "questions out."
        )


def _is_placed(context: str, text: str, start: int) -> bool:
    return bool(text.strip()) and start >= 0 and context.startswith(text, start)


KINDS = {str: "a text", list: "a list", int: "a whole number"}

Kind = TypeVar("Kind", str, list[Any], int)


def value(found: Any, key: str, kind: type[Kind], where: str) -> Kind:
    """Returns what an object of a JSON file holds under a key. Raises InvalidInputError if it is not there, or another kind."""
    if not isinstance(found, dict) or not isinstance(found.get(key), kind):
        held = f"holds {type(found).__name__}" if not isinstance(found, dict) else f"has {found.get(key)!r:.60}"
        raise InvalidInputError(
            f"{where} {held} where {KINDS[kind]} under the key {key!r} should be. Give a file in SQuAD's own layout."
        )
    return found[key]  # type: ignore[no-any-return]


def read_json(path: str | Path) -> Any:
    """Reads a JSON file. Raises InvalidInputError if it is missing or is something else."""
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise InvalidInputError(f"{path} could not be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path} is not JSON: {error}.") from error
