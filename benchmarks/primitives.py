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

import torch
from torch import Tensor

from fineprune.selection import _above, _ranked, keep_highest, keep_highest_by_sorting
from fineprune.sites import zero_where_pruned

Pair = tuple[Callable[[], Any], Callable[[], Any]]


def pairs(scores: Tensor) -> dict[str, Pair]:
    """Returns, by name, the way taken and the obvious way."""
    count = scores.numel()
    kept = count // 10
    mask = scores > 1.28
    weight, flat = scores.clone(), scores.flatten()
    return {
        "keep 10 % / by sorting": (
            lambda: keep_highest([scores], [1], kept),
            lambda: (
                torch.zeros_like(mask).view(-1).index_fill_(0, flat.sort(descending=True, stable=True).indices[:kept], True)
            ),
        ),
        "value of a rank / kthvalue": (lambda: _ranked(flat, kept), lambda: flat.kthvalue(count - kept)),
        "compare with NumPy / PyTorch": (lambda: _above(scores, 1.28), lambda: scores > 1.28),
        "zero by bits / masked_fill_": (lambda: zero_where_pruned(weight, mask), lambda: weight.masked_fill_(~mask, 0.0)),
        "finite by aminmax / isfinite": (lambda: torch.stack(torch.aminmax(scores)).isfinite().all(), scores.isfinite().all),
    }


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1536)
    parser.add_argument("--columns", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=51)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "primitives.json")
    chosen = parser.parse_args()
    torch.manual_seed(0)
    small = torch.randn(40, 30)
    assert torch.equal(keep_highest([small], [1], 120)[0], keep_highest_by_sorting([small], [1], 120)[0])
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
        print(f"{name:32} {taken:9.3f} ms {obvious:9.3f} ms  {obvious / taken:6.1f} x")
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
