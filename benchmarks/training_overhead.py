"""What a pruned training step costs over a dense one: every method, structure and scope, interleaved in one run.

    python benchmarks/training_overhead.py [--device cuda] [--rounds 7] [--only movement ...] [--output FILE]
    python benchmarks/training_overhead.py --profile "movement local"        # where one variant's time goes

BERT-base shapes with random weights, 16 x 128 tokens, AdamW. Each round visits every variant: the pruner is attached at
its final density, takes one step on old gradients to warm up, and is timed over one whole step (forward, backward,
optimizer). `ratio` is that of the medians of whole steps. `added` counts only what the pruner works in, which is less noisy
since the forward and backward passes are the same code: the optimizer's step with its hooks, and the drawing of gates before
the forward pass, less the dense optimizer's step, over the whole dense step. Memory is the peak of a process of its own, over
the dense one's, in bytes per pruned weight.
"""

import argparse
import cProfile
import json
import platform
import pstats
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from fineprune import (
    L0,
    Blocks,
    Columns,
    FromMagnitude,
    Magnitude,
    Movement,
    NofM,
    Pruner,
    PruningConfig,
    Random,
    Rows,
    SoftMovement,
    Uniform,
)
from fineprune.config.schedules import Schedule
from fineprune.methods.base import Method

LAMBDA = 100.0
TOTAL = 1000


@dataclass(frozen=True)
class Midway(Schedule):
    """Half-way to the final value from the first step on: all that a step has to do is done."""

    def value(self, step: int, total_steps: int, initial: float, final: float) -> float:
        return final if final < initial else (initial + final) / 2

    def check(self, total_steps: int) -> None:
        pass


def _config(method: Method, density: float | None = 0.1, **settings: Any) -> PruningConfig:
    return PruningConfig(method, density, schedule=Midway(), **settings)


VARIANTS: dict[str, tuple[PruningConfig | None, float | None]] = {
    "dense": (None, None),
    **{
        f"{name} {scope}": (_config(method, scope=scope), None)
        for name, method in (("magnitude", Magnitude()), ("movement", Movement(FromMagnitude())))
        for scope in ("local", "global", "adaptive")
    },
    "random local": (_config(Random()), None),
    "soft movement, penalty": (_config(SoftMovement(LAMBDA, init=Uniform(3.0)), None), None),
    "soft movement, density": (_config(SoftMovement(init=Uniform(1.0))), None),
    "L0, penalty": (_config(L0(LAMBDA, init=Uniform(3.0)), None), None),
    "L0, density": (_config(L0(init=Uniform(3.0))), None),
    "movement blocks 32 x 32": (_config(Movement(FromMagnitude()), structure=Blocks(32, 32)), None),
    "movement rows": (_config(Movement(FromMagnitude()), structure=Rows()), None),
    "movement columns": (_config(Movement(FromMagnitude()), structure=Columns()), None),
    "movement 2 of 4": (_config(Movement(FromMagnitude()), None, structure=NofM(2, 4)), None),
    "dense, clipped": (None, 1.0),
    "movement local, clipped": (_config(Movement(FromMagnitude())), 1.0),
}
"""Name -> what is pruned, and the norm at which gradients are clipped."""


class Bench:
    """A model, its optimizer and one batch, on which variants are attached in turn."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        torch.manual_seed(chosen.seed)
        self.device = torch.device(chosen.device)
        settings = BertConfig(num_hidden_layers=chosen.layers, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        self.model = BertForSequenceClassification(settings).train()
        self.model.to(self.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-6, weight_decay=0.0, fused=True)
        shape = (chosen.batch, chosen.tokens)
        self.batch: dict[str, Tensor] = {
            "input_ids": torch.randint(0, settings.vocab_size, shape, device=self.device),
            "labels": torch.arange(chosen.batch, device=self.device) % 2,
        }

        self.start = [parameter.detach().clone() for parameter in self.model.parameters()]

    @torch.no_grad()
    def attach(self, name: str) -> tuple[Pruner | None, float | None]:
        for parameter, start in zip(self.model.parameters(), self.start, strict=True):
            parameter.copy_(start)  # no zeros left from another variant
        config, clip = VARIANTS[name]
        if config is None:
            return None, clip
        return Pruner(self.model, self.optimizer, config, total_steps=TOTAL, max_grad_norm=clip), None

    def gradients(self) -> None:
        self.optimizer.zero_grad()
        self.model(**self.batch).loss.backward()

    def step(self, clip: float | None) -> None:
        if clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        self.optimizer.step()

    def timed(self, action: Callable[[], Any]) -> float:
        self.wait()
        start = time.perf_counter()
        action()
        self.wait()
        return time.perf_counter() - start

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def visit(self, name: str) -> tuple[float, float]:
        """Returns the seconds of a whole step, and those of them in which a pruner has work to do."""
        pruner, clip = self.attach(name)
        draws = pruner is not None and bool(pruner._masked.stochastic)
        if draws:
            _draw(pruner)
        self.step(clip)  # on the gradients of the visit before
        drawing = self.timed(lambda: _draw(pruner)) if draws else 0.0
        rest = self.timed(self.gradients)
        stepping = self.timed(lambda: self.step(clip))
        if pruner is not None:
            pruner.detach()
        return drawing + rest + stepping, drawing + stepping


def _draw(pruner: Pruner | None) -> None:
    assert pruner is not None
    pruner._before_forward(pruner._masked.model, ())


def measure(bench: Bench, names: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Returns for each variant its medians in seconds, and how they compare with the dense ones."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    bench.gradients()
    bench.visit("dense")
    for number in range(rounds):
        for name in names:
            times[name].append(bench.visit(name))
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    medians = {name: [statistics.median(column) for column in zip(*visits, strict=True)] for name, visits in times.items()}
    rows = {}
    for name, (whole, worked) in medians.items():
        dense_whole, dense_worked = medians["dense, clipped" if name.endswith("clipped") else "dense"]
        rows[name] = {
            "step_s": whole,
            "worked_s": worked,
            "ratio": whole / dense_whole,
            "added": (worked - dense_worked) / dense_whole,
            "spread": (max(t for t, _ in times[name]) - min(t for t, _ in times[name])) / whole,
        }
    return rows


def peak(bench: Bench, name: str) -> int:
    """Returns the peak memory in bytes of this process (of its tensors, on a GPU) after three steps of a variant."""
    pruner, clip = bench.attach(name)
    for _ in range(3):
        bench.gradients()
        bench.step(clip)
    if pruner is not None:
        pruner.detach()
    if bench.device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    if platform.system() == "Linux":  # where ru_maxrss is inherited from the process that started this one
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def memory(names: list[str], chosen: argparse.Namespace) -> dict[str, float]:
    """Returns the bytes per pruned weight that each variant needs over the dense one, each in a process of its own."""
    peaks = {}
    for name in names:
        command = [sys.executable, __file__, "--peak", name, "--device", chosen.device, "--layers", str(chosen.layers)]
        answer = subprocess.run([*command, "--batch", "1", "--tokens", "16"], capture_output=True, text=True, check=True)
        peaks[name] = int(answer.stdout)
    weights = chosen.layers * (4 * 768 * 768 + 2 * 768 * 3072)
    return {name: (peak - peaks["dense"]) / weights for name, peak in peaks.items()}


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, help="variants to measure; dense always is")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", choices=VARIANTS, help="print where the time of five steps of one variant goes")
    parser.add_argument("--peak", choices=VARIANTS, help="print the peak memory of one variant in bytes")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "training_overhead.json")
    chosen = parser.parse_args()
    bench = Bench(chosen)
    if chosen.peak:
        print(peak(bench, chosen.peak))
        return
    if chosen.profile:
        profile(bench, chosen.profile)
        return
    names = list(VARIANTS) if not chosen.only else list(dict.fromkeys(["dense", *chosen.only]))
    if any(name.endswith("clipped") for name in names):
        names = list(dict.fromkeys(["dense", "dense, clipped", *names]))
    rows = measure(bench, names, chosen.rounds)
    del bench
    for name, extra in memory(names, chosen).items():
        rows[name]["memory_bytes_per_weight"] = extra
    print(table(rows))
    facts = {
        "rows": rows,
        "shape": {"layers": chosen.layers, "batch": chosen.batch, "tokens": chosen.tokens},
        "rounds": chosen.rounds,
        "seed": chosen.seed,
        "device": torch.cuda.get_device_name() if chosen.device.startswith("cuda") else platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("torch", "transformers", "numpy")},
        "date": date.today().isoformat(),
    }
    chosen.output.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def table(rows: dict[str, dict[str, float]]) -> str:
    """Returns the rows as a Markdown table."""
    lines = ["| step | median | ratio | added | spread | memory |", "|---|---|---|---|---|---|"]
    for name, row in rows.items():
        extra = f"{row['memory_bytes_per_weight']:.1f}" if "memory_bytes_per_weight" in row else "not measured"
        figures = f"{row['step_s']:.2f} s | {row['ratio']:.3f} | {row['added']:+.1%} | {row['spread']:.0%} | {extra}"
        lines.append(f"| {name} | {figures} |")
    return "\n".join(lines)


def profile(bench: Bench, name: str) -> None:
    """Prints the functions in which five steps of a variant spend their time, forward and backward passes left out."""
    pruner, clip = bench.attach(name)
    profiler = cProfile.Profile()
    for number in range(6):
        bench.gradients()
        if number:
            profiler.enable()  # the first step allocates
        if pruner is not None and pruner._masked.stochastic:
            pruner._masked.apply()
            _draw(pruner)
        bench.step(clip)
        profiler.disable()
    pstats.Stats(profiler).sort_stats("cumulative").print_stats("fineprune|torch|numpy", 45)


if __name__ == "__main__":
    main()
