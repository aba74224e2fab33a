"""Saves a model in a new folder, whole or not at all."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import InvalidInputError
from ...files import new_folder
from .building import class_named, on_meta
from .fitting import fit
from .stock import is_marked, plain
from .weights import Weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def save(model: "PreTrainedModel", folder: str | Path, beside: Iterable[Path] = ()) -> None:
    """Saves a model in a new folder, whole or not at all.

    The files are those of `model.save_pretrained`, which does as well; here it is checked that the model can be loaded again.

    Args:
        model: shrunken or not.
        folder, beside: as for `new_folder`, whose errors are raised.

    Raises:
        InvalidInputError: if the model could not be loaded, since its class makes another of its config; before anything is
            written.
    """
    if is_marked(model.config):
        _check_loadable(model)
    with new_folder(folder, beside) as temporary:
        model.save_pretrained(temporary)


def _check_loadable(model: "PreTrainedModel") -> None:
    kind = type(model)
    try:
        if class_named(kind.__name__) is not kind:
            raise InvalidInputError(f"{kind.__name__} is no class of Transformers, nor of a registered architecture.")
        fit(on_meta(kind, type(model.config).from_dict(plain(model.config))), Weights(model).tensors)
    except InvalidInputError as error:
        raise InvalidInputError(
            f"This shrunken {kind.__name__} could be saved, but not loaded: it is not what the class makes of the config "
            f"({error}) Shrink the model as it was loaded, before changes of your own."
        ) from error
