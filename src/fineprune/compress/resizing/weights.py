"""The tensors of a model by name, to be cut without touching the model."""

from collections.abc import Iterator

from torch import Tensor, nn

from ...models.layers import is_transposed


class Weights:
    """The parameters and the saved buffers of a model, each once.

    Linear layers are seen as outputs x inputs, however they lie in memory.

    Args:
        model: whose tensors are taken as they are, without a copy. Nothing here writes into one.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._names = first_names(model)
        held: dict[str, Tensor] = model.state_dict()
        self.tensors = {first: held[first].detach() for first in dict.fromkeys(self._names.values())}

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[self._names[name]]

    def __setitem__(self, name: str, tensor: Tensor) -> None:
        self.tensors[self._names.get(name, name)] = tensor

    def __contains__(self, name: str) -> bool:
        return self._names.get(name, name) in self.tensors

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
        """Keeps some output features of a linear layer: positions, in order."""
        self._keep(f"{linear}.weight", kept, axis=1 if self._transposed(linear) else 0)
        if self.bias(linear) is not None:
            self._keep(f"{linear}.bias", kept, axis=0)

    def keep_inputs(self, linear: str, kept: Tensor) -> None:
        """Keeps some input features of a linear layer: positions, in order. One without any lies as outputs x 0 in memory."""
        self._keep(f"{linear}.weight", kept, axis=0 if self._transposed(linear) else 1)
        if not len(kept):
            self[f"{linear}.weight"] = self.matrix(linear)

    def keep_columns(self, table: str, kept: Tensor) -> None:
        """Keeps some columns of a table: positions, in order."""
        self._keep(f"{table}.weight", kept, axis=1)

    def _keep(self, name: str, kept: Tensor, axis: int) -> None:
        self[name] = self[name].index_select(axis, kept)

    def _transposed(self, linear: str) -> bool:
        return is_transposed(self._model.get_submodule(linear))


def first_names(model: nn.Module) -> dict[str, str]:
    """Returns every name in the model's state -> the first name of the same tensor."""
    seen: dict[int, str] = {}
    return {name: seen.setdefault(id(tensor), name) for name, tensor in held(model)}


def held(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yields what the model's state holds, by name; tied weights once for each of their names."""
    yield from model.state_dict(keep_vars=True).items()
