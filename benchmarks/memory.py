"""What memory pruning takes over dense fine-tuning, for each way to keep scores, and what larger models come to.

    python benchmarks/memory.py [--seed 0] [--output FILE]

The 72 matrices of BERT-base's blocks, as a plain stack of linear layers, one row of input, AdamW (fused), gradients set to None
after each step, PyTorch on one thread. All figures are bytes per pruned weight. Linux with glibc only.

*Held* between steps is the sum over the storages of the tensors themselves, each storage once: of the pruner, and of the
optimizer. `resident` is by how much the memory of the process grew meanwhile, as a check that nothing was forgotten.

The *peak* is that of the process, the kernel's VmHWM (reset by writing 5 to /proc/self/clear_refs), over a whole step, less
that over a dense step of the same process before the pruner was attached; pages of files that were mapped before, as the code
itself, are left out, since the system takes and gives these as it likes. Each row is a process of its own, in which glibc maps
every tensor by itself and gives it back at once, so that the peak is what is alive, without fragments. `attach` is the peak
while the pruner is made, less what the process held before. `log` is that of `pruner.statistics()`, `save` and `load` are those
while its state is written and is read into a new pruner, each less what the process holds between steps; pages of the file that
is read count.

On two processes the same stack is sharded by FSDP2 over gloo, and `processes` has the same figures of each, per weight of the
whole stack.

For a larger model `needs` computes: what dense fine-tuning holds at its peak (weights, gradients, Adam's moments) of all
parameters, and what pruning adds at the peak of each weight that it prunes. What S = A B holds follows from the shapes.
"""

import argparse
import contextlib
import functools
import gc
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from fineprune import BFloat16Scores, LowRankScores, Magnitude, Movement, Pruner, PruningConfig
from fineprune.config.schedules import Schedule
from fineprune.distributed.process_group import local
from fineprune.methods.base import Method
from fineprune.scores.base import ScoreForm
from fineprune.scores.full import FullScores
from fineprune.selection.scopes import Scope


@dataclass(frozen=True)
class Midway(Schedule):
    """At the final value from the first step on: all that a step has to do is done."""

    def value(self, step: int, total_steps: int, initial: float, final: float) -> float:
        return final

    def check(self, total_steps: int) -> None:
        pass


@dataclass(frozen=True)
class Choice:
    """What is pruned, and how its scores are kept."""

    method: Method
    scores: ScoreForm = FullScores()
    frozen_weights: bool = False

    def config(self, scope: Scope) -> PruningConfig:
        return PruningConfig(
            self.method, 0.1, schedule=Midway(), scope=scope, scores=self.scores, frozen_weights=self.frozen_weights
        )


FULL = "`Movement()`"
WIDE = "`scores=LowRankScores(64)`"
CHOICES: dict[str, Choice | None] = {
    "dense fine-tuning": None,
    "`Magnitude()`": Choice(Magnitude()),
    FULL: Choice(Movement()),
    "`scores=BFloat16Scores()`": Choice(Movement(), BFloat16Scores()),
    "`scores=LowRankScores(8)`": Choice(Movement(), LowRankScores(8)),
    WIDE: Choice(Movement(), LowRankScores(64)),
    "`frozen_weights=True`": Choice(Movement(), frozen_weights=True),
    "the same, `BFloat16Scores()`": Choice(Movement(), BFloat16Scores(), frozen_weights=True),
    "the same, `LowRankScores(8)`": Choice(Movement(), LowRankScores(8), frozen_weights=True),
}
"""Name -> what is pruned, by `Movement()` unless the name says otherwise."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

KINDS = ("dense", "scores", "moments")
"""What of the pruner's is saved, beside the masks that are made again."""

LOCAL = "local"
ROWS = [row for row in itertools.product(DTYPES, CHOICES) if row != ("bfloat16", WIDE)]
"""Type of the weights, and name of the choice."""

VARIANTS: dict[str, tuple[Scope, float | None]] = {
    LOCAL: ("local", None),
    "local, clipped": ("local", 1.0),
    "global": ("global", None),
}
"""Name -> the scope, and the pruner's max_grad_norm."""

SETTINGS = {"MALLOC_MMAP_THRESHOLD_": "65536", "NUMPY_MADVISE_HUGEPAGE": "0", "OMP_NUM_THREADS": "1"}
"""Of the environment: so large a tensor is mapped by itself; no huge pages, which would round up."""


# The models.


@dataclass(frozen=True)
class Model:
    """A transformer by its shapes.

    Args:
        layers: how many blocks.
        matrices: outputs and inputs of each linear layer of a block, all of which are pruned.
        others: parameters besides these, in the whole model.
    """

    layers: int
    matrices: tuple[tuple[int, int], ...]
    others: int

    @property
    def pruned(self) -> int:
        """Weights that are pruned by default."""
        return self.layers * sum(outputs * inputs for outputs, inputs in self.matrices)

    def low_rank(self, rank: int) -> float:
        """Bytes per pruned weight of A, B and their moments."""
        return 12 * rank * self.layers * sum(outputs + inputs for outputs, inputs in self.matrices) / self.pruned


def bert(layers: int, width: int, tokens: int = 30522) -> Model:
    """BERT with its pooler and without a head."""
    matrices = (*[(width, width)] * 4, (4 * width, width), (width, 4 * width))
    norms_and_biases = layers * (sum(outputs for outputs, _ in matrices) + 4 * width)
    return Model(layers, matrices, (tokens + 512 + 2 + 2) * width + norms_and_biases + width * width + width)


def llama(layers: int, width: int, neurons: int, keys: int, tokens: int, tables: int) -> Model:
    """Llama with a language model's head; tables is 1 where that is the embedding's."""
    matrices = ((width, width), (keys, width), (keys, width), (width, width), *[(neurons, width)] * 2, (width, neurons))
    return Model(layers, matrices, tables * tokens * width + (2 * layers + 1) * width)


SHARED = 8
"""Processes over which a larger model is sharded."""

BASE = bert(12, 768)
MODELS = {
    "BERT-large": bert(24, 1024),
    "Llama-3.2-1B": llama(16, 2048, 8192, 512, 128256, tables=1),
    "Llama-2-7B": llama(32, 4096, 11008, 4096, 32000, tables=2),
}


class Block(nn.Module):
    """The linear layers of one of BERT's blocks, put so that each gets a gradient."""

    def __init__(self, model: Model, dtype: torch.dtype) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(inputs, outputs, bias=False, dtype=dtype) for outputs, inputs in model.matrices)

    def forward(self, features: Tensor) -> Tensor:
        query, key, value, output, up, down = self.linears
        attended: Tensor = features + output(query(features) + key(features) + value(features))
        given: Tensor = attended + down(up(attended))
        return given


class Stack(nn.Module):
    """All blocks."""

    def __init__(self, model: Model, dtype: torch.dtype) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(model, dtype) for _ in range(model.layers))

    def forward(self, features: Tensor) -> Tensor:
        for block in self.blocks:
            features = block(features)
        return features

    @torch.no_grad()
    def draw(self, seed: int) -> None:
        """Draws the weights, in place."""
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            local(parameter).normal_(std=0.02, generator=generator)

    def shard(self, processes: int) -> None:
        """Lets each process hold some rows of each matrix."""
        mesh = init_device_mesh("cpu", (processes,))
        for block in (*self.blocks, self):
            fully_shard(block, mesh=mesh)


# Measuring: in a process of its own.


def memory() -> int:
    """Returns the bytes that this process holds now, pages of files left out: the system takes and gives these as it likes."""
    return status("VmRSS") - status("RssFile")


def status(key: str) -> int:
    """Returns a figure of the kernel's in bytes."""
    return 1024 * int(Path("/proc/self/status").read_text(encoding="utf-8").partition(f"{key}:")[2].split()[0])


def peak(action: Callable[[], object]) -> int:
    """Returns the most that this process holds during an action, in bytes, without the pages of files mapped before it."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    files = status("RssFile")
    action()
    return status("VmHWM") - files


def nbytes(tensors: Iterable[Tensor]) -> int:
    """Returns the bytes of what this process holds of tensors, each storage once."""
    storages = [local(tensor.detach()).untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def held(pruner: Pruner) -> dict[str, int]:
    """Returns the bytes of what a pruner holds, by kind."""
    kept = [(name, tensor) for site in pruner._masked.sites for name, tensor in site.tensors().items()]
    kinds = {kind: nbytes(tensor for name, tensor in kept if name.startswith(f"{kind}.")) for kind in KINDS}
    return kinds | {
        "masks": nbytes([*(weight.mask for weight in pruner._masked.weights), *(site.mask for site in pruner._masked.sites)])
    }


class Bench:
    """The stack and its optimizer in this process, after some dense steps."""

    def __init__(self, dtype: torch.dtype, seed: int, processes: int = 1) -> None:
        torch.set_num_threads(1)
        self.seed = seed
        self.features = torch.ones(1, BASE.matrices[0][1], dtype=dtype)
        self.stack = Stack(BASE, dtype)
        if processes > 1:
            self.stack.shard(processes)
        self.optimizer = torch.optim.AdamW(self.stack.parameters(), lr=1e-5, weight_decay=0.0, fused=True)
        self.begin()
        self.dense_peak = self.steps()
        self.dense_resident = memory()

    def begin(self) -> None:
        """As if no step had been taken."""
        self.stack.draw(self.seed)
        self.optimizer.state.clear()

    def step(self) -> None:
        self.stack(self.features).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def steps(self) -> int:
        """Returns the peak of the second step: the first makes what is held from then on."""
        self.step()
        return peak(self.step)

    def state(self) -> dict[str, float]:
        """Returns the bytes per weight of the weights and of the optimizer's state."""
        moments = [value for state in self.optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
        return {"weights": nbytes(self.stack.parameters()) / BASE.pruned, "optimizer": nbytes(moments) / BASE.pruned}

    def over_dense(self, highest: int) -> float:
        """Returns how much a peak is above that of a dense step, in bytes per weight."""
        return (highest - self.dense_peak) / BASE.pruned


def measure(choice: Choice | None, dtype: torch.dtype, seed: int, folder: Path) -> dict[str, Any]:
    """Returns the figures of one row."""
    bench = Bench(dtype, seed)
    if choice is None:
        return bench.state()
    row = pruned(bench, choice, folder)
    for variant in list(VARIANTS)[1:]:
        bench.begin()
        with contextlib.closing(Attached(bench, choice, variant)):
            row["peaks"][variant] = bench.over_dense(bench.steps())
    return row


@dataclass
class Attached:
    """A pruner that is gone, with all that it holds, when it is closed."""

    bench: Bench
    choice: Choice
    variant: str = LOCAL

    def __post_init__(self) -> None:
        scope, clip = VARIANTS[self.variant]
        config = self.choice.config(scope)
        self.pruner = Pruner(self.bench.stack, self.bench.optimizer, config, total_steps=1000, max_grad_norm=clip)

    def close(self) -> None:
        self.pruner.detach()
        del self.pruner
        gc.collect()


def pruned(bench: Bench, choice: Choice, folder: Path) -> dict[str, Any]:
    """Returns what a pruner with a budget for each matrix holds and needs."""
    bench.begin()
    before = memory()
    first: list[Attached] = []
    attach = peak(lambda: first.append(Attached(bench, choice))) - before
    highest = bench.steps()
    pruner, between = first[0].pruner, memory()
    row = {
        "held": {kind: count / BASE.pruned for kind, count in held(pruner).items()},
        "resident": (between - bench.dense_resident) / BASE.pruned,
        **bench.state(),
        "peaks": {LOCAL: bench.over_dense(highest)},
    }
    events = {"attach": attach, "log": peak(pruner.statistics) - between}
    saves = choice == CHOICES[FULL]
    if saves:
        events["save"] = peak(functools.partial(pruner.save, folder)) - between
    del pruner
    first.pop().close()
    if saves:
        with contextlib.closing(Attached(bench, choice)) as second:
            events["load"] = peak(functools.partial(second.pruner.load, folder)) - between
    return row | {"events": {name: event / BASE.pruned for name, event in events.items()}}


def in_processes(*settings: str, processes: int = 1) -> list[dict[str, Any]]:
    """Measures in processes of their own, and returns what each has found."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, *settings, "--processes", str(processes), "--folder", folder]
        started = [
            subprocess.Popen([*command, "--rank", str(rank)], stdout=subprocess.PIPE, text=True, env={**os.environ, **SETTINGS})
            for rank in range(processes)
        ]
        answers = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise RuntimeError(f"{settings} failed; the message is above.")
    return [json.loads(answer) for answer in answers]


def sharded(choice: Choice, seed: int, rank: int, processes: int, folder: Path) -> dict[str, Any]:
    """Returns the figures of one process of several, among which FSDP2 shards the stack."""
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=processes)
    row = pruned(Bench(torch.float32, seed, processes), choice, folder)
    distributed.barrier()
    distributed.destroy_process_group()
    return row


# What it comes to.


def needs(model: Model, row: Mapping[str, Any], sharded: bool = False, variant: str = "local, clipped") -> float:
    """Returns the bytes at the peak of a step: weights, gradients, moments, and what pruning adds. Without activations."""
    dense: float = 4 * row["weights"]  # the weight, its gradient and two moments, all of one type
    added: float = row["peaks"][variant] + _product(model, row) if "peaks" in row else 0.0
    choice = CHOICES[row["choice"]]
    if sharded and choice is not None and choice.frozen_weights:
        added += 2 * row["weights"]  # there the optimizer keeps the moments of frozen weights
    return (model.pruned + model.others) * dense + model.pruned * added


def state(model: Model, row: Mapping[str, Any]) -> float:
    """Returns the bytes of `pruner.safetensors`."""
    held: float = sum(row["held"][kind] for kind in KINDS)
    return model.pruned * (held + _product(model, row))


def _product(model: Model, row: Mapping[str, Any]) -> float:
    """Bytes per weight that A and B take more than in BERT-base; 0 where scores are kept otherwise."""
    choice = CHOICES[row["choice"]]
    if choice is None or not isinstance(choice.scores, LowRankScores):
        return 0.0
    return model.low_rank(choice.scores.rank) - BASE.low_rank(choice.scores.rank)


def _markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *lines))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns what is held and the peaks as a Markdown table, in bytes per pruned weight."""

    def line(row: Mapping[str, Any]) -> list[str]:
        pruner = sum(row.get("held", {}).values())
        everything = row["weights"] + row["optimizer"] + pruner
        peaks = [f"{peak:+.1f}" for peak in row["peaks"].values()] if "peaks" in row else ["0"] * len(VARIANTS)
        return [row["dtype"], row["choice"], f"{pruner:.1f}", f"{everything:.1f}", *peaks]

    return _markdown(["weights", "pruning", "pruner holds", "all hold", *VARIANTS], map(line, rows))


def table_of_events(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the peaks outside of steps as a Markdown table, in bytes per pruned weight over what is held then."""
    events = ("attach", "log", "save", "load")

    def line(row: Mapping[str, Any]) -> list[str]:
        figures = [f"{row['events'][name]:+.1f}" if name in row["events"] else "not measured" for name in events]
        return [row["dtype"], row["choice"], *figures]

    return _markdown(["weights", "pruning", *events], (line(row) for row in rows if "events" in row))


def table_of_models(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns what larger models need as a Markdown table, in GB: on one device, and on each of several that share them."""
    where = [f"{name}, {devices}" for name in MODELS for devices in ("one device", f"{SHARED} devices")]

    def line(row: Mapping[str, Any]) -> list[str]:
        choice = CHOICES[row["choice"]]
        shards = choice is None or choice.scores.shards
        needed = [(needs(model, row) / 1e9, needs(model, row, sharded=True) / SHARED / 1e9) for model in MODELS.values()]
        cells = [(f"{one:.1f}", f"{each:.1f}" if shards else "not possible") for one, each in needed]
        return [row["dtype"], row["choice"], *itertools.chain(*cells)]

    return _markdown(["weights", "pruning", *where], map(line, rows))


def table_of_states(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the sizes of larger models' saved states as a Markdown table, in GB."""
    found = [row for row in rows if "held" in row]
    lines = ([row["dtype"], row["choice"], *(f"{state(model, row) / 1e9:.1f}" for model in MODELS.values())] for row in found)
    return _markdown(["weights", "pruning", *MODELS], lines)


def table_of_shapes() -> str:
    """Returns how many weights of the larger models are pruned as a Markdown table."""
    lines = ([name, f"{model.pruned:,}", f"{model.pruned + model.others:,}"] for name, model in MODELS.items())
    return _markdown(["model", "pruned", "parameters"], lines)


def table_of_processes(processes: Sequence[Mapping[str, Any]]) -> str:
    """Returns what each of several processes holds as a Markdown table, in bytes per pruned weight of the whole model."""
    return _markdown(
        ["rank", "weights", "optimizer", "pruner holds", LOCAL, "attach", "save", "load"],
        (
            [
                *(str(rank), f"{row['weights']:.1f}", f"{row['optimizer']:.1f}", f"{sum(row['held'].values()):.1f}"),
                f"{row['peaks'][LOCAL]:+.1f}",
                *(f"{row['events'][name]:+.1f}" for name in ("attach", "save", "load")),
            ]
            for rank, row in enumerate(processes)
        ),
    )


def tables(facts: Mapping[str, Any]) -> list[str]:
    """Returns all tables of the page."""
    of_rows = [function(facts["rows"]) for function in (table, table_of_events, table_of_models, table_of_states)]
    return [*of_rows, table_of_processes(facts["processes"]), table_of_shapes()]


def main() -> None:
    """Measures and writes, after each row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--row", choices=CHOICES, help="measure one row in this process and print it")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the weights, for --row")
    parser.add_argument("--rank", type=int, default=0, help="of this process, for --row")
    parser.add_argument("--processes", type=int, default=1, help="that share the weights, for --row")
    parser.add_argument("--folder", type=Path, default=Path("memory.tmp"), help="where they meet and save, for --row")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "memory.json")
    chosen = parser.parse_args()
    if chosen.row:
        choice = CHOICES[chosen.row]
        if chosen.processes > 1 and choice is not None:
            print(json.dumps(sharded(choice, chosen.seed, chosen.rank, chosen.processes, chosen.folder)))
        else:
            print(json.dumps(measure(choice, DTYPES[chosen.dtype], chosen.seed, chosen.folder)))
        return
    facts: dict[str, Any] = {
        "rows": [],
        "processes": [],
        "seed": chosen.seed,
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": {name: version(name) for name in ("fineprune", "torch", "numpy", "safetensors")},
        "date": date.today().isoformat(),
    }
    seed = ("--seed", str(chosen.seed))
    for dtype, name in ROWS:
        (row,) = in_processes("--row", name, "--dtype", dtype, *seed)
        facts["rows"].append({"dtype": dtype, "choice": name, **row})
        chosen.output.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    facts["processes"] = in_processes("--row", FULL, *seed, processes=2)
    chosen.output.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(*tables(facts), sep="\n\n")


if __name__ == "__main__":
    main()
