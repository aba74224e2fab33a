"""Writes recipes/paper/*.yaml: one recipe for each cell of the paper's tables, and the dense runs that teach.

    python recipes/paper.py

Settings are those of the authors' runs (seed 92, BERT-base): rates, lengths and schedules, in optimizer steps. Lambda of soft
movement and L0 is found between the authors' runs on both sides of the asked density, in the logarithms of both; `PENALTIES`
holds these.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent / "paper"
DENSITIES = (0.10, 0.03)
METHODS = ("magnitude", "l0", "movement", "soft_movement")


@dataclass(frozen=True)
class Task:
    """A task as the paper ran it. `before` and `after`: dense and final steps, as multiples of the rate's warmup."""

    task: dict[str, Any]
    warmup: int
    epochs: int
    batch: int
    max_length: int
    before: int
    after: int
    low_rate: float = 3e-5
    """The rate of movement and soft movement."""


QA = {"class_path": "QuestionAnswering", "init_args": {"dataset": "rajpurkar/squad", "stride": 128}}
TASKS = {
    "squad": Task(QA, warmup=5400, epochs=10, batch=16, max_length=384, before=1, after=2),
    "mnli": Task({"class_path": "Glue", "init_args": {"name": "mnli"}}, 12000, 6, 32, 128, before=1, after=1),
    "qqp": Task({"class_path": "Glue", "init_args": {"name": "qqp"}}, 11000, 10, 32, 128, before=2, after=3, low_rate=3e-6),
}

PENALTIES: dict[tuple[str, str, bool], tuple[tuple[float, float], ...]] = {
    ("squad", "soft_movement", False): ((500, 13.87), (800, 7.079), (1100, 3.992), (1400, 2.560)),
    ("squad", "soft_movement", True): ((500, 12.72), (800, 8.450), (2000, 3.061), (2300, 2.569)),
    ("squad", "l0", False): ((100, 14.79), (175, 9.798), (300, 6.064), (600, 2.874)),
    ("squad", "l0", True): ((200, 14.64), (400, 8.968), (1000, 3.806), (1200, 3.132)),
    ("mnli", "soft_movement", False): ((200, 12.78), (300, 5.893), (400, 3.083), (500, 1.911)),
    ("mnli", "soft_movement", True): ((350, 13.12), (450, 9.474), (750, 4.026), (900, 2.848)),
    ("mnli", "l0", False): ((10, 26.08), (50, 8.351), (100, 3.808), (150, 2.138)),
    ("mnli", "l0", True): ((100, 10.36), (125, 8.408), (300, 3.065), (350, 2.451)),
    ("qqp", "soft_movement", False): ((100, 13.07), (150, 7.566), (200, 4.911), (300, 2.685)),
    ("qqp", "soft_movement", True): ((200, 10.92), (300, 7.148), (600, 3.155), (700, 2.619)),
    ("qqp", "l0", False): ((50, 13.84), (75, 8.124), (100, 5.209), (150, 2.617)),
    ("qqp", "l0", True): ((100, 13.93), (150, 9.068), (300, 3.518), (350, 2.750)),
}
"""(task, method, distilled): pairs of lambda and what it left, in % of the encoder with its biases, as the paper counts."""

BIASES = 119_808 / 85_054_464
"""What biases and LayerNorm add to the density of the weights in the paper's count."""


def penalty(task: str, method: str, distilled: bool, density: float) -> float:
    """Returns lambda for a density, between the authors' neighbours of it; beyond the last of them, along the last two."""
    runs = PENALTIES[task, method, distilled]
    wanted = 100 * (density * (1 - BIASES) + BIASES)
    (first, left), (second, right) = next(
        (pair for pair in itertools.pairwise(runs) if pair[1][1] <= wanted), (runs[-2], runs[-1])
    )
    share = math.log(left / wanted) / math.log(left / right)
    return float(f"{first * (second / first) ** share:.3g}")


def method(task: str, name: str, distilled: bool, density: float) -> dict[str, Any]:
    """Returns the settings of a method; the paper's init is written out because it is not the default."""
    if name == "magnitude":
        return {"class_path": "Magnitude"}
    constant = {"class_path": "Constant", "init_args": {"value": 2.197 if name == "l0" else 0.0}}
    if name == "movement":
        return {"class_path": "Movement", "init_args": {"init": constant, "score_lr": 0.01}}
    rate = 0.1 if name == "l0" and task != "qqp" else 0.01
    settings = {"penalty": penalty(task, name, distilled, density), "init": constant, "score_lr": rate}
    return {"class_path": {"l0": "L0", "soft_movement": "SoftMovement"}[name], "init_args": settings}


def common(name: str, task: Task, epochs: int, rate: float) -> dict[str, Any]:
    """Returns what every run of a task shares."""
    training = {
        "output_dir": f"runs/paper/{name}",
        "num_train_epochs": epochs,
        "per_device_train_batch_size": task.batch,
        "per_device_eval_batch_size": 64,
        "learning_rate": rate,
        "warmup_steps": task.warmup,
        "lr_scheduler_type": "linear",
        "max_grad_norm": 1.0,
        "save_strategy": "steps",
        "save_steps": 5000,
        "seed": 92,
    }
    shared = {"model": "google-bert/bert-base-uncased", "task": task.task, "max_length": task.max_length}
    return {**shared, "training": training}


def pruned(task_name: str, method_name: str, density: float, distilled: bool) -> tuple[str, dict[str, Any]]:
    """Returns the name and the recipe of one cell."""
    task = TASKS[task_name]
    name = f"{task_name}_{method_name}_{density * 100:.0f}" + ("_distilled" if distilled else "")
    qqp_l0 = (task_name, method_name) == ("qqp", "l0")  # run for 6 epochs, 1x / 1x
    before, after = (1, 1) if qqp_l0 else (task.before, task.after)
    schedule = {"warmup": before * task.warmup, "cooldown": after * task.warmup}
    settings = method(task_name, method_name, distilled, density)
    pruning = {"method": settings, "schedule": {"class_path": "CubicSchedule", "init_args": schedule}, "scope": "local"}
    if "penalty" not in settings.get("init_args", {}):
        pruning["density"] = density
    rate = task.low_rate if "movement" in method_name else 3e-5
    recipe = {**common(name, task, 6 if qqp_l0 else task.epochs, rate), "frozen_modules": ["embeddings"], "pruning": pruning}
    if distilled:
        teacher = {"teacher": f"runs/paper/{task_name}_dense"}
        recipe |= {**teacher, "distillation": {"temperature": 2.0, "alpha_ce": 0.1, "alpha_kd": 0.9}}
    return name, recipe


def recipes() -> Iterator[tuple[str, str]]:
    """Yields the name and the YAML of every recipe."""
    for task_name, task in TASKS.items():
        name = f"{task_name}_dense"
        head = f"# The paper's dense {task_name}; it teaches the distilled runs. fineprune train recipes/paper/{name}.yaml\n"
        yield name, head + dump(common(name, task, 3, 3e-5))
    for task_name, method_name, density, distilled in itertools.product(TASKS, METHODS, DENSITIES, (False, True)):
        name, recipe = pruned(task_name, method_name, density, distilled)
        first = f" First train the teacher, recipes/paper/{task_name}_dense.yaml." if distilled else ""
        head = f"# A cell of the paper's tables, BERT-base. fineprune train recipes/paper/{name}.yaml\n"
        yield name, head + (f"#{first}\n" if first else "") + dump(recipe)


def dump(recipe: dict[str, Any]) -> str:
    """Returns a recipe as YAML."""
    return yaml.dump(recipe, Dumper=_Whole, sort_keys=False, width=120)


class _Whole(yaml.SafeDumper):
    """Writes 3e-05 so that YAML reads a number, and no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        """Never refers back."""
        return True


_Whole.add_representer(
    float,
    lambda dumper, value: dumper.represent_scalar(
        "tag:yaml.org,2002:float", f"{value:.1e}" if 0 < value < 1e-3 else repr(value)
    ),
)


def main() -> None:
    """Writes all files."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in recipes():
        (FOLDER / f"{name}.yaml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
