"""Writes a model as a packed one: a new folder with its config, and its tensors in one packed file."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import safetensors.numpy
import torch
from torch import Tensor

from ...errors import InvalidInputError, require
from ...files import new_folder
from ..resizing.weights import Weights
from .gaps import frame, gaps_of, planes
from .header import DTYPES, DenseEntry, Entry, RawEntry, SparseEntry, container_name, metadata_of, numpy_dtype
from .values import Array, PackedValues

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PACKED = "packed.safetensors"
"""Name of the packed file in its folder."""


@dataclass(frozen=True)
class Written:
    """A tensor in a packed file: its entry in the header, and the bytes of its parts."""

    entry: Entry
    nbytes: int


def save(
    model: "PreTrainedModel", folder: str | Path, values: PackedValues, beside: Iterable[Path] = ()
) -> Mapping[str, Written]:
    """Saves a model as a packed one in a new folder.

    Args:
        model: shrunken or not.
        folder, beside: as for `new_folder`.
        values: how values of matrices are stored.

    Returns:
        The entry and the bytes of each tensor, by its first name.

    Raises:
        InvalidInputError: if the folder is occupied, or a tensor has values that cannot be stored so.
        FileError: if the folder cannot be written; nothing of it is left then.
    """
    require("sparse", "zstandard")
    config = copy.deepcopy(model.config)
    config.dtype, config.architectures = torch.float32, [type(model).__name__]
    with new_folder(folder, beside) as temporary:
        config.save_pretrained(temporary)
        return write(temporary / PACKED, Weights(model).tensors, values)


def write(path: Path, tensors: Mapping[str, Tensor], values: PackedValues) -> dict[str, Written]:
    """Writes tensors, each once, as one packed file; returns the entry and the bytes of each. Raises as `encoded`."""
    written: dict[str, Written] = {}
    container: dict[str, Array] = {}
    for name, tensor in tensors.items():
        try:
            entry, parts = encoded(tensor, values)
        except InvalidInputError as error:
            raise InvalidInputError(f"{name} cannot be packed: {error}") from error
        frames = {container_name(name, part): frame(part, data) for part, data in parts.items()}
        written[name] = Written(entry, sum(len(one) for one in frames.values()))
        container |= frames
    safetensors.numpy.save_file(container, path, metadata_of({name: one.entry for name, one in written.items()}))
    return written


def encoded(tensor: Tensor, values: PackedValues) -> tuple[Entry, dict[str, bytes]]:
    """Returns the entry of a tensor, and its parts, not yet compressed; floating-point tensors become float32 first.

    Raises:
        InvalidInputError: if the values are NaN, infinite or too large for this, or of a dtype with no place in the format.
    """
    tensor = tensor.detach().cpu()
    tensor = tensor.to(torch.float32) if tensor.is_floating_point() else tensor
    shape = tuple(tensor.shape)
    if tensor.dim() < 2 or not tensor.is_floating_point():
        if tensor.dtype not in DTYPES.values():
            raise InvalidInputError(f"it holds {tensor.dtype}, and the format has no place for that.")
        return RawEntry(shape, tensor.dtype), {"values": planes(tensor.numpy().astype(numpy_dtype(tensor.dtype)))}
    matrix = tensor.numpy().reshape(tensor.shape[0], -1 if tensor.numel() else 0)
    if not np.isfinite(matrix).all():
        raise InvalidInputError("it has NaN or infinite values. Look for them first.")
    stored, scales = values.stored(matrix)
    parts = {} if scales is None else {"scales": planes(scales)}
    stored = stored + stored.dtype.type(0)  # of -0.0, which multiplying by a mask leaves behind, this makes +0.0
    positions = np.flatnonzero(stored)
    if 8 * stored.itemsize * (stored.size - len(positions)) <= stored.size:  # gaps cost about one bit a value at most
        return DenseEntry(shape, values), {"values": planes(stored), **parts}
    kept = stored.reshape(-1)[positions]
    entry = SparseEntry(shape, values, len(positions))
    return entry, {"gaps": gaps_of(positions).tobytes(), "values": planes(kept), **parts}
