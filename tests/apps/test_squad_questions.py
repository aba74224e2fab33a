"""Reading SQuAD's own layout: what it holds, and every way in which it can be wrong."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from fineprune import InvalidInputError
from fineprune.apps.tasks.squad.questions import Question, check_answer_places, read

CONTEXT = "The mill was built in 1820."
ENTRY = {"id": "1", "question": "  When? ", "answers": [{"text": "1820", "answer_start": 22}]}
DATA = {"version": "1.1", "data": [{"title": "Mill", "paragraphs": [{"context": CONTEXT, "qas": [ENTRY]}]}]}


def write(path: Path, content: object) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content, ensure_ascii=False).encode())
    return path


def changed(**changes: object) -> dict[str, Any]:
    """Returns the data with another entry; None takes a key away."""
    entry = {name: value for name, value in {**ENTRY, **changes}.items() if value is not None}
    data = copy.deepcopy(DATA)
    data["data"][0]["paragraphs"][0]["qas"] = [entry]
    return data


def test_reads_questions_in_order_from_several_files(tmp_path: Path) -> None:
    first = write(tmp_path / "a.json", b"\xef\xbb\xbf" + json.dumps(DATA).encode())
    second = write(tmp_path / "b.json", changed(id="2", question="Wo\u00fcld?", answers=[{"text": "mill"}]))
    found = read([first, second])
    assert found.rows == (
        Question("1", "When?", CONTEXT, (("1820", 22),)),
        Question("2", "Wo\u00fcld?", CONTEXT, (("mill", -1),)),
    )
    assert not found.version2


@pytest.mark.parametrize("changes", [{"answers": []}, {"answers": [], "is_impossible": True}, {"is_impossible": False}])
def test_knows_version_2(tmp_path: Path, changes: dict[str, object]) -> None:
    found = read([write(tmp_path / "a.json", DATA), write(tmp_path / "b.json", changed(id="2", **changes))])
    assert found.version2
    assert len(found.rows[1].answers) == len(changes.get("answers", [1]))


WRONG = [
    (b"\xff\xfe\x00", "a.json is not JSON"),
    (b"{", "a.json is not JSON"),
    (b"[" * 100_000, "a.json is not JSON"),
    ([1], "a.json must have a list under the key 'data', but holds list"),
    ({"data": {}}, "a.json must have a list under the key 'data', but has {}"),
    ({"data": []}, "a.json holds no questions"),
    ({"data": [{"paragraphs": []}]}, "a.json holds no questions"),
    ({"data": [{"title": "x"}]}, "Article 1 of .*a.json must have a list under the key 'paragraphs', but has None"),
    (
        {"data": [{"paragraphs": [3]}]},
        "Paragraph 1 of article 1 of .*a.json must have a list under the key 'qas', but holds int",
    ),
    (
        {"data": [{"paragraphs": [{"qas": [ENTRY]}]}]},
        "Question '1' of .*a.json must have a text under the key 'context', but has None",
    ),
    (changed(id=None), "Paragraph 1 of article 1 of .*a.json must have a text under the key 'id', but has None"),
    (changed(id=3), "Paragraph 1 of article 1 of .*a.json must have a text under the key 'id', but has 3"),
    (changed(question=None), "Question '1' of .*a.json must have a text under the key 'question', but has None"),
    (changed(answers=None), "Question '1' of .*a.json must have a list under the key 'answers', but has None"),
    (changed(answers=["x"]), "Question '1' of .*a.json must have a text under the key 'text', but holds str"),
    (
        changed(answers=[{"text": "x", "answer_start": "3"}]),
        "must have a whole number under the key 'answer_start', but has '3'",
    ),
    (changed(is_impossible=True), "Question '1' of .*a.json has answers and says is_impossible"),
]


@pytest.mark.parametrize(("content", "message"), WRONG)
def test_another_layout_raises(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        read([write(tmp_path / "a.json", content)])


def test_a_missing_file_and_a_duplicate_id_raise(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"a\.json could not be read: No such file"):
        read([tmp_path / "a.json"])
    with pytest.raises(InvalidInputError, match="could not be read: Is a directory"):
        read([tmp_path])
    paths = [write(tmp_path / name, DATA) for name in ("a.json", "b.json")]
    with pytest.raises(InvalidInputError, match=r"Question '1' of .*b\.json has the same id as Question '1' of .*a\.json"):
        read(paths)


def test_answers_to_train_on_are_where_they_start() -> None:
    placed = Question("1", "When?", CONTEXT, (("1820", 22), ("mill", 0)))
    impossible = Question("2", "Why?", CONTEXT, ())
    check_answer_places([placed, impossible], "the data")
    for answer in (("1820", 21), ("1820", -1), ("", 3), (" ", 3), (".", -1)):
        with pytest.raises(InvalidInputError, match=r"1 of 3 questions of the data .* question '3', the answer"):
            check_answer_places([placed, impossible, Question("3", "When?", CONTEXT, (answer,))], "the data")
