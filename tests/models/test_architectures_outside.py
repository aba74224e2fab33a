"""An architecture that is defined outside the package is registered in a few lines: pruned, shrunken, saved, loaded, fused."""

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, BertModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.bert.modeling_bert import BertLayer

import fineprune
from conftest import adamw, tiny_bert
from fineprune import EmbeddingColumns, Heads, InvalidInputError, Magnitude, Neurons, Pruner, PruningConfig, Together
from fineprune.compress.resizing.saving import save
from fineprune.models import architectures
from fineprune.models.anatomy import find_blocks
from fineprune.models.architectures import Architecture, layout_of, register
from fineprune.models.layouts import (
    AttentionLayout,
    BlockLayout,
    EncoderLayout,
    FeedForwardLayout,
    Projection,
    SizeSettings,
    StreamLayout,
)
from fineprune.sparse.encoders import FusedEncoder


class OutsideConfig(PreTrainedConfig):
    model_type = "outside"

    def __init__(self, neurons: int = 96, heads: int = 4, head_size: int = 12, depth: int = 2, **more: Any) -> None:
        self.width, self.words = 48, 50
        self.neurons, self.heads, self.head_size, self.depth = neurons, heads, head_size, depth
        super().__init__(**more)


class OutsideAttention(nn.Module):
    def __init__(self, config: OutsideConfig) -> None:
        super().__init__()
        self.heads, self.head_size = config.heads, config.head_size
        features = self.heads * self.head_size
        self.q, self.k, self.v = (nn.Linear(config.width, features) for _ in range(3))
        self.out = nn.Linear(features, config.width)

    def forward(self, inputs: Tensor, mask: Tensor | None) -> tuple[Tensor]:
        q, k, v = (one(inputs).unflatten(-1, (self.heads, self.head_size)).transpose(1, 2) for one in (self.q, self.k, self.v))
        heads = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return (self.out(heads.transpose(1, 2).flatten(2)),)


class OutsideLayer(nn.Module):
    def __init__(self, config: OutsideConfig) -> None:
        super().__init__()
        self.attention = OutsideAttention(config)
        self.first, self.second = nn.Linear(config.width, config.neurons), nn.Linear(config.neurons, config.width)
        self.activation = nn.GELU()
        self.after_attention, self.at_end = nn.LayerNorm(config.width), nn.LayerNorm(config.width)

    def forward(self, inputs: Tensor, mask: Tensor | None) -> Tensor:
        inputs = self.after_attention(inputs + self.attention(inputs, mask)[0])
        return self.at_end(inputs + self.second(self.activation(self.first(inputs))))


class OutsideEncoder(nn.Module):
    def __init__(self, config: OutsideConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(OutsideLayer(config) for _ in range(config.depth))

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> BaseModelOutput:
        for layer in self.layer:
            hidden_states = layer(hidden_states, attention_mask)
        return BaseModelOutput(last_hidden_state=hidden_states)


class OutsideModel(PreTrainedModel):
    config_class = OutsideConfig

    def __init__(self, config: OutsideConfig) -> None:
        super().__init__(config)
        self.table, self.encoder = nn.Embedding(config.words, config.width), OutsideEncoder(config)
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> BaseModelOutput:
        return self.encoder(self.table(input_ids), attention_mask.bool()[:, None, None])


LAYER = BlockLayout(
    ("OutsideLayer",),
    (
        AttentionLayout(
            *("attention", Projection("attention.q"), Projection("attention.k"), Projection("attention.v"), "attention.out"),
            head_size="head_size",
            counts=("heads",),
            extra_outputs=0,
        ),
    ),
    (FeedForwardLayout(("first",), "second", "activation"),),
    SizeSettings("neurons", heads="heads", head_size="head_size"),
)
OUTSIDE = Architecture(
    __name__,
    blocks=(LAYER,),
    streams=(StreamLayout(("OutsideModel",), ("table",)),),
    encoders=(EncoderLayout(("OutsideEncoder",), LAYER, ("after_attention", "at_end")),),
)
BATCH = {
    "input_ids": torch.randint(50, (3, 7), generator=torch.Generator().manual_seed(1)),
    "attention_mask": torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] * 7]),
}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "ARCHITECTURES", list(architectures.ARCHITECTURES))
    register(OUTSIDE)
    AutoConfig.register("outside", OutsideConfig, exist_ok=True)


@pytest.fixture(params=["local", "global"])
def pruned(request: pytest.FixtureRequest) -> OutsideModel:
    """A model of which half of the heads and neurons are pruned: with the global scope more in one layer than in another."""
    torch.manual_seed(0)
    model = OutsideModel(OutsideConfig())
    optimizer = adamw(model)
    config = PruningConfig(Magnitude(), 0.5, structure=Together([Heads(), Neurons()]), scope=request.param)
    with Pruner(model, optimizer, config, total_steps=4):
        for _ in range(4):
            model(**BATCH).last_hidden_state.square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    return model.eval()


def output(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(**BATCH).last_hidden_state


def test_it_is_pruned_shrunken_saved_and_loaded(pruned: OutsideModel, tmp_path: Path) -> None:
    smaller = fineprune.shrink(pruned)
    kept = sum(attention.heads for block in find_blocks(smaller) for attention in block.attentions)
    assert kept < 8
    assert sum(layer.first.out_features for layer in smaller.encoder.layer) < 192
    assert torch.allclose(output(smaller), output(pruned), atol=1e-6)
    save(smaller, tmp_path / "smaller")
    loaded = fineprune.from_pretrained(tmp_path / "smaller")
    assert type(loaded) is OutsideModel
    assert torch.equal(output(loaded), output(smaller))


def test_it_runs_fused(pruned: OutsideModel) -> None:
    smaller = fineprune.shrink(pruned)
    sparse = fineprune.to_sparse(smaller, 1.0)
    assert isinstance(sparse.encoder, FusedEncoder)
    seen = BATCH["attention_mask"].bool()
    assert torch.allclose(output(sparse)[seen], output(pruned)[seen], atol=1e-5)
    assert torch.equal(output(fineprune.to_dense(sparse)), output(smaller))


def test_a_block_without_heads_and_neurons_and_columns() -> None:
    model = OutsideModel(OutsideConfig()).eval()
    with torch.no_grad():
        model.encoder.layer[0].attention.out.weight.zero_()
        model.encoder.layer[0].second.weight.zero_()
        model.table.weight[:, :10] = 0
    assert len(EmbeddingColumns().find(model, None, None)) == 1
    smaller = fineprune.shrink(model)
    assert smaller.table.weight.shape == (50, 38)
    assert not find_blocks(smaller)[0].attentions
    assert torch.allclose(output(smaller), output(model), atol=1e-6)


def test_other_classes_of_the_same_name_stay_unknown() -> None:
    class OutsideLayer(nn.Module):
        __module__ = f"{__name__}_elsewhere"

    assert layout_of(OutsideLayer, BlockLayout) is None
    assert layout_of(sys.modules[__name__].OutsideLayer, BlockLayout) is LAYER
    assert layout_of(type("Child", (OutsideEncoder,), {"__module__": __name__}), EncoderLayout) is None
    assert layout_of(type("BertLayer", (nn.Module,), {"__module__": "transformers.models_of_mine"}), BlockLayout) is None


def test_the_last_that_was_registered_is_taken() -> None:
    stock = layout_of(BertLayer, BlockLayout)
    assert stock is not None
    register(Architecture("transformers.models.bert", blocks=(replace(stock, removable=True),)))
    found = find_blocks(BertModel(tiny_bert().config))
    assert all(block.layout.removable for block in found)


def test_an_encoder_with_fused_matrices_raises() -> None:
    attention = replace(LAYER.attentions[0], key=Projection("attention.q", 1, 3))
    with pytest.raises(InvalidInputError, match=r"six matrices of their own in each layer, got attention\.q, attention\.q"):
        EncoderLayout(("OutsideEncoder",), replace(LAYER, attentions=(attention,)), ("after_attention", "at_end"))


def test_what_is_not_registered_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "ARCHITECTURES", architectures.ARCHITECTURES[1:])
    message = re.escape("(OutsideLayer) are not among those") + ".*Register the architecture"
    with pytest.raises(InvalidInputError, match=message):
        Heads().find(OutsideModel(OutsideConfig()), None, None)
