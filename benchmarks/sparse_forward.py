"""What a training step could gain if the forward pass and the gradient of the inputs used the zeros.

    python benchmarks/sparse_forward.py [--tokens 2048] [--repeats 7] [--output FILE]

For the six matrices of a BERT-base block, with random weights: the three dense products of training (the forward pass, the
gradient of the inputs, and the gradient of the weights, which stays dense since pruned weights need theirs, too), and the
first two by PyTorch's sparse CSR product, with the building of the CSR form that each step would need. Interleaved, medians.
`block` is the time of all three products, sparse where they can be, over dense; the best that it could be is 1/3.
"""

import argparse
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SHAPES = {(768, 768): 4, (3072, 768): 1, (768, 3072): 1}
"""Outputs x inputs -> how many in a block."""
DENSITIES = (0.1, 0.03)


def products(rows: int, cols: int, tokens: int) -> dict[str, Callable[[], Any]]:
    """Returns by name what is timed for one matrix."""
    inputs, gradient, weight = torch.randn(tokens, cols), torch.randn(tokens, rows), torch.randn(rows, cols)
    ways: dict[str, Callable[[], Any]] = {
        "dense forward": lambda: inputs @ weight.t(),
        "dense input gradient": lambda: gradient @ weight,
        "dense weight gradient": lambda: gradient.t() @ inputs,
    }
    for density in DENSITIES:
        pruned = weight * (torch.rand(rows, cols) < density)
        csr, transposed = pruned.to_sparse_csr(), pruned.t().contiguous().to_sparse_csr()
        columns, output_columns = inputs.t().contiguous(), gradient.t().contiguous()
        assert torch.allclose((csr @ columns).t(), inputs @ pruned.t(), atol=1e-2)
        ways[f"sparse forward {density}"] = partial(torch.matmul, csr, columns)
        ways[f"sparse input gradient {density}"] = partial(torch.matmul, transposed, output_columns)
        ways[f"building {density}"] = partial(_both, pruned)
    return ways


def _both(pruned: Tensor) -> tuple[Tensor, Tensor]:
    return pruned.to_sparse_csr(), pruned.t().contiguous().to_sparse_csr()


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "sparse_forward.json")
    chosen = parser.parse_args()
    torch.manual_seed(chosen.seed)
    warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
    block: dict[str, float] = {}
    for (rows, cols), number in SHAPES.items():
        ways = products(rows, cols, chosen.tokens)
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(chosen.repeats):
            for name, way in ways.items():
                start = time.perf_counter()
                way()
                times[name].append(time.perf_counter() - start)
        for name, seconds in times.items():
            block[name] = block.get(name, 0.0) + number * 1e3 * statistics.median(seconds)
    dense = sum(block[name] for name in block if name.startswith("dense"))
    for name, milliseconds in block.items():
        print(f"{name:28} {milliseconds:9.1f} ms")
    ratios = {}
    for density in DENSITIES:
        sparse = sum(block[f"{name} {density}"] for name in ("sparse forward", "sparse input gradient", "building"))
        ratios[str(density)] = (sparse + block["dense weight gradient"]) / dense
        print(f"block at {density}: {ratios[str(density)]:.3f} of dense")
    facts = {
        "milliseconds": block,
        "block": ratios,
        "tokens": chosen.tokens,
        "seed": chosen.seed,
        "processor": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "versions": {"torch": version("torch")},
        "date": date.today().isoformat(),
    }
    chosen.output.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
