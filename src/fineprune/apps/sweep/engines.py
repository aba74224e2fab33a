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

from ...errors import FinepruneError, InvalidInputError, require
from ...trainer.checkpoints import last_whole_checkpoint
from .locks import take

logger = logging.getLogger(__name__)

PAUSE = 0.05
"""Seconds between two polls of a running trial."""

PATIENCE = 20.0
"""Seconds that a trial has to stop by itself."""


@dataclass(frozen=True)
class Job:
    """A trial as work to do.

    Args:
        command: program and arguments; `--resume true` is added if the folder holds a whole checkpoint.
        folder: the trial's output; removed before a start if it holds files but no whole checkpoint.
        result: the file in it that is written last.
        log: everything that the trial prints. The process that runs the trial holds the lock of this file.
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


Ending = tuple[str, str]
"""The name of a trial, and why it failed; empty if it did not."""


class Attempt:
    """A job in progress: waits for its lock, starts its process, and polls it."""

    def __init__(self, job: Job) -> None:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        self._job = job
        self._log = job.log.open("ab")
        self._process: subprocess.Popen[bytes] | None = None
        self._warned = False

    def poll(self) -> Ending | None:
        """Returns how the trial ended, or None if it has not."""
        try:
            if self._process is None and not self._start():
                return None
        except (OSError, FinepruneError) as error:
            return self._job.name, f"could not be started: {error}"
        if self._process is None:
            return self._job.name, ""
        status = self._process.poll()
        return None if status is None else (self._job.name, self._problem(status))

    def stop(self) -> None:
        """Stops the process if it still runs, and releases the lock."""
        try:
            if self._process is not None and self._process.poll() is None:
                self._process.terminate()
                try:
                    self._process.wait(PATIENCE)
                except (subprocess.TimeoutExpired, KeyboardInterrupt):  # or the user's patience
                    self._process.kill()
                    self._process.wait()
        finally:
            self._log.close()

    def _start(self) -> bool:
        """Starts the process, unless the trial is finished; returns False while another process runs the trial."""
        job = self._job
        if not take(self._log):  # left by a sweep that was killed
            if not self._warned:
                logger.warning("%s is still run by an earlier start of this sweep; waiting for it (%s).", job.name, job.log)
            self._warned = True
            return False
        if job.result.is_file():
            return True
        command = [*job.command]
        if last_whole_checkpoint(job.folder, job.prunes) is not None:
            command += ["--resume", "true"]
        elif job.folder.exists():
            shutil.rmtree(job.folder)
        self._log.truncate(0)
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, cwd=job.directory
        )
        return True

    def _problem(self, status: int) -> str:
        if self._job.result.is_file():
            return ""
        if status < 0:
            return f"was killed by {signal.Signals(-status).name}" + " (out of memory?)" * (-status == signal.SIGKILL)
        return f"ended with exit status {status} and without a {self._job.result.name}"


def complete_on_node(job: Job) -> Ending:
    """Runs one job to its end in a Ray worker.

    Ray cancels by SIGINT, which a worker ignores if its cluster was started in the background.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    attempt = Attempt(job)
    try:
        while (ending := attempt.poll()) is None:
            time.sleep(PAUSE)
        return ending
    finally:
        attempt.stop()


@dataclass(frozen=True)
class Local:
    """Processes of this machine, `jobs` of them at the same time."""

    jobs: int = 1

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise InvalidInputError(f"--jobs must be 1 trial or more, got {self.jobs}.")

    def run(self, jobs: Sequence[Job]) -> Generator[Ending, None, None]:
        """Yields how each job ended, in the order in which they end; if closed earlier, stops the running ones."""
        waiting = deque(jobs)
        running: list[Attempt] = []
        try:
            while waiting or running:
                while waiting and len(running) < self.jobs:
                    running.append(Attempt(waiting.popleft()))
                for attempt in list(running):
                    if ending := attempt.poll():
                        running.remove(attempt)
                        attempt.stop()
                        yield ending
                time.sleep(PAUSE)
        finally:
            for attempt in running:
                attempt.stop()


@dataclass(frozen=True)
class Ray:
    """Tasks of a Ray cluster: that of RAY_ADDRESS, or one of this machine alone.

    The nodes share the sweep's folder, the working directory and the Python environment, under the same paths. Each trial
    reserves CPUs, as many as it has threads, and GPUs; with 0 it sees none.
    """

    cpus: int = 1
    gpus: int = 0

    def __post_init__(self) -> None:
        if self.cpus < 1 or self.gpus < 0:
            raise InvalidInputError(f"--cpus must be 1 or more and --gpus 0 or more, got {self.cpus} and {self.gpus}.")
        require("sweep", "ray")

    def run(self, jobs: Sequence[Job]) -> Generator[Ending, None, None]:
        """As `Local.run`. A job whose node is lost runs a second time."""
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
                    ending = ray.get(reference)
                except ray.exceptions.RayError as error:
                    ending = running[reference].name, f"was lost by Ray: {str(error).splitlines()[0]}"
                del running[reference]
                yield ending
        finally:
            for reference in running:
                ray.cancel(reference)
            if running:
                ray.wait(list(running), num_returns=len(running), timeout=PATIENCE)
            if own:
                ray.shutdown()


Engine = Local | Ray
