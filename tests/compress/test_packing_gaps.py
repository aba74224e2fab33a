"""The codec of the compact file, against slow and obvious ways, on random and on adversarial input."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fineprune import InvalidInputError
from fineprune.compress.packing.gaps import ESCAPE, frame, gaps_of, most_gaps, numbers, planes, positions_of, unframed
from fineprune.compress.packing.header import DenseEntry, RawEntry, SparseEntry, entropy
from fineprune.compress.packing.read import _restored, _sparse
from fineprune.compress.packing.values import (
    VALUES,
    Array,
    Float16Values,
    Float32Values,
    Int8Values,
    PackedValues,
    row_scales,
    widened,
)
from fineprune.compress.packing.write import encoded

SUBNORMAL = 2.0**-149
GAPS = st.sampled_from([0, 1, 2, 253, 254, 255, 256, 509, 510, 511, 3 * ESCAPE, 3 * ESCAPE + 1])
SPECIAL = st.sampled_from([0.0, -0.0, 1.0, -1.0, SUBNORMAL, -SUBNORMAL, 2.0**-126, 65504.0, -65504.0, 1e-8, 0.1])
CHOICES = [Int8Values(), Float16Values(), Float32Values()]


def slow_gaps(positions: list[int]) -> list[int]:
    """The gaps as the format says them, one after the other."""
    coded = []
    for before, position in pairwise([-1, *positions]):
        gap = position - before - 1
        coded += [255] * (gap // 255) + [gap % 255]
    return coded


def decoded(gaps: Array, kept: int, size: int) -> list[int]:
    return [int(position) for chunk in positions_of(gaps, kept, size) for position in chunk]


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.int32)


def restored(tensor: Tensor, values: PackedValues) -> Tensor:
    """A floating-point tensor after packing and unpacking, the same whether made dense at once or later."""
    entry, parts = encoded(tensor, values)
    frames = {part: frame(part, data).tobytes() for part, data in parts.items()}
    assert isinstance(entry, DenseEntry)
    assert set(frames) == set(entry.parts)
    dense = torch.from_numpy(_restored(frames, entry)).view(entry.shape)
    if isinstance(entry, SparseEntry) and entry.cols <= 1 << 16:
        matrix = _sparse(frames, entry)
        assert (matrix.rows, matrix.cols, matrix.together) == (entry.rows, entry.cols, 1)
        assert torch.equal(bits(matrix.to_dense().view(entry.shape)), bits(dense))
        assert all(column < following for row in rows_of(matrix.starts, matrix.columns) for column, following in pairwise(row))
    return dense


def rows_of(starts: Tensor, columns: Tensor) -> list[list[int]]:
    return [columns[start:end].tolist() for start, end in pairwise(starts.tolist())]


def expected(tensor: Tensor, values: PackedValues) -> Tensor:
    """What the format says that values become, element by element."""
    flat = tensor.float().flatten(1) if tensor.numel() else tensor.float()
    if isinstance(values, Float32Values):
        return (flat + 0.0).view(tensor.shape)
    if isinstance(values, Float16Values):
        return (flat.half().float() + 0.0).view(tensor.shape)
    scales = torch.from_numpy(widened(row_scales(flat.numpy())).copy())[:, None] if tensor.numel() else torch.ones(1)
    divisors = torch.where(scales == 0, 1.0, scales)
    return ((flat / divisors).round() * scales + 0.0).view(tensor.shape)


# Gaps.


@given(st.lists(GAPS | st.integers(0, 2000), max_size=60), st.integers(0, 600), st.integers(1, 7))
def test_gaps_lead_back_to_the_positions(gaps: list[int], after: int, chunk: int) -> None:
    positions = [int(position) for position in np.cumsum(np.array(gaps, np.int64) + 1) - 1]
    size = (positions[-1] + 1 if positions else 0) + after
    coded = gaps_of(np.array(positions, np.int64))
    assert coded.tolist() == slow_gaps(positions)
    assert len(coded) <= most_gaps(len(positions), size)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("fineprune.compress.packing.gaps.CHUNK", chunk)
        assert decoded(coded, len(positions), size) == positions
        if positions:
            with pytest.raises(InvalidInputError, match="lead outside its"):
                decoded(coded, len(positions), positions[-1])


@given(st.binary(max_size=40), st.integers(0, 40), st.integers(0, 3000))
def test_any_bytes_lead_to_rising_positions_inside_or_are_refused(data: bytes, kept: int, size: int) -> None:
    try:
        positions = decoded(np.frombuffer(data, np.uint8), kept, size)
    except InvalidInputError:
        return
    assert len(positions) == kept
    assert all(0 <= position < size for position in positions)
    assert all(position < following for position, following in pairwise(positions))


@pytest.mark.parametrize(
    ("gaps", "kept", "message"),
    [([0, 0], 1, "lead to 2 entries and not to 1"), ([0], 2, "lead to 1 entries"), ([0, 255], 1, "lead to 1"), ([255], 0, "0")],
)
def test_gaps_that_lead_elsewhere_are_refused(gaps: list[int], kept: int, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        decoded(np.array(gaps, np.uint8), kept, 10_000)


# Bytes.


@pytest.mark.parametrize("dtype", ["<f4", "<f2", "i1", "u1", "<i8", "<i2", "?"])
def test_planes_lead_back_to_the_numbers(dtype: str) -> None:
    array = np.arange(-5, 300).astype(dtype)
    data = planes(array)
    assert data[: len(array)] == bytes(number.tobytes()[0] for number in array)
    assert numbers(data, np.dtype(dtype)).tobytes() == array.tobytes()
    assert not len(numbers(planes(array[:0]), np.dtype(dtype)))


@given(st.binary(max_size=2000))
def test_frames_hold_what_was_put_in(data: bytes) -> None:
    assert unframed(frame("values", data).tobytes(), len(data), len(data)) == data


def test_frames_of_another_size_are_refused_before_they_are_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = frame("values", bytes(100_000_000)).tobytes()
    assert len(bomb) < 10_000

    def opened(*_: object) -> None:
        raise AssertionError("a bomb was opened")

    monkeypatch.setattr(zstandard, "ZstdDecompressor", opened)
    with pytest.raises(InvalidInputError, match="frame holds 100000000 bytes, and there must be 3 to 5"):
        unframed(bomb, 3, 5)


def lying(data: bytes, size: int) -> bytes:
    """A frame that states another size than it has: four bytes after the descriptor, if it was made with two."""
    honest = bytearray(frame("values", data).tobytes())
    assert honest[4] >> 6 == 1, "the size is in two bytes"
    honest[5:7] = (size - 256).to_bytes(2, "little")
    return bytes(honest)


FRAMES = {
    "nothing": b"",
    "no frame": b"evil" * 4,
    "cut off": frame("values", bytes(range(256)) * 4).tobytes()[:-9],
    "no checksum left": frame("values", bytes(range(256)) * 4).tobytes()[:-1],
    "more behind": frame("values", bytes(range(256)) * 4).tobytes() + b"\0",
    "two": frame("values", bytes(range(256)) * 4).tobytes() * 2,
    "one that can be skipped": b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"evil",
    "less than it says": lying(bytes(1000), 1024),
    "more than it says": lying(bytes(range(256)) * 5, 1024),
    "no size": zstandard.ZstdCompressor(write_content_size=False).compress(bytes(range(256)) * 4),
}


@pytest.mark.parametrize("name", FRAMES)
def test_damaged_frames_are_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match="a frame"):
        unframed(FRAMES[name], 1024, 1024)


# Tensors.


@st.composite
def matrices(draw: st.DrawFn) -> Tensor:
    shape = draw(
        st.sampled_from([(1, 1), (1, 7), (5, 1), (3, 4), (2, 600), (40, 9), (2, 3, 2, 2), (3, 0), (0, 3), (1, 70_000)])
    )
    size = math.prod(shape)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1 << 30)))
    dense = torch.randn(size, generator=generator) * draw(st.sampled_from([1e-30, 0.05, 1.0, 100.0]))
    dense[torch.rand(size, generator=generator) >= draw(st.sampled_from([0.0, 0.001, 0.03, 0.1, 0.5, 0.9, 1.0]))] = 0
    for place, value in draw(st.dictionaries(st.integers(0, max(size - 1, 0)), SPECIAL, max_size=6 if size else 0)).items():
        dense[place] = value
    return dense.view(shape)


@pytest.mark.parametrize("values", CHOICES, ids=lambda values: values.name)
@settings(deadline=None)
@given(tensor=matrices())
def test_what_is_unpacked_is_what_was_packed_bit_for_bit(values: PackedValues, tensor: Tensor) -> None:
    back = restored(tensor, values)
    assert torch.equal(bits(back), bits(expected(tensor, values)))


@pytest.mark.parametrize("pattern", ["none", "all", "first", "last", "every 255th", "every 256th", "every 257th", "one row"])
@pytest.mark.parametrize("values", CHOICES, ids=lambda values: values.name)
def test_patterns_that_lie_at_the_borders(values: PackedValues, pattern: str) -> None:
    size, mask = 64 * 512, torch.zeros(64 * 512, dtype=torch.bool)
    places = {"none": [], "all": list(range(size)), "first": [0], "last": [size - 1], "one row": list(range(512, 1024))}
    places |= {f"every {step}th": list(range(0, size, step)) for step in (255, 256, 257)}
    mask[places[pattern]] = True
    tensor = (torch.randn(size) + 9).where(mask, 0.0).view(64, 512)
    entry, _ = encoded(tensor, values)
    assert isinstance(entry, SparseEntry) == (pattern != "all")
    assert torch.equal(bits(restored(tensor, values)), bits(expected(tensor, values)))


def test_zeros_with_a_sign_are_not_kept() -> None:
    """A mask that was multiplied leaves them behind."""
    tensor = torch.randn(8, 40) * (torch.rand(8, 40) < 0.2)
    entry, _ = encoded(tensor, Float32Values())
    assert isinstance(entry, SparseEntry)
    assert entry.kept == int(tensor.count_nonzero())
    assert not bool((restored(tensor, Float32Values()).signbit() & (tensor == 0)).any())


def test_int8_values_are_within_half_a_step_and_small_ones_go() -> None:
    tensor = torch.randn(32, 500) * (torch.rand(32, 500) < 0.1)
    tensor[:, 0] = 1e-6
    tensor[7] = 0
    step = tensor.abs().amax(dim=1, keepdim=True) / 127
    back = restored(tensor, Int8Values())
    assert bool(((back - tensor).abs() <= 0.5 * step * (1 + 2**-7)).all())
    assert back[7].count_nonzero() == 0
    assert back[:, 0].count_nonzero() == 0
    entry, _ = encoded(tensor, Int8Values())
    assert isinstance(entry, SparseEntry)
    assert entry.kept == int(back.count_nonzero()), "what has become 0 is not kept"


@given(st.floats(min_value=0, max_value=2.0**127, width=32))
def test_scales_are_the_next_bfloat16_above(largest: float) -> None:
    row = np.array([[0.0, -largest]], np.float32)
    (stored,), (scale,) = row_scales(row), widened(row_scales(row))
    assert 127.0 * float(scale) >= largest * (1 - 2**-23)
    below = widened(np.array([max(int(stored) - 1, 0)], np.uint16))[0]
    assert stored == 0 or 127.0 * float(below) < largest


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("values", CHOICES, ids=lambda values: values.name)
def test_values_that_are_not_finite_are_refused(values: PackedValues, value: float) -> None:
    with pytest.raises(InvalidInputError, match="NaN or infinite values"):
        encoded(torch.tensor([[1.0, value]]), values)


def test_values_beyond_halves_are_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"values up to 7e\+04, and the largest half is 65504\. Pack with int8"):
        encoded(torch.tensor([[1.0, -70_000.0]]), Float16Values())


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(5),
        torch.tensor([[1, 2]]),
        torch.tensor([True, False]),
        torch.tensor(3.5),
        torch.arange(3, dtype=torch.uint8),
    ],
)
def test_vectors_and_whole_numbers_are_as_they_are(tensor: Tensor) -> None:
    entry, parts = encoded(tensor, Int8Values())
    assert isinstance(entry, RawEntry)
    assert (entry.shape, entry.dtype) == (tensor.shape, tensor.dtype)
    assert numbers(parts["values"], tensor.numpy().dtype).tolist() == tensor.flatten().tolist()


def test_numbers_without_a_place_are_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"torch\.complex64, and the format has no place"):
        encoded(torch.ones(3, dtype=torch.complex64), Int8Values())


# How small.


def test_entropy() -> None:
    assert entropy(0.5) == 1
    assert entropy(0) == entropy(1) == 0
    assert entropy(0.1) == pytest.approx(-0.1 * math.log2(0.1) - 0.9 * math.log2(0.9))


@pytest.mark.parametrize("draw", [torch.randn, lambda *shape: 2 * torch.rand(*shape) - 1], ids=["normal", "uniform"])
@pytest.mark.parametrize("density", [0.10, 0.06, 0.03])
def test_random_matrices_come_close_to_the_bound(density: float, draw: object) -> None:
    n, kept, stored = 768 * 3072, 0, 0
    for shape in ((768, 3072), (3072, 768)):
        tensor = draw(*shape) * (torch.rand(shape) < density)  # type: ignore[operator]
        kept += int(tensor.count_nonzero())
        _, parts = encoded(tensor, Int8Values())
        stored += sum(len(frame(part, data)) for part, data in parts.items())
    bound = 2 * n * entropy(kept / (2 * n)) + 8 * kept
    assert 8 * stored <= 1.05 * bound


def test_names_of_values() -> None:
    assert {name: type(values) for name, values in VALUES.items()} == {
        "int8": Int8Values,
        "fp16": Float16Values,
        "fp32": Float32Values,
    }
