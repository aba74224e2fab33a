"""The config of a packed folder: what it asks Transformers to build is compared with the tensors first."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...errors import InvalidInputError, require
from ..resizing.reading import loading_errors, read_config
from .header import Entry, is_count
from .read import AGAIN, opened
from .write import PACKED

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CONFIG = "config.json"

LAYERS = ("num_hidden_layers", "num_layers", "num_decoder_layers", "encoder_layers", "decoder_layers", "n_layers", "n_layer")
"""Settings of configs that say how many layers are built, each of which has tensors."""

LABELS = ("num_labels", "_num_labels")
"""Settings of configs that say for how many classes names are made up."""

USUAL_LABELS = 4
"""A config may say so many of a model without a head."""


def is_packed(folder: str | Path) -> bool:
    """Whether a folder holds a packed model."""
    return (Path(folder) / PACKED).is_file()


def read_settings(folder: str | Path) -> "PreTrainedConfig":
    """Reads the config of a packed folder, for float32 numbers.

    Raises:
        InvalidInputError: if it is no packed folder, or the config says more layers or classes than the file has tensors for.
    """
    if not is_packed(folder):
        raise InvalidInputError(
            f"{folder} holds no {PACKED}: it is no packed model. fineprune pack makes one of a saved model, and "
            "fineprune.from_pretrained loads a saved model that is not packed."
        )
    with telling(folder), opened(Path(folder) / PACKED) as packed:
        _check_held(folder, packed.entries)
        config = read_config(folder)
    config.dtype = torch.float32
    return config


@contextmanager
def telling(folder: str | Path) -> Iterator[None]:
    """Makes what Transformers raises, for a config of which it cannot make a model, an error in words."""
    require("hub", "transformers")
    try:
        yield
    except InvalidInputError:
        raise
    except loading_errors() as error:
        raise InvalidInputError(f"{folder} could not be loaded: {' '.join(str(error).split())}") from error


def _check_held(folder: str | Path, entries: Mapping[str, Entry]) -> None:
    """Raises if a config would let Transformers build layers, or make up names of classes, beyond what tensors there are."""
    widest = max((size for entry in entries.values() for size in entry.shape), default=0)
    most = dict.fromkeys(LAYERS, len(entries)) | dict.fromkeys(LABELS, max(widest, USUAL_LABELS))
    for name, value in _settings(json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))):
        if name in most and value is not None and not (is_count(value) and value <= most[name]):
            raise InvalidInputError(
                f"The config of {folder} says {name}: {str(value)[:40]}, and its tensors allow {most[name]} at most. {AGAIN}"
            )


def _settings(config: Any) -> Iterator[tuple[str, Any]]:
    """Yields the settings of a config and of those inside it."""
    if isinstance(config, dict):
        for name, value in config.items():
            yield name, value
            yield from _settings(value)
