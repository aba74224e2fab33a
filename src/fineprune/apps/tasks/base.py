"""The base of all tasks: a data set, the head it needs, its examples as tensors, and the metrics of predictions."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from torch import Tensor

from ...errors import InvalidInputError, require
from .tables import Columns, read_hub

require("hub", "transformers", "datasets", "sklearn")

import datasets  # noqa: E402
import pyarrow.compute  # noqa: E402
from scipy.stats import pearsonr, spearmanr  # noqa: E402
from sklearn.metrics import accuracy_score, f1_score  # noqa: E402
from transformers import DataCollatorWithPadding, EvalPrediction, PreTrainedTokenizerBase  # noqa: E402


@dataclass(frozen=True)
class Splits:
    """The data of a task, and the names of its classes.

    Args:
        train: the training examples, in the task's own form.
        validation: the examples to evaluate on, by name; where there is one split, its name is empty.
        classes: in the order of the head's outputs; empty for a task without classes.
    """

    train: Any
    validation: dict[str, Any]
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prepared:
    """Data as Trainer takes it.

    Args:
        train: token ids and labels, not padded; None to evaluate only.
        validation: the same for each split, by the names in Splits.
        collator: makes a batch of examples.
        metrics: scores predictions, by the names of the metrics. Trainer adds the loss.
        reduce: (logits, labels) of a batch -> the tensor that `metrics` needs. None: the logits.
        ordered: whether `metrics` expects predictions in the order of the examples.
    """

    train: datasets.Dataset | None
    validation: dict[str, datasets.Dataset]
    collator: Callable[[list[Any]], dict[str, Tensor]]
    metrics: Callable[[EvalPrediction], dict[str, float]]
    reduce: Callable[[Any, Tensor], Tensor] | None = None
    ordered: bool = False

    def longest(self) -> int:
        """Returns the number of tokens of the longest example."""
        splits = [split for split in (self.train, *self.validation.values()) if split is not None]
        lengths = [pyarrow.compute.list_value_length(split.data.column("input_ids")) for split in splits]
        return int(max(pyarrow.compute.max(of_split).as_py() for of_split in lengths))


Found = TypeVar("Found")


@dataclass(frozen=True)
class DataSource:
    """Where a task reads its two splits: from files, or from a data set on the Hub.

    Args:
        train: file to train on, or several.
        validation: file to evaluate on, or several.
        dataset: data set on the Hub, instead of files.
        subset: the data set's configuration.
        train_split: the data set's split to train on.
        validation_split: the data set's split to evaluate on.
    """

    file_kind: ClassVar[str] = "a .csv, .tsv, .jsonl or .parquet file"

    train: str | list[str] | None = None
    validation: str | list[str] | None = None
    dataset: str | None = None
    subset: str | None = None
    train_split: str = "train"
    validation_split: str = "validation"

    def read_split(
        self, split: str, from_file: Callable[[Path], Found], from_hub: Callable[[Columns, str], Found]
    ) -> list[Found]:
        """Reads a split, "train" or "validation".

        Args:
            split: which.
            from_file: reads one of its files.
            from_hub: takes its columns on the Hub, with a name for error texts.

        Raises:
            InvalidInputError: for both files and a data set, for neither, or for a split without a file.
        """
        if (self.dataset is None) != bool(self.train or self.validation):
            raise InvalidInputError(
                "A task takes either files (train and validation) or a dataset on the Hub. Give one of them."
            )
        files, hub_split = {
            "train": (self.train, self.train_split),
            "validation": (self.validation, self.validation_split),
        }[split]
        if self.dataset is not None:
            return [from_hub(read_hub(self.dataset, self.subset, hub_split), f"{self.dataset} ({hub_split})")]
        if not files:
            raise InvalidInputError(f"The task has no {split} file. Set task.{split} to {self.file_kind}.")
        return [from_file(Path(path)) for path in ([files] if isinstance(files, str) else files)]


class Task(ABC):
    """A data set, its examples as tensors, and the metrics of a model's predictions."""

    head: ClassVar[str]
    """The Transformers class that loads a model for this task, as AutoModelForSequenceClassification."""

    greater_is_better: ClassVar[bool] = True
    """Whether more of the first metric is better."""

    @property
    @abstractmethod
    def metrics(self) -> tuple[str, ...]:
        """The metrics by name, the one to compare models by first, the losses last."""

    @abstractmethod
    def load(self) -> Splits:
        """Reads the data. Raises InvalidInputError for unusable data, before anything is written."""

    @abstractmethod
    def load_validation(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """Reads only the splits to evaluate on, for a model with these classes. Raises as `load` does."""

    def config(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """Returns the settings of a model's config that the head needs."""
        return {}

    @abstractmethod
    def prepare(
        self, train: Any | None, validation: dict[str, Any], tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> Prepared:
        """Returns the examples as tensors, texts cut to `max_length` tokens.

        Raises:
            InvalidInputError: for a `max_length` that is too short for the task, or an unsuitable tokenizer.
        """


@dataclass(frozen=True)
class Examples:
    """Texts (or pairs of texts), each with the index of its class or with its value."""

    texts: list[str]
    pairs: list[str] | None
    labels: list[int] | list[float]


class TextTask(Task):
    """A task whose examples are texts, or pairs of texts, with a class or a value each."""

    head = "AutoModelForSequenceClassification"

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("accuracy", "f1_macro", "loss")

    def score(self, labels: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
        """Returns the metrics, by the names in `metrics`, of the head's outputs (examples x classes)."""
        chosen = np.argmax(outputs, axis=-1)
        f1 = f1_score(labels, chosen, average="macro", zero_division=0.0)
        return {"accuracy": float(accuracy_score(labels, chosen)), "f1_macro": float(f1)}

    def config(self, classes: tuple[str, ...]) -> dict[str, Any]:
        if not classes:
            return {"num_labels": 1, "problem_type": "regression"}
        names = dict(enumerate(classes))
        return {"num_labels": len(classes), "id2label": names, "label2id": {name: number for number, name in names.items()}}

    def prepare(
        self, train: Any | None, validation: dict[str, Any], tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> Prepared:
        return Prepared(
            validation={name: encode(examples, tokenizer, max_length) for name, examples in validation.items()},
            train=None if train is None else encode(train, tokenizer, max_length),
            collator=DataCollatorWithPadding(tokenizer),
            metrics=lambda prediction: self.score(np.asarray(prediction.label_ids), np.asarray(prediction.predictions)),
            reduce=lambda outputs, labels: outputs[0] if isinstance(outputs, tuple) else outputs,  # BART's and T5's have more
        )


def encode(examples: Examples, tokenizer: PreTrainedTokenizerBase, max_length: int) -> datasets.Dataset:
    """Returns the token ids and labels of each example, cut to `max_length` tokens, not padded.

    Raises:
        InvalidInputError: for a length that holds the tokenizer's special tokens alone.
    """
    special = tokenizer.num_special_tokens_to_add(pair=examples.pairs is not None)
    if max_length <= special:
        example = "a text" if examples.pairs is None else "a pair of texts"
        raise InvalidInputError(
            f"max_length must be {special + 1} or more, got {max_length}: {example} has {special} special tokens. Raise it."
        )
    encoded = tokenizer(examples.texts, examples.pairs, truncation=True, max_length=max_length)
    return datasets.Dataset.from_dict({**encoded, "labels": examples.labels})


CORRELATIONS = ("pearson", "spearmanr")


def correlations(labels: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
    """Returns Pearson's and Spearman's correlation, 0 for constant labels or outputs, where they are undefined."""
    outputs = outputs.reshape(-1).astype(np.float64)
    if np.ptp(outputs) == 0 or np.ptp(labels) == 0:
        return dict.fromkeys(CORRELATIONS, 0.0)
    found = (pearsonr(outputs, labels).statistic, spearmanr(outputs, labels).statistic)
    return {name: float(correlation) for name, correlation in zip(CORRELATIONS, found, strict=True)}


def in_model_order(model_classes: Sequence[str], classes: tuple[str, ...]) -> tuple[str, ...]:
    """Returns a task's classes in the order of a model with the same class names; in their own order for other names.

    Args:
        model_classes: the names of the model's outputs. They may differ from the task's in upper and lower case.
        classes: the task's names.
    """
    for form in (str, str.casefold):
        names = {form(name): name for name in classes}
        if sorted(map(form, model_classes)) == sorted(names):
            return tuple(names[form(name)] for name in model_classes)
    return classes


def first_rows(rows: Sequence[Any], most: int | None) -> Sequence[Any]:
    """Returns the first `most` rows, all of them for None. Raises InvalidInputError for a number below 1."""
    if most is not None and most < 1:
        raise InvalidInputError(f"max_train_samples must be 1 or more, got {most}.")
    return rows[:most]
