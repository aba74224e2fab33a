"""Random numbers that depend on a seed, a step and a place, and on nothing drawn before: the same on every rank."""

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

EPSILON = 1e-4
"""u is drawn from here to 1 minus this, as in Sanh et al.'s released example."""

CHUNK = 1 << 18
"""So many numbers are drawn from one counter, so that threads can share the work."""


def _logits() -> Any:
    u = EPSILON + (1 - 2 * EPSILON) * (np.arange(1 << 16) + 0.5) / (1 << 16)
    return np.log(u / (1 - u))


LOGITS: dict[torch.dtype, Any] = {torch.float64: _logits(), torch.float32: _logits().astype(np.float32)}
"""logit(u) for each of the 65,536 values that u can have on a CPU: a table is faster than a logarithm."""


def logit_noise(like: Tensor, seed: int, step: int, place: int) -> Tensor:
    """Draws logit(u), u uniform from 1e-4 to 1 - 1e-4, in the shape, type and device of `like`.

    Args:
        like: float32 or float64.
        seed, step, place: name the numbers: the counter-based generator Philox (Salmon et al. 2011) makes
            them from these alone. The numbers of a GPU are other ones than those of a CPU.
    """
    if like.device.type != "cpu":
        mixed = int(np.random.SeedSequence([seed, step, place]).generate_state(1, np.uint64)[0] >> np.uint64(1))
        generator = torch.Generator(like.device).manual_seed(mixed)
        u = torch.rand(like.shape, generator=generator, dtype=like.dtype, device=like.device)
        return u.mul_(1 - 2 * EPSILON).add_(EPSILON).logit_()
    noise = torch.empty(like.shape, dtype=like.dtype)
    values = noise.view(-1).numpy()

    def fill(start: int) -> None:
        part = values[start : start + CHUNK]
        key = np.array([seed % (1 << 64), step], dtype=np.uint64)
        counter = np.array([0, 0, start // CHUNK, place], dtype=np.uint64)
        drawn = np.random.Philox(key=key, counter=counter).random_raw(math.ceil(len(part) / 4)).view(np.uint16)
        np.take(LOGITS[like.dtype], drawn[: len(part)], out=part, mode="clip")  # the mode without a buffer

    starts = range(0, len(values), CHUNK)
    threads = min(torch.get_num_threads(), len(starts))
    if threads == 1:
        list(map(fill, starts))
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(fill, starts))
    return noise
