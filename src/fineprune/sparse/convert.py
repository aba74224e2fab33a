"""Turns a model into one that runs sparse on the CPU, and back."""

import copy
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import InvalidInputError, is_number, require
from ..models.layers import is_linear, is_transposed
from .format import MOST_COLS, Activations, BFloat16, Float32, Int8, SparseMatrix, Values

if TYPE_CHECKING:
    from .linear import SparseLinear


def to_sparse(
    model: nn.Module,
    threshold_density: float | None = None,
    *,
    values: Values | None = None,
    activations: Activations | None = None,
) -> nn.Module:
    """Returns a model that computes the same on the CPU without multiplying by zeros. The one given stays as it is.

    Each linear layer becomes sparse where that is faster on this machine, by a measurement with 128 tokens; the encoders of
    BERT, RoBERTa, XLM-R, ELECTRA, DistilBERT and MPNet run fused. Tensors that stay dense are shared with the model given.
    It is for inference: in evaluation mode, with no gradients for its sparse layers.

    Args:
        model: any module on the CPU in float32, as loaded by Transformers.
        threshold_density: make sparse the layers whose density is at most this, instead of measuring; 0 to 1.
        values: how weights are stored: `Float32()`, which is the default, `BFloat16()` or `Int8()`.
        activations: how the inputs of products are stored: `Float32()`, which is the default, or `BFloat16()`.

    Raises:
        InvalidInputError: for another device or type, a threshold outside 0 to 1, or a model that is sparse already.
        MissingExtraError: if numba is not installed.
    """
    require("sparse", "numba")
    _check_arguments(model, threshold_density, values, activations)
    from .autotune import MOST_DENSITY

    most = MOST_DENSITY if threshold_density is None else threshold_density
    dense = {name: matrix for name, module in _linear_layers(model).items() if _density(matrix := _matrix(module)) <= most}
    matrices = {name: _stored(name, matrix, Float32() if values is None else values) for name, matrix in dense.items()}
    return assemble(_copy(model), matrices, threshold_density, activations)


def assemble(
    model: nn.Module,
    matrices: Mapping[str, SparseMatrix],
    threshold_density: float | None = None,
    activations: Activations | None = None,
) -> nn.Module:
    """Puts sparse layers into a model, in place, where they are faster, and fuses its encoders.

    Args:
        model: its linear layers of these names have no weight yet (on the meta device), or the same as the matrix.
        matrices: by name of the layer, stored row by row.
        threshold_density, activations: see `to_sparse`.

    Returns:
        The model, in evaluation mode.
    """
    require("sparse", "numba")
    from .autotune import MOST_DENSITY, best_grouping, is_faster
    from .encoders import encoders, fuse

    inputs = Float32() if activations is None else activations
    most = MOST_DENSITY if threshold_density is None else threshold_density
    modules = dict(model.named_modules())
    sparse = {name: best_grouping(matrix) for name, matrix in matrices.items() if matrix.density <= most}
    chosen = {name: matrix for name, matrix in sparse.items() if threshold_density is not None or is_faster(matrix, inputs)}
    for name in matrices.keys() - chosen.keys():
        _fill(modules[name], matrices[name])
    free = _linear_layers(model)
    fused = [one for one in encoders(model) if _is_mostly_sparse(one[2], free, chosen)]
    for _, _, inside in fused:
        kept = next(chosen[layer].values.dtype for layer in inside if layer in chosen)
        values = next(kind for kind in (Float32(), BFloat16(), Int8()) if kind.dtype == kept)
        rest = [layer for layer in inside if layer not in chosen]
        chosen |= {layer: best_grouping(_stored(layer, _matrix(free[layer]), values)) for layer in rest}
    for name, matrix in chosen.items():
        model = _put(model, name, _sparse(modules[name], matrix, inputs))
    for encoder, config, _ in fused:
        fuse(encoder, config, inputs)
    return model.eval()


def _is_mostly_sparse(names: list[str], free: Mapping[str, nn.Module], chosen: Mapping[str, SparseMatrix]) -> bool:
    """Whether an encoder with linear layers of these names runs fused.

    Args:
        names: of its linear layers.
        free: the linear layers of the model that can become sparse.
        chosen: the matrices of those that will.
    """
    sparse = [name for name in names if name in chosen]
    mostly = all(name in free for name in names) and 2 * _size(free, sparse) >= _size(free, names)
    return mostly and len({chosen[name].values.dtype for name in sparse}) == 1


def to_dense(model: nn.Module) -> nn.Module:
    """Returns the model that `to_sparse` was given; tensors that stayed dense are shared.

    With `BFloat16()` or `Int8()` values its weights are those that the sparse model computes with, else they are the same.
    """
    require("sparse", "numba")
    from .encoders import FusedEncoder, unfuse
    from .linear import SparseLinear

    dense = _copy(model)
    for module in list(dense.modules()):
        if isinstance(module, FusedEncoder):
            unfuse(module)
    for name, module in list(dense.named_modules()):
        if isinstance(module, SparseLinear):
            dense = _put(dense, name, _dense(module))
    return dense


def _check_arguments(model: Any, threshold_density: Any, values: Any, activations: Any) -> None:
    from .linear import SparseLinear

    if threshold_density is not None and not (is_number(threshold_density) and 0 <= threshold_density <= 1):
        raise InvalidInputError(
            f"threshold_density must be from 0 to 1, got {threshold_density!r}. Give the highest density of the layers that "
            "become sparse, or None to measure which are faster."
        )
    if not isinstance(model, nn.Module):
        raise InvalidInputError(f"model must be a loaded model, a torch.nn.Module, got {model!r}.")
    if values is not None and not isinstance(values, Float32 | BFloat16 | Int8):
        raise InvalidInputError(f"values must be Float32(), BFloat16() or Int8(), got {values!r}.")
    if activations is not None and not isinstance(activations, Float32 | BFloat16):
        raise InvalidInputError(f"activations must be Float32() or BFloat16(), got {activations!r}.")
    if any(isinstance(module, SparseLinear) for module in model.modules()):
        raise InvalidInputError("This model is sparse already. Call `fineprune.to_dense(model)` first to convert it again.")
    for name, module in _linear_layers(model).items():
        weight = module.get_parameter("weight")
        if weight.device.type != "cpu" or weight.dtype != torch.float32:
            raise InvalidInputError(
                f"{name}.weight must be float32 on the CPU, got {weight.dtype} on {weight.device}. Convert the model first: "
                "model.float().cpu()."
            )


def _stored(name: str, matrix: Tensor, values: Values) -> SparseMatrix:
    try:
        return SparseMatrix.from_dense(matrix, values)
    except InvalidInputError as error:
        raise InvalidInputError(f"{name}.weight: {error}") from error


def _linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Returns the linear layers that can become sparse: called as modules, and not shared."""
    tensors = Counter(id(tensor) for module in model.modules() for tensor in module._parameters.values())
    places = Counter(id(child) for module in model.modules() for child in module._modules.values())
    found = {}
    for parent_name, parent in model.named_modules():
        for name, child in parent.named_children():
            alone = places[id(child)] == 1 and not _reads_weights(parent)
            if alone and _is_plain(child) and tensors[id(child.weight)] == 1:
                found[f"{parent_name}.{name}".lstrip(".")] = child
    if _is_plain(model):
        found[""] = model
    return found


def _is_plain(module: nn.Module) -> bool:
    """Whether it is a stock linear layer; a subclass, or a layer with hooks, may compute something else."""
    stock = (type(module) is nn.Linear or is_transposed(module)) and is_linear(module)
    hooked = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    return stock and not hooked and module.get_parameter("weight").shape[not is_transposed(module)] <= MOST_COLS


def _reads_weights(parent: nn.Module) -> bool:
    """Whether a module inherits from one of PyTorch's that may read the weights of its children instead of calling them."""
    containers = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict)
    return any(base.__module__.startswith("torch.nn") and base not in containers for base in type(parent).__mro__)


def _matrix(module: nn.Module) -> Tensor:
    """Returns the weight as outputs x inputs."""
    weight = module.get_parameter("weight").detach()
    return weight.t() if is_transposed(module) else weight


def _density(matrix: Tensor) -> float:
    return int(matrix.count_nonzero()) / max(matrix.numel(), 1)


def _size(modules: Mapping[str, nn.Module], names: Iterable[str]) -> int:
    return sum(modules[name].get_parameter("weight").numel() for name in names)


def _sparse(module: nn.Module, matrix: SparseMatrix, activations: Activations) -> nn.Module:
    from .linear import SparseLinear

    shells = {id(one): nn.Parameter(one.detach().to("meta"), requires_grad=one.requires_grad) for one in module.parameters()}
    emptied = copy.deepcopy(module, shells)
    return SparseLinear(matrix, module._parameters["bias"], activations, original=emptied)


def _dense(layer: "SparseLinear") -> nn.Module:
    """Returns the linear layer that a sparse one was made from."""
    (original,) = layer.original
    module = copy.deepcopy(original)
    _fill(module, layer.weight)
    if layer.bias is not None:
        _set(module, "bias", layer.bias)
    return module


def _fill(module: nn.Module, matrix: SparseMatrix) -> None:
    """Writes the matrix into a linear layer that has no weight yet."""
    if module.get_parameter("weight").is_meta:
        dense = matrix.to_dense()
        _set(module, "weight", dense.t().contiguous() if is_transposed(module) else dense)


def _set(module: nn.Module, name: str, tensor: Tensor) -> None:
    module.register_parameter(name, nn.Parameter(tensor, requires_grad=module.get_parameter(name).requires_grad))


def _put(model: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Replaces a module by another, and returns the model."""
    if name:
        model.set_submodule(name, module)
    return model if name else module


def _copy(model: nn.Module) -> nn.Module:
    """Returns a copy that shares the storage of every tensor; moving or converting one model leaves the other."""
    own: dict[int, object] = {id(one): nn.Parameter(one.detach(), one.requires_grad) for one in model.parameters()}
    return copy.deepcopy(model, own | {id(one): one.detach() for one in model.buffers()})
