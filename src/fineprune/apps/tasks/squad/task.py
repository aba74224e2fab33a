"""Extractive question answering as in SQuAD v1.1 and v2: contexts cut into windows, answers found as spans, and scored."""

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ....errors import InvalidInputError, require
from ..base import Prepared, Splits, Task, check_clear
from ..tables import read_hub
from .questions import Entry, Question, Questions, check_answer_places, collect, read
from .score import VERSION_1, VERSION_2, score
from .spans import Search, Window, best_answers

require("hub", "transformers", "datasets")

import datasets  # noqa: E402
from transformers import BatchEncoding, DataCollatorWithPadding, PreTrainedTokenizerBase  # noqa: E402


@dataclass(frozen=True)
class QuestionAnswering(Task):
    """Questions whose answers are spans of a text, as in SQuAD: from files in its JSON layout, or a data set on the Hub.

    Where the validation data is of SQuAD v2 (it says which questions have no answer), a model may give none.
    A context that is too long for one window is seen in several, which overlap.

    Args:
        train: file to train on, or several.
        validation: file to evaluate on, or several.
        dataset: data set on the Hub, instead of files, as "rajpurkar/squad".
        subset: the data set's configuration.
        train_split: the data set's split to train on.
        validation_split: the data set's split to evaluate on.
        stride: how many tokens of the context neighbouring windows share.
        n_best: an answer starts and ends at one of so many tokens of a window, those with the largest logits.
        max_answer_tokens: the longest answer.
        null_threshold: by how much "no answer" must exceed the best span's score to be given; only with SQuAD v2.
        max_train_samples: train on so many questions only, the first ones.
        max_validation_samples: evaluate on so many questions only, the first ones.
    """

    head = "AutoModelForQuestionAnswering"

    train: str | list[str] | None = None
    validation: str | list[str] | None = None
    dataset: str | None = None
    subset: str | None = None
    train_split: str = "train"
    validation_split: str = "validation"
    stride: int = 128
    n_best: int = 20
    max_answer_tokens: int = 30
    null_threshold: float = 0.0
    max_train_samples: int | None = None
    max_validation_samples: int | None = None

    def __post_init__(self) -> None:
        least = {"stride": 0, "n_best": 1, "max_answer_tokens": 1, "max_train_samples": 1, "max_validation_samples": 1}
        for name, bound in least.items():
            given = getattr(self, name)
            if given is not None and given < bound:
                raise InvalidInputError(f"task.{name} was given as {given}; it is {bound} or more.")
        if not math.isfinite(self.null_threshold):
            raise InvalidInputError(f"task.null_threshold was given as {self.null_threshold}; it is a finite number.")

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("f1", "exact_match", "loss")

    def load(self) -> Splits:
        """Reads both splits. An answer to train on must be where the data says that it starts."""
        train = _first(self._read("train", self.train, self.train_split), self.max_train_samples)
        check_answer_places(train.rows, "the training data")
        return Splits(train, self.load_validation(()))

    def load_validation(self, classes: tuple[str, ...]) -> dict[str, Questions]:
        """Reads the validation split. Where its answers start is not checked: it serves the loss alone, not the scores."""
        return {"": _first(self._read("validation", self.validation, self.validation_split), self.max_validation_samples)}

    def _read(self, split: str, files: str | list[str] | None, hub_split: str) -> Questions:
        check_clear(self.dataset, self.train, self.validation)
        if self.dataset is not None:
            return collect(_hub_entries(self.dataset, self.subset, hub_split))
        if not files:
            raise InvalidInputError(f"The task has no {split} file. Set task.{split} to a .json file in SQuAD's layout.")
        return read([files] if isinstance(files, str) else files)

    def prepare(
        self, train: Any | None, validation: dict[str, Any], tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> Prepared:
        [(name, questions)] = validation.items()
        cutter, padder = copy.deepcopy(tokenizer), copy.deepcopy(tokenizer)  # a tokenizer keeps, and saves, how it last cut
        padder.padding_side = "right"  # positions stay what they are, in labels and logits
        for rows in [questions.rows] if train is None else [train.rows, questions.rows]:
            _check_window(rows, cutter, max_length, self.stride)
        trained = None if train is None else encode(train.rows, cutter, max_length, self.stride)[0]
        encoded, windows = encode(questions.rows, cutter, max_length, self.stride)
        return Prepared(
            train=trained,
            validation={name: encoded},
            collator=DataCollatorWithPadding(padder),
            metrics=lambda prediction: self._score(questions, windows, np.asarray(prediction.predictions)),
            reduce=lambda logits, labels: torch.stack(logits[:2], dim=-1),  # some models return more than start and end
            ordered=True,
        )

    def _score(self, questions: Questions, windows: Sequence[Window], logits: np.ndarray) -> dict[str, float]:
        """Returns the metrics of logits (windows x tokens x 2, for start and end)."""
        rows = questions.rows
        search = Search(self.n_best, self.max_answer_tokens, self.null_threshold if questions.version2 else None)
        found = best_answers([row.context for row in rows], windows, logits.astype(np.float32), search)
        golds = [(row.id, [text for text, _ in row.answers]) for row in rows]
        predictions = {row.id: text for row, text in zip(rows, found, strict=True)}
        return score(golds, predictions, VERSION_2 if questions.version2 else VERSION_1)


def _first(questions: Questions, most: int | None) -> Questions:
    return replace(questions, rows=questions.rows[:most])


def _hub_entries(name: str, subset: str | None, split: str) -> list[Entry]:
    """Returns the rows of a data set on the Hub as a file in SQuAD's own layout holds them."""
    columns = read_hub(name, subset, split)
    missing = [column for column in ("id", "context", "question", "answers") if column not in columns]
    if missing or not columns["id"]:
        lacks = f"no column {missing[0]!r}" if missing else "no rows"
        raise InvalidInputError(f"{name} ({split}) has {lacks}. Give a data set with SQuAD's columns, as rajpurkar/squad.")
    found: list[Entry] = []
    for row in range(len(columns["id"])):
        entry = {key: columns[key][row] for key in ("id", "question")}
        pairs = zip(columns["answers"][row]["text"], columns["answers"][row]["answer_start"], strict=True)
        entry["answers"] = [{"text": text, "answer_start": start} for text, start in pairs]
        found.append((f"Row {row + 1} of {name} ({split})", {"context": columns["context"][row]}, entry))
    return found


def _check_window(rows: Sequence[Question], tokenizer: PreTrainedTokenizerBase, max_length: int, stride: int) -> None:
    """Raises InvalidInputError if the longest question leaves windows too short to get on through its context."""
    if not tokenizer.is_fast:
        raise InvalidInputError(
            f"The tokenizer {type(tokenizer).__name__} is a slow one: it does not tell where in a text a token stands, which "
            "answers need. Take a model with a tokenizer.json."
        )
    lengths = [len(tokens) for tokens in tokenizer([row.question for row in rows], add_special_tokens=False)["input_ids"]]
    longest = int(np.argmax(lengths))
    needed = lengths[longest] + tokenizer.num_special_tokens_to_add(pair=True) + stride + 1
    if max_length < needed:
        raise InvalidInputError(
            f"max_length was given as {max_length}; the question {rows[longest].id!r} alone has {lengths[longest]} tokens, and "
            f"windows that share {stride} tokens (task.stride) then need {needed} or more. 384 with a stride of 128 is usual."
        )


CHUNK = 1000
"""Questions that are cut at once: what a tokenizer returns is far larger than what is kept of it."""


def encode(
    rows: Sequence[Question], tokenizer: PreTrainedTokenizerBase, max_length: int, stride: int
) -> tuple[datasets.Dataset, list[Window]]:
    """Cuts questions with their contexts into windows of at most `max_length` tokens.

    The labels of a window are the first and the last token of the question's first answer; or both the null token, where
    the window does not hold the whole answer or there is none.

    Args:
        rows: the questions, none longer than leaves room for its context.
        tokenizer: a fast one. Where it pads on the left, the context comes before the question, as such models expect.
        max_length: of a window, with its question and its special tokens.
        stride: tokens of the context that neighbouring windows share.
    """
    parts: list[datasets.Dataset] = []
    windows: list[Window] = []
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        encoded, made = _cut(chunk, tokenizer, max_length, stride)
        labels = [label(window, chunk[window.question]) for window in made]
        first, last = zip(*labels, strict=True)
        parts.append(datasets.Dataset.from_dict({**encoded, "start_positions": first, "end_positions": last}))
        windows += [replace(window, question=start + window.question) for window in made]
    return datasets.concatenate_datasets(parts), windows


def _cut(
    rows: Sequence[Question], tokenizer: PreTrainedTokenizerBase, max_length: int, stride: int
) -> tuple[dict[str, Any], list[Window]]:
    """Returns a model's inputs for each window, and the windows."""
    texts = [[row.question for row in rows], [row.context for row in rows]]
    context = 1 if tokenizer.padding_side == "right" else 0
    encoded = tokenizer(
        *(texts if context == 1 else reversed(texts)),
        truncation="only_second" if context == 1 else "only_first",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    windows = [_window(encoded, number, context, tokenizer.cls_token_id) for number in range(len(encoded["input_ids"]))]
    kept = {name: value for name, value in encoded.items() if name in tokenizer.model_input_names}
    return kept, windows


def _window(encoded: BatchEncoding, number: int, context: int, cls: int | None) -> Window:
    sequences, tokens = encoded.sequence_ids(number), encoded["input_ids"][number]
    count = sequences.count(context)
    first = sequences.index(context) if count else 0
    offsets = np.array(encoded["offset_mapping"][number][first : first + count], dtype=np.int32).reshape(count, 2)
    null = tokens.index(cls) if cls in tokens else 0
    return Window(encoded["overflow_to_sample_mapping"][number], null, first, offsets)


def label(window: Window, question: Question) -> tuple[int, int]:
    """Returns the positions of the first and the last token of a question's first answer, or twice that of the null token."""
    for text, start in itertools.islice(question.answers, 1):
        begin, end = start + len(text) - len(text.lstrip()), start + len(text.rstrip())
        starts, ends = window.offsets.T
        if len(starts) and starts[0] <= begin and end <= ends[-1]:
            first, last = np.searchsorted(ends, begin, side="right"), np.searchsorted(starts, end, side="left") - 1
            if first <= last:
                return window.first + int(first), window.first + int(last)
    return window.null, window.null
