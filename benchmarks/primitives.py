"""Times the few operations that the pruner does in an unusual way against the obvious way, interleaved in one run.

    python benchmarks/primitives.py [--rows 1536] [--columns 384] [--repeats 51] [--output benchmarks/results/primitives.json]

Prints, and writes as JSON, the median time of each in milliseconds, and the ratio of each pair.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fineprune.masks.bits import zero_where_pruned
from fineprune.scores.philox import EPSILON, logit_noise
from fineprune.selection.topk import keep_highest

Pair = tuple[Callable[[], Any], Callable[[], Any]]


def by_sorting(scores: Tensor, count: int) -> Tensor:
    """Keeps the `count` highest by a full sort."""
    order = scores.flatten().sort(descending=True, stable=True).indices
    return torch.zeros(scores.numel(), dtype=torch.bool).index_fill_(0, order[:count], True).view(scores.shape)


def by_partition(scores: Tensor, count: int) -> Tensor:
    """Keeps the `count` highest by a partition of all of them."""
    values = scores.flatten().numpy()
    cut = np.partition(values, len(values) - count)[len(values) - count]
    kept = values > cut
    kept[np.flatnonzero(values == cut)[: count - np.count_nonzero(kept)]] = True
    return torch.from_numpy(kept).view(scores.shape)


def by_logarithm(like: Tensor) -> Tensor:
    """Draws logit(u) by PyTorch's own generator and logarithm."""
    return torch.rand_like(like).mul_(1 - 2 * EPSILON).add_(EPSILON).logit_()


def pairs(scores: Tensor) -> dict[str, Pair]:
    """Returns, by name, the way taken and the obvious way."""
    kept = scores.numel() // 10
    mask = scores > 1.28
    weight = scores.clone()
    return {
        "keep 10 % / by sorting": (lambda: keep_highest([scores], [1], kept), lambda: by_sorting(scores, kept)),
        "keep 10 % / by partition of the whole": (
            lambda: keep_highest([scores], [1], kept),
            lambda: by_partition(scores, kept),
        ),
        "zero by bits / masked_fill_": (lambda: zero_where_pruned(weight, mask), lambda: weight.masked_fill_(~mask, 0.0)),
        "finite by aminmax / isfinite": (lambda: torch.stack(torch.aminmax(scores)).isfinite().all(), scores.isfinite().all),
        "table of logits / logarithm in noise": (lambda: logit_noise(scores, 0, 0, 0), lambda: by_logarithm(scores)),
    }


def check() -> None:
    """Raises unless all ways to select keep the same."""
    small = torch.randn(40, 30)
    expected = by_sorting(small, 120)
    assert all(torch.equal(mask, expected) for mask in (*keep_highest([small], [1], 120), by_partition(small, 120)))


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1536)
    parser.add_argument("--columns", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=51)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "primitives.json")
    chosen = parser.parse_args()
    torch.manual_seed(0)
    check()
    results = {}
    for name, ways in pairs(torch.randn(chosen.rows, chosen.columns)).items():
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(chosen.repeats):
            for way, measured in zip(ways, times, strict=True):
                start = time.perf_counter()
                way()
                measured.append(1e3 * (time.perf_counter() - start))
        taken, obvious = map(statistics.median, times)
        results[name] = {"taken_ms": round(taken, 3), "obvious_ms": round(obvious, 3), "ratio": round(obvious / taken, 1)}
        print(f"{name:38} {taken:9.3f} ms {obvious:9.3f} ms  {obvious / taken:6.1f} x")
    facts = {
        "shape": [chosen.rows, chosen.columns],
        "results": results,
        "processor": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("torch", "numpy")},
        "date": date.today().isoformat(),
    }
    chosen.output.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
