"""Causal language modelling on plain text: from .txt files, tables with a column of texts, or a data set on the Hub."""

from collections.abc import Iterator, Sequence
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
from .base import Prepared, Splits, Task, check_clear, first
from .tables import read_hub, read_table, reading
from .text import texts

require("hub", "transformers", "datasets")

import datasets  # noqa: E402
from transformers import EvalPrediction, PreTrainedTokenizerBase  # noqa: E402

Files = str | list[str] | None
"""One file, several, or none."""

DOCUMENTS_AT_ONCE = 1000
"""So many documents are given to the tokenizer together; its lists take far more memory than the arrays made of them."""

POSITIONS_AT_ONCE = 128
"""Logits of so many positions are held in float32 together."""


@dataclass(frozen=True)
class LanguageModelling(Task):
    """The next token of running text, scored by perplexity.

    The documents are joined by the tokenizer's end-of-text token, or by nothing where it has none, and cut into blocks of
    `max_length` tokens; the last block may be shorter. Each token is predicted from those before it in its block, and the
    first of a block not at all, so perplexities compare only at one `max_length` and with one tokenizer.

    `perplexity` is exact, whatever the batches: exp(total of -log p / number of tokens predicted). `loss` is Trainer's
    average over batches, in which the tokens of a short block weigh more.

    Args:
        train: file or files to train on. A .txt file is one document; in a table (.csv, .tsv, .jsonl, .parquet) each row
            is one. Documents of white space alone are left out.
        validation: file or files to evaluate on.
        dataset: data set on the Hub, instead of files, as "Salesforce/wikitext"; each row is a document.
        subset: the data set's configuration.
        train_split: the data set's split to train on.
        validation_split: the data set's split to evaluate on.
        text: name of the column with the text.
        max_train_samples: train on so many blocks only, the first ones.
    """

    head = "AutoModelForCausalLM"
    greater_is_better = False

    train: Files = None
    validation: Files = None
    dataset: str | None = None
    subset: str | None = None
    train_split: str = "train"
    validation_split: str = "validation"
    text: str = "text"
    max_train_samples: int | None = None

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("perplexity", "loss")

    def load(self) -> Splits:
        """Reads both splits, as lists of documents."""
        first((), self.max_train_samples)  # refuses a wrong number before anything is read
        return Splits(self._documents("train"), self.load_validation(()))

    def load_validation(self, classes: tuple[str, ...]) -> dict[str, list[str]]:
        """Reads the split to evaluate on."""
        return {"": self._documents("validation")}

    def prepare(
        self, train: Any | None, validation: dict[str, Any], tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> Prepared:
        """Returns blocks of `max_length` tokens.

        Raises:
            InvalidInputError: for a length below 2, or above what the tokenizer says that its model takes, and for a text
                of fewer than 2 tokens.
        """
        _check_length(max_length, tokenizer)
        return Prepared(
            train=None if train is None else self._dataset(train, tokenizer, max_length, self.max_train_samples),
            validation={name: self._dataset(texts, tokenizer, max_length, None) for name, texts in validation.items()},
            collator=collate,
            metrics=perplexity,
            reduce=negative_log_likelihood,
        )

    @staticmethod
    def _dataset(
        documents: list[str], tokenizer: PreTrainedTokenizerBase, max_length: int, most: int | None
    ) -> datasets.Dataset:
        return datasets.Dataset.from_dict({"input_ids": first(blocks(joined(documents, tokenizer), max_length), most)})

    def _documents(self, split: str) -> list[str]:
        """Reads a split, "train" or "validation"."""
        files = self.train if split == "train" else self.validation
        check_clear(self.dataset, self.train, self.validation)
        if self.dataset is not None:
            hub_split = self.train_split if split == "train" else self.validation_split
            documents = self._column(read_hub(self.dataset, self.subset, hub_split), f"{self.dataset} ({hub_split})")
        elif files:
            documents = [text for path in ([files] if isinstance(files, str) else files) for text in self._read(Path(path))]
        else:
            raise InvalidInputError(f"The task has no {split} file. Set task.{split} to a .txt file, or a table of texts.")
        documents = [document for document in documents if document.strip()]
        if not documents:
            raise InvalidInputError(f"There is no text in the {split} data, only white space. Give at least one document.")
        return documents

    def _read(self, path: Path) -> list[str]:
        return [read_text(path)] if path.suffix == ".txt" else self._column(read_table(path), str(path))

    def _column(self, columns: dict[str, list[Any]], name: str) -> list[str]:
        if self.text not in columns:
            raise InvalidInputError(f"{name} has no column {self.text!r}; {nearest(self.text, columns)}")
        return texts(columns[self.text], self.text, name)


def read_text(path: Path) -> str:
    """Reads a text file. Raises InvalidInputError if it is missing or not UTF-8."""
    with reading(path):
        return path.read_text(encoding="utf-8-sig")


def _check_length(max_length: int, tokenizer: PreTrainedTokenizerBase) -> None:
    if not 2 <= max_length <= tokenizer.model_max_length:
        raise InvalidInputError(
            f"max_length was given as {max_length}; a block has 2 tokens or more, to predict one from another, and at most "
            f"{tokenizer.model_max_length:,}, which is what this tokenizer says that its model takes."
        )


def joined(documents: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Returns the token numbers of all documents, an end-of-text token between each two where the tokenizer has one."""
    end, parts = tokenizer.eos_token_id, list[np.ndarray]()
    for tokens in _encoded(documents, tokenizer):
        if parts and end is not None and parts[-1][-1] != end:  # some tokenizers end every text with it themselves
            parts.append(np.array([end]))
        parts.append(tokens)
    return np.concatenate(parts) if parts else np.array([], dtype=np.int64)


def _encoded(documents: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[np.ndarray]:
    """Yields the token numbers of each document, with the special tokens that the tokenizer adds by itself."""
    for start in range(0, len(documents), DOCUMENTS_AT_ONCE):
        some = list(documents[start : start + DOCUMENTS_AT_ONCE])
        for tokens in tokenizer(some, return_attention_mask=False, verbose=False)["input_ids"]:
            if tokens:
                yield np.array(tokens)


def blocks(tokens: np.ndarray, length: int) -> list[np.ndarray]:
    """Cuts tokens into blocks of a length; a last one of a single token, in which nothing is predicted, is left out.

    Raises:
        InvalidInputError: for fewer than 2 tokens.
    """
    if len(tokens) < 2:
        raise InvalidInputError(f"The text has {len(tokens)} tokens; predicting one from another takes 2 or more.")
    return [tokens[start : start + length] for start in range(0, len(tokens) - 1, length)]


def collate(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Makes a batch of blocks: `input_ids`, `attention_mask` and `labels`, rows x tokens, shorter blocks padded on the right.

    Left of a block's tokens padding would shift their positions; right of them no token sees it, whatever it is. Labels
    are left out by the mask, not by the token: an end of text that stands in the data is predicted, also where it pads.
    """
    tokens = [torch.as_tensor(row["input_ids"]) for row in rows]
    return {
        "input_ids": pad_sequence(tokens, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in tokens], batch_first=True),
        "labels": pad_sequence(tokens, batch_first=True, padding_value=IGNORED),
    }


def negative_log_likelihood(logits: Tensor | tuple[Tensor, ...], labels: Tensor) -> Tensor:
    """Returns, rows x 2, the sum of -log p over each row's labelled tokens and their number, in float32.

    Args:
        logits: rows x tokens x vocabulary, of a causal model; or a tuple that begins with them.
        labels: rows x tokens, -100 where there is none. The logits at t are of the label at t + 1.
    """
    logits = logits[0] if isinstance(logits, tuple) else logits
    parts = (torch.split(each, POSITIONS_AT_ONCE, dim=1) for each in (logits[:, :-1], labels[:, 1:]))
    losses = [_cross_entropy(*part).sum(1) for part in zip(*parts, strict=True)]
    return torch.stack([torch.stack(losses).sum(0), (labels[:, 1:] != IGNORED).sum(1).float()], dim=1)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits.float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")


def perplexity(prediction: EvalPrediction) -> dict[str, float]:
    """Returns exp(total of -log p / number of tokens) of what `negative_log_likelihood` made of all batches."""
    total, number = np.asarray(prediction.predictions, dtype=np.float64).sum(axis=0)
    with np.errstate(over="ignore"):  # a model that went astray: infinite
        return {"perplexity": float(np.exp(total / number))}
