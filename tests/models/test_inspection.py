"""How dense a model is, counted."""

import copy

import pytest
import torch
from torch import nn

from conftest import Stack, tiny_bert
from fineprune import InvalidInputError, inspect
from fineprune.models import targets


def test_counts_by_hand() -> None:
    model = Stack(width=4, inner=6, blocks=1, classes=2)  # 24 + 6 and 24 + 4 in the block, 8 + 2 in the head
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
        model.blocks[0].up.weight[:5].zero_()
        model.blocks[0].up.bias.zero_()  # counted as it is for the whole model, but kept as the paper counts
    found = inspect(model, targets.find(model))
    assert [(layer.name, layer.shape, layer.weights, layer.kept) for layer in found.layers] == [
        ("blocks.0.up.weight", (6, 4), 24, 4),
        ("blocks.0.down.weight", (4, 6), 24, 24),
    ]
    assert [layer.density for layer in found.layers] == [4 / 24, 1.0]
    assert (found.weights, found.kept, found.density) == (48, 28, 28 / 48)
    assert found.remaining_weights == (28 + 10) / 58
    assert (found.whole_model.weights, found.whole_model.kept) == (68, 68 - 20 - 6)


def test_the_printed_table() -> None:
    model = Stack(width=4, inner=6, blocks=1, classes=2)
    found = inspect(model, targets.find(model))
    head, first, second, *totals = str(found).splitlines()
    assert head.split() == ["weight", "shape", "kept", "density"]
    assert first.split() == ["blocks.0.up.weight", "6", "x", "4", "24", "1.0000"]
    assert len(head) == len(first) == len(second)
    assert totals == found.totals()
    assert totals[0] == "density of the prunable weights: 1.000000 (48 of 48)"
    assert totals[1] == "remaining weights of the blocks, as the paper counts: 100.000000%"
    assert totals[2] == "density of the whole model: 1.000000 (68 of 68)"


def test_minus_zero_is_pruned_and_nothing_is_changed() -> None:
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-0.0, 0.0], [1.0, -1.0]]))
    before = copy.deepcopy(model.state_dict())
    found = inspect(model, ["weight"])
    assert found.kept == 2
    assert found.remaining_weights is None
    assert len(found.totals()) == 2
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_shared_parameter_counts_once() -> None:
    model = Stack(blocks=2)
    model.blocks[1].up.weight = model.blocks[0].up.weight
    found = inspect(model, targets.find(model))
    assert len(found.layers) == 3
    assert found.whole_model.weights == sum(parameter.numel() for parameter in model.parameters())


def test_the_paper_counts_the_blocks_only() -> None:
    model = tiny_bert()
    found = inspect(model, ["bert.embeddings.word_embeddings.weight"])
    assert found.remaining_weights == 1.0


def test_wrappers_are_looked_through() -> None:
    model = Stack()
    assert inspect(torch.compile(model, backend="eager"), targets.find(model)) == inspect(model, targets.find(model))


@pytest.mark.parametrize(
    ("names", "message"), [(["blocks.0.pu.weight"], "no parameter blocks.0.pu.weight"), ([], "no parameter")]
)
def test_unknown_names_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        inspect(Stack(), names)
