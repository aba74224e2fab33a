"""A sweep of fake trials, in this process or in one that can be killed."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from fineprune.apps.sweep import command
from fineprune.apps.sweep.command import SweepOutcome

TRIAL = Path(__file__).with_name("sweep_trial.py")


def silent(line: str) -> None:
    """Takes the line about a trial that ended."""


def run(arguments: Sequence[str], control: Path, report: Callable[[str], None] = silent) -> SweepOutcome:
    """Runs a sweep whose trials do what the files in `control` say."""
    return command.run(
        arguments,
        report,
        lambda recipe, folder: (sys.executable, str(TRIAL), str(control), str(recipe), str(folder)),
    )


def run_and_die(arguments: Sequence[str], control: Path, writes: int) -> None:
    """Runs a sweep that is killed right before it puts its n-th file in place, n = `writes`."""
    replace, done = os.replace, 0

    def counted(source: Path, target: Path) -> None:
        nonlocal done
        done += 1
        if done == writes:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = counted  # type: ignore[assignment]
    run(arguments, control)
