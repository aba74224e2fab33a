"""Saves a model as a packed one in a new folder, whole or not at all."""

import copy
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ...errors import require
from ...files import check_free, new_folder
from ..resizing.weights import Weights
from .values import Values
from .write import PACKED, Written, write

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def save(model: "PreTrainedModel", folder: str | Path, values: Values, beside: Iterable[Path] = ()) -> Mapping[str, Written]:
    """Saves a model as a packed one in a new folder.

    Args:
        model: shrunken or not.
        folder: a new one.
        values: how values of matrices are stored.
        beside: files to copy into it, as those of a tokenizer.

    Returns:
        What became of each tensor, by its first name.

    Raises:
        InvalidInputError: if the folder is occupied, or a tensor has values that cannot be stored so.
        FileError: if the folder cannot be written; nothing of it is left then.
    """
    require("sparse", "zstandard")
    check_free(folder)
    config = copy.deepcopy(model.config)
    config.dtype, config.architectures = torch.float32, [type(model).__name__]
    with new_folder(Path(folder)) as temporary:
        for path in beside:
            shutil.copyfile(path, temporary / path.name)
        config.save_pretrained(temporary)
        return write(temporary / PACKED, Weights(model).tensors, values)
