"""How near to the asked density SoftMovement and L0 end, no penalty given: three tasks, each with rates and length of its own.

    python benchmarks/density_control.py [--sst2 FOLDER] [--squadshifts FOLDER] [--seeds 2] [--output FILE]

The model is MiniLM-L6 cut to its first layer. The tasks: which module of the standard library a docstring documents
(always), the sentiment of a sentence (GLUE's train.tsv and dev.tsv in --sst2), and which of the three corpora of SQuADShifts
a question was asked about (its JSON files in --squadshifts). Prints a row for each run, and writes all of them as JSON with the
path of the density, the penalty and the threshold; runs that the file holds already and that were not repeated stay in it.
"""

import argparse
import json
import platform
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, get_scheduler
from transformers.utils import logging

from fineprune import L0, Constant, CubicSchedule, Pruner, PruningConfig, SoftMovement
from fineprune.apps.quickstart import docstrings, minilm
from fineprune.apps.tasks.tables import read_table
from fineprune.methods.base import Method

DENSITIES = (0.3, 0.1, 0.03)
METHODS: dict[str, Method] = {"SoftMovement": SoftMovement(init=Constant(0.0)), "L0": L0()}
Examples = list[tuple[str, int]]


@dataclass(frozen=True)
class Task:
    """Texts with labels, and how to train on them."""

    train: Examples
    validation: Examples
    steps: int
    rate: float
    schedule: str
    """The learning rate's, as Transformers calls it."""
    batch: int = 8

    @property
    def classes(self) -> int:
        return max(label for _, label in self.train) + 1


def tasks(chosen: argparse.Namespace) -> Iterator[tuple[str, Task]]:
    """Yields the tasks whose data is there."""
    texts = docstrings.load()
    train, validation = (
        list(zip(*columns, strict=True))
        for columns in ((texts.train_texts, texts.train_labels), (texts.validation_texts, texts.validation_labels))
    )
    yield "docstrings", Task(train, validation, steps=400, rate=2e-4, schedule="linear")
    if chosen.sst2:
        train, validation = (_sentences(chosen.sst2 / name) for name in ("train.tsv", "dev.tsv"))
        yield "sst2", Task(train, validation, steps=500, rate=5e-5, schedule="cosine")
    if chosen.squadshifts:
        corpora = enumerate(sorted(chosen.squadshifts.glob("*.json")))
        questions = [(question, label) for label, path in corpora for question in _questions(path)]
        random.Random(0).shuffle(questions)
        yield "squadshifts", Task(questions[500:], questions[:500], 300, 1e-3, "constant_with_warmup", batch=12)


def _sentences(path: Path) -> Examples:
    columns = read_table(path)
    return [(text, int(label)) for text, label in zip(columns["sentence"], columns["label"], strict=True)]


def _questions(path: Path) -> Iterator[str]:
    for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            yield from (entry["question"] for entry in paragraph["qas"])


def run(task: Task, method: Method, density: float, seed: int) -> dict[str, Any]:
    """Trains once, and returns what came out."""
    torch.manual_seed(seed)
    folder = minilm.folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    settings = AutoConfig.from_pretrained(folder, num_hidden_layers=1, num_labels=task.classes)
    model = AutoModelForSequenceClassification.from_pretrained(folder, config=settings)
    model.bert.embeddings.requires_grad_(False)

    def encode(examples: Examples) -> dict[str, torch.Tensor]:
        batch = tokenizer([text for text, _ in examples], truncation=True, max_length=24, padding=True, return_tensors="pt")
        return {**batch, "labels": torch.tensor([label for _, label in examples])}

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=task.rate, weight_decay=0.0)
    scheduler = get_scheduler(task.schedule, optimizer, num_warmup_steps=task.steps // 10, num_training_steps=task.steps)
    order, path = random.Random(seed), []
    config = PruningConfig(method, density, schedule=CubicSchedule(0.1, 0.3))
    with Pruner(model, optimizer, config, total_steps=task.steps, max_grad_norm=1.0) as pruner:
        model.train()
        for step in range(task.steps):
            if step % (task.steps // 20) == 0:
                path.append({"step": step, **pruner.statistics()})
            model(**encode(order.sample(task.train, task.batch))).loss.backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        path.append({"step": task.steps, **pruner.statistics()})
    model.eval()
    with torch.inference_mode():
        right = [
            (model(**(batch := encode(task.validation[start : start + 100]))).logits.argmax(-1) == batch["labels"]).sum()
            for start in range(0, len(task.validation), 100)
        ]
    kept = pruner.summary().density
    return {
        "asked": density,
        "density": kept,
        "relative_error": kept / density - 1,
        "accuracy": float(sum(right)) / len(task.validation),
        "path": path,
    }


def table(runs: list[dict[str, Any]]) -> str:
    """Returns the runs as a Markdown table, a row for each task, method and density."""
    lines = [
        "| task | method | asked | density, a seed each | largest error | accuracy, a seed each |",
        "|---|---|---|---|---|---|",
    ]
    settings = dict.fromkeys((run["task"], run["method"], run["asked"]) for run in runs)
    for setting in settings:
        found = [run for run in runs if (run["task"], run["method"], run["asked"]) == setting]
        densities = ", ".join(f"{run['density']:.5f}" for run in found)
        error = max((run["relative_error"] for run in found), key=abs)
        accuracies = ", ".join(f"{run['accuracy']:.3f}" for run in found)
        lines.append(f"| {' | '.join(map(str, setting))} | {densities} | {error:+.2%} | {accuracies} |")
    return "\n".join(lines)


def _others(path: Path, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the runs in a file, without those that were repeated."""

    def names(run: dict[str, Any]) -> tuple[Any, ...]:
        return run["task"], run["method"], run["asked"], run["seed"]

    done = {names(run) for run in runs}
    earlier = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.is_file() else []
    return [run for run in earlier if names(run) not in done]


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sst2", type=Path, help="folder with GLUE's train.tsv and dev.tsv")
    parser.add_argument("--squadshifts", type=Path, help="folder with the JSON files of SQuADShifts")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--densities", nargs="+", type=float, default=DENSITIES)
    parser.add_argument("--tasks", nargs="+", help="of those whose data is there; all of them if not given")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "density_control.json")
    chosen = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    runs: list[dict[str, Any]] = []
    for name, task in tasks(chosen):
        if chosen.tasks and name not in chosen.tasks:
            continue
        facts = {"task": name, "steps": task.steps, "rate": task.rate, "rate_schedule": task.schedule, "batch": task.batch}
        for method in chosen.methods:
            for density in chosen.densities:
                for seed in range(chosen.seeds):
                    result = run(task, METHODS[method], density, seed)
                    runs.append({**facts, "method": method, "seed": seed, **result})
                    print(
                        f"{name:12} {method:13} asked {density:<5} seed {seed}  density {result['density']:.5f} "
                        f"({result['relative_error']:+.2%})  accuracy {result['accuracy']:.3f}",
                        flush=True,
                    )
                    _write(chosen.output, runs)
    runs = _write(chosen.output, runs)
    print(table(runs))
    print(f"The largest relative error of {len(runs)} runs: {_worst(runs):.2%}")


def _worst(runs: list[dict[str, Any]]) -> float:
    return max(abs(float(run["relative_error"])) for run in runs)


def _write(path: Path, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Writes the runs together with others that the file holds, and returns all of them."""
    runs = sorted(_others(path, runs) + runs, key=lambda run: (run["task"], run["method"], -run["asked"], run["seed"]))
    written = {
        "largest_relative_error": _worst(runs),
        "model": "MiniLM-L6, first layer",
        "machine": {"processor": platform.machine(), "capability": torch.backends.cpu.get_cpu_capability()},
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "date": date.today().isoformat(),
        "runs": runs,
    }
    path.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    return runs


if __name__ == "__main__":
    main()
