"""What `inference.py` compares: the same encoder in this library, PyTorch, ONNX Runtime, OpenVINO and DeepSparse."""

import contextlib
import copy
import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BertModel

from fineprune import to_sparse
from fineprune.apps.bench.forms import Runner, runner_of
from fineprune.apps.bench.runtimes import onnx_runtime, open_vino, quiet
from fineprune.apps.bench.shapes import Batch
from fineprune.apps.bench.timing import Timed, timed
from fineprune.sparse.format import BFloat16


@dataclass(frozen=True)
class Work:
    """A model at a shape, for engines to be made of.

    Args:
        model: without a head and a pooler.
        batch: token ids and an attention mask.
        onnx: the file of the model at this shape; what engines need beside it they write there, too.
        threads: for each engine.
        deepsparse: the interpreter of DeepSparse's environment; None: it does not take part.
        opened: closes what engines leave open.
    """

    model: BertModel
    batch: Batch
    onnx: Path
    threads: int
    deepsparse: Path | None
    opened: contextlib.ExitStack


@dataclass(frozen=True)
class Engine:
    """What runs the work once, and what came out."""

    run: Timed
    outputs: Tensor


class Encoder(nn.Module):
    """A model with everything fixed but its two inputs, for the ONNX file."""

    def __init__(self, model: BertModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Returns batch x tokens x features. The mask becomes a number that is added to the attention: 0, or much less."""
        hidden: Tensor = self.model(
            input_ids=input_ids,
            attention_mask=(1.0 - attention_mask[:, None, None, :].to(torch.float32)) * -1e4,
            token_type_ids=torch.zeros(input_ids.shape, dtype=torch.int64),
            position_ids=torch.arange(input_ids.shape[1])[None],
        ).last_hidden_state
        return hidden


def export(model: BertModel, batch: Batch, file: Path) -> None:
    """Writes the one ONNX file that all other runtimes read: of an age that DeepSparse knows, and all of which it takes."""
    attention = model.config._attn_implementation
    model.set_attn_implementation("eager")  # plain products and a softmax
    with quiet():
        torch.onnx.export(
            Encoder(model).eval(),  # the export puts back the mode that it finds, with all that is inside
            (batch["input_ids"], batch["attention_mask"]),
            file,
            input_names=["input_ids", "attention_mask"],
            output_names=["last_hidden_state"],
            opset_version=14,
            dynamo=False,
        )
    model.set_attn_implementation(attention)


def local(run: Runner, work: Work) -> Engine:
    """Returns an engine in this process."""
    return Engine(timed(partial(run, work.batch)), run(work.batch).to(torch.float32))


def pytorch(work: Work, dtype: torch.dtype) -> Engine:
    """Returns PyTorch with all numbers in one type."""
    model: nn.Module = copy.deepcopy(work.model)
    return local(runner_of(model.to(dtype)), work)


class CsrLinear(nn.Module):
    """A linear layer by PyTorch's own sparse product."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight.detach().to_sparse_csr(), linear.bias.detach()

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns ... x outputs."""
        tokens = inputs.flatten(0, -2).t().contiguous()
        return (self.weight @ tokens).t().add(self.bias).view(*inputs.shape[:-1], -1)


def pytorch_csr(work: Work) -> Engine:
    """Returns PyTorch with its sparse product in the blocks' linear layers."""
    model = copy.deepcopy(work.model)
    for name, module in list(model.encoder.named_modules()):
        if isinstance(module, nn.Linear):
            model.encoder.set_submodule(name, CsrLinear(module))
    return local(runner_of(model), work)


def onnx_runtime_int8(work: Work) -> Engine:
    """Returns ONNX Runtime with int8 weights, and activations that are quantized as it runs."""
    from onnxruntime.quantization import QuantType, quantize_dynamic  # type: ignore[import-untyped]

    file = work.onnx.with_name("int8.onnx")
    with quiet():
        quantize_dynamic(work.onnx, file, weight_type=QuantType.QInt8)
    return local(onnx_runtime(file, work.threads), work)


def deepsparse(work: Work) -> Engine:
    """Returns DeepSparse, in a process of its own that takes the time itself."""
    given, came = work.onnx.with_name("inputs.npz"), work.onnx.with_name("outputs.npy")
    with given.open("wb") as file:
        np.savez(file, input_ids=work.batch["input_ids"].numpy(), attention_mask=work.batch["attention_mask"].numpy())
    server = Path(__file__).with_name("deepsparse_server.py")
    command = [str(work.deepsparse), str(server), str(work.onnx), str(given), str(came), str(work.threads)]
    process = work.opened.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    asking, answers = process.stdin, process.stdout
    assert asking is not None
    assert answers is not None
    told = json.loads(answers.readline())
    assert told == {"cores": work.threads, "supported": 1.0}, f"DeepSparse must run the whole model on its threads: {told}"

    def run() -> float:
        asking.write("\n")
        asking.flush()
        return float(answers.readline())

    return Engine(run, torch.from_numpy(np.load(came)))


OURS, OURS_BF16, REFERENCE, DEEPSPARSE = "fineprune fp32", "fineprune bf16", "PyTorch fp32", "DeepSparse fp32"

ENGINES: dict[str, Callable[[Work], Engine]] = {
    OURS: lambda work: local(runner_of(to_sparse(work.model)), work),
    OURS_BF16: lambda work: local(runner_of(to_sparse(work.model, activations=BFloat16())), work),
    DEEPSPARSE: deepsparse,
    REFERENCE: lambda work: pytorch(work, torch.float32),
    "PyTorch bf16": lambda work: pytorch(work, torch.bfloat16),
    "PyTorch CSR fp32": pytorch_csr,
    "ONNX Runtime fp32": lambda work: local(onnx_runtime(work.onnx, work.threads), work),
    "ONNX Runtime int8": onnx_runtime_int8,
    "OpenVINO fp32": lambda work: local(open_vino(work.onnx, work.threads, "f32"), work),
    "OpenVINO bf16": lambda work: local(open_vino(work.onnx, work.threads, "bf16"), work),
}
"""In the order of the table."""


def engines_of(work: Work) -> dict[str, Engine]:
    """Returns all engines that take part."""
    return {name: make(work) for name, make in ENGINES.items() if name != DEEPSPARSE or work.deepsparse is not None}
