"""The command `fineprune sweep`: runs the trials that are not finished, and updates the tables after each."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow

from ...errors import InvalidInputError, TrainingError, enumeration
from ..training.result import RESULT
from . import flags, record, tables
from .engines import Job
from .plan import Sweep, Trial

print_at_once = partial(print, flush=True)

TrialCommand = Callable[[Path, Path], tuple[str, ...]]
"""Returns the command of a trial, given the paths of its recipe and its folder."""


@dataclass(frozen=True)
class SweepOutcome:
    """The tables of a sweep, as in trials.csv and summary.csv, and the reason of each trial that failed, by its name."""

    folder: Path
    trials: pyarrow.Table
    summary: pyarrow.Table
    failed: dict[str, str]

    def check(self) -> None:
        """Raises TrainingError if a trial failed."""
        if self.failed:
            raise TrainingError(
                f"{len(self.failed)} of {self.trials.num_rows} trials failed: {enumeration(self.failed, most=5)}. The others "
                f"are in {self.folder}; the same command runs the failed ones again."
            )


def train_command(recipe: Path, folder: Path) -> tuple[str, ...]:
    """Returns the command that runs one trial."""
    return (sys.executable, "-P", "-u", "-m", "fineprune", "train", str(recipe), "--training.output_dir", str(folder))


def run(
    arguments: Sequence[str],
    report: Callable[[str], None] = print_at_once,
    command: TrialCommand = train_command,
) -> SweepOutcome:
    """Runs a sweep: `fineprune sweep` after its name. `report` is called with a line of text for each trial that ends.

    Raises:
        InvalidInputError: for settings that cannot be run, or an output folder that holds something else; before a trial
            is started.
        TrainingError: if it is stopped with Ctrl-C.
    """
    sweep = flags.read(arguments)
    with record.claimed(sweep.folder, sweep.trials, sweep.choices):
        try:
            return _run(sweep, report, command)
        except KeyboardInterrupt:
            raise TrainingError(
                f"The sweep was stopped. Its finished trials are in {sweep.folder}; the same command runs the others."
            ) from None


def _run(sweep: Sweep, report: Callable[[str], None], command: TrialCommand) -> SweepOutcome:
    folder, trials = sweep.folder.absolute(), {trial.name: trial for trial in sweep.trials}
    results = {name: result for name in trials if (result := _result(folder / name))}
    waiting = [_job(folder, trial, command) for name, trial in trials.items() if name not in results]
    report(f"{len(trials)} trials, {len(results)} of them finished before; logs are in {sweep.folder / record.LOGS}")
    failed: dict[str, str] = {}
    outcome = _write(sweep, results, failed)
    with closing(sweep.engine.run(waiting)) as endings:
        for name, problem in endings:
            if result := _result(folder / name):
                results[name] = result
            else:
                failed[name] = f"{problem}; {_last_line(_log(folder, name))}"
            report(f"{len(results) + len(failed)} of {len(trials)}: {name} {failed.get(name) or _figures(result)}")
            outcome = _write(sweep, results, failed)
    return outcome


def _job(folder: Path, trial: Trial, command: TrialCommand) -> Job:
    own, log = folder / trial.name, _log(folder, trial.name)
    words = command(folder / record.RECIPES / f"{trial.name}.yaml", own)
    return Job(trial.name, words, own, own / RESULT, log, Path.cwd(), trial.prunes)


def _log(folder: Path, name: str) -> Path:
    return folder / record.LOGS / f"{name}.log"


def _result(folder: Path) -> dict[str, Any]:
    """Returns the result of a finished trial; an empty one if it is not finished."""
    try:
        result: dict[str, Any] = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            f"{folder / RESULT} could not be read: {error}. Remove {folder} to run the trial again."
        ) from error
    return result


def _write(sweep: Sweep, results: Mapping[str, dict[str, Any]], failed: Mapping[str, str]) -> SweepOutcome:
    ordered = {trial.name: results[trial.name] for trial in sweep.trials if trial.name in results}
    made = {"trials": tables.trials(sweep, ordered, failed), "summary": tables.summary(sweep, ordered)}
    tables.write(sweep.folder, **made)
    return SweepOutcome(sweep.folder, **made, failed=dict(failed))


def _last_line(log: Path) -> str:
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "nothing")
    return f"the last line of {log}: {last[:400]}"


def _figures(result: Mapping[str, Any]) -> str:
    metrics = ", ".join(f"{name} {value:.4f}" for name, value in result["metrics"].items())
    return f"finished: {metrics}, density {result['density']:.4f}, {result['seconds']:.0f} s"
