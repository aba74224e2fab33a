"""Single texts or pairs with a class or a number each: from CSV, TSV, JSONL or Parquet files, or a data set on the Hub."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import InvalidInputError, enumeration, nearest
from .base import CORRELATIONS, Examples, Splits, TextTask, check_clear, correlations, first, in_order_of
from .tables import Columns, read_hub, read_table, repeated


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
        check_clear(self.dataset, self.train, self.validation)
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
        classes: the classes in their order. None: those that occur in the training data, sorted. A saved model that
            knows them by the same names keeps its own order.
    """

    classes: list[str] | None = None

    def __post_init__(self) -> None:
        twice = repeated(self.classes or ())
        if twice:
            raise InvalidInputError(f"task.classes names {twice[0]!r} more than once; each class has one place.")

    def load(self) -> Splits:
        """Reads both splits and numbers the classes."""
        name, columns = self.read("train")
        classes = tuple(self.classes) if self.classes is not None else _sorted_classes(columns[self.label], name)
        columns = self.first_rows(columns)
        if len(classes) < 2:
            raise InvalidInputError(f"{name} holds {len(classes)} class ({', '.join(classes)}); two or more are needed.")
        train = self.examples(columns, numbered(columns[self.label], classes, name), name)
        return Splits(train, self.load_validation(classes), classes)

    def load_validation(self, classes: tuple[str, ...]) -> dict[str, Examples]:
        """Reads the validation split and numbers its labels in the model's order of the classes.

        Where the model has other names for them, as LABEL_0, its outputs are taken in the order of the task's classes.
        """
        name, columns = self.read("validation")
        order = self._order(classes)
        return {"": self.examples(columns, numbered(columns[self.label], order, name), name)}

    def _order(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """Returns the names of the classes, in the order of the outputs of a model that knows its own by these."""
        if len(classes) == 1:
            raise InvalidInputError(
                f"The model has one output ({classes[0]}), where a classification takes one for each class. Give a model that "
                "was fine-tuned on classes, or take the task TextRegression."
            )
        if self.classes is None:
            return classes
        if len(self.classes) != len(classes):
            raise InvalidInputError(f"task.classes names {len(self.classes)} classes; the model has {len(classes)}.")
        shared, others = set(self.classes) & set(classes), [name for name in self.classes if name not in classes]
        if shared and others:
            raise InvalidInputError(
                f"task.classes names {enumeration(others)}, which the model does not know; its classes are "
                f"{', '.join(classes)}. Name these, or train on yours."
            )
        return in_order_of(classes, tuple(self.classes))


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
    named = class_names(labels, name)
    for row, label in enumerate(named, start=1):
        if label not in numbers:
            raise InvalidInputError(
                f"Row {row} of {name} has the label {label!r}, which is not one of the classes {', '.join(classes)}. "
                "Correct the row, or name every class in task.classes."
            )
    return [numbers[label] for label in named]


def class_names(labels: Sequence[Any], name: str) -> list[str]:
    """Returns the name of each label's class. Raises InvalidInputError, naming the row, for one that names none."""
    for row, label in enumerate(labels, start=1):
        if label == "" or not _reads_as_text(label):
            raise InvalidInputError(
                f"Row {row} of {name} has the label {label!r}, where a class should be: a text, or a finite number. Correct "
                "the row."
            )
    # files and libraries write a whole number with a point or without: it is one class
    return [str(int(label) if isinstance(label, float) and label.is_integer() else label) for label in labels]


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
        if not _reads_as_text(value):
            raise InvalidInputError(f"Row {row} of {name} holds {value!r} in the column {column!r}, where a text should be.")
    return [str(value) for value in values]


def _reads_as_text(value: Any) -> bool:
    """Whether a value is a text, or a number that can be read as one; not None, NaN, bytes or a list."""
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _sorted_classes(labels: Sequence[Any], name: str) -> tuple[str, ...]:
    """Returns the names of the distinct classes: whole numbers by value, anything else by name. Raises as `class_names`."""
    names = sorted(set(class_names(labels, name)))
    if all(each.removeprefix("-").isdecimal() for each in names):
        names.sort(key=int)  # 01 and 1 stay in the order of their names
    return tuple(names)
