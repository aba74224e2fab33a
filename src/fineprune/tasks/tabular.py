"""Single texts or pairs with a label each: from CSV, TSV, JSONL or Parquet files, or from a data set on the Hub."""

import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InvalidInputError, nearest
from ..extras import require

Columns = dict[str, list[Any]]
"""Column name -> one value a row."""


@dataclass(frozen=True)
class Examples:
    """Texts (or pairs of texts) and, for each, the number of its class."""

    texts: list[str]
    pairs: list[str] | None
    labels: list[int]


@dataclass(frozen=True)
class Splits:
    """What to train on, what to evaluate on, and the names of the classes."""

    train: Examples
    validation: Examples
    classes: tuple[str, ...]


class Task(ABC):
    """A data set and how it is read."""

    @abstractmethod
    def load(self) -> Splits:
        """Reads the data. Raises InvalidInputError for data that cannot be used, before anything is written."""

    @abstractmethod
    def load_validation(self, classes: tuple[str, ...]) -> Examples:
        """Reads the validation split alone, for a model that knows its classes. Raises as `load` does."""


@dataclass(frozen=True)
class TextClassification(Task):
    """Texts, or pairs of texts, each with one of several classes.

    Args:
        train: file to train on: .csv, .tsv (no quoting, as in GLUE), .jsonl or .parquet.
        validation: file to evaluate on, of any of these kinds.
        dataset: data set on the Hub, instead of files.
        subset: the data set's configuration, as "sst2" of "nyu-mll/glue".
        train_split: the data set's split to train on.
        validation_split: the data set's split to evaluate on.
        text: name of the column with the text.
        text_pair: name of the column with the second text of each pair.
        label: name of the column with the class.
        classes: the classes in their order. None: those that occur in the training data, sorted.
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
    classes: list[str] | None = None
    max_train_samples: int | None = None

    def load(self) -> Splits:
        """Reads both splits and numbers the classes."""
        name, train = self._read("train")
        classes = tuple(self.classes) if self.classes is not None else _sorted_classes(train[self.label])
        if self.max_train_samples is not None:
            if self.max_train_samples < 1:
                raise InvalidInputError(f"max_train_samples was given as {self.max_train_samples}; it is 1 or more.")
            train = {column: values[: self.max_train_samples] for column, values in train.items()}
        if len(classes) < 2:
            raise InvalidInputError(f"{name} holds {len(classes)} class ({', '.join(classes)}); two or more are needed.")
        return Splits(self._examples(train, classes, name), self.load_validation(classes), classes)

    def load_validation(self, classes: tuple[str, ...]) -> Examples:
        """Reads the validation split and numbers its labels by the task's classes, else by those given."""
        name, validation = self._read("validation")
        if self.classes is not None and len(self.classes) != len(classes):
            raise InvalidInputError(f"task.classes names {len(self.classes)} classes; the model has {len(classes)}.")
        classes = classes if self.classes is None else tuple(self.classes)
        return self._examples(validation, classes, name)

    def _read(self, split: str) -> tuple[str, Columns]:
        """Reads a split, checks that its columns are there and not empty, and names where it came from."""
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

    def _examples(self, columns: Columns, classes: tuple[str, ...], name: str) -> Examples:
        numbers = {label: number for number, label in enumerate(classes)}
        labels = []
        for row, label in enumerate(columns[self.label], start=1):
            if str(label) not in numbers:
                raise InvalidInputError(
                    f"Row {row} of {name} has the label {label!r}, which is not one of the classes {', '.join(classes)}. "
                    "Correct the row, or name every class in task.classes."
                )
            labels.append(numbers[str(label)])
        pairs = None if self.text_pair is None else _texts(columns[self.text_pair], self.text_pair, name)
        return Examples(_texts(columns[self.text], self.text, name), pairs, labels)


def _texts(values: Sequence[Any], column: str, name: str) -> list[str]:
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
                        f"{', '.join(header)}. Quote a field that holds the separator."
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
