"""The tensors of a model: read by name, to be cut; and the slots where they lie, to be filled with others."""

from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor, nn

from ...errors import InvalidInputError, enumeration
from ...models.layers import is_transposed, own_parameter

WHOLE = "Choose a whole checkpoint."


class Weights:
    """The parameters and the saved buffers of a model, each once.

    Linear layers are seen as outputs x inputs, however they lie in memory.

    Args:
        model: whose tensors are taken as they are, without a copy. Nothing here writes into one.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        seen: dict[int, str] = {}
        self._names = {name: seen.setdefault(id(tensor), name) for name, tensor in held(model)}
        state: dict[str, Tensor] = model.state_dict()
        self.tensors = {first: state[first].detach() for first in dict.fromkeys(self._names.values())}

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[self._names[name]]

    def __setitem__(self, name: str, tensor: Tensor) -> None:
        self.tensors[self._names.get(name, name)] = tensor

    def same(self, name: str) -> str:
        """Returns the first name of the tensor: tied weights have one name here."""
        return self._names[name]

    def sharing(self, name: str) -> list[str]:
        """Returns all names of the tensor that has this one."""
        return [other for other, first in self._names.items() if first == self._names[name]]

    def drop(self, module: str, but: str) -> None:
        """Drops the tensors inside a module, but for those inside another."""
        for name in [name for name in self.tensors if name.startswith(f"{module}.") and not name.startswith(f"{but}.")]:
            del self.tensors[name]

    def matrix(self, linear: str) -> Tensor:
        """Returns the weight of a linear layer, outputs x inputs."""
        weight = self[f"{linear}.weight"]
        return weight.t() if self._transposed(linear) else weight

    def get(self, name: str) -> Tensor | None:
        return self.tensors.get(self._names.get(name, name))

    def bias(self, linear: str) -> Tensor | None:
        return self.get(f"{linear}.bias")

    def keep_outputs(self, linear: str, kept: Tensor) -> None:
        """Keeps these output features of a linear layer: positions, in order."""
        self.keep(f"{linear}.weight", kept, axis=1 if self._transposed(linear) else 0)
        if self.bias(linear) is not None:
            self.keep(f"{linear}.bias", kept, axis=0)

    def keep_inputs(self, linear: str, kept: Tensor) -> None:
        """Keeps these input features of a linear layer: positions, in order. One without any lies as outputs x 0 in memory."""
        self.keep(f"{linear}.weight", kept, axis=0 if self._transposed(linear) else 1)
        if not len(kept):
            self[f"{linear}.weight"] = self.matrix(linear)

    def keep(self, name: str, kept: Tensor, axis: int) -> None:
        """Keeps these places along an axis of a tensor, in order."""
        self[name] = self[name].index_select(axis, kept)

    def _transposed(self, linear: str) -> bool:
        return is_transposed(self._model.get_submodule(linear))


def held(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yields the tensors of a model's state by name; tied weights once for each of their names."""
    yield from model.state_dict(keep_vars=True).items()


class Slots:
    """The places of a model's tensors: all the modules that share each."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._owners: dict[int, list[tuple[str, str]]] = {}
        for name, tensor in held(model):
            module, _, last = name.rpartition(".")
            self._owners.setdefault(id(tensor), []).append((module, last))

    def owners(self, name: str) -> list[tuple[str, str]]:
        """Returns the modules that share a tensor, each with its own name for it."""
        return self._owners[id(self._held(name))]

    def _held(self, name: str) -> Tensor:
        module, _, last = name.rpartition(".")
        owner = self._model.get_submodule(module)
        parameter = own_parameter(owner, last)
        return owner.get_buffer(last) if parameter is None else parameter

    def resize(self, module: str, axis: int, size: int) -> None:
        """Gives a linear layer (axis 0: outputs, 1: inputs), a table (axis 1) or a norm (axis 0) another size."""
        owner = self._model.get_submodule(module)
        self._resize(owner.get_parameter("weight"), 1 - axis if is_transposed(owner) else axis, size)
        bias = own_parameter(owner, "bias")
        if bias is not None and axis == 0:
            self._resize(bias, 0, size)

    def _resize(self, parameter: nn.Parameter, axis: int, size: int) -> None:
        shape = [size if place == axis else other for place, other in enumerate(parameter.shape)]
        if shape != list(parameter.shape):
            self._give(parameter, nn.Parameter(parameter.new_empty(shape, device="meta"), parameter.requires_grad))

    def _give(self, old: Tensor, new: Tensor) -> None:
        self._owners[id(new)] = self._owners.pop(id(old))
        for module, last in self._owners[id(new)]:
            owner = self._model.get_submodule(module)
            setattr(owner, last, new)
            name_sizes(owner)

    def place(self, tensors: Mapping[str, Tensor], new: Collection[str]) -> None:
        """Puts the tensors in, each where its shape is the one expected."""
        names = {f"{module}.{last}".lstrip(".") for owners in self._owners.values() for module, last in owners}
        strange = [name for name in tensors if name not in names]
        if strange:
            raise InvalidInputError(f"The model has no place for {enumeration(strange)}. {WHOLE}")
        for owners in list(self._owners.values()):
            sharing = [f"{module}.{last}".lstrip(".") for module, last in owners]
            given = [name for name in sharing if name in tensors]
            if not given and not any(name in new for name in sharing):
                raise InvalidInputError(f"The tensor {sharing[0]} is missing. {WHOLE}")
            if given:
                self._check_same(given, tensors)
                self.put(given[0], tensors[given[0]])

    def _check_same(self, given: list[str], tensors: Mapping[str, Tensor]) -> None:
        value, expected = tensors[given[0]], self._held(given[0])
        for name in given:
            if tensors[name].shape != expected.shape or tensors[name].is_floating_point() != expected.is_floating_point():
                raise InvalidInputError(
                    f"{name} holds {tensors[name].dtype} of shape {tuple(tensors[name].shape)}; beside the other tensors "
                    f"it would have to be {expected.dtype} of shape {tuple(expected.shape)}. {WHOLE}"
                )
            if tensors[name] is not value and not torch.equal(tensors[name], value):
                raise InvalidInputError(f"{name} and {given[0]} are tied, and differ. {WHOLE}")

    def put(self, name: str, value: Tensor) -> None:
        """Puts a tensor in the place of the one of this name, wherever that is shared."""
        old = self._held(name)
        self._give(old, nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value)


def name_sizes(module: nn.Module) -> None:
    """Writes the sizes of a module's weight into the attributes in which PyTorch and Transformers repeat them."""
    weight = own_parameter(module, "weight")
    if weight is None:
        return
    if is_transposed(module):
        module.nx, module.nf = weight.shape  # type: ignore[assignment]
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = weight.shape[1]
