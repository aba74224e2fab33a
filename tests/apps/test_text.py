"""Reading texts and labels from files and data sets: every kind, and every way in which one can be wrong."""

from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from test_tables import write
from transformers import AutoTokenizer

from conftest import config, training_arguments
from fineprune import InvalidInputError
from fineprune.apps.tasks.base import Examples, Splits, encode
from fineprune.apps.tasks.text import TextClassification, TextRegression
from fineprune.apps.training import run as training
from fineprune.apps.training.recipe import Recipe


def load(tmp_path: Path, train: str, validation: str, **settings: object) -> Splits:
    files = {"train": write(tmp_path / "t.csv", train), "validation": write(tmp_path / "v.csv", validation)}
    return TextClassification(**files, **settings).load()


def test_numbers_the_classes(tmp_path: Path) -> None:
    splits = load(tmp_path, "text,label\na,10\nb,9\nc,10\n", "text,label\nd,9\n")
    assert splits.classes == ("9", "10")
    assert (splits.train.texts, splits.train.pairs, splits.train.labels) == (["a", "b", "c"], None, [1, 0, 1])
    assert splits.validation[""].labels == [0]
    named = load(tmp_path, "text,label\na,yes\nb,no\n", "text,label\nd,no\n", classes=["yes", "no", "maybe"])
    assert named.classes == ("yes", "no", "maybe")
    assert named.train.labels == [0, 1]


def test_numbers_of_one_value_are_sorted_by_name(tmp_path: Path) -> None:
    names = ["0" * zeros + number for number in "12" for zeros in range(8)]
    rows = "".join(f"a,{name}\n" for name in names)
    splits = load(tmp_path, f"text,label\n{rows}", f"text,label\n{rows}")
    assert splits.classes == (*sorted(names[:8]), *sorted(names[8:]))


MOODS = "text,label\na,neg\nb,neutral\nc,pos\n"


@pytest.mark.parametrize(
    ("classes", "given_classes", "labels"),
    [
        (("neg", "neutral", "pos"), ["pos", "neutral", "neg"], [0, 1, 2]),
        (("POS", "Neg", "Neutral"), ["neg", "neutral", "pos"], [1, 2, 0]),
        (("LABEL_0", "LABEL_1", "LABEL_2"), ["pos", "neutral", "neg"], [2, 1, 0]),
        (("neutral", "pos", "neg"), None, [2, 0, 1]),
    ],
)
def test_labels_follow_the_order_of_a_models_classes(
    tmp_path: Path, classes: tuple[str, ...], given_classes: list[str] | None, labels: list[int]
) -> None:
    task = TextClassification(validation=write(tmp_path / "v.csv", MOODS), classes=given_classes)
    assert task.load_validation(classes)[""].labels == labels


def test_names_that_differ_in_case_alone_are_classes_of_their_own(tmp_path: Path) -> None:
    task = TextClassification(validation=write(tmp_path / "v.csv", "text,label\na,A\nb,a\n"), classes=["A", "a"])
    assert task.load_validation(("a", "A"))[""].labels == [1, 0]


def test_a_model_that_does_not_fit_the_classes_raises(tmp_path: Path) -> None:
    task = TextClassification(validation=write(tmp_path / "v.csv", MOODS))
    with pytest.raises(
        InvalidInputError, match=r"an output for each class, got one output \(LABEL_0\)\. .* take the task TextRegression"
    ):
        task.load_validation(("LABEL_0",))
    with pytest.raises(InvalidInputError, match=r"task\.classes must name the 3 classes of the model, got 2"):
        TextClassification(validation=task.validation, classes=["neg", "pos"]).load_validation(("a", "b", "c"))


def test_classes_of_which_the_model_knows_some_raise(tmp_path: Path) -> None:
    task = TextClassification(validation=write(tmp_path / "v.csv", MOODS), classes=["pos", "mixed", "neg"])
    with pytest.raises(InvalidInputError, match=r"names mixed, which the model does not know; its classes are neg, "):
        task.load_validation(("neg", "neutral", "pos"))


def test_a_class_named_twice_raises() -> None:
    with pytest.raises(InvalidInputError, match=r"task\.classes names 'b' more than once\. Name each class once"):
        TextClassification(classes=["a", "b", "c", "b"])


def test_a_whole_number_is_the_same_class_with_a_point_and_without(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", "".join(f'{{"text": "a", "label": {label}}}\n' for label in ("1", "1.0", "0.0", "0.5")))
    splits = TextClassification(train=path, validation=path).load()
    assert splits.classes == ("0", "0.5", "1")
    assert splits.train.labels == [2, 2, 0, 1]


@pytest.mark.parametrize("label", ["NaN", "Infinity", "[1]", '{"a": 1}', "null", '""'])
def test_a_label_that_names_no_class_raises_with_its_row(tmp_path: Path, label: str) -> None:
    good, wrong = (write(tmp_path / f"{name}.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": 0}\n') for name in "gw")
    with open(wrong, "a") as file:
        file.write(f'{{"text": "c", "label": {label}}}\n')
    message = r"Row 3 of .*w.jsonl must have a class as its label, a text or a finite number, got .*\. Correct it"
    for files in ({"train": wrong, "validation": good}, {"train": good, "validation": wrong}):
        with pytest.raises(InvalidInputError, match=message):
            TextClassification(**files).load()
    named = TextClassification(validation=wrong, classes=["0", "1", "nan", "None", "inf", "[1]", "{'a': 1}", ""])
    with pytest.raises(InvalidInputError, match=message):
        named.load_validation(tuple("abcdefgh"))


@pytest.mark.parametrize(("column", "values"), [("label", [b"no", b"yes"]), ("text", [b"a", b"b"]), ("text", [1.0, np.nan])])
def test_bytes_and_nan_of_parquet_raise_with_their_row(tmp_path: Path, column: str, values: list[object]) -> None:
    path, columns = tmp_path / "a.parquet", {"text": ["a", "b"], "label": [0, 1]}
    pyarrow.parquet.write_table(pyarrow.table({**columns, column: values}), path)
    label, text = "a class as its label, .* got b'no'", "a text in the column 'text', got (b'a'|nan)"
    with pytest.raises(InvalidInputError, match=rf"Row [12] of .*a.parquet must (have {label}|hold {text})"):
        TextClassification(train=str(path), validation=str(path)).load()


def test_reads_pairs_and_other_columns(tmp_path: Path) -> None:
    rows = "premise,hypothesis,gold\na,b,yes\nc,d,no\n"
    splits = load(tmp_path, rows, rows, text="premise", text_pair="hypothesis", label="gold", max_train_samples=2)
    assert splits.train.texts == ["a", "c"]
    assert splits.train.pairs == ["b", "d"]


GOOD = "text,label\na,1\nb,0\n"
WRONG = [
    ("txt,label\na,1\n", GOOD, {}, "t.csv has no column 'text'; did you mean 'txt'"),
    (GOOD, "text,lable\na,1\n", {}, "v.csv has no column 'label'; did you mean 'lable'"),
    (GOOD, GOOD, {"text_pair": "other"}, "has no column 'other'"),
    ("text,label\n", GOOD, {}, "t.csv holds no rows"),
    ("", GOOD, {}, "t.csv has nothing in its first line"),
    (GOOD, "text,label\n", {}, "v.csv holds no rows"),
    (GOOD, "text,label\na,1\nb,7\n", {}, "Row 2 of .*v.csv has the label '7', which is not one of the classes 0, 1"),
    (GOOD, GOOD, {"classes": ["1", "2"]}, "Row 2 of .*t.csv has the label '0'"),
    ("text,label\na,1\n", GOOD, {}, r"must hold two classes or more, got 1 \(1\)"),
    ("text,label\na,1\nb,\nc,0\n", GOOD, {}, "Row 2 of .*t.csv must have a class as its label, .* got ''"),
    (GOOD, GOOD, {"max_train_samples": 0}, "max_train_samples must be 1 or more, got 0"),
]


@pytest.mark.parametrize(("train", "validation", "settings", "message"), WRONG)
def test_wrong_data_raises(tmp_path: Path, train: str, validation: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        load(tmp_path, train, validation, **settings)


def test_a_missing_text_raises_with_its_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "a", "label": 0}\n{"label": 1}\n')
    with pytest.raises(InvalidInputError, match=r"Row 2 of .* must hold a text in the column 'text', got None"):
        TextClassification(train=path, validation=path).load()


def test_files_or_a_data_set(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", GOOD)
    with pytest.raises(InvalidInputError, match="either files"):
        TextClassification().load()
    with pytest.raises(InvalidInputError, match="either files"):
        TextClassification(dataset="nyu-mll/glue", train=path, validation=path).load()
    with pytest.raises(InvalidInputError, match="no validation file"):
        TextClassification(train=path).load()


def test_reads_a_data_set_as_from_the_hub(tmp_path: Path) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    for split in ("train", "validation"):
        rows = {"text": ["a", "b"], "label": [1, 0]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"{split}-0.parquet")
    splits = TextClassification(dataset=str(tmp_path)).load()
    assert splits.classes == ("no", "yes")
    assert splits.train.labels == [1, 0]
    with pytest.raises(InvalidInputError, match="could not be loaded"):
        TextClassification(dataset=str(tmp_path), validation_split="test").load()


@pytest.mark.parametrize("label", [None, -1])
def test_a_row_of_the_hub_without_its_class_raises(tmp_path: Path, label: int | None) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    rows = {"text": ["a", "b", "c"], "label": [1, label, 0]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train-0.parquet")
    with pytest.raises(InvalidInputError, match=r"Row 2 of .* must have a class as its label, .* got None"):
        TextClassification(dataset=str(tmp_path)).load()


RATED = "text,label\na,1\nb,-2.5\nc,1e3\n"


def test_reads_texts_with_values(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", RATED)
    task = TextRegression(train=path, validation=path, max_train_samples=2)
    splits = task.load()
    assert (splits.train.texts, splits.train.labels, splits.classes) == (["a", "b"], [1.0, -2.5], ())
    assert splits.validation[""].labels == [1.0, -2.5, 1000.0]
    assert task.load_validation(("LABEL_0",)) == splits.validation
    with pytest.raises(InvalidInputError, match=r"a model with one output, got 2 \(no, yes\)"):
        task.load_validation(("no", "yes"))
    assert task.config(()) == {"num_labels": 1, "problem_type": "regression"}


@pytest.mark.parametrize("label", ["good", "", "nan", "inf", "1,5", "None"])
@pytest.mark.parametrize("wrong", ["train", "validation"])
def test_a_value_that_is_no_finite_number_raises_with_its_row(tmp_path: Path, label: str, wrong: str) -> None:
    files = {name: write(tmp_path / f"{name}.csv", RATED) for name in ("train", "validation")}
    write(tmp_path / f"{wrong}.csv", f'text,label\na,1\nb,"{label}"\n')
    with pytest.raises(
        InvalidInputError, match=f"Row 2 of .*{wrong}.csv must have a finite number as its label, got '{label}'"
    ):
        TextRegression(**files).load()


def test_a_missing_value_raises_with_its_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "a", "label": 1}\n{"text": "b"}\n')
    with pytest.raises(InvalidInputError, match=r"Row 2 of .* must have a finite number as its label, got None"):
        TextRegression(train=path, validation=path).load()


def test_regression_is_scored_by_correlation() -> None:
    labels = np.array([1.0, 2.0, 3.0, 5.0])
    figures = TextRegression().score(labels, np.array([[0.1], [0.2], [0.3], [0.9]], dtype=np.float32))
    assert tuple(figures) == ("pearson", "spearmanr") == TextRegression().metrics[:-1]
    assert figures["spearmanr"] == pytest.approx(1.0)
    assert figures["pearson"] == pytest.approx(np.corrcoef(labels, [0.1, 0.2, 0.3, 0.9])[0, 1], rel=1e-6)
    assert TextRegression().score(labels, -labels[:, None])["pearson"] == pytest.approx(-1.0)


@pytest.mark.parametrize("constant", [0.1, 0.0, 1e30])
def test_predictions_that_are_all_the_same_do_not_correlate(constant: float) -> None:
    none = {"pearson": 0.0, "spearmanr": 0.0}
    varied = np.array([1.0, 2.0, 3.0])
    same = np.full((3, 1), constant, dtype=np.float32)
    assert TextRegression().score(varied, same) == none
    assert TextRegression().score(same[:, 0], varied[:, None]) == none
    assert TextRegression().score(varied[:1], varied[:1, None]) == none


def test_regression_on_pairs_trains_and_evaluates_again_to_the_same(model_folder: Path, tmp_path: Path) -> None:
    rows = [f"the {one} film,a {other} book,{value}" for one, other, value in (("good", "fine", 3.5), ("bad", "poor", -1))]
    path = write(tmp_path / "pairs.csv", "\n".join(["text,second,label", *(rows * 16)]) + "\n")
    task = TextRegression(train=path, validation=path, text_pair="second")
    arguments = training_arguments(tmp_path / "run", num_train_epochs=4, learning_rate=1e-2)
    result = training.train(Recipe(str(model_folder), task, arguments, pruning=config(density=0.5), max_length=16))
    assert tuple(result.metrics) == task.metrics
    assert result.metrics["pearson"] > 0.9
    again = training.evaluate(str(tmp_path / "run"), task, 16, arguments)
    assert again.metrics == pytest.approx(result.metrics, rel=1e-6)


@pytest.mark.parametrize(("pairs", "special"), [(None, 2), (["a book", "bad"], 3)])
def test_a_length_without_room_for_a_word_raises(model_folder: Path, pairs: list[str] | None, special: int) -> None:
    tokenizer, examples = AutoTokenizer.from_pretrained(model_folder), Examples(["the good film", "poor"], pairs, [0, 1])
    for length in range(1, special + 1):
        with pytest.raises(
            InvalidInputError, match=f"max_length must be {special + 1} or more, got {length}: .* {special} special tokens"
        ):
            encode(examples, tokenizer, length)
    assert [len(row["input_ids"]) for row in encode(examples, tokenizer, special + 1)] == [special + 1] * 2
