"""A mask in force on a model: put on in place, and taken off bit for bit."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor, nn

from ..errors import InvalidInputError, TrainingError, nearest
from ..models.targets import unwrap
from .bits import INTEGERS, Packed, bytes_of, checksum, fingerprint, zero_where_pruned
from .file import kind_of, read, shape_of, unfit


@dataclass(eq=False)
class Change:
    """What is done to one parameter, and what takes it back.

    Args:
        name: of the parameter.
        parameter: that is changed, in place.
        kept: where it keeps its value.
        value: what all of it becomes; None: +0.0 where it is not kept.
    """

    name: str
    parameter: nn.Parameter
    kept: Packed
    value: Tensor | None
    before: Tensor = field(init=False)
    """The bits that are not kept, in C order; on the CPU, as memory of an accelerator is short and a change of task rare."""
    kind: str = field(init=False)
    checksum: str = field(init=False)
    """Of what the parameter holds after the change."""

    def __post_init__(self) -> None:
        self.kind = kind_of(self.parameter)
        self.before = _bits(self.parameter).masked_select(self._lost()).cpu()

    def make(self) -> None:
        if self.value is None:
            zero_where_pruned(self.parameter, ~self._lost())
        else:
            _bits(self.parameter).copy_(_bits(self.value))
        self.checksum = checksum(bytes_of(self.parameter))

    def undo(self) -> None:
        """Also right for a change that was not made, or only in part."""
        _bits(self.parameter).masked_scatter_(self._lost(), self.before.to(self.parameter.device))

    def _lost(self) -> Tensor:
        return ~self.kept.mask().to(self.parameter.device)

    def hindrance(self, parameter: nn.Parameter | None) -> str | None:
        """Says what keeps it from being undone, if anything does.

        Args:
            parameter: what the model now has under the name.
        """
        if parameter is not self.parameter:
            return "is no longer the parameter that the mask was applied to"
        if kind_of(parameter) != self.kind:
            return f"is {kind_of(parameter)} by now, and was {self.kind}"
        if checksum(bytes_of(parameter)) != self.checksum:
            return "holds other values than the mask gave it: something has changed them since (training, a reload?)"
        return None


def _bits(tensor: Tensor) -> Tensor:
    """The same memory as whole numbers, so that copying keeps every NaN and -0.0 as it is."""
    return tensor.detach().view(INTEGERS[tensor.element_size()])


class AppliedMask:
    """A mask in force on a model; a context manager, at whose end the model gets its own weights back."""

    def __init__(self, model: nn.Module, changes: list[Change]) -> None:
        self._model = model
        self._changes = changes

    def __enter__(self) -> "AppliedMask":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.remove()

    def remove(self) -> None:
        """Gives the model its own weights back, bit for bit, and does nothing the second time.

        The model may have moved to another device since.

        Raises:
            TrainingError: if any parameter that the mask has changed was replaced, is of another shape or dtype, or holds
                anything but what the mask gave it: W * M, or the trained value. Nothing has been changed then, and the mask
                stays in force.
        """
        parameters = dict(self._model.named_parameters())
        for change in self._changes:
            if hindrance := change.hindrance(parameters.get(change.name)):
                raise TrainingError(
                    f"The mask cannot be removed: {change.name} {hindrance}. Nothing was changed. Put back what the mask gave "
                    "it; or save the model as it is, and load the backbone anew."
                )
        while self._changes:
            self._changes[-1].undo()
            self._changes.pop()


def apply_mask(model: nn.Module, path: str | Path) -> AppliedMask:
    """Lets a model hold W * M, +0.0 where pruned, in place, and the trained values of the mask's task.

        with fineprune.apply_mask(model, "sst2.mask.safetensors"):
            model(**batch)

    Args:
        model: the backbone that the mask was made on, in training or evaluation mode, on any device, in float32 or bfloat16
            (float64 too, if its weights are those of float32); wrappers of PyTorch are looked through.
        path: of a file that `Pruner.save_mask` wrote.

    Returns:
        What takes the mask off again. It keeps the pruned values on the CPU.

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
            raise InvalidInputError(_other_weight(parameters[name], name, path))
    for name, value in file.trained.items():
        _check_dtype(parameters[name], name, path, value.dtype)
    changes = [Change(name, parameters[name], mask, None) for name, mask in file.masks.items()]
    for name, value in file.trained.items():
        nothing = Packed.of(torch.zeros(value.shape, dtype=torch.bool))
        changes.append(Change(name, parameters[name], nothing, value))
    _make_all(changes)
    return AppliedMask(model, changes)


def _make_all(changes: list[Change]) -> None:
    """Makes all changes, or none."""
    try:
        for change in changes:
            change.make()
    except BaseException:
        for change in changes:
            change.undo()
        raise


def _check_fit(parameters: Mapping[str, nn.Parameter], name: str, path: str | Path, shape: tuple[int, ...]) -> None:
    """Raises unless the model has a parameter of this name and shape."""
    if name not in parameters:
        raise InvalidInputError(
            f"{path} is of another model: this one has no parameter {name[:80]!r}; {nearest(name[:80], parameters)} "
            "Load the backbone that the mask was made on, with the same head."
        )
    parameter = parameters[name]
    if reason := unfit(parameter):
        raise InvalidInputError(f"{path} cannot be applied: {name} {reason}.")
    if tuple(parameter.shape) != shape:
        raise InvalidInputError(
            f"{path} is of another model: {name} has shape {shape_of(parameter)} here, and {shape} there. Load the backbone "
            "that the mask was made on, with the same head."
        )


def _check_dtype(parameter: nn.Parameter, name: str, path: str | Path, dtype: torch.dtype) -> None:
    """Raises unless a trained parameter is of the dtype in which it was trained."""
    if parameter.dtype is not dtype:
        here, there = (str(each).removeprefix("torch.") for each in (parameter.dtype, dtype))
        raise InvalidInputError(
            f"{path} holds {name} as it was trained, in {there}, and here it is {here}. Turn that part of the model, or all "
            f"of it, into {there} first."
        )


def _other_weight(parameter: nn.Parameter, name: str, path: str | Path) -> str:
    """Says that a weight is not the one that a mask was made on, and what may be the reason."""
    dtype = str(parameter.dtype).removeprefix("torch.")
    message = f"{path} was made on another {name} than the model holds, in {dtype}. "
    zeros = parameter.numel() - int(parameter.detach().count_nonzero())
    if zeros:
        message += f"{zeros:,} of its {parameter.numel():,} values are 0: if another mask is in force, remove() that first. "
    if parameter.dtype is torch.float16:
        message += "If it was rounded to float16, it is not known again: load the backbone in float32 or bfloat16. "
    return message + "A mask fits only the backbone that it was made on: load that."
