"""Loads any saved model. Its folder says what it is: a stock model, a shrunken one that is not stock, or a packed one."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..errors import InvalidInputError, enumeration
from ..models import targets
from .packing.load import is_packed, load_packed, load_parts, read_settings
from .resizing.building import class_of, is_head, load_resized, loading, read_config
from .resizing.stock import is_marked
from .resizing.weights import WHOLE

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

logger = logging.getLogger(__name__)


def from_pretrained(name: str | Path, head: str | None = None, attn_implementation: str | None = None) -> "PreTrainedModel":
    """Loads any saved model, stock, shrunken or packed, in evaluation mode. Only plain tensors are read, and no code.

    Args:
        name: a folder, or a name on the Hub.
        head: the class of Transformers that loads it, as AutoModelForSequenceClassification; None: as the config says.
            A head that the checkpoint lacks, or has in another size, is initialised. A packed model keeps its own.
        attn_implementation: as in Transformers.

    Raises:
        InvalidInputError: if it is no checkpoint, tensors are missing or left over, or sizes do not fit each other.
    """
    with loading(name):
        saved = open_saved(name)
        if attn_implementation is not None:
            saved.config._attn_implementation = attn_implementation
        return saved.load(head)


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
    from ..sparse.convert import assemble

    return assemble(*load_parts(folder))


@dataclass(frozen=True)
class SavedModel:
    """A saved model of which only the config has been read; settings of it may be changed before the model is loaded.

    Args:
        name: a folder, or a name on the Hub.
        config: of the model.
        use_safetensors: as in Transformers, for a stock model: True reads no other file of weights, None any.
    """

    name: str | Path
    config: "PreTrainedConfig"
    use_safetensors: bool | None

    def load(self, head: str | None = None) -> "PreTrainedModel":
        """Loads the model in evaluation mode, with a head as in `from_pretrained`."""
        if is_packed(self.name):
            return load_packed(self.name, self.config, head)
        if is_marked(self.config):
            return load_resized(self.name, self.config, head)
        return _load_stock(self.name, self.config, head, self.use_safetensors)


def open_saved(name: str | Path, use_safetensors: bool | None = True) -> SavedModel:
    """Reads the config of a folder, or a name on the Hub.

    Raises:
        InvalidInputError: if a packed model or the config of a shrunken one is damaged; and the errors of Transformers where
            there is no config.
    """
    return SavedModel(name, read_settings(name) if is_packed(name) else read_config(name), use_safetensors)


def _load_stock(
    name: str | Path, config: "PreTrainedConfig", head: str | None, use_safetensors: bool | None
) -> "PreTrainedModel":
    loaded: tuple[PreTrainedModel, dict[str, Any]] = class_of(config, head).from_pretrained(
        name, config=config, use_safetensors=use_safetensors, ignore_mismatched_sizes=True, output_loading_info=True
    )
    model, report = loaded
    missing, resized = sorted(report["missing_keys"]), sorted(key for key, *_ in report["mismatched_keys"])
    if head is not None:  # one that is lacking, or of another size, is initialised
        missing = targets.inside_blocks(model, missing)
        new = [key for key in resized if is_head(model, key)]
        resized = [key for key in resized if key not in new]
        if new:
            logger.warning("The head of %s has other sizes (%s), and a new one is trained.", name, enumeration(new))
    if missing:
        raise InvalidInputError(f"{name} lacks tensors that its config names: {enumeration(missing)}. {WHOLE}")
    if resized:
        text = enumeration(resized)
        raise InvalidInputError(f"{name} holds tensors of other sizes than its config says: {text}. {WHOLE}")
    if head is None and report["unexpected_keys"]:
        unread = enumeration(sorted(report["unexpected_keys"]))
        logger.warning("%s has no place for %s, which are left out.", type(model).__name__, unread)
    return model
