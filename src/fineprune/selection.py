"""Which groups are kept: the longest ranked prefix that fits a budget, exactly, without sorting.

Groups are ranked by score, highest first; equal scores by matrix order, then by flat index, lower
first. `keep_highest` finds the cut by counting; `keep_highest_by_sorting` is the same in the slow,
obvious way, and the tests hold the one against the other. Scores may lie on several processes, see `counting`.
"""

import functools
import itertools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .counting import keep_across
from .errors import InvalidInputError
from .ranks import ALONE, Ranks

SAMPLE = 4096
"""So many scores are looked at to guess where the cut lies; fewer than four times as many are not sampled at all."""


def keep_highest(scores: Sequence[Tensor], sizes: Sequence[int], budget: int, ranks: Ranks = ALONE) -> list[Tensor]:
    """Keeps the longest ranked prefix of the groups whose weights fit in the budget.

    Args:
        scores: one tensor a matrix, of any shape, at least one element in all; of each what this process holds.
        sizes: weights per group, one number a matrix.
        budget: how many weights may be kept.
        ranks: the processes that hold the matrices.

    Returns:
        A boolean tensor for each tensor of scores, True where the group is kept.

    Raises:
        InvalidInputError: if a score is NaN.
    """
    refuse_nan(scores, ranks)
    return _keep(scores, sizes, budget, ranks)


def refuse_nan(scores: Sequence[Tensor], ranks: Ranks = ALONE) -> None:
    """Raises if a score is NaN, which has no rank. One question to the device for all of them."""
    highest = [tensor.amax() for tensor in scores if tensor.numel()]  # NaN goes through amax
    if ranks.any(bool(highest) and bool(torch.stack(highest).isnan().any())):
        raise InvalidInputError("A score is NaN: scores must be numbers that can be ranked. Look for an overflow.")


def _flat(scores: Sequence[Tensor]) -> list[Tensor]:
    """All in the widest of their types, float32 at least."""
    widest = functools.reduce(torch.promote_types, (tensor.dtype for tensor in scores), torch.float32)
    return [tensor.flatten().to(widest) for tensor in scores]


def _keep(scores: Sequence[Tensor], sizes: Sequence[int], budget: int, ranks: Ranks = ALONE) -> list[Tensor]:
    flat = _flat(scores)
    count = min(budget // sizes[0], sum(tensor.numel() for tensor in flat))
    if ranks.count > 1:
        masks = keep_across(flat, sizes, [0] * len(flat), [budget], ranks)
    elif len(set(sizes)) > 1:
        masks = _keep_mixed(flat, sizes, budget)
    elif flat[0].device.type == "cpu":
        masks = _keep_on_cpu([tensor.numpy() for tensor in flat], count)
    else:
        masks = _keep_on_device(flat, count)
    return [mask.view(tensor.shape) for mask, tensor in zip(masks, scores, strict=True)]


def _keep_on_cpu(flat: Sequence[Any], count: int) -> list[Tensor]:
    """Keeps the `count` highest of groups of one size, in arrays.

    A sample brackets the cut (Floyd & Rivest 1975): what lies above the bracket is kept, what lies in
    it is ranked. If the bracket misses the cut, or the scores are few, all of them are ranked.
    """
    if count in (0, sum(map(len, flat))):
        return [torch.full((len(values),), bool(count)) for values in flat]
    for low, high in (_bracket(flat, count), (-math.inf, math.inf)):
        if low == high:  # many are equal, as at a birth: their places are marked, not listed
            higher, equal = [values > low for values in flat], [values == low for values in flat]
            room = count - sum(map(np.count_nonzero, higher))
            if 0 <= room <= sum(map(np.count_nonzero, equal)):
                return [torch.from_numpy(mask | tied) for mask, tied in zip(higher, _first(equal, room), strict=True)]
        above, near = zip(*_each(functools.partial(_split, low=low, high=high), flat, work=sum(map(len, flat))), strict=True)
        room = count - sum(map(np.count_nonzero, above))
        if 0 <= room <= sum(map(len, near)):
            break
    chosen = _highest(np.concatenate([values[where] for values, where in zip(flat, near, strict=True)]), room)
    ends = list(itertools.accumulate(map(len, near)))
    for mask, where, kept in zip(above, near, np.split(chosen, ends[:-1]), strict=True):
        mask[where[kept]] = True
    return [torch.from_numpy(mask) for mask in above]


def _first(marked: Sequence[Any], count: int) -> Iterator[Any]:
    """Leaves marked the first so many of the marked places, matrix by matrix."""
    for mask in marked:
        mask[np.flatnonzero(mask)[count:]] = False
        count -= int(np.count_nonzero(mask))
        yield mask


def _split(values: Any, low: float, high: float) -> tuple[Any, Any]:
    """Marks the values above a bracket, and lists the positions of those in it."""
    above = np.greater(values, high)
    return above, np.flatnonzero(np.greater_equal(values, low) ^ above)


def _bracket(flat: Sequence[Any], count: int) -> tuple[float, float]:
    """Estimates from a strided sample between which two scores the cut lies; all of them if they are few."""
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


def _highest(values: Any, count: int) -> Any:
    """Marks the `count` highest values of an array; equal ones from the front."""
    if count in (0, len(values)):
        return np.full(len(values), bool(count))
    cut = np.partition(values, len(values) - count)[len(values) - count]  # the lowest that is kept
    kept = values > cut
    kept[np.flatnonzero(values == cut)[: count - np.count_nonzero(kept)]] = True
    return kept


def _each(function: Callable[..., Any], *columns: Sequence[Any], work: int) -> list[Any]:
    """Maps over rows, on as many threads as PyTorch uses if there is work for them; NumPy lets go of Python's lock."""
    threads = min(torch.get_num_threads(), len(columns[0]))
    if threads == 1 or work < 4 * SAMPLE:
        return list(map(function, *columns))
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, *columns))


def _keep_counts(scores: Sequence[Tensor], counts: Sequence[int], ranks: Ranks) -> list[Tensor]:
    """Keeps so many groups of each matrix."""
    refuse_nan(scores, ranks)
    if ranks.count > 1:
        masks = keep_across(_flat(scores), [1] * len(scores), range(len(scores)), counts, ranks)
        return [mask.view(tensor.shape) for mask, tensor in zip(masks, scores, strict=True)]
    on_cpu = scores[0].device.type == "cpu"
    work = sum(tensor.numel() for tensor in scores) if on_cpu else 0
    return _each(lambda tensor, count: _keep([tensor], [1], count)[0], scores, counts, work=work)


def _keep_on_device(flat: Sequence[Tensor], count: int) -> list[Tensor]:
    """Keeps the `count` highest of groups of one size, without a question to the device."""
    values = torch.cat(list(flat))
    if count in (0, values.numel()):
        kept = torch.full_like(values, bool(count), dtype=torch.bool)
    else:
        # The lowest that is kept. On a GPU kthvalue is refused under torch.use_deterministic_algorithms.
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


def keep_highest_by_sorting(scores: Sequence[Tensor], sizes: Sequence[int], budget: int) -> list[Tensor]:
    """The slow reference of `keep_highest`: rank all groups, then take them while they fit."""
    refuse_nan(scores)
    _, order = torch.cat([tensor.flatten() for tensor in scores]).sort(descending=True, stable=True)
    owners = [size for tensor, size in zip(scores, sizes, strict=True) for _ in range(tensor.numel())]
    kept = torch.zeros(len(owners), dtype=torch.bool)
    for index in order.tolist():
        if owners[index] > budget:
            break
        budget -= owners[index]
        kept[index] = True
    parts = torch.split(kept, [tensor.numel() for tensor in scores])
    return [part.view(tensor.shape) for part, tensor in zip(parts, scores, strict=True)]


# Where the budget is shared out.


def keep_local(
    scores: Sequence[Tensor], sizes: Sequence[int], density: float, kinds: Sequence[str] = (), ranks: Ranks = ALONE
) -> list[Tensor]:
    """Keeps floor(density * n) of the n groups of each matrix."""
    return _keep_counts(scores, [budget(number, density) for number in groups(scores, ranks)], ranks)


def keep_global(
    scores: Sequence[Tensor], sizes: Sequence[int], density: float, kinds: Sequence[str] = (), ranks: Ranks = ALONE
) -> list[Tensor]:
    """Keeps the best groups of all matrices together, as many as fit in floor(density * all weights)."""
    return keep_highest(scores, sizes, budget(_weights(scores, sizes, ranks), density), ranks)


def keep_adaptive(
    scores: Sequence[Tensor], sizes: Sequence[int], density: float, kinds: Sequence[str], ranks: Ranks = ALONE
) -> list[Tensor]:
    """Keeps of each matrix a share that follows the mean sigmoid of its scores among the matrices of its kind.

        v_k = v * R(S_k) / mean of R over the kind,    R(S) = mean of sigmoid(S)

    as SMP-S does (Jiang et al. 2022, "Pruning Pre-trained Language Models Without Fine-Tuning"). No matrix
    keeps more than all its groups; each kind keeps floor(v * its groups).

    Args:
        scores, sizes, ranks: as for `keep_highest`.
        density: v, the fraction of the groups of each kind that is kept.
        kinds: one name a matrix; those with the same name share a budget and have equally many groups.
    """
    refuse_nan(scores, ranks)
    numbers = groups(scores, ranks)
    sums = ranks.total(torch.stack([tensor.sigmoid().sum(dtype=torch.float64) for tensor in scores])).tolist()
    importance = [total / number for total, number in zip(sums, numbers, strict=True)]
    counts = [0] * len(scores)
    for kind in dict.fromkeys(kinds):
        members = [index for index, name in enumerate(kinds) if name == kind]
        shares = share_out([importance[index] for index in members], [numbers[index] for index in members], density)
        for index, share in zip(members, shares, strict=True):
            counts[index] = share
    return _keep_counts(scores, counts, ranks)


def share_out(importance: Sequence[float], groups: Sequence[int], density: float) -> list[int]:
    """Shares floor(density * all groups) out in proportion to importance * groups, to none more than it has.

    What is left after rounding down goes to the largest fractions, the first among equals.
    """
    importance = [max(value, sys.float_info.min) for value in importance]  # a sigmoid may underflow to 0
    left, counts = budget(sum(groups), density), [0] * len(groups)
    open_ = list(range(len(groups)))
    while open_:
        total = sum(importance[index] * groups[index] for index in open_)
        shares = {index: left * importance[index] * groups[index] / total for index in open_}
        full = [index for index in open_ if shares[index] >= groups[index]]
        if not full:
            break
        for index in full:
            counts[index] = groups[index]
            left -= groups[index]
        open_ = [index for index in open_ if index not in full]
    for index in open_:
        counts[index] = math.floor(shares[index])
    remainder = left - sum(counts[index] for index in open_)
    for index in sorted(open_, key=lambda index: counts[index] - shares[index])[:remainder]:
        counts[index] += 1
    return counts


Scope = Literal["local", "global", "adaptive"]
SCOPES: dict[str, Callable[..., list[Tensor]]] = {"local": keep_local, "global": keep_global, "adaptive": keep_adaptive}
"""Where the budget is shared out: within each matrix, over all of them, or within each kind by importance."""


@dataclass(frozen=True)
class Select:
    """How a budget is shared out among the matrices of a part.

    Args:
        scope: the name of one of the scopes.
        kinds: one name a matrix, as for `keep_adaptive`.
        ranks: the processes that hold the matrices.
    """

    scope: Scope
    kinds: Sequence[str] = ()
    ranks: Ranks = ALONE

    def __call__(self, scores: Sequence[Tensor], sizes: Sequence[int], density: float) -> list[Tensor]:
        """Returns the masks of all matrices, given their scores, the weights per group of each, and the density."""
        return SCOPES[self.scope](scores, sizes, density, self.kinds, self.ranks)


@dataclass(frozen=True)
class SelectNofM(Select):
    """Keeps so many of every m neighbours; the scope has no say.

    Args:
        least: of every m, also where the density asks for fewer.
        m: neighbours in the last dimension.
    """

    least: int = 1
    m: int = 2

    def __call__(self, scores: Sequence[Tensor], sizes: Sequence[int], density: float) -> list[Tensor]:
        return keep_n_of_m(
            scores, max(self.least, budget(self.m, density)), self.m, self.ranks
        )  # n / m * m may fall short of n


# Other rules than a budget.


def keep_above(scores: Sequence[Tensor], cut: float, share: float, ranks: Ranks = ALONE) -> list[Tensor]:
    """Keeps the scores above a cut, and of each matrix of n at least the floor(share * n) + 1 highest."""
    refuse_nan(scores, ranks)
    masks = [tensor > cut for tensor in scores]
    least = [least_of(number, share) for number in groups(scores, ranks)]
    return [
        mask if count >= enough else _keep([tensor], [1], enough, ranks)[0]
        for tensor, mask, count, enough in zip(scores, masks, kept(masks, ranks), least, strict=True)
    ]


def keep_global_and_least(
    scores: Sequence[Tensor], sizes: Sequence[int], density: float, share: float, ranks: Ranks = ALONE
) -> list[Tensor]:
    """Keeps floor(density * all weights), as `keep_global` does, but of each matrix at least as many as `keep_above` does."""
    refuse_nan(scores, ranks)
    least = [least_of(number, share) for number in groups(scores, ranks)]
    masks: list[Tensor | None] = [None] * len(scores)
    room = budget(_weights(scores, sizes, ranks), density)
    while True:
        free = [index for index, mask in enumerate(masks) if mask is None]
        if not free:
            break
        chosen = _keep([scores[index] for index in free], [sizes[index] for index in free], room, ranks)
        short = [index for index, count in zip(free, kept(chosen, ranks), strict=True) if count < least[index]]
        for index, mask in zip(free, chosen, strict=True):
            masks[index] = mask if not short else None
        if not short:
            break
        for index in short:
            masks[index] = _keep([scores[index]], [1], least[index], ranks)[0]
            room = max(0, room - least[index] * sizes[index])
    return [mask for mask in masks if mask is not None]


def least_of(groups: int, share: float) -> int:
    """Returns floor(share * groups) + 1, as soft movement's floor counts (Sanh et al.'s released example)."""
    return math.floor(share * groups) + 1


def keep_n_of_m(scores: Sequence[Tensor], n: int, m: int, ranks: Ranks = ALONE) -> list[Tensor]:
    """Keeps the n highest of every m neighbours in the last dimension; equal ones from the front."""
    refuse_nan(scores, ranks)
    return [_keep_n_of_m(tensor, n, m) for tensor in scores]


def _keep_n_of_m(scores: Tensor, n: int, m: int) -> Tensor:
    columns = scores.reshape(*scores.shape[:-1], scores.shape[-1] // m, m).unbind(-1)
    ahead = [torch.zeros_like(columns[0], dtype=torch.int16) for _ in range(m)]  # how many of the m rank before each
    for first, second in itertools.combinations(range(m), 2):
        first_wins = columns[first] >= columns[second]
        ahead[second] += first_wins
        ahead[first] += ~first_wins
    return (torch.stack(ahead, -1) < n).flatten(-2)


def groups(scores: Sequence[Tensor], ranks: Ranks) -> list[int]:
    """Returns how many groups each matrix has."""
    return ranks.totals([tensor.numel() for tensor in scores])


def kept(masks: Sequence[Tensor], ranks: Ranks) -> list[int]:
    """Returns how many entries of each mask, a boolean or a gate, are not 0."""
    counts: list[int] = ranks.total(torch.stack([mask.count_nonzero() for mask in masks])).tolist()
    return counts


def _weights(scores: Sequence[Tensor], sizes: Sequence[int], ranks: Ranks) -> int:
    return sum(number * size for number, size in zip(groups(scores, ranks), sizes, strict=True))


def budget(count: int, density: float) -> int:
    """Returns floor(density * count), in float64 and without an epsilon."""
    return math.floor(density * count)
