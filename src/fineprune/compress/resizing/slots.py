"""The places of a model's state, and all the modules that share what lies in one."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from ...errors import InvalidInputError, enumeration
from ...models.layers import is_transposed
from .weights import held

WHOLE = "Choose a whole checkpoint."


class Slots:
    """What a model's state holds, with all the modules that share each tensor."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._owners: dict[int, list[tuple[str, str]]] = {}
        for name, tensor in held(model):
            module, _, last = name.rpartition(".")
            self._owners.setdefault(id(tensor), []).append((module, last))

    def sharing(self, module: str) -> list[str]:
        """Returns the modules that have the same weight as this one, which is among them."""
        return [name for name, _ in self._owners[id(self._model.get_submodule(module).get_parameter("weight"))]]

    def resize(self, module: str, axis: int, size: int) -> None:
        """Gives a linear layer (axis 0: outputs, 1: inputs), a table (axis 1) or a norm (axis 0) another size."""
        owner = self._model.get_submodule(module)
        self._resize(owner.get_parameter("weight"), 1 - axis if is_transposed(owner) else axis, size)
        bias = owner._parameters.get("bias")
        if bias is not None and axis == 0:
            self._resize(bias, 0, size)

    def _resize(self, parameter: nn.Parameter, axis: int, size: int) -> None:
        shape = [size if place == axis else other for place, other in enumerate(parameter.shape)]
        if shape != list(parameter.shape):
            self._give(id(parameter), nn.Parameter(parameter.new_empty(shape, device="meta"), parameter.requires_grad))

    def _give(self, tensor: int, new: Tensor) -> None:
        self._owners[id(new)] = self._owners.pop(tensor)
        for module, last in self._owners[id(new)]:
            owner = self._model.get_submodule(module)
            if isinstance(new, nn.Parameter):
                owner._parameters[last] = new
            else:
                owner._buffers[last] = new
            name_sizes(owner)

    def place(self, tensors: Mapping[str, Tensor], new: Collection[str]) -> None:
        """Puts the tensors in, each where its shape is the one expected."""
        names = {f"{module}.{last}".lstrip(".") for owners in self._owners.values() for module, last in owners}
        strange = [name for name in tensors if name not in names]
        if strange:
            raise InvalidInputError(f"The model has no place for {enumeration(strange)}. {WHOLE}")
        for tensor, owners in list(self._owners.items()):
            sharing = [f"{module}.{last}".lstrip(".") for module, last in owners]
            given = [name for name in sharing if name in tensors]
            if not given and not any(name in new for name in sharing):
                raise InvalidInputError(f"The tensor {sharing[0]} is missing. {WHOLE}")
            if given:
                self._put(tensor, given, tensors)

    def _put(self, tensor: int, given: list[str], tensors: Mapping[str, Tensor]) -> None:
        module, _, last = given[0].rpartition(".")
        owner, value = self._model.get_submodule(module), tensors[given[0]]
        expected = owner._parameters.get(last, owner._buffers.get(last))
        assert expected is not None
        for name in given:
            if tensors[name].shape != expected.shape or tensors[name].is_floating_point() != expected.is_floating_point():
                raise InvalidInputError(
                    f"{name} holds {tensors[name].dtype} of shape {tuple(tensors[name].shape)}; beside the other tensors "
                    f"it would have to be {expected.dtype} of shape {tuple(expected.shape)}. {WHOLE}"
                )
            if tensors[name] is not value and not torch.equal(tensors[name], value):
                raise InvalidInputError(f"{name} and {given[0]} are tied, and differ. {WHOLE}")
        self._give(tensor, nn.Parameter(value, expected.requires_grad) if last in owner._parameters else value)


def name_sizes(module: nn.Module) -> None:
    """Says the sizes of a module's weight where PyTorch and Transformers repeat them."""
    weight = module._parameters.get("weight")
    if weight is None:
        return
    if is_transposed(module):
        module.nx, module.nf = weight.shape  # type: ignore[assignment]
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = weight.shape[1]
