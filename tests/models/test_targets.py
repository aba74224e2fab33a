"""Which parameters are pruned, on the architectures people use."""

import copy
import logging
import re

import pytest
import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

from architectures import ARCHITECTURES, SIZES, build, target_names
from conftest import Stack, tiny_bert
from fineprune import InvalidInputError
from fineprune.models import targets


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_exactly_the_linear_weights_of_the_blocks(kind: str) -> None:
    model = build(kind)
    expected = target_names(kind)
    found = targets.find(model)
    parameters = dict(model.named_parameters())
    assert set(found) == expected
    assert all(found[name] is parameters[name] for name in found)
    assert list(found) == [name for name in parameters if name in expected], "in the model's order"
    outermost = [f"{blocks}.{number}" for blocks in ARCHITECTURES[kind].targets for number in (0, 1)]
    assert [name for name, _ in targets.blocks(model)] == outermost


def test_albert_shares_one_layer() -> None:
    config = transformers.AlbertConfig(**SIZES, embedding_size=16)
    model = transformers.AlbertForSequenceClassification(config)
    found = targets.find(model)
    assert len(found) == 6
    assert {name.partition(".albert_layer_groups.0.albert_layers.0.")[2] for name in found} == {
        *(f"attention.{part}.weight" for part in ("query", "key", "value", "dense")),
        "ffn.weight",
        "ffn_output.weight",
    }


def test_the_transformer_of_pytorch() -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)
    assert set(targets.find(model)) == {
        f"layers.{number}.{name}.weight" for number in (0, 1) for name in ("self_attn.out_proj", "linear1", "linear2")
    }


def test_a_list_of_heads_is_not_a_list_of_blocks() -> None:
    model = Stack()
    model.heads = nn.ModuleList([nn.Linear(8, 3), nn.Linear(8, 3)])
    model.norms = nn.ModuleList([nn.LayerNorm(8)])
    assert {name.partition(".")[0] for name in targets.find(model)} == {"blocks"}
    assert [name for name, _ in targets.blocks(model)] == ["blocks.0", "blocks.1"]


def test_names_and_endings_of_names() -> None:
    model = tiny_bert()
    assert set(targets.find(model, ["query"])) == {f"bert.encoder.layer.{n}.attention.self.query.weight" for n in (0, 1)}
    assert set(targets.find(model, ["output.dense"])) == {
        f"bert.encoder.layer.{n}.{name}.weight" for n in (0, 1) for name in ("attention.output.dense", "output.dense")
    }
    assert set(targets.find(model, ["bert.encoder.layer.0.output.dense", "classifier"])) == {
        "bert.encoder.layer.0.output.dense.weight",
        "classifier.weight",
    }
    with pytest.raises(InvalidInputError, match="No module"):
        targets.find(model, ["uery"])  # an ending is made of whole words


def test_a_regular_expression_matches_the_whole_name() -> None:
    model = tiny_bert()
    assert len(targets.find(model, r".*\.layer\.0\..*")) == 6
    with pytest.raises(InvalidInputError, match="No module"):
        targets.find(model, "query")
    with pytest.raises(InvalidInputError, match="is not a regular expression"):
        targets.find(model, "(query")


def test_embeddings_can_be_named() -> None:
    model = tiny_bert()
    assert set(targets.find(model, ["word_embeddings"])) == {"bert.embeddings.word_embeddings.weight"}


def test_a_convolution_can_be_named() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4))
    assert set(targets.find(model, ["0"])) == {"0.weight"}
    with pytest.raises(InvalidInputError, match="No module"):
        targets.find(model, ["1"])


def test_some_modules_left_out() -> None:
    model = tiny_bert()
    left = targets.find(model, exclude_modules=["query", "attention.output.dense"])
    assert len(left) == 8
    assert not [name for name in left if "query" in name]
    assert set(targets.find(model, ["query", "key"], r".*layer\.0.*")) == {
        "bert.encoder.layer.1.attention.self.query.weight",
        "bert.encoder.layer.1.attention.self.key.weight",
    }


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (["qurey"], "'qurey'; did you mean 'query'"),
        (["attention.self.kye"], "did you mean 'attention.self.key'"),
        (["query", "intermediat.dense"], "'intermediat.dense'; did you mean 'intermediate.dense'"),
        (["LayerNorm"], "No module with a weight to prune matches 'LayerNorm'"),
    ],
)
def test_near_misses(pattern: list[str], message: str) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        targets.find(tiny_bert(), pattern)
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        targets.find(tiny_bert(), exclude_modules=pattern)


def test_nothing_to_prune() -> None:
    with pytest.raises(InvalidInputError, match=r"no list of blocks.*Linear layers: 0\."):
        targets.find(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(InvalidInputError, match=r"the model itself"):
        targets.find(nn.Linear(2, 2))
    with pytest.raises(InvalidInputError, match=r"takes away every target.*Linear layers: blocks\.0\.up"):
        targets.find(Stack(), exclude_modules=["up", "down"])
    with pytest.raises(InvalidInputError, match=r"Linear layers: none"):
        targets.find(nn.Sequential())


def test_frozen_weights_are_left_out_and_listed(caplog: pytest.LogCaptureFixture) -> None:
    model = Stack()
    model.blocks[0].requires_grad_(False)
    with caplog.at_level(logging.WARNING):
        assert set(targets.find(model)) == {"blocks.1.up.weight", "blocks.1.down.weight"}
    assert caplog.messages == ["Frozen weights are left dense: blocks.0.up.weight, blocks.0.down.weight."]


def test_frozen_weights_that_were_named_are_refused() -> None:
    model = Stack()
    model.blocks[0].requires_grad_(False)
    with pytest.raises(InvalidInputError, match=r"names weights that are frozen.*blocks\.0\.up\.weight"):
        targets.find(model, ["up"])
    assert set(targets.find(model, ["up"], ["blocks.0.up"])) == {"blocks.1.up.weight"}


def test_a_model_that_is_all_frozen_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="Every weight that would be pruned is frozen"):
        targets.find(Stack().requires_grad_(False))


def test_a_tied_weight_is_found_once_under_its_own_name() -> None:
    model = Stack()
    model.blocks[1].down.weight = model.blocks[0].down.weight
    assert list(targets.find(model)) == ["blocks.0.up.weight", "blocks.0.down.weight", "blocks.1.up.weight"]
    assert list(targets.find(model, ["blocks.1.down"])) == ["blocks.0.down.weight"]


def test_an_output_layer_tied_to_the_embeddings() -> None:
    config = transformers.BertConfig(**SIZES)
    model = transformers.BertForMaskedLM(config)
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    assert list(targets.find(model, ["decoder"])) == ["bert.embeddings.word_embeddings.weight"]
    assert not [name for name in targets.find(model) if "layer" not in name]


def test_a_model_that_is_one_layer_can_be_named() -> None:
    assert list(targets.find(nn.Linear(2, 2), ".*")) == ["weight"]


def test_integers_are_not_pruned() -> None:
    model = Stack()
    model.blocks[0].up.weight = nn.Parameter(torch.ones(12, 8, dtype=torch.int8), requires_grad=False)
    assert "blocks.0.up.weight" not in targets.find(model)


def test_wrappers_are_looked_through() -> None:
    model = Stack()
    names = list(targets.find(model))
    assert targets.unwrap(model) is model
    for wrapped in (
        torch.compile(model, backend="eager"),
        nn.DataParallel(model),
        torch.compile(nn.DataParallel(model), backend="eager"),
    ):
        assert targets.unwrap(wrapped) is model
        assert list(targets.find(wrapped)) == names


def test_a_copy_of_transformers_linear_is_known() -> None:
    assert targets.is_linear(Conv1D(3, 4))
    assert targets.is_linear(nn.Linear(3, 4))
    assert not targets.is_linear(nn.Embedding(3, 4))
    assert not targets.is_linear(nn.LayerNorm(3))


def test_finding_changes_nothing() -> None:
    model = tiny_bert()
    before = copy.deepcopy(model.state_dict())
    targets.find(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
