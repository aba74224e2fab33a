"""The gradients of a step: G as backpropagation left it, G * M for the optimizer, dL/dS for the scores."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from ..distributed.process_group import ProcessGroup, local
from ..errors import TrainingError, enumeration
from .clipping import times
from .masked_model import MaskedModel
from .pool import Pool, share_weights
from .site import Site

ScoreGradients = tuple[Pool, Site, list[Tensor]]
"""A site and the gradients of its scores: none where they do not learn, or no gradient came."""


def parameters_of(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """Returns all parameters that an optimizer trains."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def score_gradients(masked: MaskedModel, unscale: Tensor | None) -> Iterator[ScoreGradients]:
    """Yields the gradients of the scores of each site, and leaves G * M in the parameters' gradients.

        dL/dS = method(reduce(G * W) / scale) + lambda_t * R'(S)

    Args:
        masked: the model, with the gradients of its effective weights.
        unscale: 1 / scale on the gradients' device; None for 1.
    """
    sites = masked.sites
    last = {weight: site for site in sites for weight in site.grouping}  # the last site that needs G of a shared weight
    shared = share_weights(masked.pools)
    for pool in masked.pools:
        for site in pool.sites:
            others = [other for other in sites if other is not site] if shared else []
            movement = site.movement(others) if site.learns else None
            if movement is None and site.learns and pool.penalty(masked.step):
                movement = torch.zeros_like(site.value())  # the penalty reaches a matrix that the loss does not
            gradients = []
            if movement is not None and site.scores is not None:
                gradients = site.scores.gradients(pool.score_gradient(site, times(movement, unscale), masked.step))
            for weight in site.weights:
                if last[weight] is site:
                    weight.mask_gradient()
            yield pool, site, gradients


def unscaling(optimizer: torch.optim.Optimizer) -> Tensor | None:
    """Returns 1 / scale where GradScaler leaves it to a fused optimizer to unscale; None elsewhere."""
    scale = getattr(optimizer, "grad_scale", None)
    return None if scale is None else scale.reciprocal()


def skips_step(optimizer: torch.optim.Optimizer, processes: ProcessGroup) -> bool:
    """Whether the optimizer's step will change nothing.

    Under GradScaler a fused optimizer is called even if it must skip the step, after an overflow. And PyTorch's sharded
    checkpoints take a step with a rate of 0 and gradients of 0, so that an optimizer makes its state.
    """
    found_inf = getattr(optimizer, "found_inf", None)
    if found_inf is not None and bool(found_inf):
        return True
    if optimizer.state or any(float(group.get("lr", 1.0)) for group in optimizer.param_groups):
        return False
    gradients = [parameter.grad for parameter in parameters_of(optimizer)]
    return not processes.any(any(gradient is not None and bool(local(gradient).any()) for gradient in gradients))


def check_gradients(model: nn.Module, parameters: Sequence[nn.Parameter], step: int, processes: ProcessGroup) -> None:
    """Raises if a gradient is sparse, NaN or infinite, on every process that shares the weights. One question to the device
    for all gradients.

    Args:
        model: whose names the message uses; other parameters get a number.
        parameters: those of the optimizer.
        step: about to be taken.
        processes: those over which the gradients are sharded.

    Raises:
        TrainingError: naming the parameters.
    """
    gradients = [local(parameter.grad) for parameter in parameters if parameter.grad is not None]
    if any(_is_sparse(gradient) for gradient in gradients):
        raise TrainingError(
            f"The gradient of {enumeration(_names_of(model, parameters, _is_sparse))} is sparse; pruning takes dense ones (an "
            "Embedding's sparse=False)."
        )
    # NaN goes through aminmax, which is faster than asking each element (benchmarks/primitives.py).
    finite = [extreme.isfinite() for gradient in gradients if gradient.numel() for extreme in torch.aminmax(gradient)]
    whole = not finite or bool(torch.stack([answer.to(finite[0].device) for answer in finite]).all())
    if not processes.any(not whole):
        return
    broken = _names_of(model, parameters, lambda gradient: not gradient.isfinite().all())
    raise TrainingError(
        f"At step {step} the gradient is NaN or infinite in {enumeration(broken or ['weights of another rank'])}. Nothing was "
        "changed. Lower the learning rate, look for a division by zero in the loss, or use bf16 or a GradScaler instead of "
        "plain fp16."
    )


def _is_sparse(gradient: Tensor) -> bool:
    return gradient.layout != torch.strided


def _names_of(model: nn.Module, parameters: Sequence[nn.Parameter], wrong: Callable[[Tensor], bool]) -> list[str]:
    """The parameters whose gradient is wrong; those from outside the model get a number for a name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    held = [(names.get(id(p), f"parameter {n}"), local(p.grad)) for n, p in enumerate(parameters) if p.grad is not None]
    return [name for name, gradient in held if wrong(gradient)]
