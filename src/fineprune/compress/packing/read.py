"""Reads a packed file: its header is checked before memory is taken, and nothing of it is run."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from torch import Tensor

from ...errors import InvalidInputError, require
from ...files import check_names, reading
from ...sparse.format import SparseMatrix
from .gaps import most_gaps, numbers, positions_of, unframed
from .header import DenseEntry, Entry, RawEntry, SparseEntry, container_name, entries_of, numpy_dtype
from .values import LARGEST_INT8, Array, widened

LARGEST_SCALE = float(np.finfo(np.float32).max) / (LARGEST_INT8 + 1)
"""With it a whole number down to -128 stays finite."""

AGAIN = "Choose a whole file, or pack the model again."


@dataclass(frozen=True)
class PackedFile:
    """A packed file that is open. Its methods raise InvalidInputError if it does not hold what its header describes."""

    path: Path
    entries: Mapping[str, Entry]
    _container: Any

    def tensor(self, name: str) -> Tensor:
        """Returns a tensor in its shape, float32 if it is of floating-point numbers."""
        entry = self.entries[name]
        with reading(self.path, AGAIN, name):
            parts = self._parts(name)
            values = _raw(parts["values"], entry) if isinstance(entry, RawEntry) else _restored(parts, entry)
            return torch.from_numpy(values).view(entry.shape)

    def matrix(self, name: str) -> SparseMatrix:
        """Returns a tensor of two dimensions that is stored sparse, as such. int8 values stay so; others become float32."""
        entry = self.entries[name]
        assert isinstance(entry, SparseEntry)
        with reading(self.path, AGAIN, name):
            return _sparse(self._parts(name), entry)

    def _parts(self, name: str) -> dict[str, bytes]:
        return {part: self._container.get_tensor(container_name(name, part)).tobytes() for part in self.entries[name].parts}


@contextmanager
def opened(path: Path) -> Iterator[PackedFile]:
    """Opens a packed file; raises InvalidInputError if it is none, is damaged or cut off, or is of a newer version."""
    require("sparse", "zstandard")
    with reading(path, AGAIN):
        container: Any = safetensors.safe_open(path, framework="np")
        entries = entries_of(container.metadata() or {})
        _check_tensors(container, entries)
    yield PackedFile(path, entries, container)


def _check_tensors(container: Any, entries: Mapping[str, Entry]) -> None:
    """Raises if the container does not hold exactly the parts that the header describes, as runs of bytes."""
    parts = {container_name(name, part) for name, entry in entries.items() for part in entry.parts}
    check_names(parts, set(container.keys()))
    for name in parts:
        part = container.get_slice(name)
        if part.get_dtype() != "U8" or len(part.get_shape()) != 1:
            raise InvalidInputError(f"{name[:80]} is no run of bytes")


def _raw(data: bytes, entry: RawEntry) -> Array:
    unpacked = unframed(data, entry.nbytes, entry.nbytes)
    if entry.dtype == torch.bool and max(unpacked, default=0) > 1:
        raise InvalidInputError("a truth value is neither 0 nor 1")
    return numbers(unpacked, numpy_dtype(entry.dtype))


def _values(parts: Mapping[str, bytes], entry: DenseEntry) -> Array:
    size = entry.values.dtype.itemsize * entry.stored
    values = numbers(unframed(parts["values"], size, size), entry.values.dtype)
    if not np.isfinite(values).all():
        raise InvalidInputError("values are NaN or infinite")
    return values


def _scales(parts: Mapping[str, bytes], entry: DenseEntry) -> Array | None:
    if not entry.values.scaled:
        return None
    scales = widened(numbers(unframed(parts["scales"], 2 * entry.rows, 2 * entry.rows), np.dtype("<u2")))
    if not ((scales >= 0) & (scales <= LARGEST_SCALE)).all():
        raise InvalidInputError("a scale is negative, NaN or too large")
    return scales


def _positions(parts: Mapping[str, bytes], entry: SparseEntry) -> Iterator[Array]:
    data = unframed(parts["gaps"], entry.kept, most_gaps(entry.kept, entry.size))
    return positions_of(np.frombuffer(data, np.uint8), entry.kept, entry.size)


def _restored(parts: Mapping[str, bytes], entry: DenseEntry) -> Array:
    """Returns the values of all entries, flat."""
    values, scales = _values(parts, entry), _scales(parts, entry)
    if isinstance(entry, SparseEntry):
        flat, done = np.zeros(entry.size, values.dtype), 0
        for positions in _positions(parts, entry):
            flat[positions] = values[done : done + len(positions)]
            done += len(positions)
        values = flat
    restored = values.astype(np.float32, copy=False)
    if scales is not None:
        restored.reshape(entry.rows, -1 if entry.size else 0)[:] *= scales[:, None]
    return restored


def _sparse(parts: Mapping[str, bytes], entry: SparseEntry) -> SparseMatrix:
    values, scales = _values(parts, entry), _scales(parts, entry)
    counts = np.zeros(entry.rows, np.int64)
    columns, done = np.empty(entry.kept, np.uint16), 0
    for positions in _positions(parts, entry):
        row, column = np.divmod(positions, entry.cols)
        counts += np.bincount(row, minlength=entry.rows)
        columns[done : done + len(positions)] = column
        done += len(positions)
    starts = np.concatenate([[0], np.cumsum(counts)])
    held = torch.from_numpy(values if scales is not None else values.astype(np.float32, copy=False))
    return SparseMatrix(
        entry.rows,
        entry.cols,
        torch.from_numpy(starts),
        torch.from_numpy(columns),
        held[:, None],
        None if scales is None else torch.from_numpy(scales),
    )
