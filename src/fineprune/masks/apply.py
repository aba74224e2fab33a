"""A mask in force on a model: applied in place, and removed bit for bit."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import InvalidInputError, TrainingError, nearest
from ..files import crc32
from ..models.targets import unwrap
from .bits import PackedMask, bytes_of, fingerprint, integers_of, zero_where_pruned
from .file import dtype_and_shape, read, why_unsupported


def apply_mask(model: nn.Module, path: str | Path) -> "AppliedMask":
    """Writes W * M into a model's weights, in place, +0.0 where pruned, and the trained values of the mask's task.

        with fineprune.apply_mask(model, "sst2.mask.safetensors"):
            model(**batch)

    Args:
        model: the backbone that the mask was made on, in training or evaluation mode, on any device, in float32 or bfloat16
            (float64 too, if its weights are those of float32); it may be wrapped by PyTorch (DDP, `torch.compile`).
        path: of a file that `Pruner.save_mask` wrote.

    Returns:
        An object that removes the mask. It keeps the pruned values on the CPU.

    Raises:
        InvalidInputError: if the file is missing or damaged, another mask is in force, or the mask is of another backbone:
            it names the first parameter that is missing, of another shape, or not the one the mask was made on. A trained
            parameter must be there with the same shape and dtype. Nothing has been changed then.
    """
    model, file = unwrap(model), read(path)
    parameters = dict(model.named_parameters())
    for name, mask in file.masks.items():
        _check_fit(parameters, name, path, mask.shape)
    for name, value in file.trained.items():
        _check_fit(parameters, name, path, tuple(value.shape))
    for name, expected in file.fingerprints.items():
        if fingerprint(parameters[name]) != expected:
            raise InvalidInputError(_another_weight(parameters[name], name, path))
    changes = [Change(name, parameters[name], mask, None) for name, mask in file.masks.items()]
    for name, value in file.trained.items():
        _check_dtype(parameters[name], name, path, value.dtype)
        nothing = PackedMask.of(torch.zeros(value.shape, dtype=torch.bool))
        changes.append(Change(name, parameters[name], nothing, value))
    try:
        for change in changes:
            change.make()
    except BaseException:
        for change in changes:
            change.undo()
        raise
    return AppliedMask(model, changes)


class AppliedMask(AbstractContextManager["AppliedMask"]):
    """A mask in force on a model; a context manager, which removes it at the end."""

    def __init__(self, model: nn.Module, changes: "list[Change]") -> None:
        self._model = model
        self._changes = changes

    def __exit__(self, *error: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Gives the model its own weights back, bit for bit. A second call does nothing.

        The model may have moved to another device since.

        Raises:
            TrainingError: if any parameter that the mask has changed was replaced, is of another shape or dtype, or holds
                anything but the values that the mask gave it: W * M, or the trained ones. Nothing has been changed then, and
                the mask stays in force.
        """
        parameters = dict(self._model.named_parameters())
        for change in self._changes:
            if obstacle := change.obstacle(parameters.get(change.name)):
                raise TrainingError(
                    f"The mask cannot be removed: {change.name} {obstacle}. Nothing was changed. Put back the values that the "
                    "mask gave it; or save the model as it is, and load the backbone again."
                )
        while self._changes:
            self._changes[-1].undo()
            self._changes.pop()


@dataclass(eq=False)
class Change:
    """A change of one parameter, which can be undone.

    Args:
        name: of the parameter.
        parameter: that is changed, in place.
        kept: where it keeps its value.
        value: its new value, all of it replaced; None: it becomes +0.0 where it is not kept.
    """

    name: str
    parameter: nn.Parameter
    kept: PackedMask
    value: Tensor | None
    before: Tensor = field(init=False)
    """The bits that are not kept, in C order; on the CPU, as memory of an accelerator is short and a change of task rare."""
    kind: str = field(init=False)
    checksum: str = field(init=False)
    """Of the parameter after the change."""

    def __post_init__(self) -> None:
        self.kind = dtype_and_shape(self.parameter)
        self.before = integers_of(self.parameter).masked_select(~self._mask()).cpu()

    def make(self) -> None:
        if self.value is None:
            zero_where_pruned(self.parameter, self._mask())
        else:
            integers_of(self.parameter).copy_(integers_of(self.value))
        self.checksum = crc32(bytes_of(self.parameter))

    def undo(self) -> None:
        """Also right for a change that was not made, or only in part."""
        integers_of(self.parameter).masked_scatter_(~self._mask(), self.before.to(self.parameter.device))

    def obstacle(self, parameter: nn.Parameter | None) -> str | None:
        """Returns the reason why the change cannot be undone, to follow the parameter's name; None if it can.

        Args:
            parameter: that the model now has under the name.
        """
        if parameter is not self.parameter:
            return "is no longer the parameter that the mask was applied to"
        if dtype_and_shape(parameter) != self.kind:
            return f"is {dtype_and_shape(parameter)} by now, and was {self.kind}"
        if crc32(bytes_of(parameter)) != self.checksum:
            return "holds other values than the mask gave it: something has changed them since (training, a reload?)"
        return None

    def _mask(self) -> Tensor:
        return self.kept.unpack().to(self.parameter.device)


def _check_fit(parameters: Mapping[str, nn.Parameter], name: str, path: str | Path, shape: tuple[int, ...]) -> None:
    """Raises unless the model has a parameter of this name and shape."""
    if name not in parameters:
        raise InvalidInputError(
            f"{path} is of another model: this one has no parameter {name[:80]!r}; {nearest(name[:80], parameters)} "
            "Load the backbone that the mask was made on, with the same head."
        )
    parameter = parameters[name]
    if reason := why_unsupported(parameter):
        raise InvalidInputError(f"{path} cannot be applied: {name} {reason}.")
    if tuple(parameter.shape) != shape:
        raise InvalidInputError(
            f"{path} is of another model: {name} has shape {tuple(parameter.shape)} here, and {shape} there. Load the backbone "
            "that the mask was made on, with the same head."
        )


def _check_dtype(parameter: nn.Parameter, name: str, path: str | Path, dtype: torch.dtype) -> None:
    """Raises unless a trained parameter is of the dtype in which it was trained."""
    if parameter.dtype is not dtype:
        here, there = (str(each).removeprefix("torch.") for each in (parameter.dtype, dtype))
        raise InvalidInputError(
            f"{path} holds {name} as it was trained, in {there}, and here it is {here}. Convert that module of the model, or "
            f"all of it, to {there} first."
        )


def _another_weight(parameter: nn.Parameter, name: str, path: str | Path) -> str:
    """Returns the message for a weight that is not the one that a mask was made on, with possible reasons."""
    dtype = str(parameter.dtype).removeprefix("torch.")
    message = f"{path} was made on another {name} than the model holds, in {dtype}. "
    zeros = parameter.numel() - int(parameter.detach().count_nonzero())
    if zeros:
        message += f"{zeros:,} of its {parameter.numel():,} values are 0: if another mask is in force, remove() that first. "
    if parameter.dtype is torch.float16:
        message += "A backbone rounded to float16 is not recognised: load it in float32 or bfloat16. "
    return message + "A mask fits only the backbone that it was made on: load that."
