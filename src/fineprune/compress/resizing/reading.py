"""Reads the folder of a saved model: a config and plain tensors, and nothing that is run."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors
import safetensors.torch
from torch import Tensor

from ...errors import InvalidInputError, enumeration, require
from .slots import WHOLE
from .stock import MARK, PER_LAYER, READABLE, is_marked

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

TENSORS = "model.safetensors"


def loading_errors() -> tuple[type[Exception], ...]:
    """Returns what Transformers raises for a folder, a file or a setting of which it cannot make a model."""
    import pickle

    from huggingface_hub.errors import StrictDataclassError

    known = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, ImportError)
    return (*known, AssertionError, safetensors.SafetensorError, pickle.UnpicklingError, StrictDataclassError)


def read_config(name: str | Path) -> "PreTrainedConfig":
    """Reads the config of a saved model, shrunken or not, without what is written there for others.

    Raises what Transformers raises where it cannot be read.
    """
    require("hub", "transformers")
    from transformers import AutoConfig, PreTrainedConfig

    raw, _ = PreTrainedConfig.get_config_dict(name)
    if MARK not in raw:
        stock: PreTrainedConfig = AutoConfig.from_pretrained(name)
        return stock
    kind = type(AutoConfig.for_model(raw["model_type"]))
    config: PreTrainedConfig = kind.from_dict({key: value for key, value in raw.items() if key not in (PER_LAYER, READABLE)})
    is_marked(config)
    return config


def folder_of(name: str | Path) -> Path:
    """Returns the folder of a saved model, which is fetched if the name is one on the Hub."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(str(name), allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]))


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Reads the tensors of a folder, in one file or several."""
    index = folder / f"{TENSORS}.index.json"
    names = [TENSORS]
    if not (folder / TENSORS).is_file() and index.is_file():
        names = _parts(index)
    tensors: dict[str, Tensor] = {}
    for name in names:
        if not (folder / name).is_file():
            raise InvalidInputError(f"{folder} holds no {name}: {WHOLE}")
        tensors |= safetensors.torch.load_file(folder / name)
    return tensors


def _parts(index: Path) -> list[str]:
    """Returns the files that an index names, all of them in its folder."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidInputError(f"{index} could not be read: {error}. {WHOLE}") from error
    strange = [name for name in names if Path(name).name != name]
    if strange:
        raise InvalidInputError(f"{index} names files outside its folder: {enumeration(strange)}. {WHOLE}")
    return names
