"""GLUE's tasks: every file that it publishes, the labels in every form and order, its figures, and whole runs."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from conftest import config, training_arguments
from fineprune import InvalidInputError
from fineprune.apps.tasks.glue import ENTRIES, Glue
from fineprune.apps.tasks.tables import read_table
from fineprune.apps.training import pretrained
from fineprune.apps.training import run as training
from fineprune.apps.training.recipe import Recipe

HUB_CLASSES = {
    "cola": ("unacceptable", "acceptable"),
    "sst2": ("negative", "positive"),
    "mrpc": ("not_equivalent", "equivalent"),
    "qqp": ("not_duplicate", "duplicate"),
    "stsb": (),
    "mnli": ("entailment", "neutral", "contradiction"),
    "qnli": ("entailment", "not_entailment"),
    "rte": ("entailment", "not_entailment"),
}

ORIGINALS = {
    "cola": "gj04\t1\t\tThe good film.\ngj04\t0\t*\tThe film the good.\n",
    "sst2": "sentence\tlabel\nThe good film.\t1\nThe film the good.\t0\n",
    "mrpc": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tThe good film.\tb\n0\t9\t10\tThe film the good.\td\n",
    "qqp": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\tThe good film.\tb\t1\n"
    "2\t3\t4\tThe film the good.\td\t0\n",
    "stsb": "index\tsentence1\tsentence2\tscore\n0\tThe good film.\tb\t5.000\n1\tThe film the good.\td\t0.25\n",
    "mnli": "index\tsentence1\tsentence2\tlabel1\tgold_label\n0\tThe good film.\tb\tneutral\tcontradiction\n"
    "1\tThe film the good.\td\tentailment\tentailment\n",
    "qnli": "index\tquestion\tsentence\tlabel\n0\tThe good film.\tb\tnot_entailment\n1\tThe film the good.\td\tentailment\n",
    "rte": "index\tsentence1\tsentence2\tlabel\n0\tThe good film.\tb\tnot_entailment\n1\tThe film the good.\td\tentailment\n",
}
"""The first lines of the files as GLUE publishes them, shortened."""

LABELS = {"stsb": [5.0, 0.25], "mnli": [2, 0]}


def splits(name: str, stem: str = "dev") -> list[str]:
    return [f"{stem}_matched", f"{stem}_mismatched"] if name == "mnli" else [stem]


def publish(folder: Path, name: str, content: str | None = None) -> Glue:
    """Writes the files of a task as GLUE publishes them."""
    for stem in ("train", *splits(name)):
        (folder / f"{stem}.tsv").write_text(content or ORIGINALS[name], encoding="utf-8")
    return Glue(name, folder=str(folder))


@pytest.mark.parametrize("name", ORIGINALS)
def test_reads_the_files_as_glue_publishes_them(name: str, tmp_path: Path) -> None:
    read = publish(tmp_path, name).load()
    parts = ["matched", "mismatched"] if name == "mnli" else [""]
    assert list(read.validation) == parts
    assert read.classes == HUB_CLASSES[name]
    for examples in (read.train, *read.validation.values()):
        assert examples.texts == ["The good film.", "The film the good."]
        assert examples.pairs == (None if name in ("cola", "sst2") else ["b", "d"])
        assert examples.labels == LABELS.get(name, [1, 0])


@pytest.mark.parametrize("name", ORIGINALS)
def test_reads_the_columns_of_the_hub(name: str, tmp_path: Path) -> None:
    columns, classes = ENTRIES[name].columns[0], HUB_CLASSES[name]
    labels = [4.5, 0.0] if name == "stsb" else [1, 0]
    rows = [dict(zip(columns, [*(["text"] * (len(columns) - 1)), label], strict=True)) for label in labels]
    features = {column: datasets.Value("string") for column in columns[:-1]}
    features["label"] = datasets.ClassLabel(names=list(classes)) if classes else datasets.Value("float32")
    for stem in ("train", *splits(name, "validation")):
        made = datasets.Dataset.from_list(rows, features=datasets.Features(features))
        (tmp_path / name).mkdir(exist_ok=True)
        made.to_parquet(tmp_path / name / f"{stem}.parquet")
    of_files = Glue(name, folder=str(tmp_path / name)).load()
    assert of_files.train.labels == labels
    card = [{"split": stem, "path": f"{name}/{stem}.parquet"} for stem in ("train", *splits(name, "validation"))]
    (tmp_path / "README.md").write_text(f"---\nconfigs: {json.dumps([{'config_name': name, 'data_files': card}])}\n---\n")
    assert Glue(name, dataset=str(tmp_path)).load() == of_files


def test_the_head_has_an_output_for_each_class_or_one() -> None:
    assert Glue("stsb").config(()) == {"num_labels": 1, "problem_type": "regression"}
    assert Glue("mnli").config(Glue("mnli").entry.classes)["num_labels"] == 3


def test_labels_are_names_or_numbers(tmp_path: Path) -> None:
    rows = [{"premise": "a", "hypothesis": "b", "label": label} for label in ("neutral", 2, "0")]
    for stem in ("train", *splits("mnli", "validation")):
        (tmp_path / f"{stem}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert Glue("mnli", folder=str(tmp_path)).load().train.labels == [1, 2, 0]
    assert Glue("mnli", folder=str(tmp_path), max_train_samples=2).load().train.labels == [1, 2]


ORDERS = [
    (("CONTRADICTION", "NEUTRAL", "ENTAILMENT"), [0, 2]),
    (("neutral", "entailment", "contradiction"), [2, 1]),
    (("LABEL_0", "LABEL_1", "LABEL_2"), [2, 0]),
]


@pytest.mark.parametrize(("classes", "labels"), ORDERS)
def test_labels_follow_the_order_of_a_models_classes(classes: tuple[str, ...], labels: list[int], tmp_path: Path) -> None:
    read = publish(tmp_path, "mnli").load_validation(classes)
    assert read["matched"].labels == read["mismatched"].labels == labels


def test_f1_is_of_the_positive_class_in_any_order(tmp_path: Path, model_folder: Path) -> None:
    task = publish(tmp_path, "mrpc", "sentence1\tsentence2\tlabel\n" + "the\tfilm\t1\n" * 3 + "the\tbook\t0\n" * 2)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    chosen = np.array([1, 1, 0, 1, 0])  # 2 of 3 found, 1 of 3 wrong: precision and recall 2/3
    for classes, predicted in ((task.load().classes, chosen), (("equivalent", "not_equivalent"), 1 - chosen)):
        validation = task.load_validation(classes)
        prepared = task.prepare(None, validation, tokenizer, 8)
        prediction = SimpleNamespace(predictions=np.eye(2)[predicted], label_ids=np.array(validation[""].labels))
        figures = prepared.metrics(prediction)
        assert list(figures) == ["f1", "accuracy"]
        assert figures == pytest.approx({"f1": 2 / 3, "accuracy": 3 / 5})


def test_the_figures_are_glues() -> None:
    labels, chosen = np.array([1, 1, 1, 0]), np.array([1, 1, 0, 1])
    outputs = np.eye(2)[chosen]
    assert Glue("qqp").score(labels, outputs) == pytest.approx({"accuracy": 0.5, "f1": 2 / 3})
    matthews = (2 * 0 - 1 * 1) / np.sqrt(3 * 3 * 1 * 1)
    assert Glue("cola").score(labels, outputs) == pytest.approx({"matthews_correlation": matthews})
    assert Glue("cola").score(labels, np.eye(2)[np.ones(4, int)]) == {"matthews_correlation": 0.0}
    assert Glue("qqp").score(labels, np.eye(2)[np.zeros(4, int)]) == {"accuracy": 0.25, "f1": 0.0}
    values = np.array([[0.0], [1.0], [8.0]])
    figures = Glue("stsb").score(np.array([0.0, 1.0, 2.0]), values)
    assert figures == pytest.approx({"pearson": np.corrcoef([0, 1, 2], [0, 1, 8])[0, 1], "spearmanr": 1.0})
    for name in HUB_CLASSES:
        assert Glue(name).metrics[-1].endswith("loss")
    assert Glue("mnli").metrics == ("matched_accuracy", "mismatched_accuracy", "matched_loss", "mismatched_loss")
    assert Glue("mrpc").metrics == ("f1", "accuracy", "loss")


WRONG = [
    ("sst2", "sentence\tlabel\ngood\t-1\n", "Row 1 of .*train.tsv has the label -1, which hides the labels"),
    ("stsb", "sentence1\tsentence2\tscore\na\tb\t-1.0\n", "has the label -1, which hides the labels"),
    ("stsb", "sentence1\tsentence2\tscore\na\tb\tgood\n", "Row 1 of .* must have a finite number as its label, got 'good'"),
    (
        "sst2",
        "sentence\tlabel\ngood\t1\nbad\t2\n",
        "Row 2 .* must have one of the labels negative, positive, or .* 0 to 1, got '2'",
    ),
    ("rte", "sentence1\tsentence2\tlabel\na\tb\tneutral\n", "one of the labels entailment, not_entailment, .* got 'neutral'"),
    ("sst2", "sentence\tlabel\n", "holds no rows"),
    ("cola", "", "train.tsv has nothing in its first line"),
    ("cola", "a\tb\n", "must have the columns 'sentence', 'label' for cola, got a, b"),
    ("qqp", "question1\tquestion2\na\tb\n", "'question1', 'question2', 'label' or .*'is_duplicate' for qqp"),
    ("qqp", ORIGINALS["qqp"] + "3\t4\t5\ta\tb\t1\tc\n", "Line 4 of .*train.tsv has 7 fields; the header has 6"),
]


@pytest.mark.parametrize(("name", "content", "message"), WRONG)
def test_wrong_data_raises(name: str, content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=message):
        publish(tmp_path, name, content or "\n").load()


def test_lines_that_broke_off_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    header, first, second = ORIGINALS["qqp"].splitlines(keepends=True)
    task = publish(tmp_path, "qqp")
    whole = task.load()
    assert caplog.messages == []
    (tmp_path / "train.tsv").write_text(header + first + "3\t4\t5\talone\n\n" + second + "continued\n")
    with caplog.at_level(logging.WARNING):
        assert task.load() == whole
    assert caplog.messages == [
        f"{tmp_path / 'train.tsv'}: 2 lines have fewer fields than the header and are left out, the first of them line 3."
    ]


def test_a_table_of_ones_own_with_short_lines_raises(tmp_path: Path) -> None:
    for name in ("train", "dev"):
        (tmp_path / f"{name}.csv").write_text("sentence,label\na,1\nb\n")
    with pytest.raises(InvalidInputError, match=r"Line 3 of .*train.csv has 1 fields; the header has 2"):
        Glue("sst2", folder=str(tmp_path)).load()
    (tmp_path / "own.tsv").write_text("text\tlabel\na\t1\nb\n")
    with pytest.raises(InvalidInputError, match=r"Line 3 of .*own.tsv has 1 fields; the header has 2"):
        read_table(tmp_path / "own.tsv")


def test_wrong_settings_raise(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no GLUE task 'SST-2'; did you mean 'sst2'"):
        Glue("SST-2")
    with pytest.raises(InvalidInputError, match=r"holds no train file\. Give one of train\.tsv"):
        Glue("sst2", folder=str(tmp_path)).load()
    task = publish(tmp_path, "sst2")
    with pytest.raises(InvalidInputError, match="max_train_samples must be 1 or more, got 0"):
        replace(task, max_train_samples=0).load()
    for classes in (("a", "b", "c"), ("LABEL_0",)):
        with pytest.raises(InvalidInputError, match=f"sst2 needs .* an output for each of negative.* got {len(classes)} "):
            task.load_validation(classes)
    (tmp_path / "dev.csv").write_text("sentence,label\n")
    with pytest.raises(InvalidInputError, match=r"holds both dev.tsv and dev.csv"):
        task.load()
    (tmp_path / "dev.csv").rename(tmp_path / "other.csv")
    (tmp_path / "dev.tsv").unlink()
    with pytest.raises(InvalidInputError, match="holds no validation or dev file"):
        task.load()
    with pytest.raises(InvalidInputError, match=r"stsb needs .* one output, for the number, got 2 "):
        Glue("stsb").load_validation(("no", "yes"))
    with pytest.raises(InvalidInputError, match="could not be loaded"):
        Glue("sst2", dataset=str(tmp_path / "none")).load()


def recipe(model: Path, task: Glue, output: Path, **settings: object) -> Recipe:
    arguments = {
        "num_train_epochs": 4,
        "per_device_train_batch_size": 8,
        "learning_rate": 5e-3,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        **settings,
    }
    return Recipe(str(model), task, training_arguments(output, **arguments), pruning=config(density=0.5), max_length=16)


ADJECTIVES = (("good", "entailment"), ("bad", "contradiction"), ("poor", "neutral"))


@pytest.fixture(scope="module")
def mnli(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, training.Result]:
    """A trained model and the recipe it was made by; the two validation splits differ."""
    folder = tmp_path_factory.mktemp("mnli")
    header = "sentence1\tsentence2\tgold_label\n"
    rows = "".join(f"the {adjective} film\t{adjective}\t{label}\n" for adjective, label in ADJECTIVES)
    task = publish(folder, "mnli", header + rows * 8)
    (folder / "dev_mismatched.tsv").write_text(header + rows + "the good film\tgood\tneutral\n" * 2)
    best = {"load_best_model_at_end": True, "metric_for_best_model": "matched_accuracy"}
    wanted = recipe(model_folder, task, folder / "run", num_train_epochs=8, per_device_train_batch_size=2, **best)
    return wanted, training.train(wanted)


def test_mnli_is_evaluated_on_both_splits_and_again_to_the_same(mnli: tuple[Recipe, training.Result]) -> None:
    wanted, result = mnli
    assert tuple(result.metrics) == wanted.task.metrics
    assert result.metrics["matched_accuracy"] == 1.0
    assert result.metrics["mismatched_accuracy"] == 0.6
    assert result.inspection.density == 0.5
    assert any("eval_mismatched_accuracy" in entry and "eval_density" in entry for entry in result.history)
    again = training.evaluate(str(wanted.training.output_dir), wanted.task, 16, wanted.training)
    assert again.metrics == pytest.approx(result.metrics, rel=1e-6)


def test_the_best_model_is_one_at_the_final_density(mnli: tuple[Recipe, training.Result]) -> None:
    entries = [entry for entry in mnli[1].history if "eval_matched_accuracy" in entry and entry["eval_density"] == 0.5]
    assert mnli[1].metrics["matched_accuracy"] == max(entry["eval_matched_accuracy"] for entry in entries)


@pytest.mark.parametrize("names", [("Contradiction", "Entailment", "Neutral"), ("entailment", "neutral", "contradiction")])
def test_a_model_with_its_classes_in_another_order_has_the_same_figures(
    names: tuple[str, ...], mnli: tuple[Recipe, training.Result], tmp_path: Path
) -> None:
    wanted, result = mnli
    tokenizer, model = pretrained.load_pretrained(str(wanted.training.output_dir))
    order = [HUB_CLASSES["mnli"].index(name.casefold()) for name in names]
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.copy_(parameter[order])
    for id2label in (names, ("LABEL_0", "LABEL_1", "LABEL_2")):
        model.config.id2label = dict(enumerate(id2label))
        model.save_pretrained(tmp_path / id2label[0])
        tokenizer.save_pretrained(tmp_path / id2label[0])
        again = training.evaluate(str(tmp_path / id2label[0]), wanted.task, 16, replace(wanted.training))
        unnamed_in_another_order = id2label != names and order != [0, 1, 2]
        assert (again.metrics["matched_accuracy"] == result.metrics["matched_accuracy"]) != unnamed_in_another_order
        assert (again.metrics["matched_loss"] == pytest.approx(result.metrics["matched_loss"])) != unnamed_in_another_order


def test_a_teacher_teaches(mnli: tuple[Recipe, training.Result], tmp_path: Path) -> None:
    wanted, _ = mnli
    taught = recipe(Path(wanted.model), wanted.task, tmp_path / "taught", max_steps=4, logging_steps=1, save_strategy="no")
    result = training.train(replace(taught, teacher=wanted.training.output_dir))
    assert sum("loss_kd" in entry for entry in result.history) == 4


@pytest.mark.parametrize("name", ["cola", "stsb", "qqp"])
def test_trains_and_evaluates_again_to_the_same(name: str, model_folder: Path, tmp_path: Path) -> None:
    names = ENTRIES[name].columns[0]
    good, bad = ("5.0", "0.5") if name == "stsb" else ("1", "0")
    texts = [["the film", "a book"][: len(names) - 1], ["poor bad", "bad"][: len(names) - 1]]
    rows = ["\t".join([*text, label]) for text, label in zip(texts, (good, bad), strict=True)] * 16
    task = publish(tmp_path, name, "\n".join(["\t".join(names), *rows]) + "\n")
    wanted = recipe(model_folder, task, tmp_path / "run")
    result = training.train(wanted)
    assert tuple(result.metrics) == task.metrics
    assert result.metrics[task.metrics[0]] > 0.9
    assert training.evaluate(str(tmp_path / "run"), task, 16, wanted.training).metrics == pytest.approx(
        result.metrics, rel=1e-6
    )
