"""A trial that trains nothing: it does to itself what the files in a control folder say, and writes a result.

    python sweep_trial.py CONTROL RECIPE FOLDER [--resume true]

NAME.exit: ends with the status in it. NAME.kill: kills itself. NAME.lost: kills the process that started it, too.
NAME.wait: waits until the file named in it is there. `exit`, `kill` and `lost` are used up. NAME.starts counts the starts.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import yaml


def used_up(path: Path) -> bool:
    """Whether the file was there; it is no longer."""
    there = path.exists()
    path.unlink(missing_ok=True)
    return there


def main(control: Path, recipe: Path, folder: Path) -> None:
    settings = yaml.safe_load(recipe.read_text())
    name = recipe.stem
    with (control / f"{name}.starts").open("a") as starts:
        starts.write(f"{os.getpid()} {os.environ.get('RAY_RAYLET_PID')}\n")
    if folder.exists():
        sys.exit("the folder is not empty")  # as `fineprune train` says
    folder.mkdir()
    (folder / "half").write_text("of a model")
    sys.stdout.write("began\n")
    if (control / f"{name}.exit").exists():
        status = int((control / f"{name}.exit").read_text())
        (control / f"{name}.exit").unlink()
        sys.stdout.write("this is why\n  \n")
        sys.exit(status)
    if used_up(control / f"{name}.lost"):
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    if used_up(control / f"{name}.kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    if (control / f"{name}.wait").exists():
        awaited = Path((control / f"{name}.wait").read_text())
        while not awaited.exists():
            time.sleep(0.02)
    density, seed = settings["pruning"]["density"], settings["training"]["seed"]
    facts = {
        "metrics": {"accuracy": density + seed / 1000, "loss": -density},
        "density": density,
        "remaining_weights": density,
        "whole_model_density": 0.5,
        "seconds": 2.0,
        "steps": 24,
    }
    (folder / "temporary").write_text(json.dumps(facts))
    (folder / "temporary").rename(folder / "result.json")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
