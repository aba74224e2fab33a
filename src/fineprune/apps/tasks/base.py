"""What a task is: its data, the head that it needs, how examples become tensors, and how predictions are scored."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from ...errors import InvalidInputError, require

require("hub", "transformers", "datasets", "sklearn")

import datasets  # noqa: E402
import pyarrow.compute  # noqa: E402
from scipy.stats import pearsonr, spearmanr  # noqa: E402
from sklearn.metrics import accuracy_score, f1_score  # noqa: E402
from transformers import DataCollatorWithPadding, EvalPrediction, PreTrainedTokenizerBase  # noqa: E402


@dataclass(frozen=True)
class Splits:
    """What to train on, what to evaluate on, and the names of the classes.

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
        train: token numbers and labels, not padded; None to evaluate only.
        validation: the same for each split, by the names in Splits.
        collator: makes a batch of examples.
        metrics: figures of the predictions, by name. Trainer adds the loss.
        reduce: makes of (logits, labels) of a batch what `metrics` needs of them; None: they are kept whole.
        ordered: whether `metrics` counts on predictions in the order of the examples.
    """

    train: datasets.Dataset | None
    validation: dict[str, datasets.Dataset]
    collator: Callable[[list[Any]], dict[str, Tensor]]
    metrics: Callable[[EvalPrediction], dict[str, float]]
    reduce: Callable[[Any, Tensor], Tensor] | None = None
    ordered: bool = False

    def longest(self) -> int:
        """Returns the number of tokens of the longest example."""
        parts = [*self.validation.values(), *([] if self.train is None else [self.train])]
        lengths = [pyarrow.compute.list_value_length(part.data.column("input_ids")) for part in parts]
        longest: int = max(pyarrow.compute.max(of_part).as_py() for of_part in lengths)
        return longest


class Task(ABC):
    """A data set, how it is read, and how a model's predictions on it are scored."""

    head: ClassVar[str]
    """The class of Transformers that loads a model for this task, as AutoModelForSequenceClassification."""

    greater_is_better: ClassVar[bool] = True
    """Whether more of the first of the metrics is better."""

    @property
    @abstractmethod
    def metrics(self) -> tuple[str, ...]:
        """Names of the figures of an evaluation, the one to compare models by first, the losses last."""

    @abstractmethod
    def load(self) -> Splits:
        """Reads the data. Raises InvalidInputError for data that cannot be used, before anything is written."""

    @abstractmethod
    def load_validation(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """Reads the splits to evaluate on alone, for a model that knows its classes. Raises as `load` does."""

    def config(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """Returns the settings of a model's config that the head needs."""
        return {}

    @abstractmethod
    def prepare(
        self, train: Any | None, validation: dict[str, Any], tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> Prepared:
        """Returns the examples as tensors, texts cut to `max_length` tokens.

        Raises:
            InvalidInputError: for a length that leaves no room for the task, or a tokenizer that cannot serve it.
        """


@dataclass(frozen=True)
class Examples:
    """Texts (or pairs of texts) and, for each, the number of its class, or its value."""

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
        names = dict(enumerate(classes))
        return {"num_labels": len(classes), "id2label": names, "label2id": {name: number for number, name in names.items()}}

    def prepare(
        self, train: Any | None, validation: dict[str, Any], tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> Prepared:
        encoded = {name: encode(examples, tokenizer, max_length) for name, examples in validation.items()}
        return Prepared(
            train=None if train is None else encode(train, tokenizer, max_length),
            validation=encoded,
            collator=DataCollatorWithPadding(tokenizer),
            metrics=lambda prediction: self.score(np.asarray(prediction.label_ids), np.asarray(prediction.predictions)),
            reduce=first_output,
        )


def first_output(outputs: Any, labels: Tensor) -> Tensor:
    """Returns the logits, of a model that returns hidden states behind them too (as BART's and T5's classifiers)."""
    logits: Tensor = outputs[0] if isinstance(outputs, tuple) else outputs
    return logits


def encode(examples: Examples, tokenizer: PreTrainedTokenizerBase, max_length: int) -> datasets.Dataset:
    """Returns the token numbers and labels of each example, cut to `max_length` tokens, not padded.

    Raises:
        InvalidInputError: for a length that the tokenizer's special tokens fill alone.
    """
    special = tokenizer.num_special_tokens_to_add(pair=examples.pairs is not None)
    if max_length <= special:
        texts = "a text" if examples.pairs is None else "a pair of texts"
        raise InvalidInputError(
            f"max_length was given as {max_length}; the special tokens alone are {special} for {texts}. Give {special + 1} or "
            "more."
        )
    encoded = tokenizer(examples.texts, examples.pairs, truncation=True, max_length=max_length)
    return datasets.Dataset.from_dict({**encoded, "labels": examples.labels})


CORRELATIONS = ("pearson", "spearmanr")


def correlations(labels: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
    """Returns Pearson's and Spearman's correlation, 0 where the outputs are all the same and it is not defined."""
    outputs = outputs.reshape(-1).astype(np.float64)
    if np.ptp(outputs) == 0 or np.ptp(labels) == 0:
        return dict.fromkeys(CORRELATIONS, 0.0)
    figures = (pearsonr(outputs, labels).statistic, spearmanr(outputs, labels).statistic)
    return {name: float(figure) for name, figure in zip(CORRELATIONS, figures, strict=True)}


def in_order_of(known: Sequence[str], classes: tuple[str, ...]) -> tuple[str, ...]:
    """Returns a task's classes in the order of a model that knows them by the same names; as they are where it does not.

    Args:
        known: the names that the model has for its outputs, in their order. They may differ from the task's in upper and
            lower case.
        classes: the task's names.
    """
    for form in (str, str.casefold):
        names = {form(name): name for name in classes}
        if sorted(map(form, known)) == sorted(names):
            return tuple(names[form(name)] for name in known)
    return classes


def check_clear(dataset: str | None, *files: str | list[str] | None) -> None:
    """Raises InvalidInputError for a task that is given both files and a data set on the Hub, or neither."""
    if (dataset is None) != any(files):
        raise InvalidInputError("A task takes either files (train and validation) or a dataset on the Hub. Give one of them.")


def first(rows: Sequence[Any], most: int | None) -> Sequence[Any]:
    """Returns the first rows, all of them for None. Raises InvalidInputError for a number below 1."""
    if most is not None and most < 1:
        raise InvalidInputError(f"max_train_samples was given as {most}; it is 1 or more.")
    return rows[:most]
