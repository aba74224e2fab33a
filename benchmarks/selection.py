"""What it takes to find the highest scores of a whole model, exactly: time and peak memory against PyTorch's own ways, by size.

    python benchmarks/selection.py [--models BERT-base ...] [--seed 0] [--output FILE]

The scores of all matrices of a model share one budget, as in the global scope. `keep_highest` is the library's own;
`torch.kthvalue` finds the cut, with which all scores are compared; `torch.sort` ranks all of them (descending, stable). Each
keeps exactly floor(density * scores), of equal scores those with the lower index, and the masks are compared. The matrices lie
side by side in one tensor, which the other two are given, so they need not join them (4 bytes a score more).

Times are of one process, in which rounds take turns: seven of `keep_highest`, three of `torch.kthvalue`, one of `torch.sort`.
Beside the median of what passed stands the time of the processors, all threads together, of the round that was disturbed the
least, which says more on a busy machine. The peak is how far the memory of a process of its own grows beyond the scores while
it selects once (Linux only). Not every case is measured at every size: sorting the largest takes minutes, and 24 bytes a score.
The whole takes some minutes and 16 GB of memory, and rows are written as they come.
"""

import argparse
import hashlib
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fineprune.selection.counts import budget_of
from fineprune.selection.topk import keep_highest

Shapes = list[tuple[int, int]]
Row = dict[str, Any]


def bert(layers: int, width: int) -> Shapes:
    """Returns the shapes of the matrices of BERT's encoder."""
    return ([(width, width)] * 4 + [(4 * width, width), (width, 4 * width)]) * layers


def llama(layers: int, width: int, keys: int, neurons: int) -> Shapes:
    """Returns the shapes of the matrices of Llama's blocks, in which the keys and values are `keys` wide."""
    return [*[(width, width)] * 2, *[(keys, width)] * 2, *[(neurons, width)] * 2, (width, neurons)] * layers


MODELS: dict[str, Shapes] = {
    "BERT-base": bert(12, 768),
    "BERT-large": [*bert(24, 1024), (30522, 1024), (512, 1024), (2, 1024), (1024, 1024)],
    "Llama-3.2-1B": llama(16, 2048, 512, 8192),
}
"""BERT-base: the encoder. BERT-large: embeddings and pooler too, all of what is called 340M. Llama: without the embeddings."""


class Scores:
    """Scores of a model, normally distributed or changed for a case: all in one tensor, and matrix by matrix."""

    def __init__(self, model: str, seed: int) -> None:
        shapes = MODELS[model]
        sizes = [math.prod(shape) for shape in shapes]
        self.all = torch.empty(sum(sizes)).normal_(generator=torch.Generator().manual_seed(seed))
        self.matrices = [part.view(shape) for part, shape in zip(torch.split(self.all, sizes), shapes, strict=True)]


def _columns(scores: Scores) -> None:
    generator = torch.Generator().manual_seed(1)
    for matrix in scores.matrices:
        matrix.mul_(torch.empty(matrix.shape[1]).log_normal_(0.0, 0.5, generator=generator))


def _rounded(scores: Scores) -> None:
    for matrix in scores.matrices:
        matrix.copy_(matrix.bfloat16())


CASES: dict[str, tuple[float, Callable[[Scores], Any]]] = {
    "normal, 10%": (0.10, lambda scores: None),
    "normal, 3%": (0.03, lambda scores: None),
    "columns differ, 10%": (0.10, _columns),
    "rounded to bfloat16, 10%": (0.10, _rounded),
    "all equal, 10%": (0.10, lambda scores: scores.all.zero_()),
}
"""Name -> density, and what is done to normally distributed scores.

Columns differ as features of a model do, here by factors whose logarithm has a standard deviation of one half.
"""


def by_library(scores: Scores, count: int) -> list[Tensor]:
    """Keeps the `count` highest by the library's selection."""
    return keep_highest(scores.matrices, [1] * len(scores.matrices), count)


def by_kthvalue(scores: Scores, count: int) -> list[Tensor]:
    """Keeps the `count` highest by PyTorch's selection of one value, and what ties with it from the front."""
    cut = scores.all.kthvalue(scores.all.numel() - count + 1).values
    kept = scores.all > cut
    missing = count - int(kept.sum())
    kept[(scores.all == cut).nonzero().flatten()[:missing]] = True
    return _as_matrices(kept, scores)


def by_sort(scores: Scores, count: int) -> list[Tensor]:
    """Keeps the `count` highest by a full sort."""
    order = scores.all.sort(descending=True, stable=True).indices
    return _as_matrices(torch.zeros(len(order), dtype=torch.bool).index_fill_(0, order[:count], True), scores)


def _as_matrices(kept: Tensor, scores: Scores) -> list[Tensor]:
    parts = torch.split(kept, [matrix.numel() for matrix in scores.matrices])
    return [part.view_as(matrix) for part, matrix in zip(parts, scores.matrices, strict=True)]


WAYS: dict[str, tuple[Callable[[Scores, int], list[Tensor]], int]] = {
    "keep_highest": (by_library, 7),
    "torch.kthvalue": (by_kthvalue, 3),
    "torch.sort": (by_sort, 1),
}
"""Name -> the way, and in how many rounds it is timed."""

WHOLE, PLAIN = "BERT-base", "normal, 10%"
"""The model with which everything is measured, and the case that is measured in every respect."""

CASES_BEYOND = (PLAIN, "rounded to bfloat16, 10%")
"""The cases of the other models."""


def ways(model: str, case: str) -> list[str]:
    """Returns the ways that are timed: sorting the largest would not fit in the memory; beyond one model, one case will do."""
    sorts = model == WHOLE or (model, case) == ("BERT-large", PLAIN)
    return [way for way in WAYS if way != "torch.sort" or sorts]


def measure(model: str, seed: int) -> Iterator[list[Row]]:
    """Yields the rows of one case after another, peaks left open."""
    for case in CASES if model == WHOLE else CASES_BEYOND:
        scores = Scores(model, seed)
        density, change = CASES[case]
        change(scores)
        count = budget_of(scores.all.numel(), density)
        facts = {"model": model, "matrices": len(scores.matrices), "scores": scores.all.numel(), "case": case, "kept": count}
        rows = take_turns(scores, count, ways(model, case))
        yield [{**facts, "way": way, **row, "peak": None} for way, row in rows.items()]


def take_turns(scores: Scores, count: int, names: list[str]) -> dict[str, Row]:
    """Returns of each way the seconds of its rounds, of the processors too, and if it keeps the `count` that the first does."""
    rows: dict[str, Row] = {name: {"seconds": [], "cpu_seconds": []} for name in names}
    expected = ""
    for number in range(max(rounds for _, rounds in WAYS.values())):
        for name in names:
            way, rounds = WAYS[name]
            if number >= rounds:
                continue
            start, cpu_start = time.perf_counter(), time.process_time()
            kept = way(scores, count)
            rows[name]["seconds"].append(time.perf_counter() - start)
            rows[name]["cpu_seconds"].append(time.process_time() - cpu_start)
            if not number:
                expected = expected or digest(kept)
                rows[name]["same"] = digest(kept) == expected and sum(int(mask.sum()) for mask in kept) == count
            del kept
    return rows


def digest(masks: list[Tensor]) -> str:
    """Returns what stands for the masks, which would take memory themselves."""
    hashed = hashlib.sha256()
    for mask in masks:
        hashed.update(mask.numpy().data)
    return hashed.hexdigest()


def peak(model: str, case: str, way: str, seed: int) -> int:
    """Returns by how many bytes the memory of this process grows at most while it selects."""
    scores = Scores(model, seed)
    density, change = CASES[case]
    change(scores)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts again from here
    before = _memory("VmRSS")
    WAYS[way][0](scores, budget_of(scores.all.numel(), density))
    return _memory("VmHWM") - before


def _memory(name: str, file: str = "/proc/self/status") -> int:
    return 1024 * int(Path(file).read_text(encoding="utf-8").partition(f"{name}:")[2].split()[0])


def check_memory(model: str) -> None:
    """Raises unless as much memory is free as the scores of a model and the hungriest way take."""
    needed = sum(math.prod(shape) for shape in MODELS[model]) * (24 if "torch.sort" in ways(model, PLAIN) else 16)
    free = _memory("MemAvailable", "/proc/meminfo")
    if free < 1.05 * needed:
        raise SystemExit(f"{model} needs {needed / 1e9:.0f} GB of memory, and {free / 1e9:.0f} are free: see --models.")


def peak_of_its_own(row: Row, seed: int) -> int:
    """Returns the peak of a row, from a process of its own."""
    command = [sys.executable, __file__, "--peak", row["model"], row["case"], row["way"], "--seed", str(seed)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def has_peak(row: Row) -> bool:
    """Says if the peak of a row is measured: sorting takes as much in every case, and takes its time."""
    plain, whole = bool(row["case"] == PLAIN), bool(row["model"] == WHOLE)
    return (plain and whole) if row["way"] == "torch.sort" else (plain or whole)


def table(rows: list[Row]) -> str:
    """Returns the rows as a Markdown table."""
    heads = ["model", "scores", "case", "way", "rounds", "median", "range", "over keep_highest"]
    heads += ["least CPU, ns a score", "over keep_highest", "peak, bytes a score"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    first: Row = {}
    for row in rows:
        seconds, median = row["seconds"], statistics.median(row["seconds"])
        first = row if row["way"] == "keep_highest" else first
        cells = [
            *(
                row["model"],
                f"{row['scores'] / 1e6:.1f}M",
                row["case"],
                f"`{row['way']}`",
                str(len(seconds)),
                f"{median:.2f} s",
            ),
            f"{min(seconds):.2f} to {max(seconds):.2f}" if len(seconds) > 1 else "",
            f"{median / statistics.median(first['seconds']):.1f}",
            f"{cpu(row):.1f}",
            f"{cpu(row) / cpu(first):.1f}",
            "" if row["peak"] is None else f"{row['peak'] / row['scores']:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def cpu(row: Row) -> float:
    """Returns the time of the processors in nanoseconds a score, in the round that was disturbed the least."""
    return float(1e9 * min(row["cpu_seconds"]) / row["scores"])


def growth(rows: list[Row]) -> str:
    """Returns as a Markdown table how the least time of the processors grows: as which power of the scores (least squares)."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    heads = ["case", "way", *(f"{model}, ns a score" for model in models), "exponent"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for case in CASES:
        for way in WAYS:
            found = {row["model"]: row for row in rows if (row["case"], row["way"]) == (case, way)}
            if len(found) < 2:
                continue
            logs = [math.log(row["scores"]) for row in found.values()]
            slope, _ = statistics.linear_regression(logs, [math.log(row["scores"] * cpu(row)) for row in found.values()])
            each = [f"{cpu(found[model]):.2f}" if model in found else "" for model in models]
            lines.append(f"| {' | '.join([case, f'`{way}`', *each, f'{slope:.2f}'])} |")
    return "\n".join(lines)


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peak", nargs=3, metavar=("MODEL", "CASE", "WAY"), help="print the peak memory of one in bytes")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "selection.json")
    chosen = parser.parse_args()
    if chosen.peak:
        model, case, way = chosen.peak
        print(peak(model, case, way, chosen.seed))
        return
    facts: dict[str, Any] = {
        "rows": [],
        "seed": chosen.seed,
        "processor": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "niceness": os.nice(0) if sys.platform != "win32" else None,
        "versions": {name: version(name) for name in ("fineprune", "torch", "numpy")},
        "date": date.today().isoformat(),
    }

    def write() -> None:
        chosen.output.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")

    for model in chosen.models:
        if platform.system() == "Linux":
            check_memory(model)
        rows: list[Row] = []
        for some in measure(model, chosen.seed):
            rows += some
            facts["rows"] += some
            write()
            print(f"{model}, {some[0]['case']}: timed", file=sys.stderr, flush=True)
        for row in filter(has_peak, rows if platform.system() == "Linux" else []):
            row["peak"] = peak_of_its_own(row, chosen.seed)
            write()
        print(f"{model}: peaks measured", file=sys.stderr, flush=True)
    print(table(facts["rows"]), growth(facts["rows"]), sep="\n\n")
    differing = [(row["model"], row["case"], row["way"]) for row in facts["rows"] if not row["same"]]
    if differing:
        raise SystemExit(f"The masks differ: {differing}.")


if __name__ == "__main__":
    main()
