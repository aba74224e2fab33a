"""The file of a mask: M as packed bits, a fingerprint of W, and trained values of other parameters.

docs/reference/mask_file.md specifies it; only this module writes and reads it. Nothing is pickled.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ..distributed.process_group import is_sharded
from ..errors import FileError, InvalidInputError, enumeration
from ..files import (
    MOST_DIMENSIONS,
    check_names,
    check_safetensors,
    crc32,
    descriptions,
    header,
    reading,
    replace_whole,
    shape_of,
)
from .bits import PackedMask, bytes_of, fingerprint

FORMAT = "fineprune mask"
VERSION = "1"

MASK, TRAINED = "mask.", "trained."
"""Prefixes of the names of the tensors in the file."""

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Name in the file -> dtype of weights and of trained parameters."""

Description = Mapping[str, Any]
"""Of a tensor, in the metadata: its shape, its checksum, and a fingerprint or a dtype."""


@dataclass(frozen=True)
class MaskFile:
    """The content of a mask's file.

    Args:
        masks: by parameter name.
        fingerprints: of the dense weights that the masks were made for, by the same names.
        trained: values of other parameters, by name; on the CPU.
    """

    masks: Mapping[str, PackedMask]
    fingerprints: Mapping[str, str]
    trained: Mapping[str, Tensor]


def why_unsupported(tensor: Tensor) -> str | None:
    """Returns the reason why a tensor cannot be masked or saved, to follow its name; None if it can."""
    if is_sharded(tensor):
        return "is sharded over processes, which is not supported; take a whole model in each process"
    if tensor.is_meta:
        return "is on the meta device, without values; load the model in full"
    if tensor.layout is not torch.strided or tensor.dtype not in DTYPES.values():
        return f"is {dtype_and_shape(tensor)}, {tensor.layout}; only dense floats of 16, 32 or 64 bits are supported"
    return None


def dtype_and_shape(tensor: Tensor) -> str:
    """Returns `float32 (5, 3)`, for example."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


# Writing.


def save(path: str | Path, weights: Mapping[str, tuple[Tensor, Tensor]], trained: Mapping[str, Tensor]) -> None:
    """Writes masks into one file, atomically. A mask file of this name is replaced as a whole.

    Args:
        path: of the file; its folder is made if absent.
        weights: parameter name -> its dense weight W, floats of any shape, and its mask M, bool, of the same shape.
        trained: parameter name -> value of a parameter without a mask that the run has trained (a task's head, biases); may
            be empty.

    Raises:
        InvalidInputError: if a tensor is not of this kind, or a file of this name is not a mask.
        FileError: if the disk is full or the folder cannot be written; no partial file is left.
    """
    path = Path(path)
    _check_savable(weights, trained)
    _check_overwritable(path)
    tensors: dict[str, Tensor] = {}
    described: dict[str, Description] = {}
    for name, (W, M) in weights.items():
        bits = PackedMask.of(M).bits
        tensors[MASK + name] = torch.from_numpy(bits)
        described[MASK + name] = _description(M, bits.data, weight=fingerprint(W))
    for name, value in trained.items():
        tensors[TRAINED + name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        dtype = next(key for key, known in DTYPES.items() if known is value.dtype)
        described[TRAINED + name] = _description(value, bytes_of(value), dtype=dtype)
    metadata = header(FORMAT, VERSION, described)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_whole(path, lambda temporary: safetensors.torch.save_file(tensors, temporary, metadata))
    except (OSError, safetensors.SafetensorError) as error:
        raise FileError(f"The mask could not be saved as {path}: {error}. Free some space and save again.") from error


def _description(tensor: Tensor, data: memoryview, **others: str) -> Description:
    return {"shape": list(tensor.shape), "checksum": crc32(data), **others}


def _check_savable(weights: Mapping[str, tuple[Tensor, Tensor]], trained: Mapping[str, Tensor]) -> None:
    if not weights:
        raise InvalidInputError("There is no mask to save. Give each pruned weight with its mask.")
    both = [name for name in trained if name in weights]
    if both:
        raise InvalidInputError(
            f"{enumeration(both)} must be given either with a mask or as trained, got both. A weight with a mask was not "
            "trained: leave it out of the trained parameters."
        )
    for name, tensor in [*((name, W) for name, (W, _) in weights.items()), *trained.items()]:
        if reason := why_unsupported(tensor):
            raise InvalidInputError(f"{name} cannot be saved with a mask: it {reason}.")
    for name, (W, M) in weights.items():
        if M.dtype is not torch.bool or M.shape != W.shape:
            raise InvalidInputError(
                f"The mask of {name} must be bool {tuple(W.shape)}, got {dtype_and_shape(M)}. Give one that is True where a "
                "value of the weight is kept."
            )
        if not W.numel() or W.dim() > MOST_DIMENSIONS:
            raise InvalidInputError(
                f"A weight with a mask must have at least one value and {MOST_DIMENSIONS} dimensions at most, got {name} "
                f"of shape {tuple(W.shape)}. Leave it out."
            )


def _check_overwritable(path: Path) -> None:
    """Raises if the name is that of something else than a mask: a typing error must not cost a checkpoint."""
    if not path.exists():
        return
    try:
        is_mask = check_safetensors(path).get("format") == FORMAT
    except InvalidInputError:
        is_mask = False
    if not is_mask:
        raise InvalidInputError(f"{path} exists already and is no mask, so it is not overwritten. Give another name.")


# Reading.


def read(path: str | Path) -> MaskFile:
    """Reads a mask's file; raises InvalidInputError if it is missing, not a mask, damaged or cut off, or of another version."""
    container: Any
    with (
        reading(path, "Choose a whole file, or save the mask again."),
        safetensors.safe_open(path, framework="pt") as container,
    ):
        described = descriptions(container.metadata() or {}, FORMAT, _check_version)
        check_names(described.keys(), set(container.keys()))
        masks = {name.removeprefix(MASK): name for name in described if name.startswith(MASK)}
        trained = {name.removeprefix(TRAINED): name for name in described if name.startswith(TRAINED)}
        if len(masks) + len(trained) < len(described) or masks.keys() & trained.keys() or not masks:
            raise InvalidInputError("its tensors are not masks, one at least, and trained values of other parameters")
        return MaskFile(
            {name: _mask(container, full, described[full]) for name, full in masks.items()},
            {name: _string(full, described[full], "weight") for name, full in masks.items()},
            {name: _value(container, full, described[full]) for name, full in trained.items()},
        )


def _check_version(version: str) -> None:
    if version != VERSION:
        raise InvalidInputError(f"its version is {version[:20]!r}, and this fineprune reads version {VERSION}")


def _mask(container: Any, name: str, description: Description) -> PackedMask:
    shape = shape_of(name, description)
    size = math.prod(shape)
    if not size:
        raise InvalidInputError(f"{name[:80]} has no possible shape: {shape}")
    bits = _tensor(container, name, description, "U8", [-(-size // 8)]).numpy()
    if size % 8 and bits[-1] >> size % 8:
        raise InvalidInputError(f"{name[:80]} has bits set beyond its {size:,} values")
    return PackedMask(shape, bits)


def _value(container: Any, name: str, description: Description) -> Tensor:
    dtype = _string(name, description, "dtype")
    if dtype not in DTYPES:
        raise InvalidInputError(f"{name[:80]} is said to be {dtype[:40]}; known are {enumeration(DTYPES)}")
    return _tensor(container, name, description, dtype, description.get("shape"))


def _tensor(container: Any, name: str, description: Description, dtype: str, shape: Any) -> Tensor:
    """Reads a tensor, whose dtype, shape and checksum must be these."""
    held = container.get_slice(name)
    if [held.get_dtype(), list(held.get_shape())] != [dtype, shape]:
        raise InvalidInputError(
            f"{name[:80]} is {held.get_dtype()} {held.get_shape()}, and its description asks for {dtype} {str(shape)[:80]}"
        )
    tensor: Tensor = container.get_tensor(name).clone()  # not a view of the file, which may change
    if crc32(bytes_of(tensor)) != _string(name, description, "checksum"):
        raise InvalidInputError(f"{name[:80]} and its checksum do not belong together")
    return tensor


def _string(name: str, description: Description, key: str) -> str:
    text = description.get(key)
    if not isinstance(text, str):
        raise InvalidInputError(f"{name[:80]} has the {key} {str(text)[:40]!r}, which is no text")
    return text
