"""Builds a saved model, shrunken or stock: the class of its config, fitted to its tensors."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...errors import InvalidInputError, enumeration, require
from ...files import check_memory
from ...models import targets
from .fitting import fit
from .reading import folder_of, loading_errors, read_config, read_tensors
from .slots import WHOLE
from .stock import is_marked, mark
from .weights import held

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

logger = logging.getLogger(__name__)

GENERATION = "generation_config.json"


def from_pretrained(name: str | Path, head: str | None = None, attn_implementation: str | None = None) -> "PreTrainedModel":
    """Loads a saved model, shrunken or stock, in evaluation mode. Only plain tensors are read, and no code.

    Args:
        name: a folder, or a name on the Hub.
        head: the class of Transformers that loads it, as AutoModelForSequenceClassification; None: as the config says.
            A head that the checkpoint lacks is made anew.
        attn_implementation: as in Transformers.

    Raises:
        InvalidInputError: if it is no checkpoint, tensors are missing or left over, or sizes do not belong together.
    """
    require("hub", "transformers")
    try:
        config = read_config(name)
        if attn_implementation is not None:
            config._attn_implementation = attn_implementation
        if is_marked(config):
            return load_marked(name, config, head)
        return _stock(name, class_of(config, head), config, head)
    except InvalidInputError:
        raise
    except loading_errors() as error:
        raise InvalidInputError(f"{name} could not be loaded: {' '.join(str(error).split())}") from error


def _stock(name: str | Path, kind: Any, config: "PreTrainedConfig", head: str | None) -> "PreTrainedModel":
    loaded: tuple[PreTrainedModel, dict[str, Any]] = kind.from_pretrained(
        name, config=config, use_safetensors=True, output_loading_info=True
    )
    model, report = loaded
    missing = sorted(report["missing_keys"])
    if head is not None:  # a head that the checkpoint lacks is made anew
        missing = targets.inside_blocks(model, missing)
    if missing:
        raise InvalidInputError(f"{name} lacks tensors that its config names: {enumeration(missing)}. {WHOLE}")
    if head is None and report["unexpected_keys"]:
        unread = enumeration(sorted(report["unexpected_keys"]))
        logger.warning("%s has no place for %s, which are left out.", type(model).__name__, unread)
    return model


def load_marked(name: str | Path, config: "PreTrainedConfig", head: str | None) -> "PreTrainedModel":
    """Loads a shrunken model that is not stock.

    Args:
        name: as in `from_pretrained`.
        config: as `read_config` gives it, with changes for the head perhaps.
        head: as in `from_pretrained`.

    Raises:
        InvalidInputError: as `from_pretrained`; and what Transformers raises for a config of which it cannot make a model.
    """
    from transformers import GenerationConfig

    folder = folder_of(name)
    model = built(class_of(config, head), config)
    tensors = _current_names(model, read_tensors(folder))
    new: list[str] = []
    if head is not None:
        tensors = _renamed(model, tensors)
        saved = {_part(model, key) for key in tensors}
        new = [key for key, _ in held(model) if key not in tensors and (_is_head(model, key) or _part(model, key) not in saved)]
        if new:
            logger.warning("%s has no head of this form (%s), and a new one is trained.", name, enumeration(sorted(new)))
    fit(model, tensors, new)
    _initialise(model)
    mark(model)
    if (folder / GENERATION).is_file() and model.can_generate():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    model.eval()
    return model


def class_of(config: "PreTrainedConfig", head: str | None) -> Any:
    """Returns the class, or the Auto class, that makes a model of a config; AutoModel where none is named."""
    import transformers

    wanted = head or (config.architectures or ["AutoModel"])[0]
    kind = getattr(transformers, wanted, None) if isinstance(wanted, str) else None
    auto = kind is not None and wanted.startswith("AutoModel")
    if not auto and not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        says = f"The config says architectures {config.architectures!r}" if head is None else f"head was given as {head!r}"
        raise InvalidInputError(
            f"{says}, no class of Transformers. Name one that makes this model, as AutoModelForSequenceClassification."
        )
    return kind


def built(kind: Any, config: "PreTrainedConfig") -> "PreTrainedModel":
    """Makes a model on the meta device, but for the buffers that are not saved: these are computed."""
    model = on_meta(kind, config)
    compute_unsaved(model)
    return model


def on_meta(kind: Any, config: "PreTrainedConfig") -> "PreTrainedModel":
    """Makes a model on the meta device. Raises what Transformers raises for a config of which it cannot make one."""
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
            if buffer is not None:
                module._buffers[key] = torch.empty_like(buffer, device="cpu")
        if module._non_persistent_buffers_set:
            model._init_weights(module)


def _initialise(model: "PreTrainedModel") -> None:
    """Makes the parameters that are still on the meta device anew, as those of a head that was not saved."""
    for module in model.modules():
        fresh = {key: p for key, p in module._parameters.items() if p is not None and p.device.type == "meta"}
        for key, parameter in fresh.items():
            module._parameters[key] = nn.Parameter(torch.empty_like(parameter, device="cpu"), parameter.requires_grad)
        if fresh:
            model._init_weights(module)


def _is_head(model: "PreTrainedModel", key: str) -> bool:
    """Whether a tensor lies outside the base of a model that has a head."""
    prefix = model.base_model_prefix
    return prefix in model._modules and not key.startswith(f"{prefix}.")


def _current_names(model: "PreTrainedModel", tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gives tensors the names of modules, where Transformers saves them under older ones."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    renamings = [one for one in get_model_conversion_mapping(model, add_legacy=False) if isinstance(one, WeightRenaming)]
    return {rename_source_key(name, renamings, [])[0]: tensor for name, tensor in tensors.items()}


def _renamed(model: "PreTrainedModel", tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gives tensors saved with another head, or without one, the names that they have here; parts of no use are left out."""
    prefix = f"{model.base_model_prefix}."
    headed, saved_headed = model.base_model_prefix in model._modules, any(key.startswith(prefix) for key in tensors)
    if headed and not saved_headed:
        tensors = {f"{prefix}{key}": tensor for key, tensor in tensors.items()}
    if not headed and saved_headed:
        tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    state = dict(held(model))
    parts = {_part(model, key) for key in state}
    kept = {key: tensor for key, tensor in tensors.items() if _part(model, key) in parts}
    heads = {key for key in kept if _is_head(model, key)}
    fits = {key for key in heads if key in state and kept[key].shape[:1] == state[key].shape[:1]}
    return {key: tensor for key, tensor in kept.items() if key not in heads or key in fits}


def _part(model: "PreTrainedModel", key: str) -> str:
    """The part of a model, or of its base, that a tensor belongs to: `bert.pooler`, `classifier`."""
    names = key.split(".")
    return ".".join(names[: 2 if names[0] == model.base_model_prefix else 1])
