"""Files: written beside their name and renamed at the end, so whole or not at all; checked before they are trusted.

The tensors of masks and of packed models are described in the metadata of their file, under a checksum.
"""

import contextlib
import json
import math
import os
import shutil
import sys
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any, TypeGuard

import safetensors.torch

from .errors import FileError, InvalidInputError, enumeration

MOST_DIMENSIONS = 8
LARGEST = 1 << 48
"""Numbers of a tensor; beyond any memory, and far from where 64 bits overflow."""


def replace_whole(path: Path, writer: Callable[[Path], Any]) -> None:
    """Writes a file so that its name always holds a whole one: the old, then what `writer` writes to the path it is given."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        writer(temporary)
        flush(temporary)
        os.replace(temporary, path)
        flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(folder: str | Path, beside: Iterable[Path] = ()) -> Iterator[Path]:
    """Yields a temporary folder to write into, and renames it to `folder` once the block has ended.

    Args:
        folder: a new one.
        beside: files to copy into it first, as those of a tokenizer.

    Raises:
        InvalidInputError: if the folder is occupied.
        FileError: if it cannot be written; nothing of it is left then.
    """
    check_free(folder)
    final = Path(folder).resolve()
    temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.mkdir(parents=True)
        for path in beside:
            shutil.copyfile(path, temporary / path.name)
        yield temporary
        for path in (*temporary.iterdir(), temporary):
            flush(path)
        os.replace(temporary, final)
        flush(final.parent)
    except (OSError, safetensors.SafetensorError) as error:
        raise FileError(f"{folder} could not be written: {error}. Give a new folder on a disk with space.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_free(folder: str | Path) -> None:
    """Raises InvalidInputError if the name is taken, unless by an empty folder."""
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InvalidInputError(f"{folder} exists already, and nothing is overwritten. Give a new folder.")


def flush(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_safetensors(path: Path) -> dict[str, str]:
    """Returns the metadata of a safetensors file; raises InvalidInputError if it is damaged or cut off."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise InvalidInputError(f"{path} is damaged: {error}. Choose a whole checkpoint.") from error


def check_memory(nbytes: int, what: str) -> None:
    """Raises InvalidInputError if something, as "The model in FOLDER", would take more memory than this machine has."""
    if nbytes > physical_memory():
        raise InvalidInputError(
            f"{what} would take {nbytes:,} bytes of memory, and this machine has {physical_memory():,}. Check where it is "
            "from, or load it on a larger one."
        )


def physical_memory() -> int:
    """Returns the bytes of memory of this machine; sys.maxsize on Windows, which does not tell."""
    if sys.platform == "win32":
        return sys.maxsize
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def crc32(data: memoryview | bytes) -> str:
    """Returns the CRC-32 as eight hexadecimal digits: it notices damage, not forgery."""
    return f"{zlib.crc32(data):08x}"


def header(file_format: str, version: str, tensors: Mapping[str, Mapping[str, Any]], **others: str) -> dict[str, str]:
    """Returns the metadata of a file of a format: its version, others, and the description of each tensor."""
    text = json.dumps(tensors, separators=(",", ":"))
    return {"format": file_format, "version": version, **others, "tensors": text, "checksum": crc32(text.encode())}


def descriptions(
    metadata: Mapping[str, str], file_format: str, check_version: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """Reads the tensors' descriptions of `header`; raises InvalidInputError if the format is another, or they are damaged."""
    if metadata.get("format") != file_format:
        raise InvalidInputError(f"it is no {file_format.removeprefix('fineprune ')}: its header names another format, or none")
    check_version(metadata.get("version", ""))
    text = metadata.get("tensors", "")
    if metadata.get("checksum") != crc32(text.encode()):
        raise InvalidInputError("the description of its tensors and its checksum do not belong together")
    try:
        tensors = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"the description of its tensors cannot be read ({error})") from error
    if not isinstance(tensors, dict) or not all(isinstance(each, dict) for each in tensors.values()):
        raise InvalidInputError("the description of its tensors is no object of objects")
    return tensors


def check_names(described: Set[str], held: Set[str]) -> None:
    """Raises InvalidInputError unless a file holds just the tensors that its header describes."""
    if described != held:
        differing = enumeration(sorted(name[:80] for name in described ^ held))
        raise InvalidInputError(f"its header describes other tensors than it holds: {differing}")


def shape_of(name: str, description: Mapping[str, Any]) -> tuple[int, ...]:
    """Returns the shape in the description of a tensor; raises InvalidInputError if no tensor can have it."""
    shape: Any = description.get("shape")
    possible = isinstance(shape, list) and len(shape) <= MOST_DIMENSIONS and all(map(is_count, shape))
    if not possible or math.prod(shape) > LARGEST:
        raise InvalidInputError(f"{name[:80]} has no possible shape: {str(shape)[:80]}")
    return tuple(shape)


def is_count(value: object) -> TypeGuard[int]:
    """Whether a value of JSON is a whole number from 0 up that fits in 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST


@contextlib.contextmanager
def reading(path: str | Path, remedy: str, name: str | None = None) -> Iterator[None]:
    """Turns an error into one that names the file, the tensor if one is given, and what to do."""
    try:
        yield
    except (InvalidInputError, safetensors.SafetensorError, OSError) as error:
        of = "" if name is None else f"of {name}, "
        raise InvalidInputError(f"{path} cannot be read: {of}{error}. {remedy}") from error
