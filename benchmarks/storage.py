"""How small packed models are: against the bound, the dense file, and compressed sparse rows in gzip.

    python benchmarks/storage.py [--seed 0] [--output FILE]
    python benchmarks/storage.py --models runs/a runs/b --output FILE      # saved models, pruned for real, instead

The encoder of BERT-base, of whose matrices a random 10, 6 or 3 % is kept, with normal values, or with uniform ones, in which
there is nothing to compress: the worst case. `matrices` are the bytes of those that are stored sparse, `bound` is
n (H(d) + d b) bits for n weights of which a fraction d is kept, with b bits a value. `file` is the whole file, header, scales,
biases and norms included, `its bound` counts each number of these in full. `CSR, gzip` is what the authors of movement pruning
did with the matrices: whole numbers of 8 bits with one scale a matrix, compressed sparse rows with columns of 2 bytes, gzip.
"""

import argparse
import gzip
import json
import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.utils import logging

from fineprune.apps.convert.pack import compared_sizes
from fineprune.compress.loading import from_pretrained
from fineprune.compress.packing.header import SparseEntry
from fineprune.compress.packing.values import VALUES, Int8Values, PackedValues
from fineprune.compress.packing.write import PACKED, write
from fineprune.compress.resizing.weights import Weights

DRAWS: dict[str, Callable[..., Tensor]] = {"normal": torch.randn, "uniform": lambda *shape: 2 * torch.rand(*shape) - 1}
DENSITIES = (0.10, 0.06, 0.03)
CASES = {f"random {draw}, {density:.0%}": (draw, density) for draw in DRAWS for density in DENSITIES}

LAYERS, WIDTH, NEURONS = 12, 768, 3072
"""Of BERT-base."""


@dataclass(frozen=True)
class Row:
    """What one model came to with one kind of values; sizes in bytes, `csr` for int8 only."""

    case: str
    values: str
    density: float
    dense: int
    matrices: int
    bound: float
    file: int
    file_bound: float
    csr: int | None


def random_encoder(draw: Callable[..., Tensor], density: float) -> dict[str, Tensor]:
    """Random tensors with the names and shapes of BERT-base's encoder; of each matrix this share is kept."""
    shapes = {f"attention.self.{part}": (WIDTH, WIDTH) for part in ("query", "key", "value")}
    shapes |= {
        "attention.output.dense": (WIDTH, WIDTH),
        "intermediate.dense": (NEURONS, WIDTH),
        "output.dense": (WIDTH, NEURONS),
    }
    tensors = {}
    for layer in (f"encoder.layer.{number}" for number in range(LAYERS)):
        for name, (rows, cols) in shapes.items():
            tensors[f"{layer}.{name}.weight"] = draw(rows, cols).masked_fill_(torch.rand(rows, cols) >= density, 0.0)
            tensors[f"{layer}.{name}.bias"] = torch.randn(rows)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            tensors |= {f"{layer}.{name}.{part}": torch.randn(WIDTH) for part in ("weight", "bias")}
    return tensors


def cases(models: list[Path]) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """Yields the tensors of each case."""
    for folder in models:
        yield folder.name, Weights(from_pretrained(folder)).tensors
    for name, (draw, density) in CASES.items() if not models else ():
        yield name, random_encoder(DRAWS[draw], density)


def csr_gzip(matrix: Tensor) -> int:
    """Bytes of a matrix as whole numbers with one scale, in compressed sparse rows, each array in gzip."""
    values = (matrix / (matrix.abs().max() / 127)).round().to(torch.int8)
    rows, columns = values.nonzero(as_tuple=True)
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows.numpy(), minlength=len(matrix)))])
    arrays = (values[rows, columns].numpy(), columns.numpy().astype(np.uint16), starts.astype(np.int32))
    return sum(len(gzip.compress(array.tobytes(), 9)) for array in arrays)


def measure(case: str, tensors: Mapping[str, Tensor], values: PackedValues) -> Row:
    """Packs tensors and counts."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / PACKED
        written = write(path, tensors, values)
        sparse, *_, whole = compared_sizes(tensors, written, path.stat().st_size)
    matrices = {name: one.entry for name, one in written.items() if isinstance(one.entry, SparseEntry)}
    density = sum(entry.kept for entry in matrices.values()) / sum(entry.size for entry in matrices.values())
    csr = sum(csr_gzip(tensors[name].flatten(1)) for name in matrices) if values == Int8Values() else None
    return Row(case, values.name, density, whole.before, sparse.after, sparse.bound, whole.after, whole.bound, csr)


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the rows as a Markdown table; MB are 10^6 bytes."""
    lines = [
        "| model | values | kept | matrices | bound | matrices / bound | file | file / its bound | dense | CSR, gzip / bound |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            *(row["case"], row["values"], f"{row['density']:.2%}"),
            *(f"{row[key] / 1e6:.2f} MB" for key in ("matrices", "bound")),
            f"{row['matrices'] / row['bound']:.3f}",
            f"{row['file'] / 1e6:.2f} MB",
            f"{row['file'] / row['file_bound']:.3f}",
            f"{row['dense'] / 1e6:.1f} MB",
            "" if row["csr"] is None else f"{row['csr'] / row['bound']:.3f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, nargs="+", default=[], help="folders of pruned models to measure instead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "storage.json")
    chosen = parser.parse_args()
    torch.manual_seed(chosen.seed)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    rows = [asdict(measure(case, tensors, values)) for case, tensors in cases(chosen.models) for values in VALUES.values()]
    print(table(rows))
    facts = {
        "rows": rows,
        "seed": chosen.seed,
        "processor": platform.machine(),
        "versions": {name: version(name) for name in ("fineprune", "torch", "numpy", "zstandard")},
        "date": date.today().isoformat(),
    }
    chosen.output.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
