"""Clipping by the paper's joint norm: of G * M, of all other gradients and of dL/dS, wherever they lie."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from . import ranks
from .ranks import Ranks, local


def joint_norm(
    parameters: Iterable[nn.Parameter], scores: Sequence[Tensor], unscale: Tensor | None, sharers: Ranks
) -> Tensor | None:
    """Returns the norm of all gradients together, the same on every rank; None if there are none.

    Args:
        parameters: whose gradients count, those of pruned weights as G * M.
        scores: the gradients of the scores, which no longer have GradScaler's scale.
        unscale: what the others are to be multiplied by; None stands for 1.
        sharers: the processes among which the scores are shared out.
    """
    norms: dict[Ranks, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            norms.setdefault(ranks.of(parameter), []).append(times(norm(local(parameter.grad)), unscale))
    norms.setdefault(sharers, []).extend(gradient.norm() for gradient in scores)
    joint = [_together(of_sharers, each) for each, of_sharers in norms.items() if of_sharers]
    return _together(joint, ranks.ALONE) if len(joint) > 1 else next(iter(joint), None)


def _together(norms: Sequence[Tensor], sharers: Ranks) -> Tensor:
    """Returns the norm of what has these norms, on all processes that share it."""
    widest = max((norm.dtype for norm in norms), key=lambda dtype: dtype.itemsize)
    norm = torch.stack([norm.to(norms[0].device, widest) for norm in norms]).norm()
    return norm if sharers.count == 1 else sharers.total(norm.square()).sqrt()


def norm(gradient: Tensor) -> Tensor:
    """In float32 at least: the norm of a float16 gradient that is still scaled may be more than float16 holds."""
    norm: Tensor = torch.linalg.vector_norm(gradient, dtype=torch.promote_types(gradient.dtype, torch.float32))
    return norm


def times(tensor: Tensor, factor: Tensor | None) -> Tensor:
    """Multiplies in place by a number on any device; None stands for 1."""
    return tensor if factor is None else tensor.mul_(factor.to(tensor.device))
