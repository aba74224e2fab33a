"""Shrunken models leave PyTorch as stock ones do: to ONNX and OpenVINO, through Transformers' exporters."""

from collections.abc import Callable

import openvino
import pytest
import torch
from torch import Tensor, nn
from transformers.exporters import OnnxConfig, OnnxExporter, OpenVINOConfig, OpenVINOExporter

import fineprune
from architectures import batches, build
from fineprune import EmbeddingColumns, Heads, InvalidInputError, Neurons
from fineprune.models.anatomy import find_blocks

Batch = dict[str, Tensor]


def by_onnx(model: nn.Module, batch: Batch) -> Tensor:
    exported = OnnxExporter().export(model, dict(batch), config=OnnxConfig(dynamic=False))
    return torch.as_tensor(exported(**batch)["logits"])


def by_openvino(model: nn.Module, batch: Batch) -> Tensor:
    exported = OpenVINOExporter().export(model, dict(batch), config=OpenVINOConfig(dynamic=False))
    compiled = openvino.Core().compile_model(exported.program, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return torch.as_tensor(compiled({name: tensor.numpy() for name, tensor in batch.items()})["logits"])


@torch.no_grad()
def pruned(kind: str, emptied: bool) -> nn.Module:
    """A random model with half of its heads, neurons and columns 0; emptied: its first block as a whole."""
    model = build(kind).eval()
    model.config.use_cache = False
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.05)
    for structure in (Heads(), Neurons(), EmbeddingColumns()):
        try:
            sites = structure.sites(model)
        except InvalidInputError:
            continue  # a table that is the output head too, or none
        for cuts in sites:
            for name, cut in cuts.items():
                weight = model.get_parameter(name)
                (groups,) = cut.groups(weight.shape)
                kept = torch.arange(groups) % 2 == 0
                weight.mul_(cut.expand(kept, weight.shape))
    if emptied:
        block = find_blocks(model)[0]
        for linear in (block.attentions[0].output, block.feed_forward.second):
            model.get_submodule(linear).weight.zero_()
    return model


@pytest.mark.filterwarnings("ignore")  # those of the exporters
@pytest.mark.parametrize("emptied", [False, True], ids=["halved", "first block emptied"])
@pytest.mark.parametrize("exporter", [by_onnx, by_openvino])
@pytest.mark.parametrize("kind", ["bert", "vit", "gpt2", "llama"])
def test_an_exported_model_gives_the_same(kind: str, exporter: Callable[..., Tensor], emptied: bool) -> None:
    model = pruned(kind, emptied)
    smaller = fineprune.shrink(model)
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in model.parameters())
    batch = {name: tensor for name, tensor in batches(kind, 1)[0].items() if name != "labels"}
    with torch.no_grad():
        expected = model(**batch).logits
    assert torch.allclose(exporter(smaller, batch), expected, atol=1e-5)
