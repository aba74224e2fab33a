"""The slow and obvious product that the kernels are tested against."""

from enum import Enum

import torch
from torch import Tensor
from torch.nn import functional

from .format import SparseMatrix


class Activation(Enum):
    """The function applied after a linear layer; `activations.activate` has the same numbers."""

    NONE = 0
    GELU = 1
    GELU_TANH = 2
    RELU = 3
    SILU = 4

    def __call__(self, inputs: Tensor) -> Tensor:
        """Applies it, element by element."""
        match self:
            case Activation.NONE:
                return inputs
            case Activation.GELU:
                return functional.gelu(inputs)
            case Activation.GELU_TANH:
                return functional.gelu(inputs, approximate="tanh")
            case Activation.RELU:
                return functional.relu(inputs)
            case Activation.SILU:
                return functional.silu(inputs)


def linear(
    weight: SparseMatrix, inputs: Tensor, bias: Tensor | None = None, activation: Activation = Activation.NONE
) -> Tensor:
    """Returns activation(W X + b).

    Args:
        weight: W, rows x cols.
        inputs: X, cols x tokens, float32.
        bias: b, of each row.
        activation: of each element.
    """
    outputs = weight.to_dense() @ inputs
    outputs = outputs if bias is None else outputs + bias[:, None]
    return activation(outputs.to(torch.float32))
