"""What shrinking a model with whole groups of zeros gains: parameters, file size, operations, latency and memory.

    python benchmarks/shrink.py [--rounds 31] [--tokens 128] [--threads 2] [--output FILE]
    python benchmarks/shrink.py --models runs/a runs/b --output FILE      # saved models, pruned for real, instead

BERT-base with random weights; of a random half or three quarters of the heads and neurons, or half of the columns of the
embedding tables, the weights are 0. Three forms of each: dense, masked (with the zeros) and shrunken. Batch 1, medians of
interleaved rounds in one process; the operations of a forward pass are counted by PyTorch; the peak memory is that of
a process of its own that loads the saved model and runs it, over one that only imports (Linux). `ideal` is how many times
faster it would be if time went as operations. Outputs of masked and shrunken are compared first.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel
from transformers.utils import logging

from fineprune import EmbeddingColumns, Heads, Neurons
from fineprune.compress.loading import from_pretrained
from fineprune.compress.resizing.saving import save
from fineprune.compress.shrinking.shrink import shrink
from fineprune.structures.linked import Linked

CASES: dict[str, list[tuple[Linked, float]]] = {
    "heads and neurons, 50 %": [(Heads(), 0.5), (Neurons(), 0.5)],
    "heads and neurons, 25 %": [(Heads(), 0.25), (Neurons(), 0.25)],
    "embedding columns, 50 %": [(EmbeddingColumns(), 0.5)],
}


@dataclass(frozen=True)
class Row:
    """What one form of one model came to; latencies in milliseconds, sizes in bytes."""

    case: str
    form: str
    parameters: int
    file: int
    flops: int
    latency: float
    fastest: float
    slowest: float
    memory: int


def random_model(hidden: int = 768, layers: int = 12, vocabulary: int = 30522) -> PreTrainedModel:
    """A random text classifier of BERT-base's shape, biases and all."""
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        intermediate_size=4 * hidden,
    )
    model: PreTrainedModel = BertForSequenceClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    return model


@torch.no_grad()
def zero_groups(model: nn.Module, structure: Linked, density: float) -> None:
    """Sets a random share of the groups of each site to 0, so that exactly the density is kept."""
    for cuts in structure.sites(model):
        shapes = {name: model.get_parameter(name).shape for name in cuts}
        first = next(iter(cuts))
        (groups,) = cuts[first].groups(shapes[first])
        kept = torch.randperm(groups) < round(density * groups)
        for name, cut in cuts.items():
            model.get_parameter(name).masked_fill_(~cut.expand(kept, shapes[name]), 0.0)


def cases(models: list[Path]) -> dict[str, dict[str, PreTrainedModel]]:
    """Returns the forms of each case: dense, masked and shrunken; of a saved model masked and shrunken."""
    found: dict[str, dict[str, PreTrainedModel]] = {}
    for folder in models:
        masked = from_pretrained(folder)
        found[folder.name] = {"masked": masked, "shrunken": shrink(masked)}
    if models:
        return found
    dense = random_model()
    for name, structures in CASES.items():
        masked = random_model()
        masked.load_state_dict(dense.state_dict())
        for structure, density in structures:
            zero_groups(masked, structure, density)
        found[name] = {"dense": dense, "masked": masked, "shrunken": shrink(masked)}
    return found


def inputs(model: PreTrainedModel, tokens: int) -> dict[str, Tensor]:
    """One text of that many tokens."""
    ids = torch.randint(5, model.get_input_embeddings().get_parameter("weight").shape[0], (1, tokens))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@torch.inference_mode()
def measure(name: str, forms: dict[str, PreTrainedModel], rounds: int, tokens: int, threads: int) -> list[Row]:
    """Measures the forms of one case, taking turns."""
    batch = inputs(next(iter(forms.values())), tokens)
    masked, shrunken = (forms[form](**batch)[0] for form in ("masked", "shrunken"))
    assert torch.allclose(masked, shrunken, rtol=1e-4, atol=1e-4), "the shrunken model must give what the masked one gives"
    times: dict[str, list[float]] = {form: [] for form in forms}
    for number in range(rounds + 3):
        for form, model in forms.items():
            start = time.perf_counter()
            model(**batch)
            if number >= 3:  # the first ones warm up
                times[form].append(1e3 * (time.perf_counter() - start))
    rows = []
    for form, model in forms.items():
        with tempfile.TemporaryDirectory() as folder:
            save(model, Path(folder) / "model")
            size = sum(path.stat().st_size for path in (Path(folder) / "model").glob("*.safetensors"))
            memory = peak(Path(folder) / "model", tokens, threads)
        counter = FlopCounterMode(display=False)
        with counter:
            model(**batch)
        spread = sorted(times[form])
        low, high = spread[len(spread) // 10], spread[-1 - len(spread) // 10]
        parameters = sum(parameter.numel() for parameter in model.parameters())
        middle = statistics.median(spread)
        rows.append(Row(name, form, parameters, size, counter.get_total_flops(), middle, low, high, memory))
    return rows


def peak(folder: Path, tokens: int, threads: int) -> int:
    """Returns the peak memory of a process that loads a model and runs it, over that of one that only imports, in bytes."""

    def of(*arguments: str) -> int:
        command = [sys.executable, __file__, "--threads", str(threads), "--tokens", str(tokens), *arguments]
        return int(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1])

    return of("--peak", str(folder)) - of("--peak", "")


def run_alone(folder: str, tokens: int) -> None:
    """Loads a model, runs it and prints the peak memory of the process."""
    if folder:
        model = from_pretrained(folder)
        with torch.inference_mode():
            for _ in range(3):
                model(**inputs(model, tokens))
    status = Path("/proc/self/status").read_text(encoding="utf-8")  # getrusage would tell of the parent's peak, too
    print(1024 * int(status.partition("VmHWM:")[2].split()[0]))


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the rows as a Markdown table, with the ratios to the first form of each case."""
    lines = [
        "| model | form | parameters | file | GFLOPs | latency | range | times faster | ideal | peak memory |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        base = next(other for other in rows if other["case"] == row["case"])
        cells = [
            *(row["case"], row["form"]),
            f"{row['parameters'] / 1e6:.1f} M",
            f"{row['file'] / 1e6:.1f} MB",
            f"{row['flops'] / 1e9:.2f}",
            f"{row['latency']:.1f} ms",
            f"{row['fastest']:.1f} to {row['slowest']:.1f}",
            f"{base['latency'] / row['latency']:.2f}",
            f"{base['flops'] / row['flops']:.2f}",
            f"{row['memory'] / 1e6:.0f} MB",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, nargs="+", default=[], help="folders of pruned models to measure instead")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "shrink.json")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(chosen.seed)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if chosen.peak is not None:
        run_alone(chosen.peak, chosen.tokens)
        return
    rows = []
    for name, forms in cases(chosen.models).items():
        rows += [asdict(row) for row in measure(name, forms, chosen.rounds, chosen.tokens, chosen.threads)]
        print(table(rows), flush=True)
    facts = {
        "rows": rows,
        "tokens": chosen.tokens,
        "rounds": chosen.rounds,
        "seed": chosen.seed,
        "processor": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": chosen.threads,
        "versions": {name: version(name) for name in ("fineprune", "torch", "transformers")},
        "date": date.today().isoformat(),
    }
    chosen.output.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
