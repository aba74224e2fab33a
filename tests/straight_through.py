"""The paper's method by autograd, slow and obvious: the reference that the Pruner is held against.

Written from the equations (Sanh et al. 2020, section 4; Zhu & Gupta 2017) and from nothing in the
library: W' = W * M(S) in every forward pass, with M a function whose backward pass is the identity.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


class StraightThrough(torch.autograd.Function):
    """M = mask forward; dL/dS = dL/dM backward."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, mask: Tensor) -> Tensor:
        return mask.to(scores.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def cubic(step: int, total: int, warmup: int, cooldown: int, final: float) -> float:
    """v_t, from 1 to `final`."""
    if step <= warmup:
        return 1.0
    if step > total - cooldown:
        return final
    return final + (1.0 - final) * (1 - (step - warmup) / (total - warmup - cooldown)) ** 3


def top(scores: Sequence[Tensor], density: float, scope: str) -> list[Tensor]:
    """Keeps floor(v * n) by a full sort; equal scores by matrix order, then by flat index, lower first."""
    if scope == "local":
        return [mask for score in scores for mask in top([score], density, "global")]
    flat = [value for score in scores for value in score.flatten().tolist()]
    order = sorted(range(len(flat)), key=lambda index: (-flat[index], index))
    kept = torch.zeros(len(flat), dtype=torch.bool)
    kept[order[: math.floor(density * len(flat))]] = True
    parts = kept.split([score.numel() for score in scores])
    return [part.view_as(score) for part, score in zip(parts, scores, strict=True)]


@dataclass
class Setting:
    """One run, in plain numbers."""

    names: list[str]
    """The pruned parameters."""
    scores: dict[str, Tensor] | None
    """How the scores start; None for magnitude pruning."""
    learns: bool
    total: int
    warmup: int
    cooldown: int
    density: float = 0.1
    scope: str = "local"
    rate: float = 1e-3
    score_rate: float = 1e-2
    decay: float = 0.0
    max_norm: float | None = None
    accumulation: int = 1
    shape: Callable[[int], float] = field(default=lambda step: 1.0)
    """The learning rate over its base, at each step."""


@dataclass
class Moment:
    """What a run holds during one step: the loss of its forward pass and the tensors after it."""

    loss: Tensor
    scores: dict[str, Tensor]
    dense: dict[str, Tensor]
    effective: dict[str, Tensor]
    norm: float | None = None


def run(model: nn.Module, batches: Sequence[dict[str, Tensor]], setting: Setting) -> list[Moment]:
    """Trains a model by the equations, one batch (or `accumulation` of them) a step; the model holds dense weights."""
    weights = dict(model.named_parameters())
    scores = {name: score.clone().requires_grad_() for name, score in (setting.scores or {}).items()}
    weight_optimizer = torch.optim.AdamW(model.parameters(), lr=setting.rate, weight_decay=setting.decay)
    optimizers: list[torch.optim.Optimizer] = [weight_optimizer]
    if setting.learns:
        optimizers.append(torch.optim.Adam(list(scores.values()), lr=setting.score_rate))
    schedulers = [torch.optim.lr_scheduler.LambdaLR(optimizer, setting.shape) for optimizer in optimizers]

    def masks(step: int) -> dict[str, Tensor]:
        rank = [(scores[name] if setting.scores is not None else weights[name].abs()).detach() for name in setting.names]
        density = cubic(step, setting.total, setting.warmup, setting.cooldown, setting.density)
        return dict(zip(setting.names, top(rank, density, setting.scope), strict=True))

    def effective(mask: dict[str, Tensor]) -> dict[str, Tensor]:
        gate = {name: StraightThrough.apply(scores[name], mask[name]) if setting.learns else mask[name] for name in mask}
        return {name: weights[name] * gate[name] for name in setting.names}

    moments = []
    for step in range(setting.total):
        mask, losses = masks(step), []
        for batch in batches[step * setting.accumulation : (step + 1) * setting.accumulation]:
            output = functional_call(model, effective(mask), kwargs=batch)
            loss = output if isinstance(output, Tensor) else output.loss
            (loss / setting.accumulation).backward()
            losses.append(loss.detach())
        norm = None
        if setting.max_norm is not None:
            norm = float(nn.utils.clip_grad_norm_([*weights.values(), *scores.values()], setting.max_norm))
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
        copies = {name: weights[name].detach().clone() for name in setting.names}
        after = {name: copies[name] * kept for name, kept in masks(step + 1).items()}
        learned = {name: score.detach().clone() for name, score in scores.items()}
        moments.append(Moment(torch.stack(losses).mean(), learned, copies, after, norm))
    return moments
