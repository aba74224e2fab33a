"""The tasks of GLUE (Wang et al. 2018) with its metrics: from the Hub, or from files as GLUE publishes them."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InvalidInputError, enumeration, nearest, require
from .base import CORRELATIONS, Examples, Prepared, Splits, TextTask, correlations, first_rows, in_model_order
from .tables import TSV, Columns, by_column, read_hub, read_lines, read_table, reading
from .text import as_numbers, as_texts

require("hub", "sklearn", "transformers")

from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef  # noqa: E402
from transformers import PreTrainedTokenizerBase  # noqa: E402

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GlueEntry:
    """The definition of one of GLUE's tasks.

    Args:
        columns: names of the columns of the texts and, last, of the label: on the Hub, then in GLUE's own files.
        classes: in the Hub's order; none where the label is a number.
        metrics: their names, the headline first.
        validation: the Hub's splits to evaluate on, by the prefix of their metrics.
        headerless: the columns of GLUE's own file, where it has no header line.
    """

    columns: tuple[tuple[str, ...], ...]
    classes: tuple[str, ...]
    metrics: tuple[str, ...]
    validation: Mapping[str, str] = field(default_factory=lambda: {"": "validation"})
    headerless: tuple[str, ...] = ()


ENTRIES: dict[str, GlueEntry] = {
    "cola": GlueEntry(
        (("sentence", "label"),),
        ("unacceptable", "acceptable"),
        ("matthews_correlation",),
        headerless=("source", "label", "judgement", "sentence"),
    ),
    "sst2": GlueEntry((("sentence", "label"),), ("negative", "positive"), ("accuracy",)),
    "mrpc": GlueEntry(
        (("sentence1", "sentence2", "label"), ("#1 String", "#2 String", "Quality")),
        ("not_equivalent", "equivalent"),
        ("f1", "accuracy"),
    ),
    "qqp": GlueEntry(
        (("question1", "question2", "label"), ("question1", "question2", "is_duplicate")),
        ("not_duplicate", "duplicate"),
        ("accuracy", "f1"),
    ),
    "stsb": GlueEntry((("sentence1", "sentence2", "label"), ("sentence1", "sentence2", "score")), (), CORRELATIONS),
    "mnli": GlueEntry(
        (("premise", "hypothesis", "label"), ("sentence1", "sentence2", "gold_label")),
        ("entailment", "neutral", "contradiction"),
        ("accuracy",),
        {"matched": "validation_matched", "mismatched": "validation_mismatched"},
    ),
    "qnli": GlueEntry((("question", "sentence", "label"),), ("entailment", "not_entailment"), ("accuracy",)),
    "rte": GlueEntry((("sentence1", "sentence2", "label"),), ("entailment", "not_entailment"), ("accuracy",)),
}
"""GLUE's tasks by the Hub's names. WNLI is left out: models do not beat its most frequent class.

The leaderboard prints F1 before accuracy for MRPC and QQP; the movement pruning paper prints accuracy first for QQP.
"""

POSITIVE = 1
"""Index of the class that F1 is computed for, in the Hub's order: equivalent, duplicate."""

METRICS: dict[str, Callable[[np.ndarray, np.ndarray, int], float]] = {
    "accuracy": lambda labels, chosen, _: accuracy_score(labels, chosen),
    "f1": lambda labels, chosen, positive: f1_score(labels == positive, chosen == positive, zero_division=0.0),
    "matthews_correlation": lambda labels, chosen, _: matthews_corrcoef(labels, chosen),
}
"""(labels, predicted classes, index of the positive class) -> metric."""

SUFFIXES = (".tsv", ".csv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class GlueExamples(Examples):
    """Examples with labels in a model's order of the classes, and the index of the positive class in it."""

    positive: int = POSITIVE


@dataclass(frozen=True)
class Glue(TextTask):
    """A task of GLUE, from the Hub or from files.

    The metrics are GLUE's own, from 0 to 1: accuracy for sst2, rte, qnli and mnli (on both of its validation splits, as
    matched_accuracy and mismatched_accuracy); accuracy and F1 of the positive class for qqp, F1 first for mrpc; Matthews'
    correlation for cola; Pearson's and Spearman's for stsb.

    A saved model may have the classes in another order: where its class names are the task's, apart from upper and lower
    case, the labels follow the model's order; where they are others, as LABEL_0, its outputs are in the Hub's order.

    Args:
        name: cola, sst2, mrpc, qqp, stsb, mnli, qnli or rte.
        folder: holds train.* and validation.* (or dev.*; for mnli validation_matched.* and validation_mismatched.*, or
            dev_...), as .tsv (no quoting, as GLUE publishes them), .csv, .jsonl or .parquet, with the Hub's columns or
            those of GLUE's own files. Incomplete lines of a .tsv are left out, with a warning. None: from the Hub.
        dataset: data set on the Hub with a configuration for each task, read where no folder is given.
        max_train_samples: number of rows to train on, the first ones. None: all.
    """

    name: str
    folder: str | None = None
    dataset: str = "nyu-mll/glue"
    max_train_samples: int | None = None

    def __post_init__(self) -> None:
        if self.name not in ENTRIES:
            raise InvalidInputError(f"There is no GLUE task {self.name!r}; {nearest(self.name.casefold(), ENTRIES)}")

    @property
    def entry(self) -> GlueEntry:
        """The definition of this task."""
        return ENTRIES[self.name]

    @property
    def metrics(self) -> tuple[str, ...]:
        names = (*self.entry.metrics, "loss")
        return tuple(f"{prefix}_{name}" if prefix else name for name in names for prefix in self.entry.validation)

    def load(self) -> Splits:
        """Reads the training split and those to evaluate on."""
        classes = self.entry.classes
        return Splits(self._examples("train", classes, self.max_train_samples), self.load_validation(classes), classes)

    def load_validation(self, classes: tuple[str, ...]) -> dict[str, GlueExamples]:
        """Reads the splits to evaluate on, the labels in a model's order of the classes (see above).

        Raises:
            InvalidInputError: for unusable data, or a model with another number of outputs than the task.
        """
        order = self._order(classes)
        return {prefix: self._examples(split, order, None) for prefix, split in self.entry.validation.items()}

    def _order(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """Returns the task's classes in the order of the outputs of a model with these classes."""
        own = self.entry.classes
        if len(classes) != len(own) and (own or len(classes) > 1):
            needed = f"an output for each of {', '.join(own)}" if own else "one output, for the number"
            raise InvalidInputError(
                f"{self.name} needs a model with {needed}, got {len(classes)} ({enumeration(classes)}). "
                "Give a model that was fine-tuned on this task."
            )
        return in_model_order(classes, own)

    def score(self, labels: np.ndarray, outputs: np.ndarray, positive: int = POSITIVE) -> dict[str, float]:
        """Returns GLUE's metrics; `positive` is the index of the class that F1 is computed for."""
        if not self.entry.classes:
            return correlations(labels, outputs)
        chosen = np.argmax(outputs, axis=-1)
        return {name: float(METRICS[name](labels, chosen, positive)) for name in self.entry.metrics}

    def prepare(
        self, train: Any | None, validation: dict[str, Any], tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> Prepared:
        positive = next(iter(validation.values())).positive
        return replace(
            super().prepare(train, validation, tokenizer, max_length),
            metrics=lambda one: self.score(np.asarray(one.label_ids), np.asarray(one.predictions), positive),
        )

    def _examples(self, split: str, order: tuple[str, ...], most: int | None) -> GlueExamples:
        """Reads a split: the texts, and the labels as indices in this order of the classes."""
        name, columns = self._read(split)
        *wanted, label = self._columns(columns, name)
        columns = {column: list(first_rows(columns[column], most)) for column in (*wanted, label)}
        _check_labels(columns[label], name)
        labels = _class_indices(columns[label], self.entry.classes, order, name) if order else as_numbers(columns[label], name)
        first_text, *second_text = (as_texts(columns[column], column, name) for column in wanted)
        positive = order.index(self.entry.classes[POSITIVE]) if order else POSITIVE
        return GlueExamples(first_text, second_text[0] if second_text else None, labels, positive)

    def _read(self, split: str) -> tuple[str, Columns]:
        """Reads a split. Returns the name of its source with its columns."""
        if self.folder is None:
            return f"{self.dataset} {self.name} ({split})", read_hub(self.dataset, self.name, split)
        path = _file(Path(self.folder), split)
        columns, names = _read_published(path) if path.suffix == ".tsv" else read_table(path), self.entry.headerless
        if len(columns) == len(names) and set(names).isdisjoint(columns):
            # the line that was read as the header is the first row
            columns = {column: [top, *rest] for column, (top, rest) in zip(names, columns.items(), strict=True)}
        return str(path), columns

    def _columns(self, columns: Columns, name: str) -> tuple[str, ...]:
        """Returns the names of this split's columns."""
        for names in self.entry.columns:
            if set(names) <= columns.keys():
                if not columns[names[-1]]:
                    raise InvalidInputError(f"{name} holds no rows. Give a file with at least one example.")
                return names
        known = " or ".join(", ".join(map(repr, names)) for names in self.entry.columns)
        raise InvalidInputError(
            f"{name} must have the columns {known} for {self.name}, got {enumeration(columns)}. Rename them."
        )


def _file(folder: Path, split: str) -> Path:
    """Returns the one file of a split in a folder."""
    stems = dict.fromkeys((split, split.replace("validation", "dev")))
    found = [path for stem in stems for suffix in SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()]
    if len(found) != 1:
        holds = f"both {found[0].name} and {found[1].name}" if found else f"no {' or '.join(stems)} file"
        raise InvalidInputError(f"{folder} holds {holds}. Give one of {', '.join(f'{split}{suffix}' for suffix in SUFFIXES)}.")
    return found[0]


def _read_published(path: Path) -> Columns:
    """Reads a file as GLUE publishes it, without incomplete lines: QQP has a few, and other loaders skip them too."""
    with reading(path):
        lines = read_lines(path, **TSV)
    columns = len(lines[0].fields)
    incomplete = [line for line in lines if len(line.fields) < columns]
    if incomplete:
        logger.warning(
            "%s: %d lines have fewer fields than the header and are left out, the first of them line %d.",
            path,
            len(incomplete),
            incomplete[0].number,
        )
    return by_column([line for line in lines if len(line.fields) >= columns], path)


def _check_labels(labels: Sequence[Any], name: str) -> None:
    """Raises InvalidInputError for the label -1, by which the Hub hides those of GLUE's test splits."""
    hidden = [row for row, label in enumerate(labels, start=1) if str(label) in ("-1", "-1.0")]
    if hidden:
        raise InvalidInputError(
            f"Row {hidden[0]} of {name} has the label -1, which hides the labels of GLUE's test splits. Give a labelled split."
        )


def _class_indices(labels: Sequence[Any], classes: tuple[str, ...], order: tuple[str, ...], name: str) -> list[int]:
    """Returns the indices in `order` of labels that are names of classes, or their indices in `classes`."""
    known = {name: order.index(name) for name in classes}
    known |= {str(index): order.index(name) for index, name in enumerate(classes)}
    for row, label in enumerate(labels, start=1):
        if str(label) not in known:
            raise InvalidInputError(
                f"Row {row} of {name} must have one of the labels {', '.join(classes)}, or their numbers, 0 to "
                f"{len(classes) - 1}, got {label!r}. Correct the row."
            )
    return [known[str(label)] for label in labels]
