"""The fast selection against the slow obvious one, and against plain counts."""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor
from transformers import BertConfig, BertModel

from by_sorting import keep_highest_by_sorting
from fineprune import InvalidInputError
from fineprune.models import targets
from fineprune.selection import topk
from fineprune.selection.counts import budget_of, least_of
from fineprune.selection.scopes import apportion, keep_above, keep_adaptive, keep_global, keep_global_and_least, keep_local
from fineprune.selection.topk import SAMPLE, keep_highest, keep_n_of_m

VALUES = torch.tensor([0.0, -0.0, 1.0, -1.0, 0.5, 1e-30, 3e38, math.inf, -math.inf]).tolist()


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Makes PyTorch report this number of threads."""
    with mock.patch.object(torch, "get_num_threads", return_value=number):
        yield


def ways(scores: list[Tensor], sizes: list[int], room: int) -> dict[str, list[Tensor]]:
    """Returns what each of the fast ways keeps."""
    kept = {"as it is": keep_highest(scores, sizes, room)}
    with mock.patch.object(topk, "SAMPLE", 4), threads(3):
        kept["by a small sample, on threads"] = keep_highest(scores, sizes, room)
    shapes = [tensor.shape for tensor in scores]
    flat = [tensor.flatten().double() for tensor in scores]
    kept["of mixed sizes"] = topk._keep_mixed(flat, sizes, room)
    if len(set(sizes)) == 1:
        kept["on a device"] = topk._keep_on_device(flat, min(room // sizes[0], sum(map(len, flat))))
    return {way: [mask.view(shape) for mask, shape in zip(masks, shapes, strict=True)] for way, masks in kept.items()}


def assert_same(scores: list[Tensor], sizes: list[int], room: int) -> None:
    """Asserts that all ways agree, and that what they keep is a longest ranked prefix."""
    slow = keep_highest_by_sorting(scores, sizes, room)
    for way, fast in ways(scores, sizes, room).items():
        assert all(torch.equal(a, b) for a, b in zip(fast, slow, strict=True)), way
    assert all(mask.dtype == torch.bool and mask.shape == tensor.shape for mask, tensor in zip(slow, scores, strict=True))
    used = sum(int(mask.sum()) * size for mask, size in zip(slow, sizes, strict=True))
    assert used <= room
    kept = [tensor[mask] for tensor, mask in zip(scores, slow, strict=True)]
    dropped = [tensor[~mask] for tensor, mask in zip(scores, slow, strict=True)]
    lowest_kept = min((float(t.min()) for t in kept if t.numel()), default=math.inf)
    highest_dropped = max((float(t.max()) for t in dropped if t.numel()), default=-math.inf)
    assert lowest_kept >= highest_dropped
    leading = [size for t, size in zip(dropped, sizes, strict=True) if t.numel() and float(t.max()) == highest_dropped]
    assert not leading or used + max(leading) > room, "the next group would have fitted"


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Tensor], list[int], int]:
    """Several small tensors of any shape, many ties, with weights per group and a budget."""
    element = st.sampled_from(VALUES) | st.floats(-2, 2, width=32)
    shapes = draw(st.lists(arrays.array_shapes(max_dims=3, max_side=6), min_size=1, max_size=4))
    scores = [torch.tensor(draw(arrays.arrays("float32", shape, elements=element))) for shape in shapes]
    one, mixed = (
        st.integers(1, 5).map(lambda size: [size] * len(scores)),
        st.lists(st.integers(1, 5), min_size=len(scores), max_size=len(scores)),
    )
    sizes = draw(one | mixed)
    total = sum(tensor.numel() * size for tensor, size in zip(scores, sizes, strict=True))
    near_an_end = st.sampled_from([0, sizes[0], total - sizes[-1], total, total + 3])
    return scores, sizes, draw(near_an_end | st.integers(0, total))


@settings(max_examples=200, deadline=None)
@given(problems())
def test_small_problems_are_settled_as_by_sorting(problem: tuple[list[Tensor], list[int], int]) -> None:
    assert_same(*problem)


MATCH = 4 * SAMPLE
"""The number of scores from which on a sample is taken."""


@st.composite
def large_problems(draw: st.DrawFn) -> tuple[list[Tensor], list[int], int]:
    """About as many scores as are sampled, and more, drawn from families that make a bracket hard to find."""
    number = draw(st.integers(1, 3))
    total = draw(st.sampled_from([MATCH - 1, MATCH, MATCH + 1, 2 * MATCH - 1, 2 * MATCH]))
    counts = [total // number + (total % number if index == 0 else 0) for index in range(number)]
    scores = [draw(large_tensors(count)) for count in counts]
    sizes = draw(st.sampled_from([[1] * number, [3] * number, [1, 2, 7][:number]]))
    total = sum(tensor.numel() * size for tensor, size in zip(scores, sizes, strict=True))
    share = draw(st.sampled_from([0.0, 1e-4, 0.03, 0.1, 0.5, 0.9, 0.9999, 1.0]) | st.floats(0, 1))
    return scores, sizes, draw(st.sampled_from([int(share * total), sizes[0], total - sizes[0]]))


@st.composite
def large_tensors(draw: st.DrawFn, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    index = torch.arange(count)
    sampled = index % (count // SAMPLE or 1) == 0
    return draw(
        st.sampled_from(
            [
                torch.randn(count, generator=generator),
                torch.zeros(count),
                index.float(),
                -index.float(),
                (torch.rand(count, generator=generator) < 0.3).float(),
                torch.randint(0, 5, (count,), generator=generator).float(),
                sampled.float(),  # what the sample sees is not what is there
                torch.where(sampled, -1.0, index.float()),
                torch.where(index % 3 == 0, math.inf, torch.where(index % 3 == 1, -math.inf, 0.0)),
                torch.where(index % 2 == 0, -0.0, 0.0),
                torch.randn(count, generator=generator).exp().pow(8),
            ]
        )
    )


@settings(max_examples=50, deadline=None)
@given(large_problems())
def test_large_problems_are_settled_as_by_sorting(problem: tuple[list[Tensor], list[int], int]) -> None:
    assert_same(*problem)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999, 1.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_sample_that_is_fooled_does_not_matter(sign: int, share: float) -> None:
    """Every sampled position holds an outlier."""
    scores = torch.rand(5 * SAMPLE, generator=torch.Generator().manual_seed(1))
    scores[::5] = torch.linspace(5, 6, SAMPLE)
    assert_same([sign * scores], [1], int(share * len(scores)))
    two = [sign * scores[: 2 * SAMPLE], sign * scores[2 * SAMPLE :]]
    assert_same(two, [1, 1], int(share * len(scores)))


def test_few_of_many_scores_are_ranked() -> None:
    """Otherwise the sample would be no help: it would be slower than ranking all."""
    scores = [torch.randn(400_000, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    for share in (0.03, 0.1, 0.5):
        with mock.patch.object(topk, "_highest", wraps=topk._highest) as ranked:
            keep_highest(scores, [1, 1], int(share * 800_000))
        (call,) = ranked.call_args_list
        assert len(call.args[0]) < 80_000


def test_several_matrices_are_split_on_as_many_threads_as_pytorch_uses() -> None:
    scores = [torch.randn(MATCH, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    with mock.patch.object(topk, "ThreadPoolExecutor", wraps=topk.ThreadPoolExecutor) as pool:
        with threads(1):
            alone = keep_highest(scores, [1] * 4, 1000)
        pool.assert_not_called()
        with threads(3):
            together = keep_highest(scores, [1] * 4, 1000)
        pool.assert_called_once_with(3)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_every_precision_ranks_exactly(dtype: torch.dtype) -> None:
    scores = torch.randn(3, 6000, generator=torch.Generator().manual_seed(2)).to(dtype)
    for room in (0, 1, 1800, 17_999, 18_000):
        assert_same([scores], [1], room)


def test_float64_scores_are_not_rounded() -> None:
    scores = 1 + torch.arange(MATCH, dtype=torch.float64).flip(0) * 1e-12
    (mask,) = keep_highest([scores], [1], 100)
    assert mask[:100].all()


def test_tensors_of_two_precisions_rank_together() -> None:
    """0.1 in float32 is a little above 0.1 in float64."""
    single, double = torch.tensor([0.1, 0.05]), torch.tensor([0.1, 0.2], dtype=torch.float64)
    for room in range(5):
        assert_same([single, double], [1, 1], room)
        assert_same([double, single], [1, 2], room)


@pytest.mark.parametrize("count", [30, 2 * MATCH // 5])
def test_a_tensor_laid_out_otherwise_is_ranked_by_flat_index(count: int) -> None:
    transposed = torch.randint(0, 3, (count, 5)).float().t()
    assert_same([transposed], [1], 2 * count)


def test_ties_go_to_the_earlier_matrix_and_the_lower_index() -> None:
    first, second = keep_highest([torch.zeros(2, 2), torch.zeros(3)], [1, 1], 5)
    assert first.all()
    assert second.tolist() == [True, False, False]


def test_minus_zero_is_zero() -> None:
    (mask,) = keep_highest([torch.tensor([-0.0, 0.0, -0.0, 0.0])], [1], 2)
    assert mask.tolist() == [True, True, False, False]


def test_a_group_that_does_not_fit_ends_the_prefix() -> None:
    big, small = keep_highest([torch.tensor([2.0, 0.0]), torch.tensor([3.0, 1.0])], [10, 1], 9)
    assert not big.any()
    assert small.tolist() == [True, False], "a lower group that would fit is not taken out of turn"


@pytest.mark.parametrize("room", [0, 1])
def test_one_element(room: int) -> None:
    (mask,) = keep_highest([torch.tensor([4.0])], [1], room)
    assert mask.tolist() == [bool(room)]


def test_an_empty_tensor_beside_others() -> None:
    empty, full = keep_highest([torch.zeros(0, 3), torch.ones(4)], [1, 1], 2)
    assert empty.shape == (0, 3)
    assert full.tolist() == [True, True, False, False]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 10**8), st.floats(1e-6, 1))
def test_the_budget_is_the_floor(count: int, density: float) -> None:
    kept = budget_of(count, density)
    assert kept == math.floor(density * count)
    assert kept <= density * count < kept + 1


def test_the_budget_has_no_epsilon() -> None:
    assert budget_of(10, 0.7) == 7
    assert budget_of(100, 0.29) == 28  # 0.29 * 100 = 28.999999999999996 in float64
    assert budget_of(1, 1.0) == 1
    assert budget_of(9, 0.1) == 0


@pytest.mark.parametrize("density", [0.0, 0.03, 0.1, 1 / 3, 0.5, 1.0])
def test_each_matrix_keeps_its_floor(density: float) -> None:
    scores = [torch.randn(7, 11), torch.randn(5), torch.randn(2, 3, 4)]
    for mask, tensor in zip(keep_local(scores, [1, 4, 9], density), scores, strict=True):
        assert int(mask.sum()) == math.floor(density * tensor.numel())


def test_all_matrices_together_keep_the_floor() -> None:
    scores = [torch.full((3, 7), 2.0), torch.full((10,), 1.0)]
    first, second = keep_global(scores, [1, 1], 0.75)  # floor(0.75 * 31) = 23
    assert first.all()
    assert int(second.sum()) == 2
    rows, single = keep_global([torch.tensor([3.0, 1.0]), torch.tensor([2.0])], [4, 2], 0.6)  # floor(0.6 * 10) = 6
    assert rows.tolist() == [True, False]
    assert single.tolist() == [True]


@pytest.mark.parametrize(("density", "local", "together"), [(0.10, "10.126735", "10.126774"), (0.03, "3.136569", "3.136634")])
def test_remaining_weights_of_bert_base(density: float, local: str, together: str) -> None:
    """The paper's figure: (ones + biases and LayerNorms of the encoder) / (all of the encoder)."""
    with torch.device("meta"):
        model = BertModel(BertConfig())
    matrices = [parameter.numel() for parameter in targets.find(model).values()]
    encoder = sum(parameter.numel() for parameter in model.encoder.parameters())
    assert (len(matrices), sum(matrices), encoder - sum(matrices)) == (72, 84_934_656, 119_808)
    ones = sum(budget_of(count, density) for count in matrices)
    assert f"{100 * (ones + 119_808) / encoder:.6f}" == local
    assert f"{100 * (budget_of(sum(matrices), density) + 119_808) / encoder:.6f}" == together


# The adaptive scope.

importances = st.floats(1e-3, 1) | st.sampled_from([0.5, 0.0, 1e-45])


@st.composite
def shares(draw: st.DrawFn) -> tuple[list[float], list[int], float]:
    """Importance and groups of some matrices, and a density."""
    number = draw(st.integers(1, 6))
    importance = draw(st.lists(importances, min_size=number, max_size=number))
    alike = st.integers(1, 300).map(lambda groups: [groups] * number)
    groups = draw(alike | st.lists(st.integers(1, 300), min_size=number, max_size=number))
    return importance, groups, draw(st.sampled_from([0.0, 0.03, 0.1, 1.0]) | st.floats(0, 1))


def water_level(importance: list[float], groups: list[int], budget: int) -> list[Fraction]:
    """The slow way to real shares: min(groups, level * importance * groups), at the level where they sum to the budget."""
    weight = [max(Fraction(value), Fraction(1, 10**300)) * count for value, count in zip(importance, groups, strict=True)]
    levels = sorted({count / w for w, count in zip(weight, groups, strict=True)})  # at which one after another is full
    for level in levels:
        full = [count / w < level for w, count in zip(weight, groups, strict=True)]
        taken = sum(count for count, is_full in zip(groups, full, strict=True) if is_full)
        rest = sum(w for w, is_full in zip(weight, full, strict=True) if not is_full)
        if taken + level * rest >= budget:
            level = (budget - taken) / rest
            break
    return [min(Fraction(count), level * w) for w, count in zip(weight, groups, strict=True)]


@settings(max_examples=200, deadline=None)
@given(shares())
@example(([0.0, 0.0], [7, 3], 0.5))
@example(([0.0, 1.0], [10, 1], 0.9))
def test_shares_are_whole_and_as_near_to_the_real_ones_as_that_allows(problem: tuple[list[float], list[int], float]) -> None:
    importance, groups, density = problem
    kept = apportion(importance, groups, density)
    assert sum(kept) == budget_of(sum(groups), density)
    assert all(0 <= count <= most for count, most in zip(kept, groups, strict=True))
    real = water_level(importance, groups, sum(kept))
    assert sum(real) == sum(kept)
    assert all(abs(count - share) < 1 + 1e-9 for count, share in zip(kept, real, strict=True))


@settings(max_examples=100, deadline=None)
@given(st.lists(importances, min_size=1, max_size=8), st.integers(1, 50), st.floats(0, 1))
def test_of_equal_matrices_the_more_important_keeps_no_less(importance: list[float], groups: int, density: float) -> None:
    kept = apportion(importance, [groups] * len(importance), density)
    for value, count in zip(importance, kept, strict=True):
        for other, other_count in zip(importance, kept, strict=True):
            assert value <= other or count >= other_count
            assert value != other or abs(count - other_count) <= 1


def test_what_a_full_matrix_cannot_take_goes_to_the_others() -> None:
    assert apportion([0.9, 0.1, 0.1], [10, 10, 10], 0.6) == [10, 4, 4]
    assert apportion([0.9, 0.8, 0.1], [10, 10, 10], 0.8) == [10, 10, 4]
    assert apportion([0.3, 0.3, 0.3], [5, 5, 5], 0.7) == [4, 3, 3]  # floor(10.5), the odd one to the first
    assert apportion([0.4, 0.2], [10, 10], 0.3) == [4, 2]


def adaptive_by_loops(scores: list[Tensor], density: float, kinds: list[str]) -> list[Tensor]:
    """The slow reference of `keep_adaptive`, for equal matrices none of which is filled: largest remainders."""
    masks: dict[int, Tensor] = {}
    for kind in kinds:
        members = [index for index, name in enumerate(kinds) if name == kind]
        means = [
            sum(1 / (1 + math.exp(-s)) for s in scores[index].flatten().tolist()) / scores[index].numel() for index in members
        ]
        groups = scores[members[0]].numel()
        parts = [density * groups * mean / (sum(means) / len(means)) for mean in means]
        counts = [int(part) for part in parts]
        while sum(counts) < int(density * groups * len(members)):
            counts[max(range(len(members)), key=lambda number: parts[number] - counts[number])] += 1
        for index, count in zip(members, counts, strict=True):
            (masks[index],) = keep_highest_by_sorting([scores[index]], [1], count)
    return [masks[index] for index in range(len(scores))]


@pytest.mark.parametrize("density", [0.03, 0.1, 0.29, 0.5])
def test_each_kind_shares_its_budget_out_by_the_mean_sigmoid(density: float) -> None:
    generator = torch.Generator().manual_seed(3)
    kinds = ["query", "up", "query", "up", "query", "alone"]
    shapes = {"query": (12, 12), "up": (12, 30), "alone": (7,)}
    scores = [
        torch.randn(shapes[kind], generator=generator).add(shift)
        for kind, shift in zip(kinds, [0, 0, -1, 0.3, 0.7, 2], strict=True)
    ]
    kept = keep_adaptive(scores, [1] * 6, density, kinds)
    assert all(torch.equal(a, b) for a, b in zip(kept, adaptive_by_loops(scores, density, kinds), strict=True))
    for kind in shapes:
        counts = [int(mask.sum()) for mask, name in zip(kept, kinds, strict=True) if name == kind]
        assert sum(counts) == budget_of(len(counts) * math.prod(shapes[kind]), density)
    assert int(kept[4].sum()) > int(kept[0].sum()) > int(kept[2].sum())


def test_the_adaptive_share_of_scores_that_underflow() -> None:
    """sigmoid(-200) is 0 in float32."""
    low, lower = keep_adaptive([torch.full((4,), -200.0), torch.full((4,), -300.0)], [1, 1], 0.5, ["a", "a"])
    assert low.tolist() == lower.tolist() == [True, True, False, False]


# At least a share of each matrix.

small_scores = st.lists(
    arrays.arrays("float32", st.integers(1, 30), elements=st.sampled_from(VALUES) | st.floats(-2, 2, width=32)).map(
        torch.tensor
    ),
    min_size=1,
    max_size=5,
)


def highest(scores: Tensor, count: int) -> Tensor:
    return keep_highest_by_sorting([scores], [1], count)[0]


@settings(max_examples=100, deadline=None)
@given(small_scores, st.sampled_from(VALUES) | st.floats(-2, 2, width=32), st.sampled_from([0.0, 0.005, 0.1, 0.5, 0.99]))
def test_what_lies_above_a_cut_is_kept_and_a_floor(scores: list[Tensor], cut: float, share: float) -> None:
    for tensor, mask in zip(scores, keep_above(scores, cut, share), strict=True):
        above = torch.tensor([score > cut for score in tensor.tolist()])
        assert torch.equal(mask, above | highest(tensor, math.floor(share * len(tensor)) + 1))


def test_the_floor_is_exact_under_ties() -> None:
    (mask,) = keep_above([torch.zeros(1000)], 0.0, 0.005)
    assert mask.nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 5]  # floor(0.005 * 1000) + 1


def global_and_least_by_loops(scores: list[Tensor], sizes: list[int], room: int, share: float) -> list[Tensor]:
    """The slow reference: the floor of each matrix ranks before all else, then comes what is left, while it fits."""
    masks = [highest(tensor, least_of(len(tensor), share)) for tensor in scores]
    room -= sum(int(mask.sum()) * size for mask, size in zip(masks, sizes, strict=True))
    rest = [
        (-float(tensor[i]), site, i) for site, tensor in enumerate(scores) for i in range(len(tensor)) if not masks[site][i]
    ]
    for _, site, i in sorted(rest):
        if sizes[site] > room:
            break
        room -= sizes[site]
        masks[site][i] = True
    return masks


@st.composite
def floored_problems(draw: st.DrawFn) -> tuple[list[Tensor], list[int], float, float]:
    scores = draw(small_scores)
    if draw(st.booleans()):  # many matrices that would keep next to nothing
        scores = [tensor - 10 * (index > 0) for index, tensor in enumerate(scores)]
    mixed = st.lists(st.integers(1, 5), min_size=len(scores), max_size=len(scores))
    sizes = draw(st.just([1] * len(scores)) | mixed)
    share = draw(st.sampled_from([0.0, 0.005, 0.1, 0.3]))
    return scores, sizes, draw(st.sampled_from([0.0, 0.1, 0.3, 1.0]) | st.floats(0, 1)), share


@settings(max_examples=200, deadline=None)
@given(floored_problems())
def test_one_budget_with_a_floor_for_each(problem: tuple[list[Tensor], list[int], float, float]) -> None:
    scores, sizes, density, share = problem
    room = budget_of(sum(len(tensor) * size for tensor, size in zip(scores, sizes, strict=True)), density)
    expected = global_and_least_by_loops(scores, sizes, room, share)
    kept = keep_global_and_least(scores, sizes, density, share)
    assert all(torch.equal(a, b) for a, b in zip(kept, expected, strict=True))


def test_many_matrices_short_at_once() -> None:
    """One matrix would take the whole budget; lifting some floors leaves others short in the next round."""
    scores = [torch.full((200,), 5.0), torch.linspace(2, 1, 200), *(torch.full((200,), -float(index)) for index in range(20))]
    kept = keep_global_and_least(scores, [1] * 22, 0.06, 0.05)
    assert [int(mask.sum()) for mask in kept] == [budget_of(4400, 0.06) - 21 * 11] + [11] * 21
    expected = global_and_least_by_loops(scores, [1] * 22, budget_of(4400, 0.06), 0.05)
    assert all(torch.equal(a, b) for a, b in zip(kept, expected, strict=True))


# n of m.


def n_of_m_by_loops(scores: Tensor, n: int, m: int) -> Tensor:
    """The slow reference of `keep_n_of_m`."""
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for row in range(scores.shape[0]):
        for start in range(0, scores.shape[1], m):
            ranked = sorted(range(start, start + m), key=lambda column: (-float(scores[row, column]), column))
            for column in ranked[:n]:
                kept[row, column] = True
    return kept


@st.composite
def runs(draw: st.DrawFn) -> tuple[Tensor, int, int]:
    m = draw(st.integers(1, 8))
    shape = (draw(st.integers(1, 4)), m * draw(st.integers(1, 4)))
    element = st.sampled_from(VALUES) | st.floats(-2, 2, width=32)
    return torch.tensor(draw(arrays.arrays("float32", shape, elements=element))), draw(st.integers(0, m)), m


@settings(max_examples=100, deadline=None)
@given(runs())
def test_n_of_every_m(problem: tuple[Tensor, int, int]) -> None:
    scores, n, m = problem
    first, second = keep_n_of_m([scores, -scores], n, m)
    assert torch.equal(first, n_of_m_by_loops(scores, n, m))
    assert torch.equal(second, n_of_m_by_loops(-scores, n, m))
    assert (first.unflatten(-1, (-1, m)).sum(-1) == n).all()


def test_n_of_many() -> None:
    """More than a byte counts to."""
    scores = torch.randint(0, 3, (1, 300)).float()
    assert torch.equal(keep_n_of_m([scores], 2, 300)[0], n_of_m_by_loops(scores, 2, 300))


# What holds for all of them.

Keep = Callable[[list[Tensor]], list[Tensor]]
EVERY: dict[str, Keep] = {
    "keep_highest": lambda scores: keep_highest(scores, [1] * len(scores), 10),
    "keep_highest, mixed": lambda scores: keep_highest(scores, list(range(1, len(scores) + 1)), 10),
    "keep_local": lambda scores: keep_local(scores, [1] * len(scores), 0.5),
    "keep_global": lambda scores: keep_global(scores, [1] * len(scores), 0.5),
    "keep_adaptive": lambda scores: keep_adaptive(scores, [1] * len(scores), 0.5, ["a"] * len(scores)),
    "keep_above": lambda scores: keep_above(scores, 0.1, 0.2),
    "keep_global_and_least": lambda scores: keep_global_and_least(scores, [1] * len(scores), 0.5, 0.2),
    "keep_n_of_m": lambda scores: keep_n_of_m(scores, 2, 4),
}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("columns", [4, MATCH])
def test_nan_is_refused(name: str, columns: int) -> None:
    for where in ((0, 0), (1, columns - 1)):
        scores = torch.zeros(2, columns)
        scores[where] = math.nan
        with pytest.raises(InvalidInputError, match="A score is NaN"):
            EVERY[name]([torch.ones(2, 4), scores])


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("columns", [8, MATCH])
def test_the_scores_are_left_as_they_are_bit_for_bit(name: str, columns: int) -> None:
    scores = [torch.randn(2, columns), torch.randn(8, 4).t(), torch.tensor([[0.0, -0.0, math.inf, -math.inf]])]
    before = copy.deepcopy(scores)
    masks = EVERY[name](scores)
    for mask in masks:
        mask.logical_not_()  # which shares no memory with them
    assert all(np.array_equal(a.numpy().view(np.int32), b.numpy().view(np.int32)) for a, b in zip(scores, before, strict=True))
