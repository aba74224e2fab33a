"""Loads a packed folder: a new model of its config on the meta device, fitted to the packed file and filled from there."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import InvalidInputError
from ...files import check_memory, is_count
from ...models.layers import is_transposed
from ...sparse.format import MOST_COLS, SparseMatrix
from ..resizing.building import class_of, compute_unsaved, finished, loading, on_meta, read_config
from ..resizing.fitting import fit
from ..resizing.stock import is_marked
from ..resizing.weights import Slots
from .header import Entry, RawEntry, SparseEntry
from .read import AGAIN, PackedFile, opened
from .write import PACKED

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

CONFIG = "config.json"

LAYERS = ("num_hidden_layers", "num_layers", "num_decoder_layers", "encoder_layers", "decoder_layers", "n_layers", "n_layer")
"""Settings of configs that state how many layers are built, each of which has tensors."""

LABELS = ("num_labels", "_num_labels")
"""Settings of configs that state for how many classes names are made up."""

USUAL_LABELS = 4
"""A config may state this number of classes for a model without a head."""


def is_packed(folder: str | Path) -> bool:
    """Whether a folder holds a packed model."""
    return (Path(folder) / PACKED).is_file()


def read_settings(folder: str | Path) -> "PreTrainedConfig":
    """Reads the config of a packed folder, for float32 numbers, and checks it before anything is built.

    Raises:
        InvalidInputError: if it is no packed folder, or the config states more layers or classes than the file has tensors for.
    """
    if not is_packed(folder):
        raise InvalidInputError(
            f"{folder} holds no {PACKED}: it is no packed model. fineprune pack makes one of a saved model, and "
            "fineprune.from_pretrained loads a saved model that is not packed."
        )
    with loading(folder), opened(Path(folder) / PACKED) as packed:
        _check_held(folder, packed.entries)
        config = read_config(folder)
    config.dtype = torch.float32
    return config


def _check_held(folder: str | Path, entries: Mapping[str, Entry]) -> None:
    """Raises if a config would make Transformers build layers, or make up names of classes, that have no tensors."""
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


def load_packed(folder: str | Path, config: "PreTrainedConfig", head: str | None = None) -> "PreTrainedModel":
    """Loads a packed model as a dense one, with the config of `read_settings` and a head as in `from_pretrained`."""
    with loading(folder), opened(Path(folder) / PACKED) as packed:
        check_memory(sum(entry.nbytes for entry in packed.entries.values()), f"The model in {folder}")
        model = _fitted(packed, config, head)
        fill(model, packed, packed.entries)
        return finished(model, Path(folder))


def load_parts(folder: str | Path) -> tuple["PreTrainedModel", dict[str, SparseMatrix]]:
    """Loads a packed model without its sparse matrices, and these beside it.

    Returns:
        The model, with the weights of the sparse linear layers on the meta device; name of each of these -> its matrix,
        outputs x inputs.
    """
    config = read_settings(folder)
    with loading(folder), opened(Path(folder) / PACKED) as packed:
        model = _fitted(packed, config, None)
        layers = sparse_layers(model, packed.entries)
        dense = [name for name in packed.entries if name not in layers]
        kept = [entry for name, entry in packed.entries.items() if isinstance(entry, SparseEntry) and name in layers]
        nbytes = sum(packed.entries[name].nbytes for name in dense) + sum(entry.sparse_nbytes for entry in kept)
        check_memory(nbytes, f"The model in {folder}")
        fill(model, packed, dense)
        matrices = {layer: packed.matrix(name) for name, owners in layers.items() for layer in owners}
        for layer in matrices:
            if is_transposed(model.get_submodule(layer)):
                matrices[layer] = transposed(matrices[layer])
        return finished(model, Path(folder)), matrices


def _fitted(packed: PackedFile, config: "PreTrainedConfig", head: str | None) -> "PreTrainedModel":
    """Returns a model on the meta device with the tensors of the file; buffers that are in no file are computed."""
    model = on_meta(class_of(config, head), config)
    shapes = {name: _placeholder(packed, name) for name in packed.entries}
    if is_marked(config):
        fit(model, shapes)
    else:
        Slots(model).place(shapes, ())
    compute_unsaved(model)  # only now: their sizes are those of tensors that are there
    return model


def _placeholder(packed: PackedFile, name: str) -> Tensor:
    """Returns a tensor of the shape, without memory; truth values as they are, since sizes are read from them."""
    entry = packed.entries[name]
    if isinstance(entry, RawEntry) and entry.dtype == torch.bool:
        check_memory(entry.nbytes, f"{packed.path}: {name[:80]}")
        return packed.tensor(name)
    return torch.empty(entry.shape, dtype=entry.dtype if isinstance(entry, RawEntry) else torch.float32, device="meta")


def fill(model: nn.Module, packed: PackedFile, names: Iterable[str]) -> None:
    """Gives a fitted model the tensors of these names, wherever each is shared."""
    slots = Slots(model)
    for name in names:
        slots.put(name, packed.tensor(name))


def sparse_layers(model: nn.Module, entries: Mapping[str, Entry]) -> dict[str, list[str]]:
    """Returns the name of each tensor that can stay sparse -> the linear layers whose weight it is; it is nothing else."""
    slots, layers = Slots(model), {}
    for name, entry in entries.items():
        owners = slots.owners(name)
        if isinstance(entry, SparseEntry) and all(
            last == "weight" and _can_be_sparse(model.get_submodule(module), entry) for module, last in owners
        ):
            layers[name] = [module for module, _ in owners]
    return layers


def _can_be_sparse(module: nn.Module, entry: SparseEntry) -> bool:
    if is_transposed(module):
        return entry.rows <= MOST_COLS
    return type(module) is nn.Linear and entry.cols <= MOST_COLS


def transposed(matrix: SparseMatrix) -> SparseMatrix:
    """Returns the transpose of a matrix with single rows, with float32 values: scales of rows would be none of its own rows."""
    rows, columns = matrix.kept()
    values = matrix.values.to(torch.float32)
    values = values if matrix.scales is None else values * matrix.scales[rows, None]
    order = columns.argsort(stable=True)
    starts = torch.zeros(matrix.cols + 1, dtype=torch.int64)
    torch.cumsum(columns.bincount(minlength=matrix.cols), 0, out=starts[1:])
    turned = torch.from_numpy(rows[order].numpy().astype(np.uint16))
    return SparseMatrix(matrix.cols, matrix.rows, starts, turned, values[order])
