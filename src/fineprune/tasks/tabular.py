"""Single texts or pairs with a class or a number each: from CSV, TSV, JSONL or Parquet files, or a data set on the Hub."""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InvalidInputError, enumeration, nearest
from ..extras import require
from .task import CORRELATIONS, Examples, Splits, TextTask, correlations, first

Columns = dict[str, list[Any]]
"""Column name -> one value a row."""


@dataclass(frozen=True)
class Table(TextTask):
    """Rows of texts, or pairs of texts, with a label each: from files, or from a data set on the Hub.

    Args:
        train: file to train on: .csv, .tsv (no quoting, as in GLUE), .jsonl or .parquet.
        validation: file to evaluate on, of any of these kinds.
        dataset: data set on the Hub, instead of files.
        subset: the data set's configuration, as "sst2" of "nyu-mll/glue".
        train_split: the data set's split to train on.
        validation_split: the data set's split to evaluate on.
        text: name of the column with the text.
        text_pair: name of the column with the second text of each pair.
        label: name of the column with the class, or the value.
        max_train_samples: train on so many rows only, the first ones.
    """

    train: str | None = None
    validation: str | None = None
    dataset: str | None = None
    subset: str | None = None
    train_split: str = "train"
    validation_split: str = "validation"
    text: str = "text"
    text_pair: str | None = None
    label: str = "label"
    max_train_samples: int | None = None

    def read(self, split: str) -> tuple[str, Columns]:
        """Reads a split, "train" or "validation", and names where it came from. Its columns are there and not empty."""
        path = self.train if split == "train" else self.validation
        if (self.dataset is None) == (self.train is None and self.validation is None):
            raise InvalidInputError(
                "A task takes either files (train and validation) or a dataset on the Hub. Give one of them."
            )
        if self.dataset is not None:
            hub_split = self.train_split if split == "train" else self.validation_split
            name, columns = f"{self.dataset} ({hub_split})", read_hub(self.dataset, self.subset, hub_split)
        elif path is not None:
            name, columns = path, read_table(path)
        else:
            raise InvalidInputError(f"The task has no {split} file. Set task.{split} to a .csv, .tsv, .jsonl or .parquet file.")
        for column in (self.text, self.text_pair, self.label):
            if column is not None and column not in columns:
                raise InvalidInputError(f"{name} has no column {column!r}; {nearest(column, columns)}")
        if not columns[self.label]:
            raise InvalidInputError(f"{name} holds no rows. Give a file with at least one example.")
        return name, columns

    def first_rows(self, columns: Columns) -> Columns:
        """Returns as many rows as are to be trained on."""
        return {column: list(first(values, self.max_train_samples)) for column, values in columns.items()}

    def examples(self, columns: Columns, labels: list[int] | list[float], name: str) -> Examples:
        """Returns the rows' texts with their labels."""
        pairs = None if self.text_pair is None else texts(columns[self.text_pair], self.text_pair, name)
        return Examples(texts(columns[self.text], self.text, name), pairs, labels)


@dataclass(frozen=True)
class TextClassification(Table):
    """Texts, or pairs of texts, each with one of several classes.

    Args:
        classes: the classes in their order. None: those that occur in the training data, sorted.
    """

    classes: list[str] | None = None

    def load(self) -> Splits:
        """Reads both splits and numbers the classes."""
        name, columns = self.read("train")
        classes = tuple(self.classes) if self.classes is not None else _sorted_classes(columns[self.label])
        columns = self.first_rows(columns)
        if len(classes) < 2:
            raise InvalidInputError(f"{name} holds {len(classes)} class ({', '.join(classes)}); two or more are needed.")
        train = self.examples(columns, numbered(columns[self.label], classes, name), name)
        return Splits(train, self.load_validation(classes), classes)

    def load_validation(self, classes: tuple[str, ...]) -> dict[str, Examples]:
        """Reads the validation split and numbers its labels by the task's classes, else by those given."""
        name, columns = self.read("validation")
        if self.classes is not None and len(self.classes) != len(classes):
            raise InvalidInputError(f"task.classes names {len(self.classes)} classes; the model has {len(classes)}.")
        classes = classes if self.classes is None else tuple(self.classes)
        return {"": self.examples(columns, numbered(columns[self.label], classes, name), name)}


@dataclass(frozen=True)
class TextRegression(Table):
    """Texts, or pairs of texts, each with a number, learned by the mean squared error."""

    @property
    def metrics(self) -> tuple[str, ...]:
        return (*CORRELATIONS, "loss")

    def score(self, labels: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
        """Returns Pearson's and Spearman's correlation of the outputs with the labels."""
        return correlations(labels, outputs)

    def config(self, classes: tuple[str, ...]) -> dict[str, Any]:
        return {"num_labels": 1, "problem_type": "regression"}

    def load(self) -> Splits:
        """Reads both splits."""
        name, columns = self.read("train")
        columns = self.first_rows(columns)
        train = self.examples(columns, values(columns[self.label], name), name)
        return Splits(train, self.load_validation(()))

    def load_validation(self, classes: tuple[str, ...]) -> dict[str, Examples]:
        """Reads the validation split, for a model with one output."""
        if len(classes) > 1:
            raise InvalidInputError(
                f"The model has {len(classes)} outputs ({enumeration(classes)}), where a regression takes one. Give a model "
                "that was fine-tuned on values, or take the task TextClassification."
            )
        name, columns = self.read("validation")
        return {"": self.examples(columns, values(columns[self.label], name), name)}


def numbered(labels: Sequence[Any], classes: tuple[str, ...], name: str) -> list[int]:
    """Returns the number of each label's class. Raises InvalidInputError, naming the row, for one that is none of them."""
    numbers = {label: number for number, label in enumerate(classes)}
    for row, label in enumerate(labels, start=1):
        if str(label) not in numbers:
            raise InvalidInputError(
                f"Row {row} of {name} has the label {label!r}, which is not one of the classes {', '.join(classes)}. "
                "Correct the row, or name every class in task.classes."
            )
    return [numbers[str(label)] for label in labels]


def values(labels: Sequence[Any], name: str) -> list[float]:
    """Returns labels as numbers. Raises InvalidInputError, naming the row, for one that is no finite number."""
    found = []
    for row, label in enumerate(labels, start=1):
        try:
            number = float(label)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise InvalidInputError(
                f"Row {row} of {name} has the label {label!r}, where a finite number should be. Correct the row, or take "
                "the task TextClassification for classes."
            )
        found.append(number)
    return found


def texts(values: Sequence[Any], column: str, name: str) -> list[str]:
    """Returns a column as texts. Raises InvalidInputError, naming the row, for a value that is none."""
    for row, value in enumerate(values, start=1):
        if value is None or isinstance(value, list | dict):
            raise InvalidInputError(f"Row {row} of {name} holds {value!r} in the column {column!r}, where a text should be.")
    return [str(value) for value in values]


def _sorted_classes(labels: Sequence[Any]) -> tuple[str, ...]:
    """Returns the distinct labels: whole numbers by value, anything else by name."""
    names = {str(label) for label in labels if label is not None and label != ""}
    if all(name.removeprefix("-").isdecimal() for name in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))


def read_table(path: str | Path) -> Columns:
    """Reads a file of rows into columns.

    Args:
        path: .csv or .tsv with a header, .jsonl with an object a line, or .parquet. In .tsv nothing is quoted.

    Raises:
        InvalidInputError: if the file is missing, of another kind, or damaged; with the row.
    """
    path = Path(path)
    readers = {".csv": _read_csv, ".tsv": _read_tsv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise InvalidInputError(f"{path} was given as data; a data file ends in {', '.join(readers)}.")
    try:
        return readers[path.suffix](path)
    except OSError as error:
        raise InvalidInputError(f"{path} could not be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path} is not text in UTF-8: {error}. Convert it first.") from error


def _read_csv(path: Path, **dialect: Any) -> Columns:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True, **dialect)
        try:
            header = next(reader, [])
            rows = []
            for row in reader:
                if row and len(row) != len(header):
                    raise InvalidInputError(
                        f"Line {reader.line_num} of {path} has {len(row)} fields; the header has {len(header)}: "
                        f"{', '.join(header)}. Correct the line; in .csv, quote a field that holds the separator."
                    )
                rows += [row] if row else []
        except csv.Error as error:
            raise InvalidInputError(f"Line {reader.line_num} of {path} is not in this format: {error}.") from error
    if len(set(header)) != len(header):
        raise InvalidInputError(f"{path} has two columns of the same name in its header: {', '.join(header)}.")
    return {name: [row[index] for row in rows] for index, name in enumerate(header)}


def _read_tsv(path: Path) -> Columns:
    return _read_csv(path, delimiter="\t", quoting=csv.QUOTE_NONE)


def _read_jsonl(path: Path) -> Columns:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InvalidInputError(f"Line {number} of {path} is not JSON: {error}.") from error
        if not isinstance(row, dict):
            raise InvalidInputError(f"Line {number} of {path} is not a JSON object with a key for each column.")
        rows.append(row)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [row.get(name) for row in rows] for name in names}


def _read_parquet(path: Path) -> Columns:
    require("hub", "pyarrow")
    import pyarrow
    import pyarrow.parquet

    try:
        columns: Columns = pyarrow.parquet.read_table(path).to_pydict()
    except pyarrow.ArrowException as error:
        raise InvalidInputError(f"{path} is not a whole Parquet file: {error}.") from error
    return columns


def read_hub(name: str, subset: str | None, split: str) -> Columns:
    """Reads a split of a data set on the Hub (or a local folder of one). Classes come by their names.

    Raises:
        InvalidInputError: if it cannot be found or reached.
    """
    require("hub", "datasets")
    import datasets

    try:
        dataset = datasets.load_dataset(name, subset, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise InvalidInputError(
            f"The split {split!r} of the data set {name!r} could not be loaded: {str(error).splitlines()[0]} Check the name, "
            "the subset and the split, or give files instead."
        ) from error
    columns: Columns = {column: list(dataset[column]) for column in dataset.column_names}
    for column, feature in dataset.features.items():
        if isinstance(feature, datasets.ClassLabel):
            columns[column] = [feature.int2str(label) if label >= 0 else label for label in columns[column]]
    return columns
