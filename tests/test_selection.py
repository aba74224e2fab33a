"""The fast selection against the slow obvious one, and against plain counts."""

import math
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor
from transformers import BertConfig, BertModel

from fineprune import InvalidInputError, selection, targets
from fineprune.selection import FEW, budget, keep_global, keep_highest, keep_highest_by_sorting, keep_local

VALUES = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-30, 3e38, math.inf, -math.inf]


def assert_same(scores: list[Tensor], sizes: list[int], room: int) -> list[Tensor]:
    """Asserts that both ways agree, and that what they keep is a longest ranked prefix."""
    fast, slow = keep_highest(scores, sizes, room), keep_highest_by_sorting(scores, sizes, room)
    assert all(torch.equal(a, b) for a, b in zip(fast, slow, strict=True))
    with mock.patch.object(selection, "MANY", FEW):  # narrowed down, as if there were many
        narrowed = keep_highest(scores, sizes, room)
    assert all(torch.equal(a, b) for a, b in zip(narrowed, slow, strict=True))
    assert all(mask.dtype == torch.bool and mask.shape == tensor.shape for mask, tensor in zip(fast, scores, strict=True))
    used = sum(int(mask.sum()) * size for mask, size in zip(fast, sizes, strict=True))
    assert used <= room
    kept = [tensor[mask] for tensor, mask in zip(scores, fast, strict=True)]
    dropped = [tensor[~mask] for tensor, mask in zip(scores, fast, strict=True)]
    lowest_kept = min((float(t.min()) for t in kept if t.numel()), default=math.inf)
    highest_dropped = max((float(t.max()) for t in dropped if t.numel()), default=-math.inf)
    assert lowest_kept >= highest_dropped
    leading = [size for t, size in zip(dropped, sizes, strict=True) if t.numel() and float(t.max()) == highest_dropped]
    assert not leading or used + max(leading) > room, "the next group would have fitted"
    return fast


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Tensor], list[int], int]:
    """Several small tensors of any shape, many ties, with weights per group and a budget."""
    element = st.sampled_from(VALUES) | st.floats(-2, 2, width=32)
    shapes = draw(st.lists(arrays.array_shapes(max_dims=3, max_side=6), min_size=1, max_size=4))
    scores = [torch.tensor(draw(arrays.arrays("float32", shape, elements=element))) for shape in shapes]
    sizes = draw(st.lists(st.integers(1, 5), min_size=len(scores), max_size=len(scores)))
    total = sum(tensor.numel() * size for tensor, size in zip(scores, sizes, strict=True))
    return scores, sizes, draw(st.integers(0, total + 3))


@settings(max_examples=300, deadline=None)
@given(problems())
def test_small_problems_are_settled_as_by_sorting(problem: tuple[list[Tensor], list[int], int]) -> None:
    assert_same(*problem)


@st.composite
def large_problems(draw: st.DrawFn) -> tuple[list[Tensor], list[int], int]:
    """Tensors above FEW elements in all, drawn from families that make narrowing down hard."""
    number = draw(st.integers(1, 3))
    scores = [draw(large_tensors()) for _ in range(number)]
    sizes = draw(st.lists(st.sampled_from([1, 1, 2, 7]), min_size=number, max_size=number))
    total = sum(tensor.numel() * size for tensor, size in zip(scores, sizes, strict=True))
    share = draw(st.sampled_from([0.0, 1e-4, 0.03, 0.1, 0.5, 0.9, 0.9999, 1.0]) | st.floats(0, 1))
    return scores, sizes, int(share * total)


@st.composite
def large_tensors(draw: st.DrawFn) -> Tensor:
    count = draw(st.integers(FEW - 2, 5 * FEW))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    index = torch.arange(count)
    return draw(
        st.sampled_from(
            [
                torch.randn(count, generator=generator),
                torch.zeros(count),
                index.float(),
                -index.float(),
                (torch.rand(count, generator=generator) < 0.3).float(),
                torch.randint(0, 5, (count,), generator=generator).float(),
                (index % (count // FEW or 1) == 0).float(),  # what the strided sample sees is not what is there
                torch.where(index % (count // FEW or 1) == 0, -1.0, index.float()),
                torch.where(index % 3 == 0, math.inf, torch.where(index % 3 == 1, -math.inf, 0.0)),
                torch.randn(count, generator=generator).exp().pow(8),
            ]
        )
    )


@settings(max_examples=120, deadline=None)
@given(large_problems())
def test_large_problems_are_settled_as_by_sorting(problem: tuple[list[Tensor], list[int], int]) -> None:
    assert_same(*problem)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999, 1.0])
@pytest.mark.parametrize("stride", [2, 3, 16])
def test_a_sample_that_is_fooled_does_not_matter(stride: int, share: float) -> None:
    """Every sampled position holds an outlier, in the first round and in later ones."""
    count = stride * FEW
    scores = torch.rand(count, generator=torch.Generator().manual_seed(1))
    scores[::stride] = torch.linspace(5, 6, FEW)
    assert_same([scores], [1], int(share * count))
    assert_same([-scores], [1], int(share * count))


def test_a_large_problem_takes_few_rounds() -> None:
    """Random values must not be narrowed down one at a time: it would be slower than sorting."""
    scores = torch.randn(1_000_000)
    counts = []
    counting = torch.Tensor.count_nonzero

    def count(tensor: Tensor) -> Tensor:
        counts.append(1)
        return counting(tensor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "MANY", FEW)
        patch.setattr(torch.Tensor, "count_nonzero", count)
        (mask,) = keep_highest([scores], [1], 100_000)
    assert int(mask.sum()) == 100_000
    assert len(counts) < 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_every_precision_ranks_exactly(dtype: torch.dtype) -> None:
    scores = torch.randn(3, 4000, generator=torch.Generator().manual_seed(2)).to(dtype)
    for room in (0, 1, 1200, 11_999, 12_000):
        assert_same([scores], [1], room)


def test_tensors_of_two_precisions_rank_together() -> None:
    """0.1 in float32 is a little above 0.1 in float64."""
    single, double = torch.tensor([0.1, 0.05]), torch.tensor([0.1, 0.2], dtype=torch.float64)
    for room in range(5):
        assert_same([single, double], [1, 1], room)
        assert_same([double, single], [1, 2], room)


@pytest.mark.parametrize("count", [30, 3 * FEW])
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


@pytest.mark.parametrize("keep", [keep_highest, keep_highest_by_sorting])
@pytest.mark.parametrize("count", [3, 2 * FEW])
def test_nan_is_refused(keep: object, count: int) -> None:
    scores = torch.zeros(count)
    scores[count // 2] = math.nan
    with pytest.raises(InvalidInputError, match="NaN"):
        keep([torch.ones(2), scores], [1, 1], 1)


def test_the_scores_are_left_as_they_are() -> None:
    scores = torch.randn(2 * FEW)
    before = scores.clone()
    keep_highest([scores], [1], 100)
    assert torch.equal(scores, before)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 10**8), st.floats(1e-6, 1))
def test_the_budget_is_the_floor(count: int, density: float) -> None:
    kept = budget(count, density)
    assert kept == math.floor(density * count)
    assert kept <= density * count < kept + 1


def test_the_budget_has_no_epsilon() -> None:
    assert budget(10, 0.7) == 7
    assert budget(100, 0.29) == 28  # 0.29 * 100 = 28.999999999999996 in float64
    assert budget(1, 1.0) == 1
    assert budget(9, 0.1) == 0


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
    ones = sum(budget(count, density) for count in matrices)
    assert f"{100 * (ones + 119_808) / encoder:.6f}" == local
    assert f"{100 * (budget(sum(matrices), density) + 119_808) / encoder:.6f}" == together


@pytest.mark.parametrize("rank", [0, 1, 500, 999])
def test_the_value_of_a_rank_is_that_of_sorting(rank: int) -> None:
    values = torch.randn(1000).round(decimals=1)
    expected = float(values.sort(descending=True).values[rank])
    assert selection._ranked(values, rank) == expected
    assert float(values.kthvalue(1000 - rank).values) == expected  # what accelerators do
