"""The file of a mask: M as packed bits, a fingerprint of W, and the trained values.

It is specified in docs/reference/mask_file.md; this is the only place that writes and reads it. Nothing is pickled.
"""

import json
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ..errors import FileError, InvalidInputError, enumeration
from ..files import check_safetensors, replace_whole
from .bits import Packed, bytes_of, checksum, fingerprint

FORMAT = "fineprune mask"
VERSION = "1"

MASK, TRAINED = "mask.", "trained."
"""What the names of the tensors in the file begin with."""

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Name in the file -> dtype of weights and of trained parameters."""

MOST_DIMENSIONS = 8


@dataclass(frozen=True)
class MaskFile:
    """What a mask's file holds.

    Args:
        masks: by the parameter's name.
        fingerprints: of the dense weights that they were made for, by the same names.
        trained: values of other parameters, by their names; on the CPU.
    """

    masks: Mapping[str, Packed]
    fingerprints: Mapping[str, str]
    trained: Mapping[str, Tensor]


# Writing.


def save(path: str | Path, weights: Mapping[str, tuple[Tensor, Tensor]], trained: Mapping[str, Tensor]) -> None:
    """Writes masks into one file, atomically. A mask that has this name already is replaced as a whole.

    Args:
        path: of the file; its folder is made if absent.
        weights: parameter name -> its dense weight W, floats of any shape, and its mask M, bool, of the same shape.
        trained: parameter name -> value of a parameter without a mask that the run has trained (a task's head, biases); may
            be empty.

    Raises:
        InvalidInputError: if a tensor is not of this kind, or the name is that of something else than a mask.
        FileError: if the disk is full or the folder cannot be written; no partial file is left.
    """
    path = Path(path)
    _check_savable(weights, trained)
    _check_overwritable(path)
    container: dict[str, Tensor] = {}
    said: dict[str, dict[str, Any]] = {}
    for name, (W, M) in weights.items():
        bits = Packed.of(M).bits
        container[MASK + name] = torch.from_numpy(bits)
        said[MASK + name] = {"shape": list(M.shape), "checksum": checksum(bits.data), "weight": fingerprint(W)}
    for name, value in trained.items():
        container[TRAINED + name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        dtype = next(key for key, known in DTYPES.items() if known is value.dtype)
        said[TRAINED + name] = {"shape": list(value.shape), "checksum": checksum(bytes_of(value)), "dtype": dtype}
    tensors = json.dumps(said, separators=(",", ":"))
    metadata = {"format": FORMAT, "version": VERSION, "tensors": tensors, "checksum": checksum(tensors.encode())}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_whole(path, lambda temporary: safetensors.torch.save_file(container, temporary, metadata))
    except (OSError, safetensors.SafetensorError) as error:
        raise FileError(f"The mask could not be saved as {path}: {error}. Free some space and save again.") from error


def _check_savable(weights: Mapping[str, tuple[Tensor, Tensor]], trained: Mapping[str, Tensor]) -> None:
    if not weights:
        raise InvalidInputError("No weight was given, so there is no mask to save. Give each pruned weight with its mask.")
    both = [name for name in trained if name in weights]
    if both:
        raise InvalidInputError(
            f"{enumeration(both)} was given with a mask and as trained. A weight with a mask stays as it was; give it once."
        )
    for name, tensor in [*((name, W) for name, (W, _) in weights.items()), *trained.items()]:
        if reason := unfit(tensor):
            raise InvalidInputError(f"{name} cannot be saved with a mask: it {reason}.")
    for name, (W, M) in weights.items():
        if M.dtype is not torch.bool or M.shape != W.shape:
            raise InvalidInputError(
                f"The mask of {name} was given as {kind_of(M)}; it is bool {shape_of(W)}, as its weight: True where kept."
            )
        if not W.numel() or W.dim() > MOST_DIMENSIONS:
            raise InvalidInputError(
                f"{name} was given with shape {shape_of(W)}; a weight with a mask has a value at least, and {MOST_DIMENSIONS} "
                "dimensions at most."
            )


def _check_overwritable(path: Path) -> None:
    """Raises if the name is taken by something that is no mask: a typing error must not cost a checkpoint."""
    if not path.exists():
        return
    try:
        other = check_safetensors(path).get("format") != FORMAT
    except InvalidInputError:
        other = True
    if other:
        raise InvalidInputError(f"{path} exists already and is no mask, so it is not overwritten. Give another name.")


def unfit(tensor: Tensor) -> str | None:
    """Says what keeps a tensor from being masked or saved, if anything does."""
    dtensor = sys.modules.get("torch.distributed.tensor")  # loaded, if there is one
    if dtensor is not None and isinstance(tensor, dtensor.DTensor):
        return "is sharded over processes, which is not supported; take a whole model in each process"
    if tensor.is_meta:
        return "is on the meta device, without values; load the model in full"
    if tensor.layout is not torch.strided or tensor.dtype not in DTYPES.values():
        return f"is {kind_of(tensor)}, {tensor.layout}; only dense floats of 16, 32 or 64 bits are supported"
    return None


def kind_of(tensor: Tensor) -> str:
    """Returns `float32 (5, 3)`, say."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {shape_of(tensor)}"


def shape_of(tensor: Tensor) -> str:
    """Returns `(5, 3)`, say."""
    return str(tuple(tensor.shape))


# Reading.


def read(path: str | Path) -> MaskFile:
    """Reads a mask's file, in full.

    Raises:
        InvalidInputError: if it is missing, none, damaged or cut off, or of another version.
    """
    with _telling(path):
        container: Any
        with safetensors.safe_open(path, framework="pt") as container:
            said = _said(container.metadata() or {})
            if said.keys() != set(container.keys()):
                differing = enumeration(sorted(name[:80] for name in said.keys() ^ set(container.keys())))
                raise InvalidInputError(f"its header describes other tensors than it holds: {differing}")
            masks = {name.removeprefix(MASK): name for name in said if name.startswith(MASK)}
            trained = {name.removeprefix(TRAINED): name for name in said if name.startswith(TRAINED)}
            if len(masks) + len(trained) < len(said) or masks.keys() & trained.keys() or not masks:
                raise InvalidInputError("its tensors are not masks, one at least, and trained values of other parameters")
            return MaskFile(
                {name: _mask(container, full, said[full]) for name, full in masks.items()},
                {name: _text(full, said[full], "weight") for name, full in masks.items()},
                {name: _value(container, full, said[full]) for name, full in trained.items()},
            )


@contextmanager
def _telling(path: str | Path) -> Iterator[None]:
    """Lets errors say which file could not be read."""
    try:
        yield
    except (InvalidInputError, safetensors.SafetensorError, OSError) as error:
        raise InvalidInputError(f"{path} cannot be read: {error}. Choose a whole file, or save the mask again.") from error


def _said(metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """What the header says of each tensor."""
    if metadata.get("format") != FORMAT:
        raise InvalidInputError("it is no mask: its header names another format, or none")
    version = metadata.get("version", "")
    if version != VERSION:
        raise InvalidInputError(f"its version is {version[:20]!r}, and this fineprune reads version {VERSION}")
    tensors = metadata.get("tensors", "")
    if metadata.get("checksum") != checksum(tensors.encode()):
        raise InvalidInputError("the description of its tensors and the checksum of that do not belong together")
    try:
        said = json.loads(tensors)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"the description of its tensors cannot be read ({error})") from error
    if not isinstance(said, dict) or not all(isinstance(each, dict) for each in said.values()):
        raise InvalidInputError("the description of its tensors is no object of objects")
    return said


def _mask(container: Any, name: str, said: Mapping[str, Any]) -> Packed:
    shape = said.get("shape")
    if not isinstance(shape, list) or len(shape) > MOST_DIMENSIONS or not all(type(size) is int and size > 0 for size in shape):
        raise InvalidInputError(f"{name[:80]} has no possible shape: {str(shape)[:80]}")
    size = math.prod(shape)
    bits = _tensor(container, name, said, "U8", [-(-size // 8)]).numpy()
    if size % 8 and bits[-1] >> size % 8:
        raise InvalidInputError(f"{name[:80]} has bits set beyond its {size:,} values")
    return Packed(tuple(shape), bits)


def _value(container: Any, name: str, said: Mapping[str, Any]) -> Tensor:
    dtype = _text(name, said, "dtype")
    if dtype not in DTYPES:
        raise InvalidInputError(f"{name[:80]} is said to be {dtype[:40]}; known are {enumeration(DTYPES)}")
    return _tensor(container, name, said, dtype, said.get("shape"))


def _tensor(container: Any, name: str, said: Mapping[str, Any], dtype: str, shape: Any) -> Tensor:
    """Reads a tensor of this dtype and shape, whose checksum is right."""
    held = container.get_slice(name)
    if [held.get_dtype(), list(held.get_shape())] != [dtype, shape]:
        raise InvalidInputError(
            f"{name[:80]} is {held.get_dtype()} {held.get_shape()}, and its description asks for {dtype} {str(shape)[:80]}"
        )
    tensor: Tensor = container.get_tensor(name).clone()  # not a view of the file, which may change
    if checksum(bytes_of(tensor)) != _text(name, said, "checksum"):
        raise InvalidInputError(f"{name[:80]} and its checksum do not belong together")
    return tensor


def _text(name: str, said: Mapping[str, Any], key: str) -> str:
    text = said.get(key)
    if not isinstance(text, str):
        raise InvalidInputError(f"{name[:80]} says {key} {str(text)[:40]!r}, which is no text")
    return text
