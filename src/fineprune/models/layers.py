"""Linear layers, as PyTorch and Transformers write them."""

import sys

from torch import Tensor, nn


def is_linear(module: nn.Module) -> bool:
    """Tells whether a module is nn.Linear or Transformers' Conv1D (GPT-2), and its weight a matrix of floats."""
    return (isinstance(module, nn.Linear) or is_transposed(module)) and has_prunable_weight(module)


def is_transposed(module: nn.Module) -> bool:
    """Tells whether a module keeps its weight as inputs x outputs, as Transformers' Conv1D does."""
    # Conv1D can only be in a model if this module has been imported; the core does not depend on Transformers.
    transformers = sys.modules.get("transformers.pytorch_utils")
    return transformers is not None and isinstance(module, transformers.Conv1D)


def has_prunable_weight(module: nn.Module) -> bool:
    """Tells whether a module has a weight of floats with two dimensions or more."""
    weight = own_parameter(module, "weight")
    return weight is not None and weight.dim() >= 2 and weight.is_floating_point()


def own_parameter(module: nn.Module, name: str) -> nn.Parameter | None:
    """Returns the parameter of this name that a module itself holds; None if it holds none."""
    return dict(module.named_parameters(recurse=False, remove_duplicate=False)).get(name)


def own_buffer(module: nn.Module, name: str) -> Tensor | None:
    """Returns the buffer of this name that a module itself holds; None if it holds none."""
    return dict(module.named_buffers(recurse=False, remove_duplicate=False)).get(name)
