"""The header of a packed file: an entry for each tensor, to and from JSON."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch

from ...errors import InvalidInputError, enumeration
from ...files import descriptions, header, is_count, shape_of
from ...version import VERSION
from .values import VALUES, PackedValues

T = TypeVar("T")

FORMAT = "fineprune packed model"
MAJOR, MINOR = 1, 0
"""Of the format: a file of another major version is not read, one of a newer minor version is."""

_KEPT_AS_THEY_ARE = (torch.float32, torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in _KEPT_AS_THEY_ARE}
"""Name in the file -> the dtype of a raw tensor."""


@dataclass(frozen=True)
class ShapedEntry:
    """A tensor of a shape."""

    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class RawEntry(ShapedEntry):
    """A vector, or a tensor of whole numbers, as it is: of a dtype among DTYPES."""

    kind: ClassVar[str] = "raw"
    parts: ClassVar[tuple[str, ...]] = ("values",)
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes that it takes when loaded."""
        return self.size * self.dtype.itemsize

    @property
    def bound(self) -> float:
        """Information bound in bits: all of its own."""
        return 8.0 * self.nbytes


@dataclass(frozen=True)
class DenseEntry(ShapedEntry):
    """A tensor of two dimensions or more, seen as shape[0] rows, with all of its values, and how they are stored."""

    kind: ClassVar[str] = "dense"
    values: PackedValues

    @property
    def parts(self) -> tuple[str, ...]:
        return ("values", "scales") if self.values.scaled else ("values",)

    @property
    def rows(self) -> int:
        return self.shape[0]

    @property
    def cols(self) -> int:
        return math.prod(self.shape[1:])

    @property
    def stored(self) -> int:
        """Values in the file."""
        return self.size

    @property
    def nbytes(self) -> int:
        """Bytes that it takes when loaded as a dense tensor."""
        return 4 * self.size

    @property
    def bound(self) -> float:
        """Information bound in bits."""
        return 8.0 * self.values.dtype.itemsize * self.size


@dataclass(frozen=True)
class SparseEntry(DenseEntry):
    """A tensor of two dimensions or more, seen as shape[0] rows, of which only the `kept` values other than 0 are stored."""

    kind: ClassVar[str] = "sparse"
    kept: int

    @property
    def parts(self) -> tuple[str, ...]:
        return ("gaps", *super().parts)

    @property
    def stored(self) -> int:
        return self.kept

    @property
    def sparse_nbytes(self) -> int:
        """Bytes that it takes when loaded as a `SparseMatrix`."""
        return 8 * (self.rows + 1) + (7 if not self.values.scaled else 4) * self.kept + 4 * self.rows

    @property
    def bound(self) -> float:
        """Information bound in bits: n (H(d) + d b), for n weights of density d with b bits a value, H the binary entropy."""
        return self.size * entropy(self.kept / self.size) + 8.0 * self.values.dtype.itemsize * self.kept


Entry = RawEntry | DenseEntry | SparseEntry
"""The description of one tensor, known without reading it."""


def entropy(d: float) -> float:
    """Returns H(d) = -d log2 d - (1 - d) log2(1 - d), in bits."""
    return -sum(p * math.log2(p) for p in (d, 1 - d) if p > 0)


def container_name(tensor: str, part: str) -> str:
    """Returns the name of a part of a tensor in the container."""
    return f"{tensor}:{part}"


def metadata_of(entries: Mapping[str, Entry]) -> dict[str, str]:
    """Returns the metadata of a packed file."""
    tensors = {name: _to_json(entry) for name, entry in entries.items()}
    return header(FORMAT, f"{MAJOR}.{MINOR}", tensors, writer=f"fineprune {VERSION}")


def entries_of(metadata: Mapping[str, str]) -> dict[str, Entry]:
    """Reads the entries in the metadata of a packed file; unknown keys are ignored. Raises as `descriptions`."""
    return {name: _from_json(name, stated) for name, stated in descriptions(metadata, FORMAT, _check_version).items()}


def _check_version(version: str) -> None:
    major, _, minor = version.partition(".")
    if not (major.isascii() and major.isdigit() and minor.isascii() and minor.isdigit() and len(version) < 16):
        raise InvalidInputError(f"its version is {version[:20]!r}, and no number such as {MAJOR}.{MINOR}")
    if int(major) != MAJOR:
        remedy = "made by a newer fineprune: install that" if int(major) > MAJOR else "unknown: pack the model again"
        raise InvalidInputError(f"its version is {version}, {remedy}, as this one reads version {MAJOR}")


def _to_json(entry: Entry) -> dict[str, Any]:
    stated: dict[str, Any] = {"kind": entry.kind, "shape": list(entry.shape)}
    if isinstance(entry, RawEntry):
        return {**stated, "dtype": str(entry.dtype).removeprefix("torch.")}
    stated |= {"values": entry.values.name}
    return {**stated, "kept": entry.kept} if isinstance(entry, SparseEntry) else stated


def _from_json(name: str, stated: Mapping[str, Any]) -> Entry:
    kind, shape = stated.get("kind"), shape_of(name, stated)
    if kind == RawEntry.kind:
        return RawEntry(shape, _known(name, "dtype", stated.get("dtype"), DTYPES))
    if kind not in (DenseEntry.kind, SparseEntry.kind):
        raise InvalidInputError(f"{name[:80]} has a kind that is not known")
    if len(shape) < 2:
        raise InvalidInputError(f"{name[:80]} has {len(shape)} dimensions, and a {kind} tensor two or more")
    values = _known(name, "values", stated.get("values"), VALUES)
    if kind == DenseEntry.kind:
        return DenseEntry(shape, values)
    kept = stated.get("kept")
    if not is_count(kept) or 0 in shape or kept > math.prod(shape):
        raise InvalidInputError(f"{name[:80]} says that it keeps {str(kept)[:40]} of {math.prod(shape)} values")
    return SparseEntry(shape, values, kept)


def _known(name: str, key: str, stated: Any, known: Mapping[str, T]) -> T:
    if not isinstance(stated, str) or stated not in known:
        raise InvalidInputError(f"{name[:80]} says {key} {str(stated)[:40]!r}; known are {enumeration(known)}")
    return known[stated]


def numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    """Returns the dtype in which numpy holds the numbers of a raw tensor, little-endian."""
    return np.dtype(str(dtype).removeprefix("torch.")).newbyteorder("<")
