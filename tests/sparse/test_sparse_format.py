"""A sparse matrix in memory: what it keeps, and that it converts back."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fineprune import BFloat16, Float32, Int8, InvalidInputError
from fineprune.sparse.format import SparseMatrix, Values


def random_matrix(rows: int, cols: int, density: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(rows, cols, generator=generator) < density
    return torch.where(kept, torch.randn(rows, cols, generator=generator), 0.0)


def stored(dense: Tensor, values: Values | None = None, together: int = 1) -> SparseMatrix:
    """Returns a matrix by groups of `together` rows."""
    matrix = SparseMatrix.from_dense(dense, values)
    return matrix if together == 1 else matrix.grouped(together)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 40),
    st.integers(0, 40),
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    st.sampled_from([1, 3, 4]),
    st.integers(0, 99),
)
def test_float32_comes_back_bit_for_bit(rows: int, cols: int, density: float, together: int, seed: int) -> None:
    dense = random_matrix(rows, cols, density, seed)
    matrix = stored(dense, together=together)
    assert torch.equal(matrix.to_dense().view(torch.int32), dense.view(torch.int32))
    assert len(matrix.starts) == -(-rows // together) + 1
    assert int(matrix.starts[-1]) == len(matrix.columns) == len(matrix.values)
    assert matrix.density == int(dense.count_nonzero()) / max(dense.numel(), 1)


@pytest.mark.parametrize(("values", "error"), [(BFloat16(), 2**-8), (Int8(), 1 / 254)])
@pytest.mark.parametrize("together", [1, 4])
def test_smaller_values_are_the_nearest(values: Values, error: float, together: int) -> None:
    dense = random_matrix(30, 17, 0.4)
    back = stored(dense, values, together).to_dense()
    bound = dense.abs().amax(dim=1, keepdim=True) if isinstance(values, Int8) else dense.abs()
    assert bool(((back - dense).abs() <= error * bound * 1.0001).all())
    assert torch.equal(stored(back, values, together).to_dense(), back), "what was rounded is not rounded again"


def test_int8_keeps_the_largest_of_each_row_and_rows_of_nothing() -> None:
    dense = torch.tensor([[0.0, 0.0], [-3.0, 1.0], [1e-45, 0.0]])
    matrix = SparseMatrix.from_dense(dense, Int8())
    assert matrix.to_dense()[1, 0] == -3.0
    assert torch.equal(matrix.to_dense()[[0, 2]], torch.zeros(2, 2)), "less than float32's least normal is nothing, not NaN"


def test_a_negative_zero_is_no_entry() -> None:
    matrix = SparseMatrix.from_dense(torch.tensor([[-0.0, 2.0]]))
    assert len(matrix.columns) == 1
    assert torch.equal(matrix.to_dense(), torch.tensor([[0.0, 2.0]]))


def test_a_group_stores_the_columns_of_all_its_rows() -> None:
    dense = torch.zeros(5, 3)
    dense[0, 1] = dense[3, 2] = dense[4, 0] = 1.0
    matrix = stored(dense, together=4)
    assert matrix.columns.tolist() == [1, 2, 0]
    assert matrix.values.shape == (3, 4)
    assert matrix.density == 3 / 15


def test_a_copy_is_the_same() -> None:
    matrix = stored(random_matrix(9, 7, 0.3), Int8(), 4)
    assert torch.equal(copy.deepcopy(matrix).to_dense(), matrix.to_dense())


@pytest.mark.parametrize(
    ("dense", "says"),
    [
        (torch.zeros(3), "floating-point matrix"),
        (torch.zeros(2, 2, dtype=torch.int64), "floating-point matrix"),
        (torch.zeros(1, 65537), "at most 65,536 columns"),
        (torch.tensor([[1.0, float("nan")]]), "NaN or infinite"),
        (torch.tensor([[1.0, float("inf")]]), "NaN or infinite"),
    ],
)
def test_what_cannot_be_stored_raises(dense: Tensor, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        SparseMatrix.from_dense(dense)


def test_the_widest_matrix_reaches_its_last_column() -> None:
    dense = torch.zeros(1, 65536)
    dense[0, -1] = 1.0
    assert torch.equal(SparseMatrix.from_dense(dense, Float32()).to_dense(), dense)
