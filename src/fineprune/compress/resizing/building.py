"""Builds a saved model whose layers have other sizes than its config says: a new one of its class, fitted to its tensors.

Of the folder a config and plain tensors are read, and nothing is run.
"""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ...errors import InvalidInputError, enumeration, require
from ...files import check_memory
from ...models import architectures
from .fitting import fit
from .stock import MARK, PER_LAYER, READABLE, is_marked, mark
from .weights import WHOLE, held

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

logger = logging.getLogger(__name__)

TENSORS = "model.safetensors"
GENERATION = "generation_config.json"


@contextmanager
def loading(name: str | Path, kind: str = "a model") -> Iterator[None]:
    """Turns the errors that Transformers raises for a folder, a file or a setting into one that names the folder."""
    require("hub", "transformers")
    import pickle

    from huggingface_hub.errors import StrictDataclassError

    known = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, ImportError)
    rare = (AssertionError, safetensors.SafetensorError, pickle.UnpicklingError, StrictDataclassError)
    try:
        yield
    except InvalidInputError:
        raise
    except (*known, *rare) as error:
        raise InvalidInputError(f"{name} could not be loaded as {kind}: {' '.join(str(error).split())}") from error


def read_config(name: str | Path) -> "PreTrainedConfig":
    """Reads the config of a saved model without the settings written for other programs; raises as Transformers does."""
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
    names = _shards(index) if index.is_file() and not (folder / TENSORS).is_file() else [TENSORS]
    tensors: dict[str, Tensor] = {}
    for name in names:
        if not (folder / name).is_file():
            raise InvalidInputError(f"{folder} holds no {name}: {WHOLE}")
        tensors |= safetensors.torch.load_file(folder / name)
    return tensors


def _shards(index: Path) -> list[str]:
    """Returns the files that an index names, all of them in its folder."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidInputError(f"{index} could not be read: {error}. {WHOLE}") from error
    strange = [name for name in names if Path(name).name != name]
    if strange:
        raise InvalidInputError(f"{index} names files outside its folder: {enumeration(strange)}. {WHOLE}")
    return names


def load_resized(name: str | Path, config: "PreTrainedConfig", head: str | None) -> "PreTrainedModel":
    """Loads a shrunken model that is not stock, with the config of `read_config` and a head as in `from_pretrained`."""
    folder = folder_of(name)
    model = on_meta(class_of(config, head), config)
    compute_unsaved(model)
    tensors = _current_names(model, read_tensors(folder))
    new: list[str] = []
    if head is not None:
        tensors = _renamed(model, tensors)
        saved = {_part(model, key) for key in tensors}
        new = [key for key, _ in held(model) if key not in tensors and (is_head(model, key) or _part(model, key) not in saved)]
        if new:
            logger.warning("%s has no head of this form (%s), and a new one is trained.", name, enumeration(sorted(new)))
    fit(model, tensors, new)
    _initialise(model)
    return finished(model, folder)


def finished(model: "PreTrainedModel", folder: Path) -> "PreTrainedModel":
    """Returns a model that was filled, in evaluation mode, with the settings for generation that lie in its folder."""
    from transformers import GenerationConfig

    if is_marked(model.config):
        mark(model)
    if (folder / GENERATION).is_file() and model.can_generate():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    model.eval()
    return model


def class_of(config: "PreTrainedConfig", head: str | None) -> Any:
    """Returns the class, or the Auto class, that makes a model of a config; AutoModel where none is named."""
    import transformers

    wanted = head or (config.architectures or ["AutoModel"])[0]
    kind = class_named(wanted) if isinstance(wanted, str) else None
    auto = kind is not None and wanted.startswith("AutoModel")
    if not auto and not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        source = f"The config says architectures {config.architectures!r}" if head is None else f"head is {head!r}"
        raise InvalidInputError(
            f"{source}, no class of Transformers. Name one that makes this model, as AutoModelForSequenceClassification."
        )
    return kind


def class_named(name: str) -> Any:
    """Returns the class of this name in Transformers, or in the module of a registered architecture; None if there is none."""
    import transformers

    modules = (transformers, *(sys.modules.get(architecture.module) for architecture in architectures.ARCHITECTURES))
    return next((kind for module in modules if (kind := getattr(module, name, None)) is not None), None)


def on_meta(kind: Any, config: "PreTrainedConfig") -> "PreTrainedModel":
    """Makes a model on the meta device. Raises the errors of Transformers for a config of which it cannot make one."""
    with torch.device("meta"):
        model: PreTrainedModel = kind.from_config(config) if hasattr(kind, "from_config") else kind._from_config(config)
    return model


def compute_unsaved(model: "PreTrainedModel") -> None:
    """Computes the buffers of a model that are not saved; raises InvalidInputError if they do not fit in memory."""
    unsaved = [module._buffers[key] for module in model.modules() for key in module._non_persistent_buffers_set]
    check_memory(sum(buffer.nbytes for buffer in unsaved if buffer is not None), "A model of this config")
    for module in model.modules():
        for key in module._non_persistent_buffers_set:
            buffer = module._buffers[key]
            module._buffers[key] = None if buffer is None else torch.empty_like(buffer, device="cpu")
        if module._non_persistent_buffers_set:
            model._init_weights(module)


def _initialise(model: "PreTrainedModel") -> None:
    """Initialises the parameters that are still on the meta device: those of a head that was not saved."""
    for module in model.modules():
        parameters = module.named_parameters(recurse=False, remove_duplicate=False)
        fresh = [(key, parameter) for key, parameter in parameters if parameter.is_meta]
        for key, parameter in fresh:
            setattr(module, key, nn.Parameter(torch.empty_like(parameter, device="cpu"), parameter.requires_grad))
        if fresh:
            model._init_weights(module)


def is_head(model: "PreTrainedModel", key: str) -> bool:
    """Whether a tensor belongs to the head of a model: it lies outside of the base that the model has."""
    prefix = model.base_model_prefix
    return prefix in dict(model.named_children()) and not key.startswith(f"{prefix}.")


def _current_names(model: "PreTrainedModel", tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gives tensors the names of modules, where Transformers saves them under older ones."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    renamings = [one for one in get_model_conversion_mapping(model, add_legacy=False) if isinstance(one, WeightRenaming)]
    return {rename_source_key(name, renamings, [])[0]: tensor for name, tensor in tensors.items()}


def _renamed(model: "PreTrainedModel", tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gives tensors saved with another head, or without one, the names that they have here; others are left out."""
    prefix = f"{model.base_model_prefix}."
    headed = model.base_model_prefix in dict(model.named_children())
    saved_headed = any(key.startswith(prefix) for key in tensors)
    if headed and not saved_headed:
        tensors = {f"{prefix}{key}": tensor for key, tensor in tensors.items()}
    if not headed and saved_headed:
        tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    state = dict(held(model))
    parts = {_part(model, key) for key in state}
    kept = {key: tensor for key, tensor in tensors.items() if _part(model, key) in parts}
    strange = {key for key in kept if key not in state or kept[key].shape[:1] != state[key].shape[:1]}
    return {key: tensor for key, tensor in kept.items() if key not in strange or not is_head(model, key)}


def _part(model: "PreTrainedModel", key: str) -> str:
    """The part of a model, or of its base, that a tensor belongs to: `bert.pooler`, `classifier`."""
    names = key.split(".")
    return ".".join(names[: 2 if names[0] == model.base_model_prefix else 1])
