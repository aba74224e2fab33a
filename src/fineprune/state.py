"""The two files of a pruner's state: tensors in `pruner.safetensors`, facts in `pruner.json`.

Each is written beside its final name, flushed to the disk and renamed, the facts last. Both carry
the same random id, so that a pair put together from two saves is noticed. Nothing is pickled.
"""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from .errors import FileError, InvalidInputError

TENSORS = "pruner.safetensors"
FACTS = "pruner.json"


def write(folder: str | Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Writes both files into the folder, made if absent.

    Raises:
        FileError: if the disk is full or the folder cannot be written; no partial file is left.
    """
    folder = Path(folder)
    save = uuid.uuid4().hex
    text = json.dumps({"save": save, **facts}, indent=2, allow_nan=False) + "\n"
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_whole(folder / TENSORS, lambda path: safetensors.torch.save_file(contiguous, path, metadata={"save": save}))
        replace_whole(folder / FACTS, lambda path: path.write_text(text, encoding="utf-8"))
    except (OSError, safetensors.SafetensorError) as error:
        raise FileError(
            f"The pruner's state could not be saved in {folder}: {error}. Free some space and save again."
        ) from error


def replace_whole(path: Path, writer: Callable[[Path], Any]) -> None:
    """Writes a file so that its name always holds a whole one: the old, then the new."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        writer(temporary)
        flush(temporary)
        os.replace(temporary, path)
        flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def refuse_occupied(folder: str | Path) -> None:
    """Raises InvalidInputError if there is something of this name already, but for an empty folder."""
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InvalidInputError(f"{folder} exists already, and nothing is overwritten. Give a new folder.")


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Gives a folder to write into, beside the new one, whose name it takes once all is written.

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
        raise FileError(
            f"{folder} could not be written: {error}. Give a new folder on a disk with space, and again."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def flush(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_facts(folder: str | Path) -> dict[str, Any]:
    """Reads the facts and checks that the tensors beside them are whole and of the same save.

    Raises:
        InvalidInputError: if a file is missing, truncated, or not of this save.
    """
    folder = Path(folder)
    for name in (FACTS, TENSORS):
        if not (folder / name).is_file():
            raise InvalidInputError(
                f"{folder} holds no {name}: it is not a checkpoint of a pruned run, or its save did not finish. "
                "Choose a whole checkpoint."
            )
    try:
        facts: dict[str, Any] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        save = facts["save"]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInputError(f"{folder / FACTS} is damaged: {error}. Choose a whole checkpoint.") from error
    metadata = check_safetensors(folder / TENSORS)
    if metadata.get("save") != save:
        raise InvalidInputError(f"{TENSORS} and {FACTS} in {folder} come from two different saves. Choose a whole checkpoint.")
    return facts


def check_safetensors(path: Path) -> dict[str, str]:
    """Returns the metadata of a safetensors file; raises InvalidInputError if it is damaged or cut off."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise InvalidInputError(f"{path} is damaged: {error}. Choose a whole checkpoint.") from error


def read_tensors(folder: str | Path, rows: Mapping[str, slice] | None = None) -> dict[str, Tensor]:
    """Reads the tensors; call `read_facts` first.

    Args:
        folder: of the state.
        rows: which rows to read, by the beginning of a tensor's name up to a point; of the others all.
    """
    if not rows:
        return safetensors.torch.load_file(Path(folder) / TENSORS)
    with safetensors.safe_open(Path(folder) / TENSORS, framework="pt") as file:
        return {name: _read(file, name, _of_beginning(rows, name)) for name in file.keys()}  # noqa: SIM118, it is no mapping


def _of_beginning(rows: Mapping[str, slice], name: str) -> slice | None:
    """Returns the rows for a name or the longest beginning of it, as `moments.W` of `moments.W.exp_avg`."""
    while name not in rows and name:
        name = name.rpartition(".")[0]
    return rows.get(name)


def _read(file: Any, name: str, rows: slice | None) -> Tensor:
    stored = file.get_slice(name)
    tensor: Tensor = file.get_tensor(name) if rows is None or not stored.get_shape() else stored[rows]
    return tensor
