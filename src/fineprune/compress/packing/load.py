"""Loads a packed folder as a model: dense, or with its sparse matrices as they are."""

from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from ...files import check_memory
from ...sparse.format import SparseMatrix
from ..resizing.building import GENERATION
from ..resizing.stock import is_marked, mark
from .filling import fill, fitted, matrix_of, sparse_layers
from .header import Sparse
from .read import opened
from .settings import read_settings, telling
from .write import PACKED

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def load(folder: str | Path, *, sparse: bool = False) -> nn.Module:
    """Loads a packed model, in evaluation mode, with float32 numbers. Nothing of the folder is run as code.

    Args:
        folder: as `fineprune pack` makes it.
        sparse: whether linear layers compute with their sparse matrices, which go straight from the file to them and are
            never dense: a model for inference on the CPU. If not, a stock model.

    Raises:
        InvalidInputError: if it is no packed folder, is damaged, does not fit the config beside it, or does not fit in memory.
    """
    if not sparse:
        return load_packed(folder, read_settings(folder))
    model, matrices = load_parts(folder)
    from ...sparse.convert import assemble

    return assemble(model, matrices)


def load_packed(folder: str | Path, config: "PreTrainedConfig", head: str | None = None) -> "PreTrainedModel":
    """Loads a packed model as a dense one.

    Args:
        folder: as in `load`.
        config: as `read_settings` gives it, with changes perhaps.
        head: the class of Transformers that loads it; None: as the config says.

    Raises:
        InvalidInputError: as `load`.
    """
    with telling(folder), opened(Path(folder) / PACKED) as packed:
        check_memory(sum(entry.nbytes for entry in packed.entries.values()), f"The model in {folder}")
        model = fitted(packed, config, head)
        fill(model, packed, packed.entries)
        return _finished(model, Path(folder))


def load_parts(folder: str | Path) -> tuple["PreTrainedModel", dict[str, SparseMatrix]]:
    """Loads a packed model without its sparse matrices, and these beside it.

    Returns:
        The model, in which the weights of some linear layers are still on the meta device; name of each of these layers ->
        its matrix.

    Raises:
        InvalidInputError: as `load`.
    """
    config = read_settings(folder)
    with telling(folder), opened(Path(folder) / PACKED) as packed:
        model = fitted(packed, config, None)
        layers = sparse_layers(model, packed.entries)
        dense = [name for name in packed.entries if name not in layers]
        kept = [entry for name, entry in packed.entries.items() if isinstance(entry, Sparse) and name in layers]
        nbytes = sum(packed.entries[name].nbytes for name in dense) + sum(entry.sparse_nbytes for entry in kept)
        check_memory(nbytes, f"The model in {folder}")
        fill(model, packed, dense)
        matrices = {layer: matrix_of(model, packed, name, layer) for name, owners in layers.items() for layer in owners}
        return _finished(model, Path(folder)), matrices


def _finished(model: "PreTrainedModel", folder: Path) -> "PreTrainedModel":
    from transformers import GenerationConfig

    if is_marked(model.config):
        mark(model)
    if (folder / GENERATION).is_file() and model.can_generate():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    model.eval()
    return model
