"""Where trials run: side by side on this machine, or on a Ray cluster. Each trial is a process of its own."""

import logging
import shutil
import signal
import subprocess
import time
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ...errors import FinepruneError, InvalidInputError, require
from ...trainer.checkpoints import last_whole_checkpoint
from .locks import take

logger = logging.getLogger(__name__)

PAUSE = 0.05
"""Seconds between two looks at a running trial."""

PATIENCE = 20.0
"""Seconds that a trial gets to stop by itself."""


@dataclass(frozen=True)
class Job:
    """A trial as work to do.

    Args:
        name: of the trial.
        command: program and arguments; `--resume true` is added where the folder holds a whole checkpoint.
        folder: what the trial writes; leftovers in it without a whole checkpoint are removed.
        result: the file in it that is written last.
        log: for all that the trial prints. Who runs the trial holds the lock of this file.
        directory: where the command is started.
        prunes: whether a checkpoint must hold a pruner's state.
    """

    name: str
    command: tuple[str, ...]
    folder: Path
    result: Path
    log: Path
    directory: Path
    prunes: bool


@dataclass(frozen=True)
class Ended:
    """How a trial ended.

    Args:
        name: of the trial.
        problem: what went wrong, in words; empty if nothing did.
    """

    name: str
    problem: str = ""


class Attempt:
    """A job under way: waits for its lock, starts the process, sees it end."""

    def __init__(self, job: Job) -> None:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        self._job = job
        self._log = job.log.open("ab")
        self._process: subprocess.Popen[bytes] | None = None
        self._told = False

    def poll(self) -> Ended | None:
        """Returns how the trial ended, or None if it has not."""
        try:
            if self._process is None and not self._start():
                return None
        except (OSError, FinepruneError) as error:
            return Ended(self._job.name, f"could not be started: {error}")
        if self._process is None:
            return Ended(self._job.name)
        status = self._process.poll()
        return None if status is None else Ended(self._job.name, self._problem(status))

    def stop(self) -> None:
        """Ends the process if it still runs, and lets the lock go."""
        try:
            if self._process is not None and self._process.poll() is None:
                self._end(self._process)
        finally:
            self._log.close()

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):  # or the user's patience
            process.kill()
            process.wait()

    def _start(self) -> bool:
        """Starts the process, unless the trial is finished; returns False while another process is at it."""
        job = self._job
        if not take(self._log):  # left by a sweep that was killed
            if not self._told:
                logger.warning(
                    "%s is still being run by an earlier start of this sweep; waiting for it (%s).", job.name, job.log
                )
            self._told = True
            return False
        if not job.result.is_file():
            resume = self._resume()
            self._log.truncate(0)
            self._process = subprocess.Popen(
                [*job.command, *resume], stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, cwd=job.directory
            )
        return True

    def _resume(self) -> list[str]:
        """Returns the flags to go on from a checkpoint; removes what a run without one has left."""
        if last_whole_checkpoint(self._job.folder, self._job.prunes) is not None:
            return ["--resume", "true"]
        if self._job.folder.exists():
            shutil.rmtree(self._job.folder)
        return []

    def _problem(self, status: int) -> str:
        if self._job.result.is_file():
            return ""
        if status < 0:
            return f"was killed by {signal.Signals(-status).name}" + " (out of memory?)" * (-status == signal.SIGKILL)
        return f"ended with exit status {status} and without a {self._job.result.name}"


def complete(job: Job) -> Ended:
    """Runs one job to its end, in this thread."""
    attempt = Attempt(job)
    try:
        while (ended := attempt.poll()) is None:
            time.sleep(PAUSE)
        return ended
    finally:
        attempt.stop()


def complete_on_node(job: Job) -> Ended:
    """Runs one job to its end in a Ray worker.

    Ray's word to stop comes as SIGINT, which a worker ignores whose cluster was started in the background.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return complete(job)


class Engine(Protocol):
    """Something that runs jobs."""

    def run(self, jobs: Sequence[Job]) -> Generator[Ended, None, None]:
        """Yields how each job ended, in the order in which they do; closed before, it stops those that run."""
        ...


@dataclass(frozen=True)
class Local:
    """Processes of this machine.

    Args:
        jobs: how many trials run at the same time.
    """

    jobs: int = 1

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise InvalidInputError(f"--jobs was given as {self.jobs}; it is a number of trials, 1 or more.")

    def run(self, jobs: Sequence[Job]) -> Generator[Ended, None, None]:
        """Runs the jobs in their order."""
        waiting = deque(jobs)
        running: list[Attempt] = []
        try:
            while waiting or running:
                while waiting and len(running) < self.jobs:
                    running.append(Attempt(waiting.popleft()))
                for attempt in list(running):
                    if ended := attempt.poll():
                        running.remove(attempt)
                        attempt.stop()
                        yield ended
                time.sleep(PAUSE)
        finally:
            for attempt in running:
                attempt.stop()


@dataclass(frozen=True)
class Ray:
    """Tasks of a Ray cluster: that of RAY_ADDRESS, or one of this machine alone.

    The nodes share the sweep's folder, the working directory and the Python environment, under the same paths.

    Args:
        cpus: CPUs that each trial reserves; Ray gives it so many threads.
        gpus: GPUs that each trial reserves; with 0 it sees none.
    """

    cpus: int = 1
    gpus: int = 0

    def __post_init__(self) -> None:
        if self.cpus < 1 or self.gpus < 0:
            raise InvalidInputError(
                f"--cpus was given as {self.cpus} and --gpus as {self.gpus}; a trial takes 1 CPU or more, and 0 GPUs or more."
            )
        require("sweep", "ray")

    def run(self, jobs: Sequence[Job]) -> Generator[Ended, None, None]:
        """Hands all jobs to the cluster; one whose node is lost is tried a second time."""
        import ray

        own = not ray.is_initialized()
        if own:
            ray.init(log_to_driver=False, logging_level=logging.WARNING)
        task = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=1)(complete_on_node)
        running = {task.remote(job): job for job in jobs}
        try:
            while running:
                [reference], _ = ray.wait(list(running), num_returns=1)
                try:
                    ended = ray.get(reference)
                except ray.exceptions.RayError as error:
                    ended = Ended(running[reference].name, f"was lost by Ray: {str(error).splitlines()[0]}")
                del running[reference]
                yield ended
        finally:
            for reference in running:
                ray.cancel(reference)
            if running:
                ray.wait(list(running), num_returns=len(running), timeout=PATIENCE)
            if own:
                ray.shutdown()
