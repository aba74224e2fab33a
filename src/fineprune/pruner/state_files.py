"""The two files of a pruner's state: tensors in `pruner.safetensors`, facts in `pruner.json`.

Each is written beside its final name, flushed to the disk and renamed, the facts last. Both carry
the same random id, so that a pair from two different saves is noticed. Nothing is pickled.
"""

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from ..errors import FileError, InvalidInputError
from ..files import check_safetensors, replace_whole

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
