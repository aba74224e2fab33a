"""The forms in which a saved model can be run, by this library and by PyTorch alone."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...compress.loading import from_pretrained, load
from ...compress.resizing.saving import save
from .shapes import Batch

Runner = Callable[[Batch], Tensor]
"""Runs a model once; returns its first output, as the logits."""

UNPRUNED_SPREAD = 0.02
"""Standard deviation of random weights where a matrix has none left to measure; BERT is initialised with it."""


@dataclass(frozen=True)
class BenchedModel:
    """The folder of a saved model, and the model loaded from it, in float32."""

    folder: Path
    model: PreTrainedModel


class Form(ABC):
    """A way to run a saved model: `prepare` writes the files that it is loaded from, `load` loads them as a user would.

    Both are apart so that the peak memory can be that of a process that only loads and runs.

    Attributes:
        weights: how the weights are stored.
        runtime: the library that runs them.
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
        """The name of the form, as in tables."""
        return f"{self.weights}, {self.runtime} {self.precision}"

    @abstractmethod
    def prepare(self, saved: BenchedModel, batch: Batch, workspace: Path) -> Path:
        """Returns the file or folder that the form is loaded from, for input like `batch`; new files go into the workspace."""

    @abstractmethod
    def load(self, prepared: Path, threads: int) -> Runner:
        """Loads the form, to be run with that number of threads."""

    def bytes_on_disk(self, prepared: Path) -> int:
        """Returns the size of the files that hold the weights: of an exported model, or in a folder."""
        files = prepared.parent.glob("model.*") if prepared.is_file() else prepared.glob("*.safetensors")
        return sum(file.stat().st_size for file in files)


class MaskedForm(Form):
    """The saved model, zeros and all."""

    weights = "masked"
    runtime = "PyTorch"

    def prepare(self, saved: BenchedModel, batch: Batch, workspace: Path) -> Path:
        return saved.folder

    def load(self, prepared: Path, threads: int) -> Runner:
        torch.set_num_threads(threads)
        return runner_of(self.model(prepared))

    def model(self, prepared: Path) -> nn.Module:
        """Loads the model into PyTorch."""
        model: nn.Module = from_pretrained(prepared).float()
        return model


class DenseForm(MaskedForm):
    """The model with its zeros replaced by random weights: as slow and as large as one fine-tuned without pruning."""

    weights = "dense"
    comparable = False

    def prepare(self, saved: BenchedModel, batch: Batch, workspace: Path) -> Path:
        model = from_pretrained(saved.folder)  # its numbers are of the type that was saved
        fill_zeros(model)
        save(model, workspace / self.weights)
        return workspace / self.weights


class SparseForm(MaskedForm):
    """The saved model, run without multiplying by its zeros."""

    weights = "sparse"
    runtime = "fineprune"
    packages = ("numba",)

    def model(self, prepared: Path) -> nn.Module:
        from ...sparse.convert import to_sparse

        return to_sparse(super().model(prepared))


class PackedForm(MaskedForm):
    """The compact file with int8 values, run without unpacking the zeros."""

    weights = "packed"
    runtime = "fineprune"
    precision = "int8"
    packages = ("numba", "zstandard")
    tolerance = None

    def prepare(self, saved: BenchedModel, batch: Batch, workspace: Path) -> Path:
        from ..convert.pack import pack_folder

        pack_folder(str(saved.folder), str(workspace / self.weights))
        return workspace / self.weights

    def model(self, prepared: Path) -> nn.Module:
        return load(prepared, sparse=True)


def runner_of(model: nn.Module) -> Runner:
    """Returns a runner of a Transformers model."""

    @torch.inference_mode()
    def run(batch: Batch) -> Tensor:
        output: Tensor = model(**batch)[0]
        return output

    return run


@torch.no_grad()
def fill_zeros(model: nn.Module) -> None:
    """Replaces the zeros of each matrix by random numbers, as large as its other weights."""
    for parameter in model.parameters():
        kept = parameter != 0
        if parameter.ndim > 1 and not kept.all():
            deviation = float(parameter[kept].std()) if int(kept.sum()) > 1 else UNPRUNED_SPREAD
            parameter.copy_(torch.where(kept, parameter, deviation * torch.randn_like(parameter)))
