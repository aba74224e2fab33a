"""The best spans, against a slow and obvious search over all pairs."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fineprune.apps.tasks.squad.spans import Logits, SpanSearch, Window, best_answers


def window(question: int, first: int, tokens: int, start: int = 0, null: int = 0) -> Window:
    """A window of one-letter words: token k of the context is the letter at 2 * (start + k)."""
    begins = 2 * np.arange(start, start + tokens, dtype=np.int32)
    return Window(question, null, first, np.stack([begins, begins + 1], axis=1))


def slow_best_answers(contexts: list[str], windows: list[Window], logits: Logits, search: SpanSearch) -> list[str]:
    found = []
    for question, context in enumerate(contexts):
        best, text, nulls = -np.inf, "", []
        for number, shown in enumerate(windows):
            if shown.question != question:
                continue
            starts, ends = logits[number, :, 0], logits[number, :, 1]
            nulls.append(starts[shown.null] + ends[shown.null])
            inside = range(shown.first, shown.first + len(shown.offsets))
            least_start, least_end = (sorted([-np.inf, *side[list(inside)]])[-search.n_best :][0] for side in (starts, ends))
            pairs = [(first, last) for first in inside for last in inside if first <= last < first + search.max_answer_tokens]
            for first, last in sorted(pairs, key=lambda pair: (pair[1] - pair[0], pair)):
                candidates = starts[first] >= least_start and ends[last] >= least_end
                if candidates and starts[first] + ends[last] > best:
                    best = starts[first] + ends[last]
                    begin, end = shown.offsets[first - shown.first][0], shown.offsets[last - shown.first][1]
                    text = context[begin:end]
        if search.null_threshold is not None and min(nulls) - best > search.null_threshold:
            text = ""
        found.append(text)
    return found


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[str], list[Window], Logits, SpanSearch]:
    questions = draw(st.integers(1, 3))
    longest = draw(st.integers(3, 9))
    windows = []
    for question in [*range(questions), *draw(st.lists(st.integers(0, questions - 1), max_size=4))]:
        first = draw(st.integers(1, 2))
        tokens = draw(st.integers(0, longest - first))
        start = draw(st.integers(0, 12 - tokens))
        windows.append(window(question, first, tokens, start, null=draw(st.integers(0, first - 1))))
    values = st.integers(-2, 2) if draw(st.booleans()) else st.floats(-9, 9, width=32)
    cells = len(windows) * longest * 2
    numbers = draw(st.lists(values, min_size=cells, max_size=cells))
    logits = np.array(numbers, dtype=np.float32).reshape(len(windows), longest, 2)
    threshold = draw(st.none() | st.sampled_from([-1.0, 0.0, 1.5]))
    search = SpanSearch(draw(st.integers(1, 10)), draw(st.integers(1, 10)), threshold)
    return [letters(question) for question in range(questions)], windows, logits, search


def letters(question: int) -> str:
    return " ".join("abcdefghijkl" if question % 2 == 0 else "mnopqrstuvwx")


@settings(max_examples=300)
@given(problems())
def test_finds_what_a_search_over_all_pairs_finds(problem: tuple[list[str], list[Window], Logits, SpanSearch]) -> None:
    assert best_answers(*problem) == slow_best_answers(*problem)


def logits_of(windows: int, tokens: int, **peaks: float) -> Logits:
    """Returns zeros with peaks: start_0_3=5 is window 0, token 3."""
    logits = np.zeros((windows, tokens, 2), dtype=np.float32)
    for name, value in peaks.items():
        side, number, token = name.split("_")
        logits[int(number), int(token), ("start", "end").index(side)] = value
    return logits


ALL = SpanSearch(n_best=20, max_answer_tokens=30, null_threshold=None)


def test_spans_stay_in_the_context_forward_and_short() -> None:
    one = [window(0, first=2, tokens=5)]
    peaks = logits_of(1, 8, start_0_0=99, start_0_3=5, end_0_5=5, end_0_7=99, end_0_1=99)
    assert best_answers([letters(0)], one, peaks, ALL) == ["b c d"]
    assert best_answers([letters(0)], one, peaks, SpanSearch(20, 2, None)) == ["b"]
    backward = logits_of(1, 8, start_0_5=5, end_0_3=4)
    assert best_answers([letters(0)], one, backward, ALL) == ["d"]


def test_only_the_best_starts_and_ends_pair() -> None:
    one = [window(0, first=1, tokens=4)]
    peaks = logits_of(1, 5, start_0_4=9, start_0_1=8, end_0_1=9, end_0_2=7)
    assert best_answers([letters(0)], one, peaks, SpanSearch(1, 30, None)) == [""]
    assert best_answers([letters(0)], one, peaks, SpanSearch(2, 30, None)) == ["a"]


def test_no_answer_wins_by_more_than_the_threshold_in_every_window() -> None:
    two = [window(0, 1, 3), window(0, 1, 3, start=3), window(1, 1, 3)]
    peaks = logits_of(3, 4, start_0_2=2, start_0_0=3, start_1_0=9, start_2_0=1)
    assert best_answers([letters(0), letters(1)], two, peaks, SpanSearch(20, 30, 0.0)) == ["", ""]
    assert best_answers([letters(0), letters(1)], two, peaks, SpanSearch(20, 30, 1.0)) == ["b", "m"]
    peaks[1, 0] = 0
    assert best_answers([letters(0), letters(1)], two, peaks, SpanSearch(20, 30, 0.0)) == ["b", ""]


def test_a_question_without_a_span_gets_an_empty_answer() -> None:
    assert best_answers(["", letters(1)], [window(0, 2, 0), window(1, 1, 2)], logits_of(2, 3), ALL) == ["", "m"]
