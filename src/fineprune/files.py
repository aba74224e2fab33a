"""Files: written beside their name and renamed at the end, so whole or not at all; checked before they are trusted."""

import contextlib
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import safetensors.torch

from .errors import FileError, InvalidInputError


def replace_whole(path: Path, writer: Callable[[Path], Any]) -> None:
    """Writes a file so that its name always holds a whole one: the old, then the new.

    Args:
        path: of the file; its folder must exist.
        writer: writes the file to the temporary path that it is given.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        writer(temporary)
        flush(temporary)
        os.replace(temporary, path)
        flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder to write into, and renames it to `folder` once the block has ended.

    Raises:
        FileError: if it cannot be written; nothing of it is left then.
    """
    final = folder.resolve()
    temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.mkdir(parents=True)
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
    """Raises InvalidInputError if something would take more memory than this machine has.

    Args:
        nbytes: its size in bytes.
        what: its name in the message: "The model in FOLDER".
    """
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
