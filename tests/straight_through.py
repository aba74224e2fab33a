"""The paper's methods by autograd, slow and obvious: the reference that the Pruner is held against.

Written from the equations (Sanh et al. 2020, section 4; Louizos et al. 2018; Zhu & Gupta 2017) and from nothing
in the library: W' = W * M(S) in every forward pass, and what autograd makes of it. M is a function whose backward
pass is the identity, but for L0, whose gate is differentiable.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import numpy as np
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


def cubic(step: int, total: int, warmup: int, cooldown: int, initial: float, final: float) -> float:
    """v_t, from `initial` to `final`."""
    if step <= warmup:
        return initial
    if step > total - cooldown:
        return final
    return final + (initial - final) * (1 - (step - warmup) / (total - warmup - cooldown)) ** 3


# Which weights fall together.

Cut = Callable[[int, int, int], int]
"""Row and column of a weight, and the columns of its matrix -> the number of its group."""


def singles(row: int, column: int, columns: int) -> int:
    return row * columns + column


def rows(row: int, column: int, columns: int) -> int:
    return row


def columns(row: int, column: int, columns: int) -> int:
    return column


def blocks(height: int, width: int) -> Cut:
    return lambda row, column, columns: (row // height) * (columns // width) + column // width


def group_of_each(weight: Tensor, cut: Cut) -> Tensor:
    """Returns the number of the group of each weight, in the weight's shape."""
    height, width = weight.shape
    return torch.tensor([[cut(row, column, width) for column in range(width)] for row in range(height)])


def root_mean_square(weight: Tensor, group: Tensor) -> Tensor:
    """Returns each group's magnitude, abs(W) for single weights."""
    count = torch.bincount(group.flatten())
    return (torch.zeros(len(count), dtype=weight.dtype).index_add(0, group.flatten(), weight.flatten() ** 2) / count).sqrt()


# Which groups are kept. Scores are flat, one tensor a matrix.


def ranked(scores: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Returns (matrix, group), best first; equal scores by matrix order, then by index, lower first."""
    values = {(matrix, group): value for matrix, score in enumerate(scores) for group, value in enumerate(score.tolist())}
    return sorted(values, key=lambda place: (-values[place], place))


def marked(scores: Sequence[Tensor], kept: Sequence[tuple[int, int]]) -> list[Tensor]:
    masks = [torch.zeros(len(score), dtype=torch.bool) for score in scores]
    for matrix, group in kept:
        masks[matrix][group] = True
    return masks


def best(scores: Tensor, count: int) -> Tensor:
    """Keeps the `count` best groups of one matrix."""
    return marked([scores], ranked([scores])[:count])[0]


def locally(scores: Sequence[Tensor], density: float) -> list[Tensor]:
    """Keeps floor(v * n) of each matrix."""
    return [best(score, math.floor(density * len(score))) for score in scores]


def globally(scores: Sequence[Tensor], sizes: Sequence[int], density: float, least: float | None = None) -> list[Tensor]:
    """Keeps the longest ranked prefix of all groups whose weights fit in floor(v * all weights).

    With `least`, floor(least * n) + 1 of each matrix are set aside first, and the rest of the budget goes by rank.
    """
    order = ranked(scores)
    aside: list[tuple[int, int]] = []
    if least is not None:
        for matrix, score in enumerate(scores):
            aside += [place for place in order if place[0] == matrix][: math.floor(least * len(score)) + 1]
    room = math.floor(density * sum(len(score) * size for score, size in zip(scores, sizes, strict=True)))
    room -= sum(sizes[matrix] for matrix, _ in aside)
    rest = [place for place in order if place not in aside]
    used = itertools.accumulate(sizes[matrix] for matrix, _ in rest)
    return marked(scores, aside + [place for place, weights in zip(rest, used, strict=True) if weights <= room])


def adaptively(scores: Sequence[Tensor], kinds: Sequence[str], density: float) -> list[Tensor]:
    """Keeps v * R(S_k) / mean R of each matrix k of a kind, floor(v * groups of the kind) in all (Jiang et al. 2022).

    None keeps more than all: what is too much for one goes to the others in proportion to R. What rounding
    down leaves goes to the largest fractions, the first among equals.
    """
    counts = [0] * len(scores)
    for kind in set(kinds):
        members = [matrix for matrix, name in enumerate(kinds) if name == kind]
        groups = len(scores[members[0]])
        importance = {matrix: Fraction(float(scores[matrix].sigmoid().mean())) for matrix in members}
        total = math.floor(density * groups * len(members))
        for full in range(len(members) + 1):  # the most important ones keep all they have
            rest = sorted(members, key=lambda matrix: -importance[matrix])[full:]
            mean = sum(importance[matrix] for matrix in rest) / max(len(rest), 1)
            share = {matrix: (total - full * groups) * importance[matrix] / mean / len(rest) for matrix in rest}
            if all(part < groups for part in share.values()):
                break
        for matrix in members:
            counts[matrix] = math.floor(share[matrix]) if matrix in rest else groups
        left = total - sum(counts[matrix] for matrix in members)
        for matrix in sorted(sorted(rest), key=lambda matrix: counts[matrix] - share[matrix])[:left]:
            counts[matrix] += 1
    return [best(score, count) for score, count in zip(scores, counts, strict=True)]


def n_of_m(scores: Tensor, n: int, m: int) -> Tensor:
    """Keeps the n best of every m neighbours in a row."""
    values, mask = scores.tolist(), torch.zeros(len(scores), dtype=torch.bool)
    for start in range(0, len(values), m):
        run = sorted(range(start, start + m), key=lambda index: (-values[index], index))
        mask[run[:n]] = True
    return mask


def above(scores: Tensor, threshold: float) -> Tensor:
    """Soft movement: M = sigmoid(S) > tau, and at least floor(0.005 n) + 1 are kept."""
    mask = scores.sigmoid() > threshold
    least = math.floor(LEAST * len(scores)) + 1
    return mask if int(mask.sum()) >= least else best(scores, least)


LEAST = 0.005


# The hard concrete gate of L0.

LOW, HIGH, TEMPERATURE = -0.1, 1.1, 2 / 3


def uniform(number: int, seed: int, step: int, place: int) -> Tensor:
    """Returns u: 16 bits each from Philox with the key (seed, step), counted on from (0, 0, chunk, place)."""
    bits: list[int] = []
    for chunk, start in enumerate(range(0, number, 1 << 18)):
        counter = np.array([0, 0, chunk, place], dtype=np.uint64)
        generator = np.random.Philox(key=np.array([seed, step], dtype=np.uint64), counter=counter)
        length = min(1 << 18, number - start)
        words = generator.random_raw(-(-length // 4)).tolist()
        bits += [word >> shift & 0xFFFF for word in words for shift in (0, 16, 32, 48)][:length]
    return 1e-4 + (1 - 2e-4) * (torch.tensor(bits, dtype=torch.float64) + 0.5) / 65536


def stretched(s: Tensor) -> Tensor:
    return torch.clamp(s * (HIGH - LOW) + LOW, 0, 1)


def drawn_gate(scores: Tensor, u: Tensor) -> Tensor:
    return stretched(torch.sigmoid((torch.log(u / (1 - u)) + scores) / TEMPERATURE))


def quiet_gate(scores: Tensor) -> Tensor:
    """The gate without noise. Where it would keep fewer than floor(0.005 n) + 1, the best scores' gates are sigmoid(S)."""
    gate = stretched(scores.sigmoid())
    least = math.floor(LEAST * len(scores)) + 1
    if int((gate > 0).sum()) < least:
        kept = best(scores, least)
        gate = torch.where(kept & (gate == 0), scores.sigmoid(), gate)
    return gate


@dataclass
class Setting:
    """One run, in plain numbers."""

    names: list[str]
    """The pruned parameters."""
    method: Literal["magnitude", "fixed", "movement", "soft", "l0"]
    scores: dict[str, Tensor]
    """How the scores start; nothing for magnitude pruning."""
    total: int
    warmup: int
    cooldown: int
    density: float | None = 0.1
    """None: the penalty decides."""
    scope: str = "local"
    cut: Cut = singles
    n_of_m: tuple[int, int] | None = None
    threshold: float = 0.1
    """tau_f, of soft movement."""
    penalty: float = 0.0
    """lambda, where there is no density."""
    penalties: list[float] | None = None
    """lambda_t of each step, where a density is asked for: whatever a controller made of it."""
    seed: int = 92
    rate: float = 1e-3
    score_rate: float = 1e-2
    decay: float = 0.0
    max_norm: float | None = None
    accumulation: int = 1
    shape: Callable[[int], float] = field(default=lambda step: 1.0)
    """The learning rate over its base, at each step."""

    def path(self, step: int, initial: float, final: float) -> float:
        return cubic(step, self.total, self.warmup, self.cooldown, initial, final)

    def penalty_at(self, step: int) -> float:
        """lambda_t = lambda * tau_t / tau_f, or what was given."""
        return self.path(step, 0.0, self.penalty) if self.penalties is None else self.penalties[step]


@dataclass
class Moment:
    """What a run holds during one step: the loss of its forward pass and the tensors after it."""

    loss: Tensor
    scores: dict[str, Tensor]
    dense: dict[str, Tensor]
    effective: dict[str, Tensor]
    norm: float | None = None


def masks(setting: Setting, scores: Sequence[Tensor], sizes: Sequence[int], step: int) -> list[Tensor]:
    """M of each matrix, for all methods but L0."""
    if setting.density is None:
        return [above(score, setting.path(step, 0.0, setting.threshold)) for score in scores]
    density = setting.path(step, 1.0, setting.density)
    if setting.method == "soft":
        return globally(scores, sizes, density, least=LEAST)
    if setting.n_of_m is not None:
        n, m = setting.n_of_m
        return [n_of_m(score, n if density == n / m else math.floor(density * m), m) for score in scores]
    if setting.scope == "adaptive":
        kinds = ["".join("*" if letter.isdigit() else letter for letter in name) for name in setting.names]
        return adaptively(scores, kinds, density)
    return locally(scores, density) if setting.scope == "local" else globally(scores, sizes, density)


def run(model: nn.Module, batches: Sequence[dict[str, Tensor]], setting: Setting) -> list[Moment]:
    """Trains a model by the equations, one batch (or `accumulation` of them) a step; the model holds dense weights."""
    weights = dict(model.named_parameters())
    group = {name: group_of_each(weights[name], setting.cut) for name in setting.names}
    sizes = [group[name].numel() // (int(group[name].max()) + 1) for name in setting.names]
    scores = {name: score.flatten().clone().requires_grad_() for name, score in setting.scores.items()}
    learns = setting.method in ("movement", "soft", "l0")
    weight_optimizer = torch.optim.AdamW(model.parameters(), lr=setting.rate, weight_decay=setting.decay)
    optimizers: list[torch.optim.Optimizer] = [weight_optimizer]
    if learns:
        optimizers.append(torch.optim.Adam(list(scores.values()), lr=setting.score_rate))
    schedulers = [torch.optim.lr_scheduler.LambdaLR(optimizer, setting.shape) for optimizer in optimizers]

    def gates(step: int, draw: bool) -> dict[str, Tensor]:
        """M of each group, in the forward passes of a step (draw) or between steps."""
        if setting.method == "l0":
            if not draw:
                return {name: quiet_gate(score) for name, score in scores.items()}
            u = [uniform(len(score), setting.seed, step, place) for place, score in enumerate(scores.values())]
            return {name: drawn_gate(score, noise) for (name, score), noise in zip(scores.items(), u, strict=True)}
        if setting.method == "magnitude":
            rank = [root_mean_square(weights[name].detach(), group[name]) for name in setting.names]
        else:
            rank = [score.detach() for score in scores.values()]
        kept = dict(zip(setting.names, masks(setting, rank, sizes, step), strict=True))
        return {name: StraightThrough.apply(scores[name], kept[name]) if learns else kept[name] for name in setting.names}

    def effective(gate: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: weights[name] * gate[name][group[name]] for name in setting.names}

    def regulariser() -> Tensor:
        """R(S) = mean over matrices of mean(sigmoid(S)), for L0 of the probability that a gate is open."""
        shift = TEMPERATURE * math.log(-LOW / HIGH) if setting.method == "l0" else 0.0
        return torch.stack([torch.sigmoid(score - shift).mean() for score in scores.values()]).mean()

    moments = []
    for step in range(setting.total):
        losses = []
        for batch in batches[step * setting.accumulation : (step + 1) * setting.accumulation]:
            output = functional_call(model, effective(gates(step, draw=True)), kwargs=batch)
            loss = output if isinstance(output, Tensor) else output.loss
            penalty = setting.penalty_at(step) * regulariser() if setting.method in ("soft", "l0") else 0.0
            ((loss + penalty) / setting.accumulation).backward()
            losses.append(loss.detach())
        norm = None
        if setting.max_norm is not None:
            norm = float(nn.utils.clip_grad_norm_([*weights.values(), *scores.values()], setting.max_norm))
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
        with torch.no_grad():
            copies = {name: weights[name].clone() for name in setting.names}
            after = effective(gates(step + 1, draw=False))
            learned = {name: score.clone() for name, score in scores.items()}
        moments.append(Moment(torch.stack(losses).mean(), learned, copies, after, norm))
    return moments
