"""The quickstart: fine-tunes MiniLM-L6 dense and pruned, compares, draws and packs; in minutes, without a download."""

import itertools
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from transformers import TrainingArguments

from ...compress.loading import from_pretrained, load
from ...config.config import PruningConfig
from ...config.schedules import CubicSchedule
from ...errors import InvalidInputError
from ...methods.base import Method
from ...methods.magnitude import Magnitude
from ...methods.movement import Movement
from ..bench.shapes import Shape, random_batch
from ..bench.timing import Spread, in_turns, timed
from ..convert.pack import pack_folder
from ..tasks.base import Examples, Splits, TextTask
from ..training.recipe import Recipe
from ..training.result import Result
from ..training.run import evaluate, train
from ..training.weight_samples import WeightSamples
from . import docstrings, minilm

LAYERS = 2
"""Layers of MiniLM-L6 that are kept, the first ones, so that three runs take five minutes."""

LENGTH = 24
"""Tokens to which a docstring is cut."""

SHAPE = Shape(1, 128)
"""Texts x tokens of the batch on which the pruned model is timed against the dense one."""

ROUNDS = 15
"""Rounds of timing; in each, both models run in turn."""

STEPS = 360
"""Optimizer steps of each run."""

METHODS: dict[str, Method | None] = {"dense": None, "magnitude": Magnitude(), "movement": Movement()}
"""The runs. They share data, steps, learning rate, schedule and density."""


@dataclass(frozen=True)
class CompactComparison:
    """The movement-pruned model, packed with int8 values and run sparse, against the dense one.

    The accuracy is that of the packed model; `dense` and `sparse` are milliseconds for one batch, `faster` is dense / sparse.
    """

    accuracy: float
    dense_bytes: int
    packed_bytes: int
    dense: Spread
    sparse: Spread
    faster: Spread

    def sentence(self) -> str:
        """Returns a summary for a reader."""
        low, high = f"{self.faster.low:.2f}", f"{self.faster.high:.2f}"
        return (
            f"Packed with int8 values, the movement-pruned model has {self.packed_bytes / 1e6:.1f} MB, mostly embeddings; the "
            f"dense one has {self.dense_bytes / 1e6:.1f} MB. Its accuracy is {self.accuracy:.4f}. For one text of "
            f"{SHAPE.tokens} tokens it takes {self.sparse.median:.2f} ms, the dense model {self.dense.median:.2f} ms: "
            f"{self.faster.median:.2f} times as long ({low} to {high})."
        )


@dataclass(frozen=True)
class StandardLibrary(TextTask):
    """Which module of the Python standard library does this docstring document?"""

    data: docstrings.Docstrings

    def load(self) -> Splits:
        train_data = Examples(list(self.data.train_texts), None, list(self.data.train_labels))
        return Splits(train_data, self.load_validation(self.data.names), self.data.names)

    def load_validation(self, classes: tuple[str, ...]) -> dict[str, Examples]:
        return {"": Examples(list(self.data.validation_texts), None, list(self.data.validation_labels))}


def run(output: str | None = None, density: float = 0.1, seed: int = 0) -> tuple[Path, dict[str, Result], CompactComparison]:
    """Fine-tunes MiniLM-L6 dense, with magnitude and with movement pruning, draws the results, and packs the last model.

    Args:
        output: new folder for the models, `quickstart.png` and `quickstart.json`. None: `quickstart`, or
            `quickstart-2` and so on where it exists.
        density: fraction of the weights in the transformer blocks that the two pruned runs keep.
        seed: of the new classifier on top, the order of the data and dropout.

    Returns:
        The folder, the result of each run by name, and the comparison of the packed model with the dense one.
    """
    if not 0 < density < 1:
        raise InvalidInputError(f"density must be above 0 and below 1, got {density}. Give the fraction of weights to keep.")
    model, folder = minilm.folder(), _new_folder() if output is None else Path(output)
    schedule = CubicSchedule(warmup=0.1, cooldown=0.4)
    prunings = {
        name: None if method is None else PruningConfig(method, density, schedule=schedule) for name, method in METHODS.items()
    }
    if folder.exists():
        raise InvalidInputError(f"{folder} exists already. Remove it, or give another folder with --output.")
    data = docstrings.load()
    task = StandardLibrary(data)
    results = {name: train(_recipe(model, task, pruning, folder / name, seed)) for name, pruning in prunings.items()}
    compact = pack(folder, task, seed)
    _write(folder, results, compact, data, density, seed)
    draw(folder, results, data.majority()).savefig(folder / "quickstart.png", dpi=130)
    return folder, results, compact


def pack(folder: Path, task: TextTask, seed: int) -> CompactComparison:
    """Packs the movement-pruned model, evaluates the packed model, and times it, run sparse, against the dense one."""
    sizes = pack_folder(str(folder / "movement"), str(folder / "packed"))
    packed = evaluate(str(folder / "packed"), task, LENGTH, _recipe(folder, task, None, folder, seed).training)
    dense, sparse = from_pretrained(folder / "dense").eval(), load(folder / "packed", sparse=True)
    batch = random_batch(dense, SHAPE)
    with torch.inference_mode():
        timings = in_turns({"dense": timed(lambda: dense(**batch)), "sparse": timed(lambda: sparse(**batch))}, ROUNDS)
    return CompactComparison(
        accuracy=packed.metrics["accuracy"],
        dense_bytes=sum(path.stat().st_size for path in (folder / "dense").glob("*.safetensors")),
        packed_bytes=sizes[-1].after,
        dense=timings["dense"].spread,
        sparse=timings["sparse"].spread,
        faster=timings["sparse"].times_faster_than(timings["dense"]),
    )


def _new_folder() -> Path:
    names = itertools.chain(["quickstart"], (f"quickstart-{number}" for number in itertools.count(2)))
    return next(path for path in map(Path, names) if not path.exists())


def _recipe(model: Path, task: TextTask, pruning: PruningConfig | None, folder: Path, seed: int) -> Recipe:
    training = TrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=64,
        learning_rate=1e-3,
        warmup_steps=0.1,
        logging_steps=40,
        train_sampling_strategy="group_by_length",
        save_strategy="no",
        report_to="none",
        seed=seed,
        dataloader_pin_memory=torch.accelerator.is_available(),
    )
    config = {"num_hidden_layers": LAYERS, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return Recipe(str(model), task, training, pruning, max_length=LENGTH, config=config, frozen_modules=["embeddings"])


def verdict(results: Mapping[str, Result]) -> str:
    """Returns a sentence about the better method, and how little one seed proves."""
    movement, magnitude = (results[name].metrics["accuracy"] for name in ("movement", "magnitude"))
    if movement == magnitude:
        return "Movement and magnitude pruning have equal accuracy here."
    first, second = ("movement", "magnitude") if movement > magnitude else ("magnitude", "movement")
    return (
        f"Here {first} pruning is better than {second} pruning, by {abs(movement - magnitude):.4f} in accuracy. One seed "
        "and a small validation set prove little: try others with --seed."
    )


def _write(
    folder: Path,
    results: Mapping[str, Result],
    compact: CompactComparison,
    data: docstrings.Docstrings,
    density: float,
    seed: int,
) -> None:
    facts = {
        "steps": STEPS,
        "density": density,
        "seed": seed,
        "layers": LAYERS,
        "examples": {"train": len(data.train_texts), "validation": len(data.validation_texts)},
        "majority": data.majority(),
        "runs": {
            name: {"metrics": result.metrics, "density": result.inspection.density, "seconds": result.seconds}
            for name, result in results.items()
        },
        "compact": asdict(compact) | {"shape": str(SHAPE), "rounds": ROUNDS, "values": "int8"},
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("fineprune", "torch", "transformers", "numba")},
    }
    (folder / "quickstart.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


COLOURS = {"dense": "#4d4d4d", "magnitude": "#d95f02", "movement": "#1b6ca8"}
"""Distinct for the colour-blind, and in grey."""


def draw(folder: Path, results: Mapping[str, Result], majority: float) -> Figure:
    """Draws the accuracies, and one matrix' weights before and after each method (after the paper's figure 2)."""
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    bars, *scatters = figure.subplots(1, 3, width_ratios=[1, 1.15, 1.15])
    _draw_accuracies(bars, results, majority)
    name = results["movement"].inspection.layers[-1].name
    for axes, method in zip(scatters, ("magnitude", "movement"), strict=True):
        _draw_weights(axes, WeightSamples.load(folder / method), name, method)
    density = results["movement"].inspection.density
    figure.suptitle(f"MiniLM-L6, first {LAYERS} layers, pruned to {density:.1%} of the block weights while fine-tuned")
    return figure


def _draw_accuracies(axes: Axes, results: Mapping[str, Result], majority: float) -> None:
    accuracies = [result.metrics["accuracy"] for result in results.values()]
    bars = axes.bar(list(results), accuracies, color=[COLOURS[name] for name in results])
    axes.bar_label(bars, fmt="%.3f")
    axes.axhline(majority, color="black", linewidth=1, linestyle=":", label="always naming the most frequent module")
    axes.legend(loc="upper right", frameon=False, fontsize=9)
    axes.set(ylim=(0, 1), ylabel="validation accuracy", title="Which module does a docstring document?")


def _draw_weights(axes: Axes, samples: WeightSamples, name: str, method: str) -> None:
    """Plots the weights of a matrix, fine-tuned against pretrained; pruned ones are grey, on the line 0."""
    before, after = samples.pretrained[name], samples.weights[name]
    pruned = after == 0
    largest = float(before.abs().max())
    axes.scatter(before[pruned], after[pruned], s=2, color="#bdbdbd", rasterized=True, label="pruned")
    axes.scatter(before[~pruned], after[~pruned], s=2, color=COLOURS[method], alpha=0.5, rasterized=True, label="kept")
    axes.axline((0, 0), slope=1, color="black", linewidth=0.6)
    axes.set(xlim=(-largest, largest), xlabel="pretrained weight", ylabel="fine-tuned weight")
    axes.set_title(f"{method} pruning, one matrix")
    axes.legend(loc="upper left", markerscale=5, frameon=False)
