"""A linear layer that multiplies only by the weights that are not zero."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InvalidInputError
from ..models.layers import is_transposed
from .format import Activations, Float32, SparseMatrix
from .kernels.matmul import run_linear, run_product
from .kernels.simd import LANES, WIDEST
from .records import Array, MatrixRecord, Tiles, buffer, run_job, step_of, tiles_of
from .reference import Activation


class SparseLinear(nn.Module):
    """A linear layer y = activation(W x + b) on the CPU in float32, for inference.

    Its state dict holds the dense weight, so that what is saved is a plain checkpoint.

    Args:
        weight: W, out_features x in_features.
        bias: b, or None.
        activations: how inputs are stored while they are multiplied; sums are float32.
        activation: applied to the result.
        original: the module that it replaces, without its tensors (on the meta device); `to_dense` restores it.
    """

    def __init__(
        self,
        weight: SparseMatrix,
        bias: Tensor | None = None,
        activations: Activations | None = None,
        activation: Activation = Activation.NONE,
        original: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.rows, weight.cols
        self.matrix = MatrixRecord(weight, bias if bias is None else bias.detach().to(torch.float32).contiguous())
        self.weight, self.bias = self.matrix.weight, self.matrix.bias
        self.activations = Float32() if activations is None else activations
        self.activation = activation
        stock = nn.Linear(self.in_features, self.out_features, bias is not None, device="meta")
        self.original = (stock if original is None else original,)  # in a tuple, since it is no part of this module

    @torch.compiler.disable
    def forward(self, inputs: Tensor) -> Tensor:
        """Returns ... x out_features of ... x in_features, in the same floating-point type.

        Raises:
            InvalidInputError: for another number of features or a device other than the CPU; and when a gradient is asked for.
        """
        return checked(self._apply_to, inputs, self.in_features)

    def _apply_to(self, inputs: Tensor) -> Tensor:
        tokens = math.prod(inputs.shape[:-1])
        given = inputs.to(torch.float32).reshape(tokens, self.in_features).contiguous()
        outputs = torch.empty(tokens, self.out_features, dtype=torch.float32, device="cpu")
        if tokens and self.out_features:
            tiles = tiles_of(1, tokens, step_of(self.activations))
            self._run(run_linear, tiles, outputs, buffer(tiles.tokens, self.in_features, tiles.step), source=given)
        return outputs.view(*inputs.shape[:-1], self.out_features).to(inputs.dtype)

    def product(self, inputs: Tensor) -> Tensor:
        """Returns out_features x tokens of in_features x tokens: the same with features first, as the kernels have them.

        One tile of tokens, as 16, 32 ... 128 are with AVX-512, is not copied where it is float32 and contiguous.
        """
        check_inputs(inputs.t(), self.in_features)
        tokens = inputs.shape[1]
        whole = inputs.is_contiguous() and inputs.dtype == torch.float32 and step_of(self.activations) == 1
        if not whole or not tokens or tokens % LANES or tokens > LANES * WIDEST:
            transposed: Tensor = self(inputs.t())
            return transposed.t()
        outputs = torch.empty(self.out_features, tokens, dtype=torch.float32, device="cpu")
        if self.out_features:
            self._run(run_product, tiles_of(1, tokens, 1), outputs, inputs.detach())
        return outputs

    def _run(self, run: Callable[[Any, Any, Any], None], tiles: Tiles, target: Tensor, lowered: Tensor, **more: Tensor) -> None:
        arrays: dict[str, Tensor | Array] = {"target": target, "lowered": lowered, "matrix": self.matrix.record, **more}
        numbers = {"hidden": self.in_features, "activation": self.activation.value}
        run_job(run, self.weight.values.dtype, tiles, arrays, **numbers)

    def _apply(self, function: Any, recurse: bool = True) -> "SparseLinear":
        probe = function(torch.zeros(1, dtype=torch.float32, device="cpu"))
        if probe.device.type != "cpu" or probe.dtype != torch.float32:
            raise InvalidInputError(
                f"A sparse layer cannot be moved to {probe.device} and {probe.dtype}: it runs on the CPU, in float32. Call "
                "`fineprune.to_dense(model)` first."
            )
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        dense = self.weight.to_dense()
        destination[prefix + "weight"] = dense.t().contiguous() if is_transposed(self.original[0]) else dense
        if self.bias is not None:
            destination[prefix + "bias"] = self.bias

    def extra_repr(self) -> str:
        """Returns the sizes and how the values are stored."""
        kind = str(self.weight.values.dtype).removeprefix("torch.")
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"density={self.weight.density:.4f}, values={kind}, rows_together={self.weight.together}"
        )


def check_inputs(inputs: Tensor, features: int) -> None:
    """Raises InvalidInputError for inputs that the kernels cannot read."""
    if inputs.ndim == 0 or inputs.shape[-1] != features or not inputs.is_floating_point() or inputs.device.type != "cpu":
        raise InvalidInputError(
            f"The inputs of a sparse layer must be floating-point, on the CPU, with {features} features last; got shape "
            f"{tuple(inputs.shape)} of {inputs.dtype} on {inputs.device}. Move or convert them first."
        )


def checked(compute: Callable[[Tensor], Tensor], inputs: Tensor, features: int) -> Tensor:
    """Returns compute(inputs) after `check_inputs`; a backward pass raises InvalidInputError."""
    check_inputs(inputs, features)
    if torch.is_grad_enabled() and inputs.requires_grad:
        outputs: Tensor = _WithoutGradient.apply(inputs, compute)  # type: ignore[no-untyped-call]
        return outputs
    return compute(inputs.detach())


class _WithoutGradient(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, inputs: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        return compute(inputs.detach())

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Any:
        raise InvalidInputError(
            "A sparse layer gives none of the gradients that a backward pass needs. Freeze the layers before it, or train the "
            "dense model: `fineprune.to_dense(model)`."
        )
