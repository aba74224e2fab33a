"""The sample of the pruned matrices: the same places before and after, with their scores."""

from pathlib import Path

import pytest
import torch
from torch import nn

from conftest import adamw, bert_batches, config, tiny_bert, train
from fineprune import FromMagnitude, InvalidInputError, Movement, Pruner, Rows
from fineprune.apps.training import weight_samples
from fineprune.apps.training.weight_samples import WeightSamples


def test_holds_each_weight_before_and_after_with_its_score() -> None:
    model = tiny_bert()
    names = [name for name, tensor in model.named_parameters() if ".intermediate." in name and tensor.dim() == 2]
    before = {name: model.get_parameter(name).detach().clone().flatten() for name in names}
    optimizer = adamw(model)
    sample = WeightSamples.of(model, names)
    settings = config(method=Movement(FromMagnitude()), target_modules=["intermediate.dense"])
    with Pruner(model, optimizer, settings, total_steps=10) as pruner:
        train(model, optimizer, bert_batches(10))
    done = sample.finished(model, pruner)
    for name in names:
        assert torch.equal(done.pretrained[name], before[name])
        assert torch.equal(done.weights[name], model.get_parameter(name).detach().flatten())
        kept = done.scores[name][done.weights[name] != 0]
        assert kept.min() >= done.scores[name][done.weights[name] == 0].max()


def test_large_matrices_are_sampled_at_the_same_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_samples, "MOST", 500)
    model = tiny_bert()
    names = [name for name, tensor in model.named_parameters() if ".layer." in name and tensor.dim() == 2]
    sample = WeightSamples.of(model, names)
    done = sample.finished(model, None)
    assert sum(tensor.numel() for tensor in done.weights.values()) <= 500 + len(names)
    assert all(torch.equal(done.weights[name], sample.pretrained[name]) for name in names)
    assert done.scores == {}


@pytest.mark.parametrize("shape", [(1536, 384), (96, 256, 3, 3), (12, 100, 500)])
def test_every_column_is_seen_whatever_the_stride(shape: tuple[int, ...]) -> None:
    inner = torch.Size(shape[1:]).numel()
    layer = nn.ParameterDict({"weight": (torch.arange(shape[0] * inner) % inner).float().reshape(shape)})
    for matrices in (1, 2, 12, 36, 72):
        (columns,) = WeightSamples.of(layer, ["weight"] * matrices).pretrained.values()
        assert columns.numel() <= weight_samples.MOST / matrices + 1
        assert columns.unique().numel() == min(inner, columns.numel())


def test_scores_of_groups_are_spread_over_their_weights() -> None:
    model = tiny_bert()
    optimizer = adamw(model)
    with Pruner(model, optimizer, config(structure=Rows()), total_steps=10) as pruner:
        train(model, optimizer, bert_batches(10))
    for name, scores in pruner.scores().items():
        assert scores.shape == model.get_parameter(name).shape
        assert torch.equal(scores, scores[:, :1].expand_as(scores))


def test_is_read_as_it_was_saved(tmp_path: Path) -> None:
    values = torch.arange(4.0)
    sample = WeightSamples({"a.weight": values}, {"a.weight": values + 1}, {"a.weight": values + 2})
    sample.save(tmp_path)
    again = WeightSamples.load(tmp_path)
    for first, second in zip(vars(sample).values(), vars(again).values(), strict=True):
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("content", [None, b"", b"\xff" * 64])
def test_a_damaged_file_raises_a_clear_error(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / weight_samples.FILE).write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"weight_samples\.safetensors could not be read"):
        WeightSamples.load(tmp_path)
