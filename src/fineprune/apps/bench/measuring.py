"""Measures every form that can be run here, at one shape after the other."""

import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten

import safetensors.torch
import torch
from torch import Tensor

from ...errors import enumeration
from .forms import BenchedModel, DenseForm, Form, Runner, runner_of
from .memory import peak
from .results import BenchRow, Measurement
from .shapes import Batch, Shape, random_batch
from .timing import Timing, in_turns, timed

PACKAGES = ("fineprune", "torch", "transformers", "numba", "onnxruntime", "openvino")
"""Packages whose versions belong to a measurement."""

INPUT = "batch.safetensors"

LONGEST = 300
"""Characters that are shown of an error message of another package."""


def measure(saved: BenchedModel, shapes: Sequence[Shape], forms: Sequence[Form], threads: int, rounds: int) -> Measurement:
    """Measures forms of a saved model at each shape; one that fails is reported, and does not stop the others.

    Raises:
        InvalidInputError: if the model cannot take a shape; before anything is measured.
    """
    batches = {shape: random_batch(saved.model, shape) for shape in shapes}
    rows: list[BenchRow] = []
    present, remarks = [], []
    for form in forms:
        if missing := [package for package in form.packages if find_spec(package) is None]:
            remarks.append(f"{form.name} was not measured: {enumeration(missing)} not installed here.")
        else:
            present.append(form)
    for shape, batch in batches.items():
        with TemporaryDirectory() as workspace:
            bench = Bench(saved, shape, batch, threads, Path(workspace))
            rows += bench.rows(present, rounds)
            remarks += bench.remarks
    conditions = {
        "threads": threads,
        "rounds": rounds,
        "processor": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "versions": {found.name: found.version for found in distributions() if found.name in PACKAGES},
        "date": date.today().isoformat(),
    }
    return Measurement(rows, list(dict.fromkeys(remarks)), conditions)


@dataclass(frozen=True)
class LoadedForm:
    """A form that has been loaded and run once: see `BenchRow` for the difference of its output."""

    form: Form
    prepared: Path
    run: Runner
    difference: float | None


@dataclass
class Bench:
    """The forms of a model at one shape; temporary files go into the workspace, failures as sentences into the remarks."""

    saved: BenchedModel
    shape: Shape
    batch: Batch
    threads: int
    workspace: Path
    remarks: list[str] = field(default_factory=list)

    def rows(self, forms: Sequence[Form], rounds: int) -> list[BenchRow]:
        """Loads the forms, compares their outputs, measures their times in turns, and then their memory."""
        safetensors.torch.save_file(self.batch, self.workspace / INPUT)
        expected = runner_of(self.saved.model)(self.batch)
        loaded = [found for form in forms if (found := self._load(form, expected)) is not None]
        timings = in_turns({one.form.name: timed(partial(one.run, self.batch)) for one in loaded}, rounds)
        return [self._row(one, timings) for one in loaded]

    def _load(self, form: Form, expected: Tensor) -> LoadedForm | None:
        place = self.workspace / form.name
        place.mkdir()
        try:
            prepared = form.prepare(self.saved, self.batch, place)
            run = form.load(prepared, self.threads)
            outputs = run(self.batch)
        except Exception as error:  # an exporter or another runtime may raise anything
            self.remarks.append(f"{form.name} failed with {type(error).__name__}: {shorten(str(error), LONGEST)}")
            return None
        difference = relative_difference(outputs, expected) if form.comparable else None
        if difference is not None and form.tolerance is not None and not difference <= form.tolerance:
            self.remarks.append(
                f"{form.name} at {self.shape} gives another output than the saved model, by {difference:.1e} of the largest "
                f"value; rounding explains {form.tolerance:.0e}. Its times are those of something else."
            )
        return LoadedForm(form, prepared, run, difference)

    def _row(self, loaded: LoadedForm, timings: dict[str, Timing]) -> BenchRow:
        form, timing, dense = loaded.form, timings[loaded.form.name], timings.get(DenseForm().name)
        return BenchRow(
            shape=str(self.shape),
            batch=self.shape.batch,
            weights=form.weights,
            runtime=form.runtime,
            precision=form.precision,
            latency=timing.spread,
            faster=None if dense is None or dense is timing else timing.times_faster_than(dense),
            memory=self._memory(loaded),
            file=form.bytes_on_disk(loaded.prepared),
            difference=loaded.difference,
        )

    def _memory(self, loaded: LoadedForm) -> int | None:
        try:
            return peak(loaded.form, loaded.prepared, self.workspace / INPUT, self.threads, [type(self.saved.model).__module__])
        except subprocess.CalledProcessError as error:
            why = shorten("".join(error.stderr.splitlines()[-1:]), LONGEST)
            self.remarks.append(f"{loaded.form.name} failed with code {error.returncode} in a process of its own: {why}")
            return None


def relative_difference(outputs: Tensor, expected: Tensor) -> float:
    """Returns the largest difference, as a fraction of the largest magnitude that is expected; infinite for other shapes."""
    if outputs.shape != expected.shape:
        return float("inf")
    return float((outputs - expected).abs().max() / expected.abs().max())
