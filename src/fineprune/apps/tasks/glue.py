"""The tasks of GLUE (Wang et al. 2018), scored by its rules: from the Hub, or from files as GLUE publishes them."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InvalidInputError, enumeration, nearest, require
from .base import CORRELATIONS, Examples, Prepared, Splits, TextTask, correlations, first, in_order_of
from .tables import TSV, Columns, by_column, read_hub, read_lines, read_table, reading
from .text import texts, values

require("hub", "sklearn", "transformers")

from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef  # noqa: E402
from transformers import PreTrainedTokenizerBase  # noqa: E402

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """What GLUE says of one of its tasks.

    Args:
        columns: the text or texts, and the label last: their names on the Hub, then those in GLUE's own files.
        classes: in the Hub's order; none where the label is a number.
        metrics: names of the figures, the headline first.
        validation: the Hub's splits to evaluate on, by the name that their figures get.
        unnamed: the columns of GLUE's own file, where it has no header line.
    """

    columns: tuple[tuple[str, ...], ...]
    classes: tuple[str, ...]
    metrics: tuple[str, ...]
    validation: Mapping[str, str] = field(default_factory=lambda: {"": "validation"})
    unnamed: tuple[str, ...] = ()


ENTRIES: dict[str, Entry] = {
    "cola": Entry(
        (("sentence", "label"),),
        ("unacceptable", "acceptable"),
        ("matthews_correlation",),
        unnamed=("source", "label", "judgement", "sentence"),
    ),
    "sst2": Entry((("sentence", "label"),), ("negative", "positive"), ("accuracy",)),
    "mrpc": Entry(
        (("sentence1", "sentence2", "label"), ("#1 String", "#2 String", "Quality")),
        ("not_equivalent", "equivalent"),
        ("f1", "accuracy"),
    ),
    "qqp": Entry(
        (("question1", "question2", "label"), ("question1", "question2", "is_duplicate")),
        ("not_duplicate", "duplicate"),
        ("accuracy", "f1"),
    ),
    "stsb": Entry((("sentence1", "sentence2", "label"), ("sentence1", "sentence2", "score")), (), CORRELATIONS),
    "mnli": Entry(
        (("premise", "hypothesis", "label"), ("sentence1", "sentence2", "gold_label")),
        ("entailment", "neutral", "contradiction"),
        ("accuracy",),
        {"matched": "validation_matched", "mismatched": "validation_mismatched"},
    ),
    "qnli": Entry((("question", "sentence", "label"),), ("entailment", "not_entailment"), ("accuracy",)),
    "rte": Entry((("sentence1", "sentence2", "label"),), ("entailment", "not_entailment"), ("accuracy",)),
}
"""GLUE's tasks by the Hub's names. Not WNLI, on which models do not beat the most frequent class.

The leaderboard prints F1 before accuracy for MRPC and QQP; of QQP the movement pruning paper prints accuracy first.
"""

POSITIVE = 1
"""The class that F1 is of, in the Hub's order: equivalent, duplicate."""

FIGURES: dict[str, Callable[[np.ndarray, np.ndarray, int], float]] = {
    "accuracy": lambda labels, chosen, _: accuracy_score(labels, chosen),
    "f1": lambda labels, chosen, positive: f1_score(labels == positive, chosen == positive, zero_division=0.0),
    "matthews_correlation": lambda labels, chosen, _: matthews_corrcoef(labels, chosen),
}
"""The metrics of classes: of the labels, the classes chosen, and the number of the positive class."""

SUFFIXES = (".tsv", ".csv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class GlueExamples(Examples):
    """Examples whose labels are numbered in a model's order, and the number of the positive class in it."""

    positive: int = POSITIVE


@dataclass(frozen=True)
class Glue(TextTask):
    """A task of GLUE, from the Hub or from files.

    The figures are GLUE's own, from 0 to 1: accuracy for sst2, rte, qnli and mnli (on both of its validation splits, as
    matched_accuracy and mismatched_accuracy); accuracy and F1 of the positive class for qqp, in mrpc F1 first; Matthews'
    correlation for cola; Pearson's and Spearman's for stsb.

    A saved model may have the classes in another order: where their names are the task's, but for upper and lower case,
    the labels follow the model's order; where they are others, as LABEL_0, its outputs are taken in the Hub's order.

    Args:
        name: cola, sst2, mrpc, qqp, stsb, mnli, qnli or rte.
        folder: holds train.* and validation.* (or dev.*; for mnli validation_matched.* and validation_mismatched.*, or
            dev_...), as .tsv (no quoting, as GLUE publishes them), .csv, .jsonl or .parquet, with the Hub's columns or
            those of GLUE's own files. Lines of a .tsv that broke off are left out, with a warning. None: from the Hub.
        dataset: data set on the Hub with a configuration for each task, read where no folder is given.
        max_train_samples: train on so many rows only, the first ones.
    """

    name: str
    folder: str | None = None
    dataset: str = "nyu-mll/glue"
    max_train_samples: int | None = None

    def __post_init__(self) -> None:
        if self.name not in ENTRIES:
            raise InvalidInputError(f"There is no GLUE task {self.name!r}; {nearest(self.name.casefold(), ENTRIES)}")

    @property
    def entry(self) -> Entry:
        """What GLUE says of this task."""
        return ENTRIES[self.name]

    @property
    def metrics(self) -> tuple[str, ...]:
        figures = (*self.entry.metrics, "loss")
        return tuple(f"{part}_{figure}" if part else figure for figure in figures for part in self.entry.validation)

    def config(self, classes: tuple[str, ...]) -> dict[str, Any]:
        return super().config(classes) if self.entry.classes else {"num_labels": 1, "problem_type": "regression"}

    def load(self) -> Splits:
        """Reads the training split and those to evaluate on."""
        classes = self.entry.classes
        return Splits(self._examples("train", classes, self.max_train_samples), self.load_validation(classes), classes)

    def load_validation(self, classes: tuple[str, ...]) -> dict[str, GlueExamples]:
        """Reads the splits to evaluate on, the labels numbered in a model's order of the classes (see above).

        Raises:
            InvalidInputError: for data that cannot be used, or a model with another number of outputs than the task.
        """
        order = self._order(classes)
        return {part: self._examples(split, order, None) for part, split in self.entry.validation.items()}

    def _order(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """Returns the task's classes in the order of a model that knows its own by these names."""
        own = self.entry.classes
        if len(classes) != len(own) and (own or len(classes) > 1):
            needed = f"one for each of {', '.join(own)}" if own else "one, for the number"
            raise InvalidInputError(
                f"The model has {len(classes)} outputs ({enumeration(classes)}), where {self.name} takes {needed}. "
                "Give a model that was fine-tuned on this task."
            )
        return in_order_of(classes, own)

    def score(self, labels: np.ndarray, outputs: np.ndarray, positive: int = POSITIVE) -> dict[str, float]:
        """Returns GLUE's figures; `positive` is the number of the class that F1 is of."""
        if not self.entry.classes:
            return correlations(labels, outputs)
        chosen = np.argmax(outputs, axis=-1)
        return {name: float(FIGURES[name](labels, chosen, positive)) for name in self.entry.metrics}

    def prepare(
        self, train: Any | None, validation: dict[str, Any], tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> Prepared:
        positive = next(iter(validation.values())).positive
        return replace(
            super().prepare(train, validation, tokenizer, max_length),
            metrics=lambda prediction: self.score(
                np.asarray(prediction.label_ids), np.asarray(prediction.predictions), positive
            ),
        )

    def _examples(self, split: str, order: tuple[str, ...], most: int | None) -> GlueExamples:
        """Reads a split: the texts, and the labels numbered in this order of the classes."""
        name, columns = self._read(split)
        *wanted, label = self._columns(columns, name)
        columns = {column: list(first(columns[column], most)) for column in (*wanted, label)}
        _check_labels_shown(columns[label], name)
        labels = _numbered(columns[label], self.entry.classes, order, name) if order else values(columns[label], name)
        first_text, *second_text = (texts(columns[column], column, name) for column in wanted)
        positive = order.index(self.entry.classes[POSITIVE]) if order else POSITIVE
        return GlueExamples(first_text, second_text[0] if second_text else None, labels, positive)

    def _read(self, split: str) -> tuple[str, Columns]:
        """Reads a split, and names where it came from."""
        if self.folder is None:
            return f"{self.dataset} {self.name} ({split})", read_hub(self.dataset, self.name, split)
        path = _file(Path(self.folder), split)
        columns, unnamed = _read_published(path) if path.suffix == ".tsv" else read_table(path), self.entry.unnamed
        if len(columns) == len(unnamed) and set(unnamed).isdisjoint(columns):
            # what was read as the header is the first row
            columns = {column: [top, *rest] for column, (top, rest) in zip(unnamed, columns.items(), strict=True)}
        return str(path), columns

    def _columns(self, columns: Columns, name: str) -> tuple[str, ...]:
        """Returns the names that this split's columns have, of those that they can have."""
        for names in self.entry.columns:
            if set(names) <= columns.keys():
                if not columns[names[-1]]:
                    raise InvalidInputError(f"{name} holds no rows. Give a file with at least one example.")
                return names
        known = " or ".join(", ".join(map(repr, names)) for names in self.entry.columns)
        raise InvalidInputError(f"{name} has the columns {enumeration(columns)}, where {self.name} needs {known}.")


def _file(folder: Path, split: str) -> Path:
    """Returns the one file of a split in a folder."""
    stems = dict.fromkeys((split, split.replace("validation", "dev")))
    found = [path for stem in stems for suffix in SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()]
    if len(found) != 1:
        holds = f"both {found[0].name} and {found[1].name}" if found else f"no {' or '.join(stems)} file"
        raise InvalidInputError(f"{folder} holds {holds}; give one of {', '.join(f'{split}{suffix}' for suffix in SUFFIXES)}.")
    return found[0]


def _read_published(path: Path) -> Columns:
    """Reads a file as GLUE publishes it, without the lines that broke off: QQP has some, and other loaders skip them too."""
    with reading(path):
        lines = read_lines(path, **TSV)
    columns = len(lines[0].fields)
    broken = [line for line in lines if len(line.fields) < columns]
    if broken:
        logger.warning(
            "%s: %d lines have fewer fields than the header and are left out, the first of them line %d.",
            path,
            len(broken),
            broken[0].number,
        )
    return by_column([line for line in lines if len(line.fields) >= columns], path)


def _check_labels_shown(labels: Sequence[Any], name: str) -> None:
    """GLUE keeps the labels of its test splits to itself, and the Hub has -1 in their place."""
    hidden = [row for row, label in enumerate(labels, start=1) if str(label) in ("-1", "-1.0")]
    if hidden:
        raise InvalidInputError(
            f"Row {hidden[0]} of {name} has the label -1, which hides the labels of GLUE's test splits. Give a labelled split."
        )


def _numbered(labels: Sequence[Any], classes: tuple[str, ...], order: tuple[str, ...], name: str) -> list[int]:
    """Returns the numbers in `order` of labels that are names of classes, or their numbers in `classes`."""
    known = {name: order.index(name) for name in classes}
    known |= {str(number): order.index(name) for number, name in enumerate(classes)}
    for row, label in enumerate(labels, start=1):
        if str(label) not in known:
            raise InvalidInputError(
                f"Row {row} of {name} has the label {label!r}, which is none of {', '.join(classes)}, nor of their numbers "
                f"0 to {len(classes) - 1}. Correct the row."
            )
    return [known[str(label)] for label in labels]
