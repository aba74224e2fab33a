"""Which settings of each method do best in short runs: two tasks, two densities, several seeds; one setting changed at a time.

    python benchmarks/defaults.py --sst2 FOLDER [--only NAME ...] [--densities 0.1 0.03] [--seeds 2] [--output FILE]

The model is MiniLM-L6 cut to its first two layers, embeddings frozen. The tasks: which module of the standard library a
docstring documents, and the sentiment of a sentence (GLUE's train.tsv in --sst2, a part of it held out). Every run has the
same steps, batches and rate schedule, unless its name says otherwise. Prints a row for each run and adds it to the file at
once; runs that the file holds are not done again.
"""

import argparse
import json
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, get_scheduler
from transformers.utils import logging

from fineprune import (
    L0,
    Constant,
    CubicSchedule,
    Distillation,
    FromMagnitude,
    Magnitude,
    Movement,
    Pruner,
    PruningConfig,
    SoftMovement,
)
from fineprune.apps.quickstart import docstrings, minilm
from fineprune.apps.tasks.tables import read_table
from fineprune.methods.inits import ScoreInit

LENGTH = 24
"""Tokens at most."""


@dataclass(frozen=True)
class AdamMovement(Movement):
    """Movement whose scores learn by Adam with other betas."""

    betas: tuple[float, float] = (0.9, 0.999)

    def optimizer(self, scores: Tensor) -> torch.optim.Optimizer:
        """Returns Adam with the betas."""
        return torch.optim.Adam([scores], lr=self.score_lr, betas=self.betas, weight_decay=0.0)


@dataclass(frozen=True)
class SgdMovement(Movement):
    """Movement whose scores learn by SGD with momentum."""

    def optimizer(self, scores: Tensor) -> torch.optim.Optimizer:
        """Returns SGD."""
        return torch.optim.SGD([scores], lr=self.score_lr, momentum=0.9)


@dataclass(frozen=True)
class MagnitudeNow(Movement):
    """Movement that corrects the current magnitude, not that of the start: ranks by S + scale * abs(W) / mean abs(W)."""

    init: ScoreInit = Constant(0.0)
    scale: float = 1.0

    def current(self, scores: Tensor | None, magnitude: Callable[[], Tensor]) -> Tensor:
        """Returns what ranks the weights: their scores, and the current magnitude."""
        assert scores is not None
        now = magnitude()
        return scores + self.scale * now / now.mean()


@dataclass(frozen=True)
class Setting:
    """One way to prune, and to train."""

    pruning: PruningConfig | None
    rate: float = 1.0
    """Times the task's own."""
    steps: int = 800
    distilled: bool = False


def pruned(method: Any, cooldown: float = 0.3, scope: Any = "local") -> PruningConfig:
    """Returns a config whose density is put in later."""
    return PruningConfig(method, 0.1, schedule=CubicSchedule(0.1, cooldown), scope=scope)


def from_magnitude(scale: float, **others: Any) -> Setting:
    """Returns movement with scores initialised from the magnitude."""
    return Setting(pruned(Movement(FromMagnitude(scale))), **others)


MAGNITUDE = Setting(pruned(Magnitude()))

SETTINGS: dict[str, Setting] = {
    "dense": Setting(None),
    "dense, twice the rate": Setting(None, rate=2.0),
    "magnitude": MAGNITUDE,
    "magnitude, half the rate": replace(MAGNITUDE, rate=0.5),
    "magnitude, twice the rate": replace(MAGNITUDE, rate=2.0),
    "magnitude, cooldown 0.6": Setting(pruned(Magnitude(), 0.6)),
    "magnitude, global": Setting(pruned(Magnitude(), scope="global")),
    "magnitude, distilled": replace(MAGNITUDE, distilled=True),
    "movement, init 0": Setting(pruned(Movement(Constant(0.0)))),
    "movement, scale 0.1": from_magnitude(0.1),
    "movement, scale 0.3": from_magnitude(0.3),
    "movement, scale 1": from_magnitude(1.0),
    "movement, scale 3": from_magnitude(3.0),
    "movement, current magnitude": Setting(pruned(MagnitudeNow())),
    "movement, current magnitude, scale 0.3": Setting(pruned(MagnitudeNow(scale=0.3))),
    "movement, half the rate": from_magnitude(0.3, rate=0.5),
    "movement, twice the rate": from_magnitude(0.3, rate=2.0),
    "movement, scale 1, twice the rate": from_magnitude(1.0, rate=2.0),
    "movement, cooldown 0.6": Setting(pruned(Movement(FromMagnitude(0.3)), 0.6)),
    "movement, global": Setting(pruned(Movement(FromMagnitude(0.3)), scope="global")),
    "movement, adaptive": Setting(pruned(Movement(FromMagnitude(0.3)), scope="adaptive")),
    "movement, betas 0.9 0.99": Setting(pruned(AdamMovement(FromMagnitude(0.3), betas=(0.9, 0.99)))),
    "movement, SGD": Setting(pruned(SgdMovement(FromMagnitude(0.3), score_lr=30.0))),
    "movement, distilled": from_magnitude(0.3, distilled=True),
    "soft movement, init 0": Setting(pruned(SoftMovement(init=Constant(0.0)))),
    "soft movement, scale 0.3": Setting(pruned(SoftMovement(init=FromMagnitude(0.3)))),
    "soft movement, scale 1": Setting(pruned(SoftMovement(init=FromMagnitude(1.0)))),
    "L0": Setting(pruned(L0())),
    "magnitude, 300 steps": replace(MAGNITUDE, steps=300),
    **{f"movement, scale {scale}, 300 steps": from_magnitude(scale, steps=300) for scale in (0.03, 0.1, 0.3, 1.0)},
    **{f"movement, scale {scale}, 2400 steps": from_magnitude(scale, steps=2400) for scale in (0.3, 1.0)},
}

HELD_OUT = 3000
"""Sentences of SST-2's training set that the accuracy is measured on; its dev set stays unseen."""

Batch = dict[str, Tensor]


class Task:
    """Texts with labels as token numbers; batches of like length."""

    def __init__(self, train: list[tuple[str, int]], validation: list[tuple[str, int]], rate: float) -> None:
        self.rate = rate
        self.tokenizer = AutoTokenizer.from_pretrained(minilm.folder())
        self.train, self.validation = ([(self._tokens(text), label) for text, label in part] for part in (train, validation))
        self.classes = max(label for _, label in train) + 1

    def _tokens(self, text: str) -> list[int]:
        numbers: list[int] = self.tokenizer(text, truncation=True, max_length=LENGTH)["input_ids"]
        return numbers

    def batch(self, examples: list[tuple[list[int], int]]) -> Batch:
        """Returns padded examples."""
        made = self.tokenizer.pad({"input_ids": [tokens for tokens, _ in examples]}, return_tensors="pt")
        return {**made, "labels": torch.tensor([label for _, label in examples])}

    def batches(self, steps: int, seed: int, size: int = 16, pool: int = 32) -> Iterator[Batch]:
        """Yields random batches; those of a pool are cut from its examples in the order of their length."""
        order = random.Random(seed)
        for start in range(0, steps, pool):
            drawn = sorted(order.sample(self.train, min(size * pool, len(self.train))), key=lambda example: len(example[0]))
            places = list(range(0, len(drawn) - size + 1, size))
            order.shuffle(places)
            for place in (places * pool)[: min(pool, steps - start)]:
                yield self.batch(drawn[place : place + size])

    def accuracy(self, model: Any) -> float:
        """Returns the share of the validation examples that the model gets right."""
        model.eval()
        right = 0
        ordered = sorted(self.validation, key=lambda example: len(example[0]))
        with torch.inference_mode():
            for start in range(0, len(ordered), 64):
                batch = self.batch(ordered[start : start + 64])
                labels = batch.pop("labels")
                right += int((model(**batch).logits.argmax(-1) == labels).sum())
        return right / len(ordered)


def tasks(sst2: Path | None) -> Iterator[tuple[str, Task]]:
    """Yields the tasks whose data is there."""
    texts = docstrings.load()
    train, validation = (
        list(zip(*columns, strict=True))
        for columns in ((texts.train_texts, texts.train_labels), (texts.validation_texts, texts.validation_labels))
    )
    yield "docstrings", Task(train, validation, rate=5e-4)
    if sst2:
        sentences = _sentences(sst2 / "train.tsv")
        random.Random(0).shuffle(sentences)
        yield "sst2", Task(sentences[HELD_OUT:], sentences[:HELD_OUT], rate=1e-3)


def _sentences(path: Path) -> list[tuple[str, int]]:
    columns = read_table(path)
    return [(text, int(label)) for text, label in zip(columns["sentence"], columns["label"], strict=True)]


def fresh(task: Task, seed: int) -> Any:
    """Returns the pretrained model with a new head."""
    torch.manual_seed(seed)
    folder = minilm.folder()
    settings = AutoConfig.from_pretrained(folder, num_hidden_layers=2, num_labels=task.classes)
    settings.hidden_dropout_prob = settings.attention_probs_dropout_prob = 0.0
    model = AutoModelForSequenceClassification.from_pretrained(folder, config=settings)
    model.bert.embeddings.requires_grad_(False)
    return model


def train(task: Task, setting: Setting, density: float | None, seed: int, teacher: Any = None) -> Any:
    """Trains once, and returns the model."""
    model, distillation = fresh(task, seed), Distillation()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=setting.rate * task.rate, weight_decay=0.0)
    scheduler = get_scheduler("linear", optimizer, setting.steps // 10, setting.steps)
    pruner = None
    if setting.pruning is not None:
        config = replace(setting.pruning, density=density)
        pruner = Pruner(model, optimizer, config, total_steps=setting.steps, max_grad_norm=1.0)
    model.train()
    for batch in task.batches(setting.steps, seed):
        with torch.autocast("cpu", torch.bfloat16):
            output = model(**batch)
            loss = output.loss
            if teacher is not None:
                with torch.no_grad():
                    wanted = teacher(**{name: tensor for name, tensor in batch.items() if name != "labels"}).logits
                loss = distillation.loss(loss, output.logits, wanted)
        loss.backward()
        if pruner is None:
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    if pruner is not None:
        pruner.close()
    return model


def table(runs: list[dict[str, Any]]) -> str:
    """Returns the accuracies as a Markdown table, a row for each setting: one seed's, or the mean and range of several."""
    columns = sorted({(run["task"], run["density"]) for run in runs if run["density"] < 1}, key=lambda key: (key[0], -key[1]))
    lines = [
        f"| setting | {' | '.join(f'{task} {density:.0%}' for task, density in columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name in dict.fromkeys(run["setting"] for run in runs):
        of_name = [run for run in runs if run["setting"] == name]
        cells = [
            _cell([run["accuracy"] for run in of_name if run["task"] == task and run["density"] in (density, 1.0)])
            for task, density in columns
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.3f}" if values else ""
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def read(path: Path) -> list[dict[str, Any]]:
    """Returns the runs in a file."""
    runs: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.is_file() else []
    return runs


def write(path: Path, runs: list[dict[str, Any]]) -> None:
    """Writes all runs, with the machine and the versions."""
    names = list(SETTINGS)
    runs.sort(key=lambda run: (names.index(run["setting"]), run["task"], -run["density"], run["seed"]))
    facts = {
        "model": "MiniLM-L6, first two layers, embeddings frozen, no dropout",
        "training": "800 steps unless said, rate 5e-4 (docstrings) or 1e-3 (sst2) unless said, batches of 16, at most 24 "
        "tokens, bfloat16 autocast, AdamW, clipping at 1.0, linear warmup over a tenth, linear decay to 0; schedule of the "
        "density: warmup 0.1, cooldown 0.3 unless said",
        "machine": {"processor": platform.machine(), "capability": torch.backends.cpu.get_cpu_capability()},
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "date": date.today().isoformat(),
        "runs": runs,
    }
    path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sst2", type=Path, help="folder with GLUE's train.tsv")
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--densities", nargs="+", type=float, default=[0.1, 0.03])
    parser.add_argument("--tasks", nargs="+", help="of those whose data is there; all of them if not given")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "defaults.json")
    chosen = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    found = [(name, task) for name, task in tasks(chosen.sst2) if not chosen.tasks or name in chosen.tasks]
    teachers: dict[str, Any] = {}
    for seed in chosen.seeds:
        for name in chosen.only:
            for task_name, task in found:
                setting = SETTINGS[name]
                for density in chosen.densities if setting.pruning else [1.0]:
                    key = {"setting": name, "task": task_name, "density": density, "seed": seed}
                    if any(key.items() <= run.items() for run in read(chosen.output)):
                        continue
                    if setting.distilled and task_name not in teachers:
                        teachers[task_name] = train(task, SETTINGS["dense"], None, seed=92).eval()
                    start = time.perf_counter()
                    teacher = teachers[task_name] if setting.distilled else None
                    accuracy = task.accuracy(train(task, setting, density, seed, teacher))
                    run = {**key, "accuracy": accuracy, "seconds": round(time.perf_counter() - start, 1)}
                    write(chosen.output, [*read(chosen.output), run])
                    print(*run.values(), flush=True)
    print(table(read(chosen.output)))


if __name__ == "__main__":
    main()
