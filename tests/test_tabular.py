"""Reading texts and labels from files and data sets: every kind, and every way in which one can be wrong."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TrainingArguments

from conftest import config
from fineprune import InvalidInputError, training
from fineprune.recipe import Recipe
from fineprune.tasks.tabular import TextClassification, TextRegression, read_table
from fineprune.tasks.task import Splits


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_reads_csv_with_quotes_and_keeps_words_that_look_like_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", '\ufefftext,label\n"a, ""b""\nc",1\nnull,0\nNA,0\n')
    assert read_table(path) == {"text": ['a, "b"\nc', "null", "NA"], "label": ["1", "0", "0"]}


def test_reads_tsv_without_quoting(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 'sentence\tlabel\n"a lone quote\t1\nit\'s "fine"\t0\n')
    assert read_table(path) == {"sentence": ['"a lone quote', 'it\'s "fine"'], "label": ["1", "0"]}


def test_reads_jsonl_and_parquet(tmp_path: Path) -> None:
    rows = [{"text": "a\u2028b", "label": 1}, {"text": "c", "label": 0}]
    path = write(tmp_path / "a.jsonl", "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n")
    assert read_table(path) == {"text": ["a\u2028b", "c"], "label": [1, 0]}
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet") == {"text": ["a\u2028b", "c"], "label": [1, 0]}


text = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\r\0"), max_size=20)


@settings(max_examples=50)
@given(st.lists(st.tuples(text, text), min_size=1, max_size=5))
def test_csv_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    def quoted(value: str) -> str:
        return '"' + value.replace('"', '""') + '"'

    lines = ["text,label", *(f"{quoted(first)},{quoted(second)}" for first, second in rows)]
    path = write(tmp_path_factory.mktemp("csv") / "a.csv", "\n".join(lines) + "\n")
    assert read_table(path) == {"text": [first for first, _ in rows], "label": [second for _, second in rows]}


BROKEN = {
    "a.csv": [
        ("text,label\na,b,1\n", "Line 2 of .* has 3 fields; the header has 2"),
        ("text,text\na,1\n", "two columns of the same name"),
        ('text,label\n"a,1\n', "Line 2 of .* is not in this format"),
        (b"text,label\n\xff\xfe,1\n", "not text in UTF-8"),
    ],
    "a.jsonl": [('{"text": 1\n', "Line 1 of .* is not JSON"), ('{"text": 1}\n[1]\n', "Line 2 of .* is not a JSON object")],
    "a.parquet": [("text", "not a whole Parquet file")],
    "a.txt": [("text", "a data file ends in .csv, .tsv, .jsonl, .parquet")],
}


@pytest.mark.parametrize(("name", "content", "message"), [(name, *case) for name, cases in BROKEN.items() for case in cases])
def test_a_broken_file_is_refused_in_words(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        read_table(write(tmp_path / name, content))


def test_a_missing_file_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="could not be read: No such file"):
        read_table(tmp_path / "a.csv")


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
    ("", GOOD, {}, "t.csv has no column 'text'"),
    (GOOD, "text,label\n", {}, "v.csv holds no rows"),
    (GOOD, "text,label\na,1\nb,7\n", {}, "Row 2 of .*v.csv has the label '7', which is not one of the classes 0, 1"),
    (GOOD, GOOD, {"classes": ["1", "2"]}, "Row 2 of .*t.csv has the label '0'"),
    ("text,label\na,1\n", GOOD, {}, "holds 1 class"),
    ("text,label\na,1\nb,\nc,0\n", GOOD, {}, "Row 2 of .*t.csv has the label ''"),
    (GOOD, GOOD, {"max_train_samples": 0}, "max_train_samples was given as 0"),
]


@pytest.mark.parametrize(("train", "validation", "settings", "message"), WRONG)
def test_wrong_data_is_refused_in_words(
    tmp_path: Path, train: str, validation: str, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        load(tmp_path, train, validation, **settings)


def test_a_missing_text_is_refused_with_its_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "a", "label": 0}\n{"label": 1}\n')
    with pytest.raises(InvalidInputError, match=r"Row 2 of .* holds None in the column 'text'"):
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


RATED = "text,label\na,1\nb,-2.5\nc,1e3\n"


def test_reads_texts_with_values(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", RATED)
    task = TextRegression(train=path, validation=path, max_train_samples=2)
    splits = task.load()
    assert (splits.train.texts, splits.train.labels, splits.classes) == (["a", "b"], [1.0, -2.5], ())
    assert splits.validation[""].labels == [1.0, -2.5, 1000.0]
    assert task.load_validation(("LABEL_0",)) == splits.validation
    with pytest.raises(InvalidInputError, match=r"has 2 outputs \(no, yes\), where a regression takes one"):
        task.load_validation(("no", "yes"))
    assert task.config(()) == {"num_labels": 1, "problem_type": "regression"}


@pytest.mark.parametrize("label", ["good", "", "nan", "inf", "1,5", "None"])
@pytest.mark.parametrize("wrong", ["train", "validation"])
def test_a_value_that_is_no_finite_number_is_refused_with_its_row(tmp_path: Path, label: str, wrong: str) -> None:
    files = {name: write(tmp_path / f"{name}.csv", RATED) for name in ("train", "validation")}
    write(tmp_path / f"{wrong}.csv", f'text,label\na,1\nb,"{label}"\n')
    with pytest.raises(InvalidInputError, match=f"Row 2 of .*{wrong}.csv has the label '{label}', where a finite number"):
        TextRegression(**files).load()


def test_a_missing_value_is_refused_with_its_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "a", "label": 1}\n{"text": "b"}\n')
    with pytest.raises(InvalidInputError, match=r"Row 2 of .* has the label None, where a finite number"):
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
    arguments = TrainingArguments(
        str(tmp_path / "run"),
        num_train_epochs=4,
        learning_rate=1e-2,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    result = training.train(Recipe(str(model_folder), task, arguments, pruning=config(density=0.5), max_length=16))
    assert tuple(result.metrics) == task.metrics
    assert result.metrics["pearson"] > 0.9
    again = training.evaluate(str(tmp_path / "run"), task, 16, arguments)
    assert again.metrics == pytest.approx(result.metrics, rel=1e-6)
