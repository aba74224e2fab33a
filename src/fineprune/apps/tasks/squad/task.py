"""Extractive question answering as in SQuAD v1.1 and v2: contexts are cut into windows, answers are spans of them."""

import copy
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ....errors import InvalidInputError, require
from ..base import DataSource, Prepared, Splits, Task
from ..tables import Columns
from .questions import Question, Questions, RawQuestion, check_answer_places, collect, raw_questions
from .score import score_questions
from .spans import SpanSearch, Window, best_answers

require("hub", "transformers", "datasets")

import datasets  # noqa: E402
from transformers import BatchEncoding, DataCollatorWithPadding, PreTrainedTokenizerBase  # noqa: E402


@dataclass(frozen=True)
class QuestionAnswering(DataSource, Task):
    """Questions whose answers are spans of a text, as in SQuAD: from files in its JSON layout, or as columns on the Hub.

    If the validation data is of SQuAD v2 (it says which questions have no answer), a model may give none.
    A context that is too long for one window is cut into several, which overlap.

    Args:
        stride: tokens of the context that neighbouring windows share.
        n_best: an answer starts and ends at one of the `n_best` tokens of a window with the largest logits.
        max_answer_tokens: the longest answer.
        null_threshold: "no answer" is given if its score exceeds the best span's by more than this; only with SQuAD v2.
        max_train_samples: number of questions to train on, the first ones. None: all.
        max_validation_samples: number of questions to evaluate on, the first ones. None: all.
    """

    head = "AutoModelForQuestionAnswering"

    file_kind = "a .json file in SQuAD's layout"

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
                raise InvalidInputError(f"task.{name} must be {bound} or more, got {given}.")
        if not math.isfinite(self.null_threshold):
            raise InvalidInputError(f"task.null_threshold must be a finite number, got {self.null_threshold}.")

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("f1", "exact_match", "loss")

    def load(self) -> Splits:
        """Reads both splits. Answers to train on must start where the data says."""
        train = self._read("train", self.max_train_samples)
        check_answer_places(train.rows, "the training data")
        return Splits(train, self.load_validation(()))

    def load_validation(self, classes: tuple[str, ...]) -> dict[str, Questions]:
        """Reads the validation split. The starts of its answers are not checked: they matter for the loss alone."""
        return {"": self._read("validation", self.max_validation_samples)}

    def _read(self, split: str, most: int | None) -> Questions:
        found = collect(itertools.chain.from_iterable(self.read_split(split, raw_questions, _hub_questions)))
        return replace(found, rows=found.rows[:most])

    def prepare(
        self, train: Any | None, validation: dict[str, Any], tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> Prepared:
        [(name, questions)] = validation.items()
        cutter, padder = copy.deepcopy(tokenizer), copy.deepcopy(tokenizer)  # a tokenizer keeps, and saves, its last truncation
        padder.padding_side = "right"  # keeps the positions of labels and logits
        for rows in [questions.rows] if train is None else [train.rows, questions.rows]:
            _check_window(rows, cutter, max_length, self.stride)
        encoded_train = None if train is None else cut_windows(train.rows, cutter, max_length, self.stride)[0]
        encoded, windows = cut_windows(questions.rows, cutter, max_length, self.stride)
        return Prepared(
            train=encoded_train,
            validation={name: encoded},
            collator=DataCollatorWithPadding(padder),
            metrics=lambda prediction: self._score(questions, windows, np.asarray(prediction.predictions)),
            reduce=lambda logits, labels: torch.stack(logits[:2], dim=-1),  # some models return more than start and end
            ordered=True,
        )

    def _score(self, questions: Questions, windows: Sequence[Window], logits: np.ndarray) -> dict[str, float]:
        """Returns the metrics of logits (windows x tokens x 2, for start and end)."""
        rows = questions.rows
        search = SpanSearch(self.n_best, self.max_answer_tokens, self.null_threshold if questions.version2 else None)
        found = best_answers([row.context for row in rows], windows, logits.astype(np.float32), search)
        return score_questions(questions, {row.id: text for row, text in zip(rows, found, strict=True)})


def _hub_questions(columns: Columns, name: str) -> Iterable[RawQuestion]:
    """Yields the rows of a data set on the Hub in the form of SQuAD's own files."""
    missing = [column for column in ("id", "context", "question", "answers") if column not in columns]
    if missing or not columns["id"]:
        lacks = f"no column {missing[0]!r}" if missing else "no rows"
        raise InvalidInputError(f"{name} has {lacks}. Give a data set with SQuAD's columns, as rajpurkar/squad.")
    rows = zip(*(columns[key] for key in ("id", "context", "question", "answers")), strict=True)
    for number, (own, context, question, answers) in enumerate(rows, start=1):
        pairs = zip(answers["text"], answers["answer_start"], strict=True)
        found = [{"text": text, "answer_start": start} for text, start in pairs]
        yield f"Row {number} of {name}", {"context": context}, {"id": own, "question": question, "answers": found}


def _check_window(rows: Sequence[Question], tokenizer: PreTrainedTokenizerBase, max_length: int, stride: int) -> None:
    """Raises InvalidInputError for a slow tokenizer, and windows too short to hold a question and advance in its context."""
    if not tokenizer.is_fast:
        raise InvalidInputError(
            f"The tokenizer {type(tokenizer).__name__} is a slow one, without the positions of tokens in a text, which answers "
            "need. Take a model with a tokenizer.json."
        )
    lengths = [len(tokens) for tokens in tokenizer([row.question for row in rows], add_special_tokens=False)["input_ids"]]
    longest = int(np.argmax(lengths))
    needed = lengths[longest] + tokenizer.num_special_tokens_to_add(pair=True) + stride + 1
    if max_length < needed:
        raise InvalidInputError(
            f"max_length must be {needed} or more, got {max_length}: the question {rows[longest].id!r} has {lengths[longest]} "
            f"tokens, and windows share {stride} tokens (task.stride). 384 with a stride of 128 is usual."
        )


CHUNK = 1000
"""Questions in one call of the tokenizer, whose output is far larger than the part that is kept."""


def cut_windows(
    rows: Sequence[Question], tokenizer: PreTrainedTokenizerBase, max_length: int, stride: int
) -> tuple[datasets.Dataset, list[Window]]:
    """Cuts questions with their contexts into windows of at most `max_length` tokens.

    The labels of a window are the first and the last token of the question's first answer; both are the null token if
    the window does not hold the whole answer, or there is none.

    Args:
        rows: the questions, each short enough for a part of its context beside it.
        tokenizer: a fast one. If it pads on the left, the context comes before the question, as such models expect.
        max_length: of a window, with its question and its special tokens.
        stride: tokens of the context that neighbouring windows share.
    """
    chunks: list[datasets.Dataset] = []
    windows: list[Window] = []
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        encoded, cut = _cut_chunk(chunk, tokenizer, max_length, stride)
        labels = [answer_tokens(window, chunk[window.question]) for window in cut]
        first, last = zip(*labels, strict=True)
        chunks.append(datasets.Dataset.from_dict({**encoded, "start_positions": first, "end_positions": last}))
        windows += [replace(window, question=start + window.question) for window in cut]
    return datasets.concatenate_datasets(chunks), windows


def _cut_chunk(
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


def answer_tokens(window: Window, question: Question) -> tuple[int, int]:
    """Returns the positions of the first and last token of a question's first answer; twice the null token without one."""
    for text, start in itertools.islice(question.answers, 1):
        begin, end = start + len(text) - len(text.lstrip()), start + len(text.rstrip())
        starts, ends = window.offsets.T
        if len(starts) and starts[0] <= begin and end <= ends[-1]:
            first, last = np.searchsorted(ends, begin, side="right"), np.searchsorted(starts, end, side="left") - 1
            if first <= last:
                return window.first + int(first), window.first + int(last)
    return window.null, window.null
