"""Text classification and regression: from CSV, TSV, JSONL or Parquet files, or a data set on the Hub."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import InvalidInputError, enumeration, nearest
from .base import CORRELATIONS, DataSource, Examples, Splits, TextTask, correlations, first_rows, in_model_order
from .tables import Columns, read_table, repeated


@dataclass(frozen=True)
class LabelledTexts(DataSource, TextTask):
    """A table of texts, or pairs of texts, with a label each.

    Args:
        train: file to train on: .csv, .tsv (no quoting, as in GLUE), .jsonl or .parquet.
        validation: file to evaluate on, in one of these formats.
        text: name of the column with the text.
        text_pair: name of the column with the second text of each pair.
        label: name of the column with the class, or the value.
        max_train_samples: number of rows to train on, the first ones. None: all.
    """

    train: str | None = None
    validation: str | None = None
    text: str = "text"
    text_pair: str | None = None
    label: str = "label"
    max_train_samples: int | None = None

    def read(self, split: str) -> tuple[str, Columns]:
        """Reads a split, "train" or "validation", and checks its columns. Returns the name of its source with them."""
        [(name, columns)] = self.read_split(
            split, lambda path: (str(path), read_table(path)), lambda columns, name: (name, columns)
        )
        for column in (self.text, self.text_pair, self.label):
            if column is not None and column not in columns:
                raise InvalidInputError(f"{name} has no column {column!r}; {nearest(column, columns)}")
        if not columns[self.label]:
            raise InvalidInputError(f"{name} holds no rows. Give a file with at least one example.")
        return name, columns

    def train_rows(self, columns: Columns) -> Columns:
        """Returns the rows to train on."""
        return {column: list(first_rows(values, self.max_train_samples)) for column, values in columns.items()}

    def examples(self, columns: Columns, labels: list[int] | list[float], name: str) -> Examples:
        """Returns the rows' texts with their labels."""
        pairs = None if self.text_pair is None else as_texts(columns[self.text_pair], self.text_pair, name)
        return Examples(as_texts(columns[self.text], self.text, name), pairs, labels)


@dataclass(frozen=True)
class TextClassification(LabelledTexts):
    """Texts, or pairs of texts, each with one of several classes.

    Args:
        classes: the classes in their order. None: those of the training data, sorted. A saved model with the same
            class names keeps its own order.
    """

    classes: list[str] | None = None

    def __post_init__(self) -> None:
        twice = repeated(self.classes or ())
        if twice:
            raise InvalidInputError(f"task.classes names {twice[0]!r} more than once. Name each class once.")

    def load(self) -> Splits:
        """Reads both splits."""
        name, columns = self.read("train")
        classes = tuple(self.classes) if self.classes is not None else _sorted_classes(columns[self.label], name)
        columns = self.train_rows(columns)
        if len(classes) < 2:
            raise InvalidInputError(
                f"{name} must hold two classes or more, got {len(classes)} ({', '.join(classes)}). Add examples of another."
            )
        train = self.examples(columns, class_indices(columns[self.label], classes, name), name)
        return Splits(train, self.load_validation(classes), classes)

    def load_validation(self, classes: tuple[str, ...]) -> dict[str, Examples]:
        """Reads the validation split, its labels as indices in the model's order of the classes.

        Where the model has other class names, as LABEL_0, its outputs are in the order of the task's classes.
        """
        name, columns = self.read("validation")
        order = self._order(classes)
        return {"": self.examples(columns, class_indices(columns[self.label], order, name), name)}

    def _order(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """Returns the names of the classes in the order of the outputs of a model with these classes."""
        if len(classes) == 1:
            raise InvalidInputError(
                f"A classification needs a model with an output for each class, got one output ({classes[0]}). Give a model "
                "that was fine-tuned on classes, or take the task TextRegression."
            )
        if self.classes is None:
            return classes
        if len(self.classes) != len(classes):
            raise InvalidInputError(
                f"task.classes must name the {len(classes)} classes of the model, got {len(self.classes)}. Name all of them."
            )
        unknown = [name for name in self.classes if name not in classes]
        if 0 < len(unknown) < len(self.classes):
            raise InvalidInputError(
                f"task.classes names {enumeration(unknown)}, which the model does not know; its classes are "
                f"{', '.join(classes)}. Name these, or train on yours."
            )
        return in_model_order(classes, tuple(self.classes))


@dataclass(frozen=True)
class TextRegression(LabelledTexts):
    """Texts, or pairs of texts, each with a number, learned by the mean squared error."""

    @property
    def metrics(self) -> tuple[str, ...]:
        return (*CORRELATIONS, "loss")

    def score(self, labels: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
        """Returns Pearson's and Spearman's correlation of the outputs with the labels."""
        return correlations(labels, outputs)

    def load(self) -> Splits:
        """Reads both splits."""
        name, columns = self.read("train")
        columns = self.train_rows(columns)
        train = self.examples(columns, as_numbers(columns[self.label], name), name)
        return Splits(train, self.load_validation(()))

    def load_validation(self, classes: tuple[str, ...]) -> dict[str, Examples]:
        """Reads the validation split, for a model with one output."""
        if len(classes) > 1:
            raise InvalidInputError(
                f"A regression needs a model with one output, got {len(classes)} ({enumeration(classes)}). Give a model "
                "that was fine-tuned on values, or take the task TextClassification."
            )
        name, columns = self.read("validation")
        return {"": self.examples(columns, as_numbers(columns[self.label], name), name)}


def class_indices(labels: Sequence[Any], classes: tuple[str, ...], name: str) -> list[int]:
    """Returns the index of each label's class. Raises InvalidInputError, naming the row, for a label that is no class."""
    indices = {label: index for index, label in enumerate(classes)}
    names = class_names(labels, name)
    for row, label in enumerate(names, start=1):
        if label not in indices:
            raise InvalidInputError(
                f"Row {row} of {name} has the label {label!r}, which is not one of the classes {', '.join(classes)}. "
                "Correct the row, or name every class in task.classes."
            )
    return [indices[label] for label in names]


def class_names(labels: Sequence[Any], name: str) -> list[str]:
    """Returns the name of each label's class. Raises InvalidInputError, naming the row, for a label that is no name."""
    for row, label in enumerate(labels, start=1):
        if label == "" or not _reads_as_text(label):
            raise InvalidInputError(
                f"Row {row} of {name} must have a class as its label, a text or a finite number, got {label!r}. Correct it."
            )
    # some files and libraries write the whole number 1 as 1.0: it is the same class
    return [str(int(label) if isinstance(label, float) and label.is_integer() else label) for label in labels]


def as_numbers(labels: Sequence[Any], name: str) -> list[float]:
    """Returns labels as numbers. Raises InvalidInputError, naming the row, for a label that is no finite number."""
    found = []
    for row, label in enumerate(labels, start=1):
        try:
            number = float(label)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise InvalidInputError(
                f"Row {row} of {name} must have a finite number as its label, got {label!r}. Correct the row, or take the task "
                "TextClassification for classes."
            )
        found.append(number)
    return found


def as_texts(values: Sequence[Any], column: str, name: str) -> list[str]:
    """Returns a column as texts. Raises InvalidInputError, naming the row, for a value that is no text."""
    for row, value in enumerate(values, start=1):
        if not _reads_as_text(value):
            raise InvalidInputError(
                f"Row {row} of {name} must hold a text in the column {column!r}, got {value!r}. Correct the row."
            )
    return [str(value) for value in values]


def _reads_as_text(value: Any) -> bool:
    """Whether a value is a text, or a finite number that can be read as one; not None, bytes or a list."""
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _sorted_classes(labels: Sequence[Any], name: str) -> tuple[str, ...]:
    """Returns the distinct classes, sorted: whole numbers by value, others by name. Raises as `class_names`."""
    names = sorted(set(class_names(labels, name)))
    if all(each.removeprefix("-").isdecimal() for each in names):
        names.sort(key=int)  # 01 and 1 stay in the order of their names
    return tuple(names)
