"""ONNX Runtime and OpenVINO, for comparison, and the table of all forms."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from .forms import BenchedModel, DenseForm, Form, MaskedForm, PackedForm, Runner, SparseForm
from .shapes import Batch


class OnnxRuntime(Form):
    """The saved model in ONNX Runtime, exported for one shape."""

    weights = "masked"
    runtime = "ONNX Runtime"
    packages = ("onnxruntime", "onnx", "onnxscript")

    def prepare(self, saved: BenchedModel, batch: Batch, workspace: Path) -> Path:
        with quiet():
            from transformers.exporters.configs import OnnxConfig
            from transformers.exporters.exporter_onnx import OnnxExporter

            return _export(OnnxExporter(), OnnxConfig(dynamic=False), saved, batch, workspace / "model.onnx")

    def load(self, prepared: Path, threads: int) -> Runner:
        return onnx_runtime(prepared, threads)


class OpenVino(Form):
    """The saved model in OpenVINO, exported for one shape, computed in float32 as the others are."""

    weights = "masked"
    runtime = "OpenVINO"
    packages = ("openvino",)

    def prepare(self, saved: BenchedModel, batch: Batch, workspace: Path) -> Path:
        with quiet():
            from transformers.exporters.configs import OpenVINOConfig
            from transformers.exporters.exporter_openvino import OpenVINOExporter

            return _export(OpenVINOExporter(), OpenVINOConfig(dynamic=False), saved, batch, workspace / "model.xml")

    def load(self, prepared: Path, threads: int) -> Runner:
        return open_vino(prepared, threads, "f32")


FORMS: dict[str, Form] = {
    form.name: form for form in (DenseForm(), MaskedForm(), SparseForm(), PackedForm(), OnnxRuntime(), OpenVino())
}
"""All forms by name, in the order of the table; the others are compared with the first."""


def _export(exporter: Any, config: Any, saved: BenchedModel, batch: Batch, file: Path) -> Path:
    exporter.save_program(exporter.export(saved.model, dict(batch), config=config).program, file)
    return file


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


def open_vino(file: Path, threads: int, precision: Literal["f32", "bf16"]) -> Runner:
    """Compiles a file of OpenVINO's or of ONNX for the CPU, for the lowest latency."""
    import openvino  # type: ignore[import-untyped]

    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
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
