"""Extractive question answering: windows and their labels, data sets, and whole runs from file to figures."""

import dataclasses
import json
import random
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertTokenizer, EvalPrediction, PreTrainedTokenizerBase, PythonBackend

from conftest import training_arguments
from fineprune import InvalidInputError, Movement, PruningConfig
from fineprune.apps.tasks.squad.questions import Question, Questions
from fineprune.apps.tasks.squad.spans import Window
from fineprune.apps.tasks.squad.task import QuestionAnswering, answer_tokens, cut_windows
from fineprune.apps.training import run as training
from fineprune.apps.training.recipe import Recipe

LETTERS = "abcdefghijklmnop"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def tokenizer(**settings: object) -> PreTrainedTokenizerBase:
    """A tokenizer of letters, which ten can follow in one word."""
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS)])}
    return BertTokenizer(vocab=vocabulary, **settings)


def question(context: str, answer: str = "", asked: str = "a b", name: str = "1") -> Question:
    return Question(name, asked, context, ((answer, context.index(answer)),) if answer else ())


def shown(window: Window, context: str) -> str:
    return context[window.offsets[0, 0] : window.offsets[-1, 1]]


def test_a_long_context_is_cut_into_windows_that_overlap() -> None:
    rows = [question("c d e f g h i j", "g h"), question("k", "k")]
    encoded, windows = cut_windows(rows, tokenizer(), max_length=9, stride=2)
    assert [(window.question, shown(window, rows[window.question].context)) for window in windows] == [
        (0, "c d e f"),
        (0, "e f g h"),
        (0, "g h i j"),
        (1, "k"),
    ]
    assert {(window.null, window.first) for window in windows} == {(0, 4)}
    assert list(zip(encoded["start_positions"], encoded["end_positions"], strict=True)) == [(0, 0), (6, 7), (4, 5), (4, 4)]
    assert set(encoded.column_names) == {"input_ids", "token_type_ids", "attention_mask", "start_positions", "end_positions"}
    assert encoded["token_type_ids"][0] == [0] * 4 + [1] * 5
    assert encoded["input_ids"][3] == [2, 5, 6, 3, 15, 3]


def test_only_what_the_tokenizer_makes_is_kept() -> None:
    plain = tokenizer(model_input_names=["input_ids", "attention_mask"])
    encoded, _ = cut_windows([question("c d", "d")], plain, max_length=9, stride=2)
    assert set(encoded.column_names) == {"input_ids", "attention_mask", "start_positions", "end_positions"}


def test_the_context_comes_first_where_padding_is_on_the_left() -> None:
    left = tokenizer(padding_side="left")
    rows = [question("c d e f g h", "g h")]
    encoded, windows = cut_windows(rows, left, max_length=9, stride=2)
    assert [shown(window, rows[0].context) for window in windows] == ["c d e f", "e f g h"]
    assert encoded["input_ids"][1] == [2, 9, 10, 11, 12, 3, 5, 6, 3]
    assert (encoded["start_positions"], encoded["end_positions"]) == ([0, 3], [0, 4])


def test_batches_are_padded_behind_so_that_positions_hold() -> None:
    for side in ("left", "right"):
        made = tokenizer(padding_side=side)
        rows = Questions((question("c d e", "d"), question("k", "k", name="2")), version2=False)
        prepared = QuestionAnswering().prepare(None, {"": rows}, made, 200)
        batch = prepared.collator([prepared.validation[""][row] for row in (0, 1)])
        assert batch["input_ids"].shape == (2, 8)
        assert batch["attention_mask"][1].tolist() == [1] * 6 + [0] * 2
        assert batch["input_ids"][1, batch["start_positions"][1]] == 15
        assert made.padding_side == side


def test_the_classifying_token_stands_for_no_answer_else_the_first() -> None:
    other = tokenizer()
    other.cls_token = "b"
    encoded, windows = cut_windows([question("c d")], other, max_length=9, stride=2)
    assert (windows[0].null, encoded["start_positions"][0], encoded["end_positions"][0]) == (2, 2, 2)
    none = tokenizer()
    none.cls_token = None
    assert cut_windows([question("c d")], none, max_length=9, stride=2)[1][0].null == 0


words = st.lists(st.text(LETTERS, min_size=1, max_size=4), min_size=1, max_size=12)


@given(words, st.data())
def test_labels_hold_the_answer_wherever_a_window_shows_all_of_it(context: list[str], data: st.DataObject) -> None:
    text = data.draw(st.sampled_from([" ", "  ", "\n"])).join(["", *context, ""])
    first = data.draw(st.integers(0, len(context) - 1))
    answer = " ".join(context[first : data.draw(st.integers(first + 1, len(context)))])
    start = text.find(answer)
    if start < 0:
        return
    row = Question("1", "a", text, ((answer, start),))
    encoded, windows = cut_windows([row], tokenizer(), max_length=12, stride=3)
    for window, begin, end in zip(windows, encoded["start_positions"], encoded["end_positions"], strict=True):
        low, high = window.offsets[0, 0], window.offsets[-1, 1]
        if low <= start and start + len(answer) <= high:
            begins, ends = window.offsets[begin - window.first, 0], window.offsets[end - window.first, 1]
            assert text[begins:ends] == answer or len(answer) < ends - begins <= len(answer) + 6
            assert begins <= start < ends
        else:
            assert begin == end == window.null


def test_labels_widen_to_whole_tokens_and_leave_white_space_out() -> None:
    context = "  c d"
    window = cut_windows([question(context)], tokenizer(), 20, 2)[1][0]
    for text, start, wanted in [
        (" c ", 1, (4, 4)),
        (" c d", 1, (4, 5)),
        ("  ", 0, (0, 0)),
        ("d", -1, (0, 0)),
        ("x", 99, (0, 0)),
    ]:
        assert answer_tokens(window, Question("1", "a b", context, ((text, start),))) == wanted, text
    touching = "cdc"  # three tokens without white space between them
    window = cut_windows([question(touching)], tokenizer(), 20, 2)[1][0]
    for text, start, wanted in [("c", 0, (4, 4)), ("d", 1, (5, 5)), ("cd", 0, (4, 5)), ("dc", 1, (5, 6)), ("c", 2, (6, 6))]:
        assert answer_tokens(window, Question("1", "a b", touching, ((text, start),))) == wanted, (text, start)
    unknown = "zzz q c"  # whole words that the tokenizer does not know are one token
    window = cut_windows([question(unknown)], tokenizer(), 20, 2)[1][0]
    assert answer_tokens(window, Question("1", "a b", unknown, (("z q", 2),))) == (4, 5)


def test_a_text_without_tokens_has_a_window_without_spans() -> None:
    for context in ("", " \u200b"):
        encoded, windows = cut_windows([Question("1", "a", context, (("x", 0),))], tokenizer(), 9, 2)
        assert (len(windows[0].offsets), encoded["start_positions"]) == (0, [0])


def test_a_length_without_room_for_the_context_raises() -> None:
    rows = Questions((question("c d", "c"), question("c d", "d", asked="a b c d e", name="long")), version2=False)
    task = QuestionAnswering(stride=2)
    with pytest.raises(InvalidInputError, match=r"must be 11 or more, got 10: the question 'long' has 5 tokens, .*"):
        task.prepare(None, {"": rows}, tokenizer(), 10)
    with pytest.raises(InvalidInputError, match="the question 'long' has"):
        task.prepare(rows, {"": dataclasses.replace(rows, rows=rows.rows[:1])}, tokenizer(), 10)
    task.prepare(rows, {"": rows}, tokenizer(), 11)


def test_a_slow_tokenizer_raises() -> None:
    class Slow(PythonBackend):
        vocab_size = 1

        def get_vocab(self) -> dict[str, int]:
            return {"a": 0}

    with pytest.raises(InvalidInputError, match="The tokenizer Slow is a slow one"):
        QuestionAnswering().prepare(None, {"": Questions((question("c"),), version2=True)}, Slow(), 384)


def test_preparing_leaves_the_tokenizer_as_it_was() -> None:
    made = tokenizer()
    made.backend_tokenizer.enable_truncation(7)
    before = made.backend_tokenizer.to_str()
    QuestionAnswering(stride=2).prepare(None, {"": Questions((question("c d e", "d"),), version2=False)}, made, 20)
    assert made.backend_tokenizer.to_str() == before


def test_many_questions_are_numbered_through(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [question(" ".join(LETTERS[: 3 + 2 * row]), "c", name=str(row)) for row in range(5)]
    whole = cut_windows(rows, tokenizer(), 9, 1)
    monkeypatch.setattr("fineprune.apps.tasks.squad.task.CHUNK", 2)
    parts = cut_windows(rows, tokenizer(), 9, 1)
    assert [window.question for window in parts[1]] == [window.question for window in whole[1]]
    assert parts[0].to_dict() == whole[0].to_dict()


def test_scores_logits_that_trainer_padded() -> None:
    rows = Questions((question("c d e f g h", "g h"), question("k", "k", name="2"), question("c d", name="3")), version2=True)
    prepared = QuestionAnswering(stride=2).prepare(None, {"": rows}, tokenizer(), 9)
    encoded = prepared.validation[""]
    logits = np.full((len(encoded), 9, 2), -100, dtype=np.float32)  # what Trainer fills up with
    for number, row in enumerate(encoded):
        logits[number, : len(row["input_ids"])] = -200
        logits[number, row["start_positions"], 0] = logits[number, row["end_positions"], 1] = -150
    assert prepared.metrics(EvalPrediction(logits, None)) == {"f1": 100.0, "exact_match": 100.0}
    strict = QuestionAnswering(stride=2, null_threshold=-400).prepare(None, {"": rows}, tokenizer(), 9)
    assert strict.metrics(EvalPrediction(logits, None))["exact_match"] == pytest.approx(100 / 3)


def test_of_a_models_outputs_only_the_two_logits_are_kept() -> None:
    rows = Questions((question("c", "c"),), version2=False)
    reduce = QuestionAnswering().prepare(None, {"": rows}, tokenizer(), 200).reduce
    start, end = torch.rand(2, 7), torch.rand(2, 7)
    assert reduce is not None
    kept = reduce((start, end, torch.rand(2, 7, 3)), torch.zeros(2))
    assert torch.equal(kept[..., 0], start)
    assert torch.equal(kept[..., 1], end)


# Data sets.


def squad(path: Path, rows: list[Question], version2: bool = False) -> str:
    paragraphs = []
    for row in rows:
        answers = [{"text": text, "answer_start": start} for text, start in row.answers]
        says = {"is_impossible": not answers} if version2 else {}
        paragraphs.append(
            {"context": row.context, "qas": [{"id": row.id, "question": row.question, "answers": answers, **says}]}
        )
    path.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    return str(path)


ROWS = [question("c d", "d", name="1"), question("e f", "e", name="2")]


def test_reads_files_and_only_so_many_questions(tmp_path: Path) -> None:
    train, more = squad(tmp_path / "t.json", ROWS), squad(tmp_path / "m.json", [question("g", "g", name="3")])
    splits = QuestionAnswering(train=[train, more], validation=train, max_validation_samples=1).load()
    assert [row.id for row in splits.train.rows] == ["1", "2", "3"]
    assert splits.validation == {"": Questions((ROWS[0],), version2=False)}
    assert splits.classes == ()
    assert [row.id for row in QuestionAnswering(train=train, validation=more, max_train_samples=1).load().train.rows] == ["1"]


def test_misplaced_answers_may_be_evaluated_on_and_not_trained_on(tmp_path: Path) -> None:
    wrong = squad(tmp_path / "w.json", [dataclasses.replace(ROWS[0], answers=(("d", 1),))])
    right = squad(tmp_path / "r.json", [ROWS[1]])
    QuestionAnswering(train=right, validation=wrong).load()
    with pytest.raises(InvalidInputError, match="The answers to 1 of 1 questions of the training data are blank or not where"):
        QuestionAnswering(train=wrong, validation=right).load()


def test_files_or_a_data_set(tmp_path: Path) -> None:
    path = squad(tmp_path / "a.json", ROWS)
    for task in (QuestionAnswering(), QuestionAnswering(dataset="rajpurkar/squad", train=path)):
        with pytest.raises(InvalidInputError, match="either files"):
            task.load()
    with pytest.raises(InvalidInputError, match="no validation file"):
        QuestionAnswering(train=path).load()


@pytest.mark.parametrize("version2", [False, True])
def test_reads_a_data_set_as_from_the_hub(tmp_path: Path, version2: bool) -> None:
    rows = [*ROWS, question("g", name="3")] if version2 else ROWS
    columns: dict[str, list[object]] = {key: [getattr(row, key) for row in rows] for key in ("id", "question", "context")}
    columns["answers"] = [
        {"text": [text for text, _ in row.answers], "answer_start": [start for _, start in row.answers]} for row in rows
    ]
    for split in ("train", "validation"):
        datasets.Dataset.from_dict(columns).to_parquet(tmp_path / f"{split}-0.parquet")
    splits = QuestionAnswering(dataset=str(tmp_path)).load()
    assert splits.train == splits.validation[""] == Questions(tuple(rows), version2)


def test_a_data_set_with_other_columns_raises(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        datasets.Dataset.from_dict({"id": ["1"], "context": ["c"]}).to_parquet(tmp_path / f"{split}-0.parquet")
    with pytest.raises(InvalidInputError, match=r"\(train\) has no column 'question'. Give a data set with SQuAD's columns"):
        QuestionAnswering(dataset=str(tmp_path)).load()


WRONG = {"stride": -1, "n_best": 0, "max_answer_tokens": 0, "max_train_samples": 0, "null_threshold": float("nan")}


@pytest.mark.parametrize("name", WRONG)
def test_unusable_settings_raise(name: str) -> None:
    with pytest.raises(InvalidInputError, match=f"task.{name} must be .*, got"):
        QuestionAnswering(**{name: WRONG[name]})  # type: ignore[arg-type]


# Whole runs: the answer is the word "good" with what follows it, in texts longer than a window.


def asked(number: int, answerable: bool) -> Question:
    generator = random.Random(number)
    before, after = ([generator.choice(["bad", "poor"]) for _ in range(generator.randint(1, 12))] for _ in "ab")
    answer = generator.choice(["good film", "good book"])
    middle = [answer] if answerable else []
    return question(" ".join([*before, *middle, *after]), answer if answerable else "", "the fine", str(number))


def recipe(model: Path, data: Path, output: Path, version2: bool = False, **settings: object) -> Recipe:
    for name, numbers in (("train", range(160)), ("validation", range(1000, 1040))):
        rows = [asked(number, answerable=not version2 or number % 3 > 0) for number in numbers]
        squad(data / f"{name}.json", rows, version2)
    files = {name: str(data / f"{name}.json") for name in ("train", "validation")}
    arguments = training_arguments(
        output,
        num_train_epochs=3,
        logging_steps=20,
        per_device_train_batch_size=8,
        learning_rate=1e-2,
        eval_strategy="epoch",
    )
    task = QuestionAnswering(**files, stride=4)  # type: ignore[arg-type]
    return Recipe(str(model), task, arguments, PruningConfig(method=Movement(), density=0.5), max_length=16, **settings)


@pytest.fixture(scope="module")
def run(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, training.Result]:
    folder = tmp_path_factory.mktemp("squad")
    wanted = recipe(model_folder, folder, folder / "run")
    return wanted, training.train(wanted)


def test_learns_to_answer_and_evaluates_to_the_same(run: tuple[Recipe, training.Result]) -> None:
    wanted, result = run
    assert result.metrics["f1"] > 90
    assert result.metrics["exact_match"] > 80
    assert result.inspection.density == 0.5
    again = training.evaluate(wanted.training.output_dir or "", wanted.task, wanted.max_length, wanted.training)
    assert again.metrics == pytest.approx(result.metrics, rel=1e-6)


def test_learns_from_a_teacher(run: tuple[Recipe, training.Result], model_folder: Path, tmp_path: Path) -> None:
    wanted = recipe(model_folder, tmp_path, tmp_path / "run", teacher=run[0].training.output_dir)
    result = training.train(wanted)
    assert result.metrics["f1"] > 90
    assert any("loss_kd" in entry for entry in result.history)


def test_learns_when_there_is_no_answer(model_folder: Path, tmp_path: Path) -> None:
    wanted = recipe(model_folder, tmp_path, tmp_path / "run", version2=True)
    result = training.train(wanted)
    assert result.metrics["exact_match"] > 80
    forced = dataclasses.replace(wanted.task, null_threshold=1e6)  # type: ignore[type-var]
    given = training.evaluate(str(tmp_path / "run"), forced, wanted.max_length, wanted.training)
    assert given.metrics["exact_match"] < 70
