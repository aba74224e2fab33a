"""ONNX Runtime and OpenVINO, for comparison."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import torch
from torch import Tensor

from .forms import Form, Runner, SavedModel
from .shapes import Batch


class Precision(Enum):
    """The types that OpenVINO computes with, by its own names."""

    FP32 = "f32"
    BF16 = "bf16"


@dataclass(frozen=True)
class OnnxRuntime(Form):
    """The saved model in ONNX Runtime, exported for one shape."""

    weights = "masked"
    runtime = "ONNX Runtime"
    packages = ("onnxruntime", "onnx", "onnxscript")

    def prepare(self, saved: SavedModel, batch: Batch, workspace: Path) -> Path:
        """Exports the model."""
        with quiet():
            from transformers.exporters.configs import OnnxConfig
            from transformers.exporters.exporter_onnx import OnnxExporter

            exported = OnnxExporter().export(saved.model, dict(batch), config=OnnxConfig(dynamic=False))
            OnnxExporter.save_program(exported.program, workspace / "model.onnx")
        return workspace / "model.onnx"

    def load(self, prepared: Path, threads: int) -> Runner:
        """Opens the exported model."""
        return onnx_runtime(prepared, threads)

    def bytes_on_disk(self, prepared: Path) -> int:
        """Returns the size of the exported model."""
        return _bytes(prepared, prepared.with_name(f"{prepared.name}.data"))


@dataclass(frozen=True)
class OpenVino(Form):
    """The saved model in OpenVINO, exported for one shape, computed in float32 as the others are."""

    weights = "masked"
    runtime = "OpenVINO"
    packages = ("openvino",)

    def prepare(self, saved: SavedModel, batch: Batch, workspace: Path) -> Path:
        """Exports the model."""
        with quiet():
            from transformers.exporters.configs import OpenVINOConfig
            from transformers.exporters.exporter_openvino import OpenVINOExporter

            exported = OpenVINOExporter().export(saved.model, dict(batch), config=OpenVINOConfig(dynamic=False))
            OpenVINOExporter.save_program(exported.program, workspace / "model.xml")
        return workspace / "model.xml"

    def load(self, prepared: Path, threads: int) -> Runner:
        """Compiles the exported model."""
        return open_vino(prepared, threads, Precision.FP32)

    def bytes_on_disk(self, prepared: Path) -> int:
        """Returns the size of the exported model."""
        return _bytes(prepared, prepared.with_suffix(".bin"))


def _bytes(*files: Path) -> int:
    return sum(file.stat().st_size for file in files if file.is_file())


def onnx_runtime(file: Path, threads: int) -> Runner:
    """Opens an ONNX file in ONNX Runtime, with all its optimisations."""
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = {given.name for given in session.get_inputs()}

    def run(batch: Batch) -> Tensor:
        first, *_ = session.run(None, {name: tensor.numpy() for name, tensor in batch.items() if name in names})
        return torch.from_numpy(first)

    return run


def open_vino(file: Path, threads: int, precision: Precision) -> Runner:
    """Compiles a file of OpenVINO's or of ONNX for the CPU, for the lowest latency."""
    import openvino  # type: ignore[import-untyped]

    settings = {
        "INFERENCE_PRECISION_HINT": precision.value,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(str(file), "CPU", settings)
    request = compiled.create_infer_request()
    names = {name for given in compiled.inputs for name in given.get_names()}

    def run(batch: Batch) -> Tensor:
        outputs = request.infer({name: tensor.numpy() for name, tensor in batch.items() if name in names})
        return torch.from_numpy(outputs[0])

    return run


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences the output of exporters; their errors pass."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        level = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(level)
