"""The forms in which a saved model can be run, by this library and by PyTorch alone."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...compress.loading import from_pretrained
from ...compress.resizing.saving import save
from .shapes import Batch

Runner = Callable[[Batch], Tensor]
"""Runs a model once; returns its first output, as the logits."""

UNPRUNED_SPREAD = 0.02
"""Standard deviation of random weights where a matrix has none left to take it from; BERT is initialised with it."""


@dataclass(frozen=True)
class Saved:
    """A saved model, and what was loaded from there, in float32."""

    folder: Path
    model: PreTrainedModel


class Form(ABC):
    """A way to run a saved model: `prepare` writes what it is loaded from, `load` does what a user would do with that.

    Both are apart so that the peak memory can be that of a process that only loads and runs.

    Attributes:
        weights: what becomes of the weights.
        runtime: what runs them.
        precision: of the weights.
        packages: that must be installed, by the names under which they are imported.
        tolerance: how far the outputs may be from those of the saved model, as a fraction of the largest one; None where
            they are rounded, and only reported.
        comparable: whether the weights are those of the saved model, so that the outputs can be compared.
    """

    weights: ClassVar[str]
    runtime: ClassVar[str]
    precision: ClassVar[str] = "fp32"
    packages: ClassVar[tuple[str, ...]] = ()
    tolerance: ClassVar[float | None] = 1e-3
    comparable: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """What the form is called."""
        return f"{self.weights}, {self.runtime} {self.precision}"

    def missing(self) -> list[str]:
        """Returns the packages that it needs and that are not installed."""
        return [package for package in self.packages if find_spec(package) is None]

    @abstractmethod
    def prepare(self, saved: Saved, batch: Batch, workplace: Path) -> Path:
        """Returns the file or folder that the form is loaded from; what must be written goes into the workplace.

        Args:
            saved: the model.
            batch: input of the shape that it will be run with.
            workplace: a folder for this shape alone.
        """

    @abstractmethod
    def load(self, prepared: Path, threads: int) -> Runner:
        """Loads the form, to be run with so many threads."""

    def bytes_on_disk(self, prepared: Path) -> int:
        """Returns the size of what holds the weights."""
        return sum(path.stat().st_size for path in prepared.glob("*.safetensors"))


@dataclass(frozen=True)
class Masked(Form):
    """The saved model, zeros and all."""

    weights = "masked"
    runtime = "PyTorch"

    def prepare(self, saved: Saved, batch: Batch, workplace: Path) -> Path:
        """Returns the folder of the model."""
        return saved.folder

    def load(self, prepared: Path, threads: int) -> Runner:
        """Loads the model into PyTorch."""
        torch.set_num_threads(threads)
        return runner_of(from_pretrained(prepared).float())


@dataclass(frozen=True)
class Dense(Masked):
    """The model with random weights in the place of its zeros: what fine-tuning without pruning gives, in time and size."""

    weights = "dense"
    comparable = False

    def prepare(self, saved: Saved, batch: Batch, workplace: Path) -> Path:
        """Saves the filled model."""
        model = from_pretrained(saved.folder)  # its numbers are of the type that was saved
        fill_zeros(model)
        save(model, workplace / self.weights)
        return workplace / self.weights


@dataclass(frozen=True)
class Sparse(Masked):
    """The saved model, run without multiplying by its zeros."""

    weights = "sparse"
    runtime = "fineprune"
    packages = ("numba",)

    def load(self, prepared: Path, threads: int) -> Runner:
        """Loads the model, and makes it sparse."""
        from ...sparse.convert import to_sparse

        torch.set_num_threads(threads)
        return runner_of(to_sparse(from_pretrained(prepared).float()))


@dataclass(frozen=True)
class Packed(Form):
    """The compact file with int8 values, run without unpacking the zeros."""

    weights = "packed"
    runtime = "fineprune"
    precision = "int8"
    packages = ("numba", "zstandard")
    tolerance = None

    def prepare(self, saved: Saved, batch: Batch, workplace: Path) -> Path:
        """Packs the folder of the model."""
        from ..convert.pack import pack_folder

        pack_folder(str(saved.folder), str(workplace / self.weights))
        return workplace / self.weights

    def load(self, prepared: Path, threads: int) -> Runner:
        """Loads the compact file."""
        from ...compress.loading import load

        torch.set_num_threads(threads)
        return runner_of(load(prepared, sparse=True))


def runner_of(model: nn.Module) -> Runner:
    """Returns what runs a model of Transformers."""

    @torch.inference_mode()
    def run(batch: Batch) -> Tensor:
        output: Tensor = model(**batch)[0]
        return output

    return run


@torch.no_grad()
def fill_zeros(model: nn.Module) -> None:
    """Puts random numbers in the place of the zeros of each matrix, as large as the weights that are left in it."""
    for parameter in model.parameters():
        kept = parameter != 0
        if parameter.ndim > 1 and not kept.all():
            spread = float(parameter[kept].std()) if int(kept.sum()) > 1 else UNPRUNED_SPREAD
            parameter.copy_(torch.where(kept, parameter, spread * torch.randn_like(parameter)))
