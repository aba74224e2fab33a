"""How fast a pruned encoder runs here, against PyTorch, ONNX Runtime, OpenVINO and DeepSparse, all in turns in one run.

    python benchmarks/inference.py [--deepsparse-python ENVIRONMENT/bin/python] [--models runs/a runs/b] [--rounds 21]
                                   [--shapes 1x128,1x384,8x128] [--threads 2 1] [--output FILE] [--csv FILE]

BERT-base with random weights of which a random 10 % or 3 % of the matrices in its blocks are kept, and saved BERT models that
were pruned. Every engine runs the same: token ids and an attention mask in, the embeddings and all blocks, the last hidden
state out; outputs are compared with those of PyTorch in float32. ONNX Runtime, OpenVINO and DeepSparse read one and the same
ONNX file with fixed shapes, and all get the same number of threads. DeepSparse (see `deepsparse_server.py`) needs numpy < 2,
so it runs in a process of its own, which takes the time itself and is asked for one inference at a time.

In each round every engine gets one turn, in random order: a pause of 50 ms, in which the threads of the last engine
stop waiting busily for more work (ONNX Runtime's take 30 ms to); one inference that is not counted, so that none pays for
having been away; and one that is. No engine's own waiting is changed. Latencies are medians, their range that from the tenth
to the ninetieth of a hundred. A ratio is one of medians, its range that of the ratios within each round.
"""

import argparse
import contextlib
import json
import platform
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from engines import OURS, OURS_BF16, REFERENCE, Work, engines_of, export
from torch import nn
from transformers import BertConfig, BertModel
from transformers.utils import logging

from fineprune.apps.bench.measuring import relative_difference
from fineprune.apps.bench.shapes import random_batch, read_shapes
from fineprune.apps.bench.timing import Spread, in_turns
from fineprune.compress.loading import from_pretrained

DENSITIES = (0.1, 0.03)
PAGE = Path(__file__).parents[1] / "docs" / "measurements" / "inference.md"
DEEPSPARSE_VERSION = "1.8.0"
FURTHEST = 0.2
"""How far an output may be from PyTorch's in float32, as a fraction of the largest value: bfloat16 and int8 round."""


@dataclass(frozen=True)
class Row:
    """One engine with one model, shape and number of threads; milliseconds, and its latency over this library's."""

    case: str
    shape: str
    threads: int
    engine: str
    latency: Spread
    over: Spread
    over_bf16: Spread
    difference: float


@torch.no_grad()
def random_model(density: float, layers: int) -> BertModel:
    """Returns BERT-base's shape with random weights, of which a random share in the blocks' matrices is kept."""
    model: BertModel = BertModel(BertConfig(num_hidden_layers=layers), add_pooling_layer=False).eval()
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.01)
    for module in model.encoder.modules():
        if isinstance(module, nn.Linear):
            module.weight.mul_(torch.rand_like(module.weight) < density)
    return model


def saved_model(folder: Path) -> BertModel:
    """Loads a saved BERT model without its head and pooler."""
    model = from_pretrained(folder).base_model
    assert isinstance(model, BertModel), f"{folder} holds a {type(model).__name__}, and this measures BERT models"
    model.pooler = None
    return model


def cases(folders: Sequence[Path], layers: int) -> dict[str, Callable[[], BertModel]]:
    """Returns how to make each model, by name."""
    made = {f"BERT-base, {density:.0%}": partial(random_model, density, layers) for density in DENSITIES}
    return {**made, **{folder.name: partial(saved_model, folder) for folder in folders}}


def measure(case: str, shape: str, work: Work, rounds: int) -> list[Row]:
    """Measures all engines, taking turns."""
    engines = engines_of(work)
    expected = engines[REFERENCE].outputs
    differences = {name: relative_difference(engine.outputs, expected) for name, engine in engines.items()}
    ours = max(
        difference for name, difference in differences.items() if "int8" not in name
    )  # what int8 does is the table's to tell
    assert ours < FURTHEST, f"all engines must compute the same: {differences}"
    timings = in_turns({name: engine.run for name, engine in engines.items()}, rounds)
    return [
        Row(
            *(case, shape, work.threads, name),
            latency=timing.spread,
            over=timings[OURS].times_faster_than(timing),
            over_bf16=timings[OURS_BF16].times_faster_than(timing),
            difference=differences[name],
        )
        for name, timing in timings.items()
    ]


@torch.inference_mode()
def measure_all(chosen: argparse.Namespace) -> Iterator[list[Row]]:
    """Measures every model at every shape with every number of threads."""
    for case, make in cases(chosen.models, chosen.layers).items():
        torch.manual_seed(chosen.seed)
        model = make()
        for shape in chosen.shapes:
            batch = random_batch(model, shape)
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "model.onnx"
                export(model, batch, file)
                for threads in chosen.threads:
                    torch.set_num_threads(threads)
                    with contextlib.ExitStack() as opened:
                        work = Work(model, batch, file, threads, chosen.deepsparse_python, opened)
                        yield measure(case, str(shape), work, chosen.rounds)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns each engine at one text of 128 tokens and two threads as a Markdown table, for the models with random weights."""
    here = [row for row in rows if row["case"].startswith("BERT") and (row["shape"], row["threads"]) == ("1x128", 2)]
    models = list(dict.fromkeys(row["case"] for row in here))
    heads = ["engine", *(f"{model}: {head}" for model in models for head in ("latency", "/ fineprune"))]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for engine in dict.fromkeys(row["engine"] for row in here):
        found = {row["case"]: row for row in here if row["engine"] == engine}
        cells = [engine]
        for model in models:
            cells += [f"{found[model]['latency']['median']:.2f} ms", f"{found[model]['over']['median']:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def leads(rows: Sequence[dict[str, Any]]) -> str:
    """Returns this library's latency, and how many times as long others take in float32, at each shape, as a Markdown table."""
    others = ("DeepSparse fp32", "ONNX Runtime fp32", "OpenVINO fp32", "PyTorch fp32")
    heads = ["model", "shape", "threads", "fineprune", *(other.removesuffix(" fp32") for other in others)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    places = {(row["case"], row["shape"], row["threads"], row["engine"]): row for row in rows}
    for case, shape, threads in dict.fromkeys(place[:3] for place in places):
        ours = places[case, shape, threads, OURS]["latency"]["median"]
        over = [f"{places[case, shape, threads, other]['over']['median']:.2f}" for other in others]
        lines.append(f"| {' | '.join([case, shape, str(threads), f'{ours:.2f} ms', *over])} |")
    return "\n".join(lines)


def every_row(rows: Sequence[dict[str, Any]]) -> str:
    """Returns all rows as CSV, with the ratios of each latency to this library's and all ranges."""
    spreads = {"latency": "latency ms", "over": "/ fineprune fp32", "over_bf16": "/ fineprune bf16"}
    columns = [f"{name}{bound}" for name in spreads.values() for bound in ("", " low", " high")]
    lines = [",".join(["model", "shape", "threads", "engine", *columns, "output differs by"])]
    for row in rows:
        figures = [f"{row[key][bound]:.2f}" for key in spreads for bound in ("median", "low", "high")]
        names = [f'"{row["case"]}"', row["shape"], str(row["threads"]), row["engine"]]
        lines.append(",".join([*names, *figures, f"{row['difference']:.0e}"]))
    return "\n".join(lines) + "\n"


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deepsparse-python", type=Path, help=f"of an environment with deepsparse {DEEPSPARSE_VERSION}")
    parser.add_argument("--models", type=Path, nargs="+", default=[], help="folders of saved BERT models to measure, too")
    parser.add_argument("--shapes", type=read_shapes, default=read_shapes("1x128,1x384,8x128"), help="batch x tokens")
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--layers", type=int, default=12, help="of the random models; fewer, to try it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "inference.json")
    parser.add_argument("--csv", type=Path, default=PAGE.with_suffix(".csv"), help="for every row, beside the page")
    return parser.parse_args()


def main() -> None:
    """Measures and writes."""
    chosen = arguments()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
    rows: list[dict[str, Any]] = []
    for found in measure_all(chosen):
        rows += [asdict(row) for row in found]
        print(every_row([asdict(row) for row in found]), flush=True)
    versions = {name: version(name) for name in ("fineprune", "torch", "transformers", "numba", "onnxruntime", "openvino")}
    facts = {
        "rows": rows,
        "layers": chosen.layers,
        "rounds": chosen.rounds,
        "seed": chosen.seed,
        "processor": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "versions": versions | {"deepsparse": DEEPSPARSE_VERSION},
        "date": date.today().isoformat(),
    }
    chosen.output.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    chosen.csv.write_text(every_row(rows), encoding="utf-8")
    print(table(rows), leads(rows), sep="\n\n")


if __name__ == "__main__":
    main()
