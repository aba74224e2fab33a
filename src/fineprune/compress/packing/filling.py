"""Fits a new model on the meta device to a packed file, and fills it from there."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ...files import check_memory
from ...models.layers import is_transposed
from ...sparse.format import MOST_COLS, SparseMatrix
from ..resizing.building import class_of, compute_unsaved, on_meta
from ..resizing.fitting import fit
from ..resizing.slots import Slots
from ..resizing.stock import is_marked
from ..resizing.weights import held
from .header import Entry, Raw, Sparse
from .read import PackedFile

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def fitted(packed: PackedFile, config: "PreTrainedConfig", head: str | None) -> "PreTrainedModel":
    """Returns a model on the meta device whose tensors have the names and shapes of those in the file.

    Buffers that are in no file are computed.

    Args:
        packed: the open file.
        config: of the model, shrunken or stock.
        head: the class of Transformers; None: as the config says.

    Raises:
        InvalidInputError: if the class makes other tensors of the config; and what Transformers raises for a config of which
            it cannot make a model.
    """
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
    if isinstance(entry, Raw) and entry.dtype == torch.bool:
        check_memory(entry.nbytes, f"{packed.path}: {name[:80]}")
        return packed.tensor(name)
    return torch.empty(entry.shape, dtype=entry.dtype if isinstance(entry, Raw) else torch.float32, device="meta")


def fill(model: nn.Module, packed: PackedFile, names: Iterable[str]) -> None:
    """Gives a fitted model the tensors of these names, wherever each is shared."""
    state, sharing = dict(held(model)), _sharing(model)
    for name in names:
        value = packed.tensor(name)
        old = state[name]
        new = nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value
        for full in sharing[name]:
            module, _, last = full.rpartition(".")
            setattr(model.get_submodule(module), last, new)


def sparse_layers(model: nn.Module, entries: Mapping[str, Entry]) -> dict[str, list[str]]:
    """Returns the name of each tensor that can stay sparse -> the linear layers whose weight it is; it is nothing else."""
    sharing, layers = _sharing(model), {}
    for name, entry in entries.items():
        owners = [full.rpartition(".") for full in sharing[name]]
        if isinstance(entry, Sparse) and all(
            last == "weight" and _can_be_sparse(model.get_submodule(module), entry) for module, _, last in owners
        ):
            layers[name] = [module for module, _, _ in owners]
    return layers


def _can_be_sparse(module: nn.Module, entry: Sparse) -> bool:
    if is_transposed(module):
        return entry.rows <= MOST_COLS
    return type(module) is nn.Linear and entry.cols <= MOST_COLS


def matrix_of(model: nn.Module, packed: PackedFile, name: str, layer: str) -> SparseMatrix:
    """Returns the sparse matrix of a linear layer, outputs x inputs, however it lies in the file."""
    matrix = packed.matrix(name)
    return transposed(matrix) if is_transposed(model.get_submodule(layer)) else matrix


def transposed(matrix: SparseMatrix) -> SparseMatrix:
    """Returns the transpose of a matrix with single rows, with float32 values: what were scales of rows are none of columns."""
    rows, columns = matrix.kept()
    values = matrix.values.to(torch.float32)
    values = values if matrix.scales is None else values * matrix.scales[rows, None]
    order = columns.argsort(stable=True)
    starts = torch.zeros(matrix.cols + 1, dtype=torch.int64)
    torch.cumsum(columns.bincount(minlength=matrix.cols), 0, out=starts[1:])
    turned = torch.from_numpy(rows[order].numpy().astype(np.uint16))
    return SparseMatrix(matrix.cols, matrix.rows, starts, turned, values[order])


def _sharing(model: nn.Module) -> dict[str, list[str]]:
    """Returns each name in the model's state -> all names of the same tensor."""
    names: dict[int, list[str]] = {}
    for name, tensor in held(model):
        names.setdefault(id(tensor), []).append(name)
    return {name: same for same in names.values() for name in same}
