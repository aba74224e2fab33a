"""Causal language modelling on plain text: from .txt files, tables with a column of texts, or a data set on the Hub."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from ...distillation import IGNORED
from ...errors import InvalidInputError, nearest, require
from .base import DataSource, Prepared, Splits, Task, first_rows
from .tables import read_table, reading
from .text import as_texts

require("hub", "transformers", "datasets")

import datasets  # noqa: E402
from transformers import EvalPrediction, PreTrainedTokenizerBase  # noqa: E402

DOCUMENTS_AT_ONCE = 1000
"""Documents in one call of the tokenizer; its lists take far more memory than the arrays made of them."""

POSITIONS_AT_ONCE = 128
"""Positions whose logits are converted to float32 at once."""


@dataclass(frozen=True)
class LanguageModelling(DataSource, Task):
    """The next token of running text, scored by perplexity.

    The documents are joined by the tokenizer's end-of-text token, or by nothing where it has none, and cut into blocks of
    `max_length` tokens; the last block may be shorter. Each token but the first of a block is predicted from those before
    it in the block, so perplexities compare only at one `max_length` and with one tokenizer.

    `perplexity` is exact, whatever the batches: exp(total of -log p / number of tokens predicted). `loss` is Trainer's
    average over batches, in which the tokens of a short block weigh more.

    Args:
        train: file or files to train on. A .txt file is one document; in a table (.csv, .tsv, .jsonl, .parquet) each row
            is one. Blank documents are left out.
        text: name of the column with the text.
        max_train_samples: number of blocks to train on, the first ones. None: all.
    """

    head = "AutoModelForCausalLM"
    greater_is_better = False

    file_kind = "a .txt file, or a table of texts"

    text: str = "text"
    max_train_samples: int | None = None

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("perplexity", "loss")

    def load(self) -> Splits:
        """Reads both splits, as lists of documents."""
        first_rows((), self.max_train_samples)  # raises before anything is read
        return Splits(self._documents("train"), self.load_validation(()))

    def load_validation(self, classes: tuple[str, ...]) -> dict[str, list[str]]:
        """Reads the split to evaluate on."""
        return {"": self._documents("validation")}

    def prepare(
        self, train: Any | None, validation: dict[str, Any], tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> Prepared:
        """Returns blocks of `max_length` tokens.

        Raises:
            InvalidInputError: for a length below 2 or above the tokenizer's `model_max_length`, and for a text of fewer
                than 2 tokens.
        """
        if not 2 <= max_length <= tokenizer.model_max_length:
            raise InvalidInputError(
                f"max_length must be from 2 to {tokenizer.model_max_length:,}, the most that this tokenizer's model takes, got "
                f"{max_length}. Set it within this range."
            )

        def blocks(documents: list[str], most: int | None) -> datasets.Dataset:
            found = cut_blocks(join_documents(documents, tokenizer), max_length)
            return datasets.Dataset.from_dict({"input_ids": first_rows(found, most)})

        return Prepared(
            train=None if train is None else blocks(train, self.max_train_samples),
            validation={name: blocks(documents, None) for name, documents in validation.items()},
            collator=collate,
            metrics=perplexity,
            reduce=negative_log_likelihood,
        )

    def _documents(self, split: str) -> list[str]:
        """Reads a split, "train" or "validation"."""
        found = self.read_split(split, self._read, self._column)
        documents = [document for of_one in found for document in of_one if document.strip()]
        if not documents:
            raise InvalidInputError(f"The {split} data holds no text, only white space. Give at least one document.")
        return documents

    def _read(self, path: Path) -> list[str]:
        if path.suffix != ".txt":
            return self._column(read_table(path), str(path))
        with reading(path):
            return [path.read_text(encoding="utf-8-sig")]

    def _column(self, columns: dict[str, list[Any]], name: str) -> list[str]:
        if self.text not in columns:
            raise InvalidInputError(f"{name} has no column {self.text!r}; {nearest(self.text, columns)}")
        return as_texts(columns[self.text], self.text, name)


def join_documents(documents: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Returns the token ids of all documents, joined by an end-of-text token where the tokenizer has one."""
    end, arrays = tokenizer.eos_token_id, list[np.ndarray]()
    for start in range(0, len(documents), DOCUMENTS_AT_ONCE):
        chunk = list(documents[start : start + DOCUMENTS_AT_ONCE])
        for tokens in filter(None, tokenizer(chunk, return_attention_mask=False, verbose=False)["input_ids"]):
            if arrays and end is not None and arrays[-1][-1] != end:  # a few tokenizers end every text with it themselves
                arrays.append(np.array([end]))
            arrays.append(np.array(tokens))
    return np.concatenate(arrays) if arrays else np.array([], dtype=np.int64)


def cut_blocks(tokens: np.ndarray, length: int) -> list[np.ndarray]:
    """Cuts tokens into blocks of a length. A last block of one token, in which nothing is predicted, is left out.

    Raises:
        InvalidInputError: for fewer than 2 tokens.
    """
    if len(tokens) < 2:
        raise InvalidInputError(
            f"The text must have 2 tokens or more, to predict one from another, got {len(tokens)}. Give more text."
        )
    return [tokens[start : start + length] for start in range(0, len(tokens) - 1, length)]


def collate(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Makes a batch of blocks: `input_ids`, `attention_mask` and `labels`, rows x tokens, shorter blocks padded on the right.

    Padding on the left would shift the positions of the tokens; on the right no token attends to it. Labels are ignored by
    position, not by token: an end of text in the data is predicted, even if the same token pads.
    """
    tokens = [torch.as_tensor(row["input_ids"]) for row in rows]
    return {
        "input_ids": pad_sequence(tokens, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in tokens], batch_first=True),
        "labels": pad_sequence(tokens, batch_first=True, padding_value=IGNORED),
    }


def negative_log_likelihood(logits: Tensor | tuple[Tensor, ...], labels: Tensor) -> Tensor:
    """Returns, as rows x 2 in float32, the sum of -log p over each row's labelled tokens, and their number.

    Args:
        logits: rows x tokens x vocabulary, of a causal model; or a tuple that begins with them.
        labels: rows x tokens, -100 where there is none. The logits at t predict the label at t + 1.
    """
    logits = logits[0] if isinstance(logits, tuple) else logits
    chunks = (torch.split(each, POSITIONS_AT_ONCE, dim=1) for each in (logits[:, :-1], labels[:, 1:]))
    losses = [
        functional.cross_entropy(of_chunk.float().transpose(1, 2), targets, reduction="none").sum(1)  # IGNORED by default
        for of_chunk, targets in zip(*chunks, strict=True)
    ]
    return torch.stack([torch.stack(losses).sum(0), (labels[:, 1:] != IGNORED).sum(1).float()], dim=1)


def perplexity(prediction: EvalPrediction) -> dict[str, float]:
    """Returns exp(total of -log p / number of tokens), from the sums of `negative_log_likelihood` over all batches."""
    total, number = np.asarray(prediction.predictions, dtype=np.float64).sum(axis=0)
    with np.errstate(over="ignore"):  # infinite for a model that diverged
        return {"perplexity": float(np.exp(total / number))}
