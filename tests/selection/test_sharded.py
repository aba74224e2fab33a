"""The cut among scores on several ranks, by counting, is that of sorting all of them on one."""

import threading
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as some
from torch import Tensor

from by_sorting import keep_highest_by_sorting
from fineprune.selection.sharded import keep_across, ordered

AWKWARD = [0.0, -0.0, 1.0, -1.0, 5e-324, -1e-40, 1e-38, 3.4e38, float("inf"), float("-inf")]


class Threads:
    """Stands in for the ranks of a group: each is a thread of this process."""

    def __init__(self, rank: int, barrier: threading.Barrier, slots: list[Any]) -> None:
        self.rank, self.size, self._barrier, self._slots = rank, len(slots), barrier, slots

    def stacked(self, values: Tensor) -> Tensor:
        self._slots[self.rank] = values
        self._barrier.wait(20)
        seen = torch.stack(list(self._slots))
        self._barrier.wait(20)
        return seen

    def total(self, values: Tensor) -> Tensor:
        return self.stacked(values).sum(0)


def on_ranks(count: int, function: Callable[[Threads], list[Tensor]]) -> list[list[Tensor]]:
    """Calls a function on every rank, and returns what each found."""
    barrier, slots, found = threading.Barrier(count), [None] * count, [[] for _ in range(count)]

    def run(rank: int) -> None:
        found[rank] = function(Threads(rank, barrier, slots))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found


@given(data=some.data())
def test_counting_on_ranks_is_sorting_on_one(data: some.DataObject) -> None:
    dtype = data.draw(some.sampled_from([torch.float32, torch.float64]))
    value = some.one_of(some.sampled_from(AWKWARD), some.integers(-3, 3).map(float), some.floats(-1, 1, width=32))
    scores = [
        torch.tensor(values, dtype=dtype)
        for values in data.draw(some.lists(some.lists(value, max_size=12), min_size=1, max_size=3))
    ]
    sizes = [data.draw(some.sampled_from([1, 1, 2, 5])) for _ in scores]
    count = data.draw(some.integers(1, 4))
    cuts = [sorted(data.draw(some.lists(some.integers(0, len(one)), min_size=count - 1, max_size=count - 1))) for one in scores]
    shards = [one.tensor_split(cut) for one, cut in zip(scores, cuts, strict=True)]
    together = data.draw(some.booleans())
    pools = [0] * len(scores) if together else list(range(len(scores)))
    weights = [len(one) * size for one, size in zip(scores, sizes, strict=True)]
    budgets = [data.draw(some.integers(0, most)) for most in ([sum(weights)] if together else weights)]
    found = on_ranks(count, lambda group: keep_across([shard[group.rank] for shard in shards], sizes, pools, budgets, group))
    if together:
        expected = keep_highest_by_sorting(scores, sizes, budgets[0]) if sum(weights) else [one > 0 for one in scores]
    else:
        expected = [
            keep_highest_by_sorting([one], [size], room)[0] if len(one) else one > 0
            for one, size, room in zip(scores, sizes, budgets, strict=True)
        ]
    for number, mask in enumerate(expected):
        assert torch.equal(torch.cat([of_rank[number] for of_rank in found]), mask)


@given(some.lists(some.one_of(some.sampled_from(AWKWARD), some.floats(allow_nan=False, width=32)), min_size=2, max_size=20))
def test_whole_numbers_in_the_order_of_the_scores(values: list[float]) -> None:
    for dtype in (torch.float32, torch.float64):
        scores = torch.tensor(values, dtype=dtype)
        numbers = ordered(scores)
        assert torch.equal(numbers[:, None] < numbers, scores[:, None] < scores)
        assert torch.equal(numbers[:, None] == numbers, scores[:, None] == scores)


def test_a_prefix_ends_at_the_first_group_that_does_not_fit() -> None:
    """The small groups of the second matrix would fit, but rank behind the large ones of the first, which tie with them."""
    found = on_ranks(2, lambda group: keep_across([torch.zeros(2), torch.zeros(3)], [5, 1], [0, 0], [12], group))
    assert [[mask.tolist() for mask in of_rank] for of_rank in found] == [
        [[True, True], [False] * 3],
        [[False] * 2, [False] * 3],
    ]
