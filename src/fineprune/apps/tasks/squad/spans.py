"""From logits to answers: the best span of each question's context, over all windows that show parts of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Window:
    """One input of a model: a question, and a part of its context.

    Args:
        question: index of the question.
        null: position of the token that means "no answer here".
        first: position of the context's first token.
        offsets: tokens of the context x 2: start and end of each in the context, in characters.
    """

    question: int
    null: int
    first: int
    offsets: NDArray[np.int32]


@dataclass(frozen=True)
class SpanSearch:
    """Limits of the search for the best span.

    Args:
        n_best: a span starts and ends at one of the `n_best` tokens of a window with the largest logits; ties all count.
        max_answer_tokens: the longest span.
        null_threshold: no answer is given where its score exceeds the best span's by more. None: always an answer.
    """

    n_best: int
    max_answer_tokens: int
    null_threshold: float | None


def best_answers(contexts: Sequence[str], windows: Sequence[Window], logits: Logits, search: SpanSearch) -> list[str]:
    """Returns the answer to each question, empty where there is none, or no window holds a span.

    The score of a span is the sum of its two logits; that of no answer the same sum at the null token, the
    smallest over the windows. Of equal scores the first window's counts, there the shortest span, of those the first.

    Args:
        contexts: of the questions.
        windows: of the questions, in any order.
        logits: windows x tokens x 2, for start and end. Those beyond the end of a window are ignored.
        search: limits of the search.
    """
    scores, firsts, lasts = _best_spans(windows, logits, search)
    nulls = logits[np.arange(len(windows)), [window.null for window in windows]].sum(axis=-1)
    found = [""] * len(contexts)
    best, null = np.full(len(contexts), -np.inf), np.full(len(contexts), np.inf)
    for number, window in enumerate(windows):
        question = window.question
        null[question] = min(null[question], nulls[number])
        if scores[number] > best[question]:
            best[question] = scores[number]
            start, end = window.offsets[firsts[number], 0], window.offsets[lasts[number], 1]
            found[question] = contexts[question][start:end].strip()
    if search.null_threshold is None:
        return found
    return ["" if null[row] - best[row] > search.null_threshold else text for row, text in enumerate(found)]


def _best_spans(
    windows: Sequence[Window], logits: Logits, search: SpanSearch
) -> tuple[Logits, NDArray[np.intp], NDArray[np.intp]]:
    """Returns each window's best score, -inf without a span, and the span's first and last token, counted in the context."""
    starts, ends = (_candidates(windows, logits[..., side], search.n_best) for side in (0, 1))
    rows, tokens = np.arange(len(windows)), logits.shape[1]
    best = np.full(len(windows), -np.inf, dtype=np.float32)
    firsts, lasts = np.zeros(len(windows), dtype=np.intp), np.zeros(len(windows), dtype=np.intp)
    for more in range(min(search.max_answer_tokens, tokens)):  # all spans of 1 + more tokens at once
        sums = starts[:, : tokens - more] + ends[:, more:]
        first = sums.argmax(axis=1)
        better = sums[rows, first] > best
        best[better] = sums[rows, first][better]
        firsts[better], lasts[better] = first[better], first[better] + more
    context = np.array([window.first for window in windows])
    return best, firsts - context, lasts - context


def _candidates(windows: Sequence[Window], logits: Logits, n_best: int) -> Logits:
    """Returns logits (windows x tokens) with -inf outside of the context, and where a token is not among the best."""
    first = np.array([window.first for window in windows])[:, None]
    count = np.array([len(window.offsets) for window in windows])[:, None]
    positions = np.arange(logits.shape[1])
    inside = np.where((positions >= first) & (positions < first + count), logits, np.float32(-np.inf))
    if n_best >= inside.shape[1]:
        return inside
    least = np.partition(inside, -n_best, axis=1)[:, -n_best, None]
    return np.where(inside >= least, inside, np.float32(-np.inf))
