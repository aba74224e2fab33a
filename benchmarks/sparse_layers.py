"""Single layers, as a block of BERT-base has them: this library's sparse product against dense BLAS.

    python benchmarks/sparse_layers.py [--tokens 128] [--rounds 31] [--threads 2 1] [--output FILE] [--csv FILE]

y = W x + b, with random weights of which a random 10 % or 3 % are kept; x is tokens x inputs, as it lies in a model. Dense is
PyTorch's `linear`, and beside it the BLAS of numpy, since neither is the faster one on every processor. In each round all
take a turn of many products, in random order, after a pause and a turn that is not counted; medians, and the range
of the ratios within each round from the tenth to the ninetieth of a hundred. Outputs are compared first.
"""

import argparse
import json
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor
from torch.nn import functional

from fineprune.apps.bench.timing import Spread, in_turns, timed
from fineprune.sparse.format import BFloat16, SparseMatrix
from fineprune.sparse.linear import SparseLinear

SHAPES = ((768, 768), (3072, 768), (768, 3072))
"""Outputs x inputs."""
DENSITIES = (0.1, 0.03)
PAGE = Path(__file__).parents[1] / "docs" / "measurements" / "inference.md"
PRODUCTS = 20
"""In one turn, so that the clock can tell."""
TOLERANCES = {"fp32": 1e-4, "bf16": 5e-2}


KERNEL = "fp32, features first"
"""The product alone: tokens lie as the kernels have them, before and after."""


@dataclass(frozen=True)
class Row:
    """One matrix with one type of activations; milliseconds, and how many times faster than each dense product."""

    outputs: int
    inputs: int
    density: float
    threads: int
    activations: str
    latency: float
    torch: float
    numpy: float
    over_torch: Spread
    over_numpy: Spread


@dataclass(frozen=True)
class Layer:
    """W, b and x of a linear layer."""

    weight: Tensor
    bias: Tensor
    tokens: Tensor

    @classmethod
    def random(cls, outputs: int, inputs: int, density: float, tokens: int) -> "Layer":
        """Returns a layer of which a share of the weights is kept."""
        weight = torch.randn(outputs, inputs) / (density * inputs) ** 0.5
        return cls(weight * (torch.rand(outputs, inputs) < density), torch.randn(outputs), torch.randn(tokens, inputs))

    def by_torch(self) -> Tensor:
        """Returns the dense product by PyTorch."""
        return functional.linear(self.tokens, self.weight, self.bias)

    def by_numpy(self) -> Tensor:
        """Returns the dense product by numpy."""
        return torch.from_numpy(self.tokens.numpy() @ self.weight.numpy().T + self.bias.numpy())

    def ours(self) -> dict[str, SparseLinear]:
        """Returns the sparse layer with each type of activations."""
        matrix = SparseMatrix.from_dense(self.weight)
        return {"fp32": SparseLinear(matrix, self.bias), "bf16": SparseLinear(matrix, self.bias, activations=BFloat16())}


def measure(layer: Layer, density: float, threads: int, rounds: int) -> Iterator[Row]:
    """Measures one matrix."""
    ours, expected = layer.ours(), layer.by_torch()
    for name, one in ours.items():
        assert torch.allclose(one(layer.tokens), expected, rtol=0, atol=TOLERANCES[name]), "both must give the same"
    ways: dict[str, Callable[[], object]] = {"torch": layer.by_torch, "numpy": layer.by_numpy}
    ways |= {name: partial(one, layer.tokens) for name, one in ours.items()}
    ways[KERNEL] = partial(ours["fp32"].product, layer.tokens.t().contiguous())
    timings = in_turns({name: timed(partial(often, way)) for name, way in ways.items()}, rounds)
    medians = {name: timing.spread.median / PRODUCTS for name, timing in timings.items()}
    for name in [*ours, KERNEL]:
        outputs, inputs = layer.weight.shape
        yield Row(
            *(outputs, inputs, density, threads, name),
            latency=medians[name],
            torch=medians["torch"],
            numpy=medians["numpy"],
            over_torch=timings[name].times_faster_than(timings["torch"]),
            over_numpy=timings[name].times_faster_than(timings["numpy"]),
        )


def often(way: Callable[[], object]) -> None:
    """Does it again and again."""
    for _ in range(PRODUCTS):
        way()


@torch.inference_mode()
def measure_all(tokens: int, rounds: int, threads: int) -> Iterator[Row]:
    """Measures every matrix with `threads` threads."""
    torch.set_num_threads(threads)
    with threadpool_limits(threads, user_api="blas"):
        for outputs, inputs in SHAPES:
            for density in DENSITIES:
                yield from measure(Layer.random(outputs, inputs, density, tokens), density, threads, rounds)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the rows of two threads as a Markdown table."""
    heads = ["outputs x inputs", "density", "activations", "fineprune", "PyTorch / fineprune", "numpy / fineprune"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        if row["threads"] == 2:
            names = [f"{row['outputs']} x {row['inputs']}", f"{row['density']:.0%}", row["activations"]]
            ratios = [f"{row[name]['median']:.1f}" for name in ("over_torch", "over_numpy")]
            cells = [*names, f"{row['latency']:.3f} ms", *ratios]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def every_row(rows: Sequence[dict[str, Any]]) -> str:
    """Returns all rows as CSV, with the ranges of the ratios."""
    ratios = {"over_torch": "PyTorch / fineprune", "over_numpy": "numpy / fineprune"}
    columns = [f"{name}{bound}" for name in ratios.values() for bound in ("", " low", " high")]
    times = ("latency", "torch", "numpy")
    lines = [",".join(["outputs", "inputs", "density", "threads", "activations", *(f"{name} ms" for name in times), *columns])]
    for row in rows:
        names = [str(row["outputs"]), str(row["inputs"]), f"{row['density']:.0%}", str(row["threads"])]
        figures = [f"{row[name]:.3f}" for name in times]
        figures += [f"{row[name][bound]:.1f}" for name in ratios for bound in ("median", "low", "high")]
        lines.append(",".join([*names, f'"{row["activations"]}"', *figures]))
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "sparse_layers.json")
    parser.add_argument("--csv", type=Path, default=PAGE.with_name("sparse_layers.csv"), help="for every row, beside the page")
    chosen = parser.parse_args()
    torch.manual_seed(chosen.seed)
    rows = [asdict(row) for threads in chosen.threads for row in measure_all(chosen.tokens, chosen.rounds, threads)]
    print(table(rows))
    chosen.csv.write_text(every_row(rows), encoding="utf-8")
    facts = {
        "rows": rows,
        "tokens": chosen.tokens,
        "rounds": chosen.rounds,
        "seed": chosen.seed,
        "processor": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "versions": {name: version(name) for name in ("fineprune", "torch", "numpy", "numba")},
        "date": date.today().isoformat(),
    }
    chosen.output.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
