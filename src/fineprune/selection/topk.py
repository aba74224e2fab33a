"""Exact top-k over the scores of many matrices: the longest ranked prefix of groups that fits a budget.

Groups are ranked by score, highest first; equal scores by matrix order, then by flat index, lower first. `keep_highest` finds
the cut by counting. Scores that are sharded over processes go to `sharded`.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..distributed.process_group import ALONE, ProcessGroup
from ..errors import InvalidInputError
from .sharded import keep_across

SAMPLE = 4096
"""The number of scores in the sample that brackets the cut; fewer than four times as many scores are not sampled at all."""


def keep_highest(scores: Sequence[Tensor], sizes: Sequence[int], budget: int, processes: ProcessGroup = ALONE) -> list[Tensor]:
    """Keeps the longest ranked prefix of the groups whose weights fit in the budget.

    Args:
        scores: one tensor a matrix, of any shape, at least one element in all; under sharding, this process's shards.
        sizes: weights per group, one number a matrix.
        budget: the number of weights that may be kept.
        processes: the group that holds the matrices.

    Returns:
        A boolean tensor for each tensor of scores, True where the group is kept.

    Raises:
        InvalidInputError: if a score is NaN.
    """
    check_no_nan(scores, processes)
    return keep_prefix(scores, sizes, budget, processes)


def keep_counts(scores: Sequence[Tensor], counts: Sequence[int], processes: ProcessGroup = ALONE) -> list[Tensor]:
    """Keeps the highest groups of each matrix, in the number that `counts` has for it. Raises as `keep_highest`."""
    check_no_nan(scores, processes)
    if processes.size > 1:
        masks = keep_across(_flat(scores), [1] * len(scores), range(len(scores)), counts, processes)
        return [mask.view(tensor.shape) for mask, tensor in zip(masks, scores, strict=True)]
    on_cpu = scores[0].device.type == "cpu"
    work = sum(tensor.numel() for tensor in scores) if on_cpu else 0
    return _map_on_threads(lambda tensor, count: keep_prefix([tensor], [1], count)[0], scores, counts, work=work)


def keep_prefix(scores: Sequence[Tensor], sizes: Sequence[int], budget: int, processes: ProcessGroup = ALONE) -> list[Tensor]:
    """Does what `keep_highest` does, for scores that have been checked: none is NaN."""
    flat = _flat(scores)
    count = min(budget // sizes[0], sum(tensor.numel() for tensor in flat))
    if processes.size > 1:
        masks = keep_across(flat, sizes, [0] * len(flat), [budget], processes)
    elif len(set(sizes)) > 1:
        masks = _keep_mixed(flat, sizes, budget)
    elif flat[0].device.type == "cpu":
        masks = _keep_on_cpu([tensor.numpy() for tensor in flat], count)
    else:
        masks = _keep_on_device(flat, count)
    return [mask.view(tensor.shape) for mask, tensor in zip(masks, scores, strict=True)]


def check_no_nan(scores: Sequence[Tensor], processes: ProcessGroup = ALONE) -> None:
    """Raises InvalidInputError if a score is NaN, which has no rank. It waits for the device once, not once a matrix."""
    highest = [tensor.amax() for tensor in scores if tensor.numel()]  # amax passes NaN on
    if processes.any(bool(highest) and bool(torch.stack(highest).isnan().any())):
        raise InvalidInputError("A score is NaN: scores must be numbers that can be ranked. Look for an overflow.")


def _flat(scores: Sequence[Tensor]) -> list[Tensor]:
    """All in the widest of their dtypes, float32 at least."""
    widest = functools.reduce(torch.promote_types, (tensor.dtype for tensor in scores), torch.float32)
    return [tensor.flatten().to(widest) for tensor in scores]


def _keep_on_cpu(flat: Sequence[Any], count: int) -> list[Tensor]:
    """Keeps the `count` highest of groups of one size, in arrays.

    A sample brackets the cut (Floyd & Rivest 1975): the groups above the bracket are kept, those in it are ranked. If the
    bracket misses the cut, or the scores are few, all of them are ranked.
    """
    if count in (0, sum(map(len, flat))):
        return [torch.full((len(values),), bool(count)) for values in flat]
    for low, high in (_bracket(flat, count), (-math.inf, math.inf)):
        if low == high:  # many are equal, as after a constant init: their places are marked, not listed
            higher, equal = [values > low for values in flat], [values == low for values in flat]
            remaining = count - sum(map(np.count_nonzero, higher))
            if 0 <= remaining <= sum(map(np.count_nonzero, equal)):
                return [torch.from_numpy(mask | tied) for mask, tied in zip(higher, _first(equal, remaining), strict=True)]
        split = functools.partial(_split, low=low, high=high)
        above, near = zip(*_map_on_threads(split, flat, work=sum(map(len, flat))), strict=True)
        remaining = count - sum(map(np.count_nonzero, above))
        if 0 <= remaining <= sum(map(len, near)):
            break
    chosen = _highest(np.concatenate([values[where] for values, where in zip(flat, near, strict=True)]), remaining)
    ends = list(itertools.accumulate(map(len, near)))
    for mask, where, kept in zip(above, near, np.split(chosen, ends[:-1]), strict=True):
        mask[where[kept]] = True
    return [torch.from_numpy(mask) for mask in above]


def _bracket(flat: Sequence[Any], count: int) -> tuple[float, float]:
    """Estimates from a strided sample two scores that the cut lies between; minus and plus infinity if the scores are few."""
    total = sum(map(len, flat))
    if total < 4 * SAMPLE:
        return -math.inf, math.inf
    stride = total // SAMPLE | 1  # odd: not always the same columns
    values = np.sort(np.concatenate([values[::stride] for values in flat]))[::-1]
    share = count / total
    spread = 3 * math.sqrt(share * (1 - share) / len(values))
    last = len(values) - 1
    lower, upper = (share + spread) * len(values) + 1, (share - spread) * len(values) - 1
    low = values[int(lower)] if lower <= last else -math.inf
    return float(low), float(values[int(upper)]) if upper >= 0 else math.inf


def _split(values: Any, low: float, high: float) -> tuple[Any, Any]:
    """Marks the values above a bracket, and lists the positions of those in it."""
    above = np.greater(values, high)
    return above, np.flatnonzero(np.greater_equal(values, low) ^ above)


def _first(marked: Sequence[Any], count: int) -> Iterator[Any]:
    """Leaves the first `count` of the marked places marked, matrix by matrix."""
    for mask in marked:
        mask[np.flatnonzero(mask)[count:]] = False
        count -= int(np.count_nonzero(mask))
        yield mask


def _highest(values: Any, count: int) -> Any:
    """Marks the `count` highest values of an array; equal ones from the front."""
    if count in (0, len(values)):
        return np.full(len(values), bool(count))
    cut = np.partition(values, len(values) - count)[len(values) - count]  # the lowest that is kept
    kept = values > cut
    kept[np.flatnonzero(values == cut)[: count - np.count_nonzero(kept)]] = True
    return kept


def _map_on_threads(function: Callable[..., Any], *columns: Sequence[Any], work: int) -> list[Any]:
    """Maps over rows, on PyTorch's number of threads if there is enough work; NumPy releases Python's lock."""
    threads = min(torch.get_num_threads(), len(columns[0]))
    if threads == 1 or work < 4 * SAMPLE:
        return list(map(function, *columns))
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, *columns))


def _keep_on_device(flat: Sequence[Tensor], count: int) -> list[Tensor]:
    """Keeps the `count` highest of groups of one size, without waiting for the device."""
    values = torch.cat(list(flat))
    if count in (0, values.numel()):
        kept = torch.full_like(values, bool(count), dtype=torch.bool)
    else:
        # The lowest that is kept. On a GPU kthvalue raises under torch.use_deterministic_algorithms.
        cut = values.topk(count, sorted=False).values.amin()
        above, tied = values > cut, values == cut
        kept = above | (tied & (tied.cumsum(0) <= count - above.sum()))
    return list(torch.split(kept, [tensor.numel() for tensor in flat]))


def _keep_mixed(flat: Sequence[Tensor], sizes: Sequence[int], budget: int) -> list[Tensor]:
    """Keeps groups of several sizes, by a sort: there are few, since most hold many weights."""
    counts = [tensor.numel() for tensor in flat]
    values, order = torch.cat(list(flat)).sort(descending=True, stable=True)
    weights = torch.tensor(sizes, device=values.device).repeat_interleave(torch.tensor(counts, device=values.device))
    fits = weights[order].cumsum(0) <= budget
    return list(torch.split(torch.empty_like(fits).index_copy_(0, order, fits), counts))


def keep_n_of_m(scores: Sequence[Tensor], n: int, m: int, processes: ProcessGroup = ALONE) -> list[Tensor]:
    """Keeps the n highest of every m neighbours in the last dimension; equal ones from the front. Raises as `keep_highest`."""
    check_no_nan(scores, processes)
    return [_keep_n_of_m(tensor, n, m) for tensor in scores]


def _keep_n_of_m(scores: Tensor, n: int, m: int) -> Tensor:
    columns = scores.reshape(*scores.shape[:-1], scores.shape[-1] // m, m).unbind(-1)
    ahead = [torch.zeros_like(columns[0], dtype=torch.int16) for _ in range(m)]  # how many of the m rank before each
    for first, second in itertools.combinations(range(m), 2):
        first_wins = columns[first] >= columns[second]
        ahead[second] += first_wins
        ahead[first] += ~first_wins
    return (torch.stack(ahead, -1) < n).flatten(-2)
