"""Clipping by the paper's joint norm: of G * M, of all other gradients and of dL/dS, wherever they lie."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ..distributed import process_group
from ..distributed.process_group import ProcessGroup, local


def joint_norm(
    parameters: Iterable[nn.Parameter], scores: Sequence[Tensor], unscale: Tensor | None, processes: ProcessGroup
) -> Tensor | None:
    """Returns the norm of all gradients, the same on every rank; None if there are none.

    Args:
        parameters: whose gradients count, those of pruned weights as G * M.
        scores: the gradients of the scores, which no longer have GradScaler's scale.
        unscale: the factor of the other gradients; None stands for 1.
        processes: those over which the scores are sharded.
    """
    norms: dict[ProcessGroup, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            norms.setdefault(process_group.of(parameter), []).append(times(gradient_norm(local(parameter.grad)), unscale))
    norms.setdefault(processes, []).extend(gradient.norm() for gradient in scores)
    joint = [_combined(of_processes, each) for each, of_processes in norms.items() if of_processes]
    return _combined(joint, process_group.ALONE) if len(joint) > 1 else next(iter(joint), None)


def clip_factor(
    parameters: Iterable[nn.Parameter],
    scores: Sequence[Tensor],
    unscale: Tensor | None,
    processes: ProcessGroup,
    max_grad_norm: float,
) -> tuple[Tensor | None, Tensor | None]:
    """Returns the joint norm, and min(1, max_grad_norm / norm); both None without gradients. Arguments as for `joint_norm`."""
    norm = joint_norm(parameters, scores, unscale, processes)
    return norm, None if norm is None else (max_grad_norm / (norm + 1e-6)).clamp(max=1.0)


def _combined(norms: Sequence[Tensor], processes: ProcessGroup) -> Tensor:
    """Returns the norm of tensors with these norms, on all processes that share them."""
    widest = max((norm.dtype for norm in norms), key=lambda dtype: dtype.itemsize)
    norm = torch.stack([norm.to(norms[0].device, widest) for norm in norms]).norm()
    return norm if processes.size == 1 else processes.total(norm.square()).sqrt()


def gradient_norm(gradient: Tensor) -> Tensor:
    """Returns the norm in float32 at least: that of a float16 gradient that is still scaled may be more than float16 holds."""
    norm: Tensor = torch.linalg.vector_norm(gradient, dtype=torch.promote_types(gradient.dtype, torch.float32))
    return norm


def times(tensor: Tensor, factor: Tensor | None) -> Tensor:
    """Multiplies in place by a number on any device; None stands for 1."""
    return tensor if factor is None else tensor.mul_(factor.to(tensor.device))
