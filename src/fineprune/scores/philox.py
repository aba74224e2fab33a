"""Random numbers that depend on a seed, a step and a place, and on no numbers before them: the same on every rank."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

EPSILON = 1e-4
"""u is uniform from this to 1 minus this, as in Sanh et al.'s released example."""

CHUNK = 1 << 18
"""Numbers from one counter, so that threads can share the work."""


def _logits() -> Any:
    u = EPSILON + (1 - 2 * EPSILON) * (np.arange(1 << 16) + 0.5) / (1 << 16)
    return np.log(u / (1 - u))


LOGITS: dict[torch.dtype, Any] = {torch.float64: _logits(), torch.float32: _logits().astype(np.float32)}
"""logit(u) for each of the 65,536 values that u can have on a CPU: a table is faster than a logarithm."""


def logit_noise(like: Tensor, seed: int, step: int, place: int, start: int = 0) -> Tensor:
    """Draws logit(u), u uniform from 1e-4 to 1 - 1e-4, in the shape, type and device of `like`.

    Args:
        like: float32 or float64.
        seed, step, place: name the numbers: the counter-based generator Philox (Salmon et al. 2011) makes
            them from these alone. The numbers of a GPU are other ones than those of a CPU.
        start: the number of values of the same names before these. On a CPU, pieces made one by one equal the whole,
            however it is divided.
    """
    if like.device.type != "cpu":
        generator = _generator(like.device, [seed, step, place, *([start] if start else [])])
        u = torch.rand(like.shape, generator=generator, dtype=like.dtype, device=like.device)
        return u.mul_(1 - 2 * EPSILON).add_(EPSILON).logit_()
    noise = torch.empty(like.shape, dtype=like.dtype)
    values = noise.view(-1).numpy()

    def fill(where: slice, chunk: int, within: slice) -> None:
        words = _philox(within, seed, step, (0, 0, chunk, place))
        np.take(LOGITS[like.dtype], words, out=values[where], mode="clip")  # the mode without a buffer

    _share_out(fill, start, len(values))
    return noise


def random_bits(count: int, device: torch.device, *, seed: int, step: int, place: int, stream: int, start: int = 0) -> Tensor:
    """Returns 16 random bits for each of a number of values, as int32 from 0 to 65,535.

    Args:
        count: of values.
        device: where they are wanted. The bits of a GPU are other ones than those of a CPU.
        seed, step, place: name the bits, as in `logit_noise`.
        stream: names them too, from 1, beside other numbers of the same step and place. `logit_noise` takes stream 0.
        start: how many values of the same names come before these, as in `logit_noise`.
    """
    if device.type != "cpu":
        generator = _generator(device, [seed % (1 << 64), step, place, stream, start])
        return torch.randint(1 << 16, (count,), generator=generator, dtype=torch.int32, device=device)
    bits = torch.empty(count, dtype=torch.int32)
    values = bits.numpy()

    def fill(where: slice, chunk: int, within: slice) -> None:
        values[where] = _philox(within, seed, step, (0, stream, chunk, place))

    _share_out(fill, start, count)
    return bits


def _philox(within: slice, seed: int, step: int, counter: tuple[int, int, int, int]) -> Any:
    """Returns numbers of 16 bits of a chunk. The first word of the counter is what the generator counts in."""
    key = np.array([seed % (1 << 64), step], dtype=np.uint64)
    generator = np.random.Philox(key=key, counter=np.array(counter, dtype=np.uint64))
    return generator.random_raw(math.ceil(within.stop / 4)).view(np.uint16)[within]


def _generator(device: torch.device, names: list[int]) -> torch.Generator:
    """Returns a generator of a GPU that starts where the names say."""
    mixed = int(np.random.SeedSequence(names).generate_state(1, np.uint64)[0] >> np.uint64(1))
    return torch.Generator(device).manual_seed(mixed)


def _share_out(fill: Callable[[slice, int, slice], None], start: int, count: int) -> None:
    """Calls `fill` for each chunk of a number of values from a start, on as many threads as PyTorch has.

    `fill` takes the places in the values, the chunk's number, and the places of its numbers within the chunk.
    """

    def fill_from(chunk: int) -> None:
        first, last = max(chunk * CHUNK, start), min((chunk + 1) * CHUNK, start + count)
        fill(slice(first - start, last - start), chunk, slice(first - chunk * CHUNK, last - chunk * CHUNK))

    chunks = range(start // CHUNK, math.ceil((start + count) / CHUNK))
    threads = min(torch.get_num_threads(), len(chunks))
    if threads <= 1:
        list(map(fill_from, chunks))
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(fill_from, chunks))
