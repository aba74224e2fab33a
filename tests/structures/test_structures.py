"""How a weight is cut into groups: each cut against loops, and through a pruner."""

import copy
import itertools
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from conftest import Stack, adamw, config, differences, everything, masks, stack_batches, train
from fineprune import (
    L0,
    Blocks,
    Columns,
    CubicSchedule,
    InvalidInputError,
    Magnitude,
    Movement,
    NofM,
    Pruner,
    PruningConfig,
    Random,
    Rows,
    SoftMovement,
    Uniform,
    Unstructured,
)
from fineprune.selection.scopes import Select
from fineprune.structures.base import Structure, Transposed

Attach = Callable[..., Pruner]


class Pairs(Structure):
    """Neighbours are pruned together; the rest is the base's."""

    def groups(self, shape: torch.Size) -> torch.Size:
        return torch.Size([*shape[:-1], shape[-1] // 2])

    def reduce(self, tensor: Tensor) -> Tensor:
        return tensor.unflatten(-1, (-1, 2)).sum(-1)

    def expand(self, groups: Tensor, shape: torch.Size) -> Tensor:
        return groups.repeat_interleave(2, -1)


def group_of(cut: Structure, index: tuple[int, ...]) -> tuple[int, ...]:
    """The slow, obvious reference: to which group the weight at an index belongs."""
    match cut:
        case Unstructured():  # NofM too
            return index
        case Blocks(rows, cols):
            return index[0] // rows, index[1] // cols
        case Rows():
            return index[:1]
        case Columns():
            return index[1:2]
        case Pairs():
            return (*index[:-1], index[-1] // 2)
        case Transposed():
            return group_of(cut.structure, index[::-1])
    raise AssertionError(cut)


def members(cut: Structure, shape: tuple[int, ...]) -> dict[tuple[int, ...], list[tuple[int, ...]]]:
    """Returns the indices of the weights of each group."""
    found: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for index in itertools.product(*map(range, shape)):
        found.setdefault(group_of(cut, index), []).append(index)
    return found


counts = st.integers(1, 4)


@st.composite
def structures(draw: st.DrawFn) -> tuple[Structure, torch.Size]:
    """A structure and a shape that it structures: matrices, and the weights of one- and two-dimensional convolutions."""
    kind = draw(st.sampled_from([Unstructured, Rows, Columns, Pairs, Blocks, NofM, Transposed]))
    if kind in (Rows, Columns, Unstructured):
        return kind(), torch.Size(draw(st.lists(counts, min_size=2, max_size=4)))
    if kind is Pairs:
        return Pairs(), torch.Size([draw(counts), 2 * draw(counts)])
    if kind is Blocks:
        cut = Blocks(draw(counts), draw(counts))
        return cut, torch.Size([cut.rows * draw(counts), cut.cols * draw(counts)])
    if kind is NofM:
        cut = NofM(draw(counts), draw(st.integers(5, 8)))
        return cut, torch.Size([draw(counts), cut.m * draw(counts)])
    inner, shape = draw(structures().filter(lambda drawn: len(drawn[1]) == 2))
    return Transposed(inner), torch.Size(reversed(shape))


@settings(max_examples=200, deadline=None)
@given(structures(), st.integers(0, 99))
def test_each_cut_is_that_of_loops(drawn: tuple[Structure, torch.Size], seed: int) -> None:
    cut, shape = drawn
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    of_group = members(cut, shape)
    groups = cut.groups(shape)
    assert groups == torch.Size(max(positions) + 1 for positions in zip(*of_group, strict=True))
    assert math.prod(groups) == len(of_group)
    assert {len(indices) for indices in of_group.values()} == {cut.size(shape)}

    reduced, magnitude = cut.reduce(weight), cut.magnitude(weight)
    assert reduced.shape == magnitude.shape == groups
    for group, indices in of_group.items():
        values = [float(weight[index]) for index in indices]
        assert float(reduced[group]) == pytest.approx(sum(values), rel=1e-12, abs=1e-12)
        norm = math.sqrt(sum(value * value for value in values))
        assert float(magnitude[group]) == pytest.approx(norm / math.sqrt(cut.size(shape)), rel=1e-12)

    scores = torch.randn(groups, generator=generator, dtype=torch.float64)
    for spread in (scores, scores > 0):
        expanded = cut.expand(spread, shape)
        assert (expanded.shape, expanded.dtype) == (shape, spread.dtype)
        assert all(expanded[index] == spread[group] for group, indices in of_group.items() for index in indices)


@settings(max_examples=100, deadline=None)
@given(structures(), st.integers(0, 99))
def test_reducing_is_the_transpose_of_expanding(drawn: tuple[Structure, torch.Size], seed: int) -> None:
    """<reduce(a), s> = <a, expand(s)>: the gradient of the scores is that of the mask."""
    cut, shape = drawn
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.randn(shape, generator=generator, dtype=torch.float64)
    groups = torch.randn(cut.groups(shape), generator=generator, dtype=torch.float64)
    left, right = (cut.reduce(tensor) * groups).sum(), (tensor * cut.expand(groups, shape)).sum()
    assert torch.allclose(left, right, rtol=1e-12, atol=1e-12)


def test_unstructured_changes_nothing() -> None:
    cut, weight = Unstructured(), torch.randn(3, 4)
    assert torch.equal(cut.reduce(weight), weight)
    assert torch.equal(cut.expand(weight, weight.shape), weight)
    assert torch.equal(cut.magnitude(weight), weight.abs())


def test_each_weight_is_a_site_of_its_own() -> None:
    cut, weights = Pairs(), {"a": torch.zeros(2, 2), "b": torch.zeros(2, 2)}
    assert cut.link(nn.Linear(2, 2), weights) == [{"a": cut}, {"b": cut}]


# Wrong arguments, and weights that cannot be cut so.


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "2", None])
def test_a_block_is_of_whole_numbers(value: object) -> None:
    for make in (lambda: Blocks(value, 4), lambda: Blocks(4, value)):
        with pytest.raises(InvalidInputError, match=r"(rows|cols) of Blocks must be a whole number from 1, got "):
            make()
    for make in (lambda: NofM(value, 4), lambda: NofM(1, value)):
        with pytest.raises(InvalidInputError, match=r"(n|m) of NofM must be a whole number from 1, got "):
            make()


@pytest.mark.parametrize(("n", "m"), [(4, 4), (5, 4)])
def test_n_is_below_m(n: int, m: int) -> None:
    with pytest.raises(InvalidInputError, match=rf"n must be below m, .* got NofM\({n}, {m}\)"):
        NofM(n, m)


RAGGED = [
    (Blocks(5, 4), "Blocks(5, 4) do not fill a weight of shape 12 x 8"),
    (Blocks(4, 3), "Blocks(4, 3) do not fill a weight of shape 12 x 8"),
    (Blocks(12, 8), "Blocks(12, 8) do not fill a weight of shape 8 x 12"),  # the second matrix only
    (NofM(1, 3), "NofM(1, 3) does not fit a weight of shape 12 x 8"),
    (NofM(2, 8), "NofM(2, 8) does not fit a weight of shape 8 x 12"),
]


@pytest.mark.parametrize(
    ("structure", "message"), RAGGED, ids=lambda value: repr(value) if isinstance(value, Structure) else ""
)
def test_ragged_edges_are_refused_before_anything_is_changed(structure: Structure, message: str) -> None:
    model = Stack()
    optimizer = adamw(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    density = None if structure.density() else 0.5
    settings = config(structure=structure, density=density, schedule=CubicSchedule(0, 0))
    with pytest.raises(InvalidInputError, match=re.escape(message) + ".*exclude_modules"):
        Pruner(model, optimizer, settings, total_steps=10)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


class Convolutions(nn.Module):
    """Filters over one dimension, then over two."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(2, 6, 2)
        self.second = nn.Conv2d(6, 4, (1, 3))
        self.head = nn.Linear(4, 3)
        self.double()

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(features.unflatten(1, (2, 4))))
        return nn.functional.cross_entropy(self.head(self.second(hidden.unsqueeze(2)).mean((2, 3))), labels)


@pytest.mark.parametrize("structure", [Blocks(1, 1), NofM(1, 3)], ids=repr)
def test_only_matrices_have_blocks_and_runs(structure: Structure) -> None:
    model = Convolutions()
    settings = config(structure=structure, density=None if structure.density() else 0.5, target_modules=["second"])
    with pytest.raises(InvalidInputError, match="a weight of shape 4 x 6 x 1 x 3: this must be a matrix"):
        Pruner(model, adamw(model), settings, total_steps=10)


# Through a pruner.


def assert_whole(pruner: Pruner, structure: Structure) -> dict[str, int]:
    """Asserts that groups are kept or pruned as a whole; returns how many each weight keeps."""
    kept = {}
    for name, mask in masks(pruner).items():
        of_group = [{bool(mask[index]) for index in indices} for indices in members(structure, mask.shape).values()]
        assert all(len(values) == 1 for values in of_group), name
        kept[name] = sum(values == {True} for values in of_group)
        assert torch.equal(pruner._masked.model.get_parameter(name) != 0, mask), name
    return kept


METHODS = [Magnitude(), Random(), Movement(), Movement(Uniform(0.1))]
STRUCTURES = [Unstructured(), Blocks(2, 4), Blocks(4, 1), Rows(), Columns()]


def groups_of(model: nn.Module, pruner: Pruner, structure: Structure) -> dict[str, tuple[int, int]]:
    """Returns how many groups each weight has, and how many weights each of them holds."""
    shapes = {name: model.get_parameter(name).shape for name in pruner.names}
    return {name: (math.prod(structure.groups(shape)), structure.size(shape)) for name, shape in shapes.items()}


@pytest.mark.parametrize("scope", ["local", "global", "adaptive"])
@pytest.mark.parametrize("structure", STRUCTURES, ids=repr)
@pytest.mark.parametrize("network", [Stack, Convolutions])
def test_whole_groups_are_kept_as_the_scope_says(
    attach: Attach, network: type[nn.Module], structure: Structure, scope: str
) -> None:
    targets = None if network is Stack else ["first", "second"]
    if targets and isinstance(structure, Blocks):
        structure, targets = Blocks(3, 2), ["head"]
    for method in METHODS:
        model = network()
        optimizer = adamw(model)
        settings = {"method": method, "structure": structure, "scope": scope, "target_modules": targets}
        pruner = attach(model, optimizer, density=0.5, **settings)
        train(model, optimizer, stack_batches(10))
        kept, groups = assert_whole(pruner, structure), groups_of(model, pruner, structure)
        weights = sum(number * size for number, size in groups.values())
        used = sum(kept[name] * size for name, (_, size) in groups.items())
        if scope == "local":
            assert kept == {name: math.floor(0.5 * number) for name, (number, _) in groups.items()}
        elif scope == "global":
            largest = max(size for _, size in groups.values())
            assert math.floor(0.5 * weights) - largest < used <= math.floor(0.5 * weights)
        elif network is Stack:  # of each kind there are two
            for kind in ("up", "down"):
                together = [f"blocks.{number}.{kind}.weight" for number in (0, 1)]
                assert sum(kept[name] for name in together) == math.floor(0.5 * 2 * groups[together[0]][0])
        pruner.detach()


def test_the_adaptive_scope_gives_more_to_the_matrix_that_matters_more(attach: Attach) -> None:
    model = Stack()
    pruner = attach(model, adamw(model), structure=Rows(), scope="adaptive", density=0.5)
    for site in pruner._masked.sites:
        site.value().fill_(1.0 if site.name.startswith("blocks.0") else -1.0)
    counts = [int(mask.sum()) for mask in pruner._masked.pools[0].masks(10)]
    # sigmoid(1) and sigmoid(-1) are 0.731 and 0.269: of 12 and of 8 groups that many, rounded
    assert counts == [9, 6, 3, 2]


# n of m.


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_two_of_four(attach: Attach, method: Movement) -> None:
    model = Stack()
    optimizer = adamw(model)
    pruner = attach(model, optimizer, method=method, structure=NofM(2, 4), density=None)
    densities = []
    for batch in stack_batches(10):
        train(model, optimizer, [batch])
        densities.append(pruner.density())
        of_four = {int(kept) for mask in masks(pruner).values() for kept in mask.unflatten(1, (-1, 4)).sum(-1).flatten()}
        assert len(of_four) == 1
    assert of_four == {2}
    assert densities[-1] == 0.5
    assert set(densities) <= {1.0, 0.75, 0.5}
    assert densities == sorted(densities, reverse=True)


@pytest.mark.parametrize(("n", "m"), [(1, 49), (3, 7), (5, 6), (48, 49), (29, 50)])
def test_exactly_n_of_every_m_though_their_quotient_is_rounded(attach: Attach, n: int, m: int) -> None:
    """1 / 49 * 49 is below 1 in float64."""
    model = Stack(width=m, inner=2 * m, blocks=1)
    optimizer = adamw(model)
    pruner = attach(model, optimizer, structure=NofM(n, m), density=None)
    train(model, optimizer, stack_batches(10, width=m))
    pruner.close()
    for mask in masks(pruner).values():
        assert (mask.unflatten(1, (-1, m)).sum(-1) == n).all()
    assert pruner.density() == n / m


@pytest.mark.parametrize(("n", "m"), [(1, 49), (3, 7), (29, 50)])
def test_on_the_way_never_fewer_than_n_are_kept(n: int, m: int) -> None:
    above = math.nextafter(n / m, 1)
    for value, most in (
        (n / m, n),
        (above, n),
        (math.nextafter(above, 1), n),
        ((n + 0.5) / m, n),
        ((n + 1.5) / m, n + 1),
        (1.0, m),
    ):
        (mask,) = NofM(n, m).select(Select("local"))([torch.randn(2, m)], [1], value)
        assert mask.sum(-1).tolist() == [most, most]


def test_the_structure_fixes_the_density() -> None:
    assert PruningConfig(Movement(), structure=NofM(2, 4)).values() == (1.0, 0.5)
    assert PruningConfig(Movement(), 0.5, structure=NofM(2, 4)).values() == (1.0, 0.5)
    with pytest.raises(
        InvalidInputError, match=r"density must be left out for NofM\(n=2, m=4\), which keeps 0\.5 of the weights, got 0\.1"
    ):
        PruningConfig(Movement(), 0.1, structure=NofM(2, 4))


@pytest.mark.parametrize("method", [SoftMovement(), SoftMovement(penalty=1.0), L0(), L0(penalty=1.0)], ids=repr)
def test_n_of_m_takes_a_method_that_ranks(method: SoftMovement | L0) -> None:
    for density in (None, 0.5):
        with pytest.raises(
            InvalidInputError, match=f"needs a method that ranks scores, which {type(method).__name__} does not do. Take one"
        ):
            PruningConfig(method, density, structure=NofM(2, 4))


# Layers that keep their weight transposed.


def tiny_gpt2() -> GPT2LMHeadModel:
    settings = {"n_embd": 8, "n_layer": 2, "n_head": 2, "vocab_size": 20, "n_positions": 8}
    return GPT2LMHeadModel(GPT2Config(**settings, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0)).train()


def gpt2_batches(number: int) -> list[dict[str, Tensor]]:
    tokens = torch.randint(0, 20, (number, 2, 8), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": t, "labels": t} for t in tokens]


@pytest.mark.parametrize("structure", [Rows(), Columns(), Blocks(4, 2), NofM(2, 4)], ids=repr)
def test_the_layers_of_gpt2_are_cut_as_their_transposes(attach: Attach, structure: Structure) -> None:
    model = tiny_gpt2()
    optimizer = adamw(model)
    pruner = attach(model, optimizer, structure=structure, density=None if structure.density() else 0.5)
    structures = [cut for site in pruner._masked.sites for cut in site.grouping.values()]
    assert len(structures) == 8
    assert all(isinstance(cut, Transposed) and cut.structure == structure for cut in structures)
    train(model, optimizer, gpt2_batches(10))
    for name, mask in masks(pruner).items():
        outputs_by_inputs = mask.t()
        if isinstance(structure, NofM):
            assert (outputs_by_inputs.unflatten(1, (-1, 4)).sum(-1) == 2).all()
            continue
        kept = [
            {bool(outputs_by_inputs[index]) for index in indices}
            for indices in members(structure, outputs_by_inputs.shape).values()
        ]
        assert all(len(values) == 1 for values in kept), name
        assert sum(values == {True} for values in kept) == len(kept) // 2


def test_a_row_of_gpt2_is_an_output_feature(attach: Attach) -> None:
    model = tiny_gpt2()
    assert model.transformer.h[0].mlp.c_fc.weight.shape == (8, 32)  # inputs x outputs
    pruner = attach(model, adamw(model), structure=Rows(), density=0.5)
    groups = {site.name: (site.groups, site.size) for site in pruner._masked.sites}
    assert groups["transformer.h.0.mlp.c_fc.weight"] == (32, 8)
    assert groups["transformer.h.0.mlp.c_proj.weight"] == (8, 32)


def test_single_weights_of_gpt2_need_no_transposing() -> None:
    model = tiny_gpt2()
    weights = {"transformer.h.0.mlp.c_fc.weight": model.transformer.h[0].mlp.c_fc.weight}
    assert Unstructured().link(model, weights) == [{name: Unstructured()} for name in weights]


@pytest.mark.parametrize("structure", [*STRUCTURES, NofM(2, 4)], ids=repr)
def test_a_resumed_run_ends_as_one_in_one_go(attach: Attach, structure: Structure, tmp_path: Path) -> None:
    settings = {"structure": structure, "density": None if structure.density() else 0.5, "scope": "adaptive"}
    model = Stack()
    optimizer = adamw(model)
    pruner = attach(model, optimizer, **settings)
    train(model, optimizer, stack_batches(6))
    pruner.save(tmp_path)
    again = Stack()
    again.load_state_dict(model.state_dict())
    other = adamw(again)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    resumed = attach(again, other, **settings)
    resumed.load(tmp_path)
    for each, its_optimizer in ((model, optimizer), (again, other)):
        train(each, its_optimizer, stack_batches(10)[6:])
    assert differences(everything(pruner), everything(resumed)) == []
    assert resumed.finished


def test_one_run_of_all_its_groups_is_no_empty_budget(attach: Callable[..., Pruner]) -> None:
    """floor(1 / 49 * 49) is 0 in float64, and yet one of 49 is kept."""
    model = nn.Sequential(nn.Linear(49, 1))
    pruner = attach(model, adamw(model), density=None, structure=NofM(1, 49), target_modules=["0"])
    assert pruner.density() == 1.0
