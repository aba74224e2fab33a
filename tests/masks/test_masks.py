"""Masks in force: exact, taken off bit for bit, and on another model refused before it is changed."""

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from conftest import tiny_bert
from fineprune import AppliedMask, InvalidInputError, TrainingError, apply_mask
from fineprune.masks import apply
from fineprune.masks.file import read, save

WEIGHT, OTHER, BIAS, HEAD = "body.0.weight", "body.1.weight", "body.0.bias", "head.weight"
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}

shapes = st.lists(st.integers(1, 7), min_size=0, max_size=4)
seeds = st.integers(0, 2**20)


class Model(nn.Module):
    """Two weights to prune, of 15 and 25 values, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 5))
        self.head = nn.Linear(5, 2)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.body(features))


def bits(model: nn.Module) -> dict[str, bytes]:
    """Every value of a model, bit for bit."""
    return {name: raw(tensor) for name, tensor in model.state_dict().items()}


def raw(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().view(INTEGERS[tensor.element_size()]).numpy().tobytes()


def drawn(shape: tuple[int, ...], seed: int, density: float = 0.4) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density


def save_task(model: Model, path: Path, seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Saves masks of a model, a trained head and a trained bias; returns what it should then hold."""
    parameters = dict(model.named_parameters())
    chosen = {name: drawn(tuple(parameters[name].shape), seed) for name in (WEIGHT, OTHER)}
    trained = {name: torch.randn(parameters[name].shape, dtype=dtype) for name in (BIAS, HEAD)}
    save(path, {name: (parameters[name], mask) for name, mask in chosen.items()}, trained)
    held = {name: parameter.detach().clone() for name, parameter in parameters.items()} | trained
    return held | {name: held[name].masked_fill(~mask, 0.0) for name, mask in chosen.items()}


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def path(model: Model, tmp_path: Path) -> Path:
    save_task(model, tmp_path / "sst2.mask.safetensors", 1)
    return tmp_path / "sst2.mask.safetensors"


# In force.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("training", [True, False])
def test_a_mask_in_force_is_w_times_m(model: Model, path: Path, tmp_path: Path, dtype: torch.dtype, training: bool) -> None:
    expected = save_task(model, path, 5, dtype)
    model.to(dtype).train(training)
    before = bits(model)
    with apply_mask(model, path) as applied:
        assert isinstance(applied, AppliedMask)
        assert bits(model) == {name: raw(tensor.to(dtype)) for name, tensor in expected.items()}
        assert not torch.signbit(model.body[0].weight[~read(path).masks[WEIGHT].unpack()]).any()
    assert bits(model) == before


ODD = [0.0, -0.0, math.inf, -math.inf, math.nan, 1e-42, -1e-42, 3.4e38, 1.0]


@settings(max_examples=40, deadline=None)
@given(shapes, st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]), st.floats(0, 1), seeds)
def test_removing_restores_every_bit(
    tmp_path_factory: pytest.TempPathFactory, size: list[int], dtype: torch.dtype, density: float, seed: int
) -> None:
    """Of -0.0, infinities and NaN with any payload, also in what is trained; whatever the order in memory."""
    path = tmp_path_factory.getbasetemp() / "odd.safetensors"
    generator = torch.Generator().manual_seed(seed)
    integer = INTEGERS[dtype.itemsize]

    def odd() -> Tensor:
        limits = torch.iinfo(integer)
        drawn_ = torch.randint(limits.min, limits.max, size, dtype=integer, generator=generator).view(dtype)
        chosen = torch.tensor(ODD).to(dtype)[torch.randint(len(ODD), size, generator=generator)]
        values = torch.where(drawn(tuple(size), seed), drawn_.view(integer), chosen.view(integer)).view(dtype)
        return values.mT.contiguous().mT if len(size) > 1 else values

    model = nn.Module()
    model.w, model.head = nn.Parameter(odd()), nn.Parameter(odd())
    before, mask = bits(model), drawn(tuple(size), seed + 1, density)
    trained = odd()
    save(path, {"w": (model.w, mask)}, {"head": trained})
    applied = apply_mask(model, path)
    expected = model.w.detach().view(integer)
    assert not expected[~mask].any()
    assert raw(model.head) == raw(trained)
    applied.remove()
    assert bits(model) == before


def test_several_tasks_take_turns_on_one_backbone(model: Model, tmp_path: Path) -> None:
    before = bits(model)
    expected = [save_task(model, tmp_path / f"{task}", task) for task in range(2)]
    for task in (0, 1, 0):
        with apply_mask(model, tmp_path / f"{task}"):
            assert bits(model) == {name: raw(tensor) for name, tensor in expected[task].items()}
        assert bits(model) == before


def test_the_output_is_that_of_the_pruned_model(tmp_path: Path) -> None:
    model, batch = tiny_bert().eval(), {"input_ids": torch.arange(8)[None]}
    weights = {n: p for n, p in model.named_parameters() if n.startswith("bert.encoder") and p.dim() == 2}
    chosen = {name: drawn(tuple(weight.shape), n) for n, (name, weight) in enumerate(weights.items())}
    save(tmp_path / "m", {name: (weights[name], mask) for name, mask in chosen.items()}, {})
    pruned = copy.deepcopy(model)
    with torch.no_grad():
        for name, mask in chosen.items():
            pruned.get_parameter(name).mul_(mask)
        expected, dense = pruned(**batch).logits, model(**batch).logits
        with apply_mask(model, tmp_path / "m"):
            assert torch.equal(model(**batch).logits, expected)
        assert torch.equal(model(**batch).logits, dense)


def test_wrappers_are_looked_through(model: Model, path: Path) -> None:
    before = bits(model)
    with apply_mask(nn.DataParallel(torch.compile(model, backend="eager")), path):
        assert bits(model) != before
    assert bits(model) == before


def test_tied_weights_go_by_their_name_in_named_parameters(tmp_path: Path) -> None:
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    model["b"].weight = model["a"].weight
    dense = model["a"].weight.detach().clone()
    save(tmp_path / "m", {"a.weight": (dense, torch.zeros(4, 4, dtype=torch.bool))}, {})
    with apply_mask(model, tmp_path / "m"):
        assert not model["b"].weight.any()
    assert torch.equal(model["b"].weight, dense)


@pytest.mark.parametrize("moment", ["loading", "applying"])
def test_inference_mode_is_no_hindrance(path: Path, moment: str) -> None:
    with torch.inference_mode(moment == "loading"):
        model = Model()
    save_task(model, path, 2)
    before = bits(model)
    with torch.inference_mode(moment == "applying"), apply_mask(model, path):
        assert bits(model) != before
    assert bits(model) == before


def test_gradients_flow_and_requires_grad_stays(model: Model, path: Path) -> None:
    model.head.requires_grad_(False)
    with apply_mask(model, path):
        model(torch.ones(1, 3)).sum().backward()
    assert model.body[0].weight.grad is not None
    assert model.body[0].weight.requires_grad
    assert not model.head.weight.requires_grad


# Taking off.


def test_removing_twice_does_nothing_more(model: Model, path: Path) -> None:
    with apply_mask(model, path) as applied:
        applied.remove()
        with torch.no_grad():
            model.body[0].weight.fill_(3.0)
    assert (model.body[0].weight == 3.0).all()


def test_a_mask_comes_off_after_an_error_inside(model: Model, path: Path) -> None:
    before = bits(model)
    with pytest.raises(ZeroDivisionError), apply_mask(model, path):
        raise ZeroDivisionError
    assert bits(model) == before


def edit(change: Callable[[Model], object]) -> Callable[[Model], None]:
    def edited(model: Model) -> None:
        with torch.no_grad():
            change(model)

    return edited


CHANGES: dict[str, tuple[Callable[[Model], object], str]] = {
    "a pruned value": (edit(lambda m: m.body[0].weight.view(-1)[pruned_place()].fill_(1e-30)), f"{WEIGHT} holds other values"),
    "a sign": (edit(lambda m: m.body[0].weight.view(-1)[pruned_place()].fill_(-0.0)), f"{WEIGHT} holds other values"),
    "a kept value": (edit(lambda m: m.body[1].weight.mul_(1 + 1e-7)), f"{OTHER} holds other values"),
    "by .data": (lambda m: m.body[1].weight.data.zero_(), f"{OTHER} holds other values"),
    "the head": (edit(lambda m: m.head.weight.add_(1)), f"{HEAD} holds other values .*training, a reload"),
    "another parameter": (lambda m: setattr(m.body[0], "weight", copy.deepcopy(m.body[0].weight)), f"{WEIGHT} is no longer"),
    "no parameter": (lambda m: delattr(m, "head"), f"{HEAD} is no longer"),
    "another shape": (
        lambda m: setattr(m.head.weight, "data", torch.ones(3, 5)),
        r"float32 \(3, 5\) by now, and was float32 \(2",
    ),
    "the same values in another shape": (lambda m: setattr(m.head.weight, "data", m.head.weight.data.view(5, 2)), "by now"),
    "half precision": (lambda m: m.half(), r"is float16 \(5, 3\) by now, and was float32"),
}


def pruned_place() -> int:
    return int((~drawn((5, 3), 1)).flatten().nonzero()[0])


@pytest.mark.parametrize("what", CHANGES)
def test_what_would_be_lost_keeps_a_mask_on(model: Model, path: Path, what: str) -> None:
    change, words = CHANGES[what]
    applied = apply_mask(model, path)
    change(model)
    before = bits(model)
    for _ in range(2):
        with pytest.raises(TrainingError, match=f"cannot be removed: .*{words}"):
            applied.remove()
    assert bits(model) == before


def test_putting_the_values_back_lets_it_come_off(model: Model, path: Path) -> None:
    before = bits(model)
    applied = apply_mask(model, path)
    held = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        model.head.weight.add_(1)
    with pytest.raises(TrainingError):
        applied.remove()
    model.load_state_dict(held)
    applied.remove()
    assert bits(model) == before


def test_values_in_new_memory_are_the_same_values(model: Model, path: Path) -> None:
    """As after a move to another device, which leaves the parameters and replaces their data."""
    before = bits(model)
    with apply_mask(model, path):
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
    assert bits(model) == before


def test_masks_that_are_both_on_come_off_in_turn_only(model: Model, tmp_path: Path) -> None:
    """A mask that prunes nothing leaves no trace in the fingerprints; the trained values still show it."""
    before = bits(model)
    full = {WEIGHT: (model.body[0].weight, torch.ones(5, 3, dtype=torch.bool))}
    for task in range(2):
        save(tmp_path / f"{task}", full, {HEAD: torch.full((2, 5), float(task))})
    first, second = (apply_mask(model, tmp_path / f"{task}") for task in range(2))
    with pytest.raises(TrainingError, match=f"{HEAD} holds other values"):
        first.remove()
    second.remove()
    first.remove()
    assert bits(model) == before


def test_a_change_that_breaks_off_is_taken_back(model: Model, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, calls = bits(model), []

    def breaking(tensor: Tensor, mask: Tensor) -> None:
        calls.append(tensor)
        with torch.no_grad():
            tensor.view(-1)[(~mask).flatten().nonzero()[0]] = 0.0
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(apply, "zero_where_pruned", breaking)
    with pytest.raises(KeyboardInterrupt):
        apply_mask(model, path)
    assert len(calls) == 2
    assert bits(model) == before


# What is refused of a model.


def retyped(dtype: torch.dtype) -> Callable[[Model], object]:
    return lambda m: m.head.to(dtype)


MODELS: dict[str, tuple[Callable[[Model], object], str]] = {
    "another weight": (
        edit(lambda m: m.body[1].weight[4, 4].add_(1)),
        f"made on another {OTHER} than the model holds, in float32",
    ),
    "the first that differs is named": (edit(lambda m: [p.add_(1) for p in m.parameters()]), f"another {WEIGHT} than"),
    "float16": (lambda m: m.half(), "in float16.*rounded to float16 is not recognised: load it in float32 or bfloat16"),
    "no such parameter": (lambda m: delattr(m, "head"), f"has no parameter '{HEAD}'; did you mean"),
    "no such weight": (lambda m: setattr(m, "body", nn.Sequential(m.body[0])), f"no parameter '{OTHER}'"),
    "another shape": (lambda m: setattr(m, "head", nn.Linear(5, 3)), rf"{HEAD} has shape \(3, 5\) here, and \(2, 5\) there"),
    "another shape of a weight": (lambda m: setattr(m.body, "1", nn.Linear(5, 4)), rf"{OTHER} has shape \(4, 5\) here"),
    "another dtype": (retyped(torch.bfloat16), f"holds {HEAD} as it was trained, in float32, and here it is bfloat16"),
    "the meta device": (lambda m: m.to("meta"), "meta device"),
    "whole numbers": (
        lambda m: setattr(m.head, "weight", nn.Parameter(torch.ones(2, 5, dtype=torch.int32), False)),
        f"{HEAD} is int32",
    ),
}


@pytest.mark.parametrize("what", MODELS)
def test_a_model_that_does_not_fit_is_refused_and_left_alone(model: Model, path: Path, what: str) -> None:
    change, words = MODELS[what]
    change(model)
    before = bits(model) if what != "the meta device" else {}
    with pytest.raises(InvalidInputError, match=f"(?s){path.name} .*{words}"):
        apply_mask(model, path)
    assert not before or bits(model) == before


def test_a_second_mask_is_refused_while_one_is_in_force(model: Model, path: Path, tmp_path: Path) -> None:
    save_task(model, tmp_path / "mnli", 2)
    with apply_mask(model, path):
        before = bits(model)
        for second in (path, tmp_path / "mnli"):
            with pytest.raises(
                InvalidInputError, match=r"of its 15 values are 0: if another mask is in force, remove\(\) that"
            ):
                apply_mask(model, second)
        assert bits(model) == before
    with apply_mask(model, tmp_path / "mnli"):
        pass


def test_sharded_models_are_refused(model: Model, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("torch.distributed.tensor")
    monkeypatch.setattr(distributed, "DTensor", nn.Parameter)  # one of a real mesh needs processes
    with pytest.raises(InvalidInputError, match=f"{WEIGHT} is sharded over processes"):
        apply_mask(model, path)
    with pytest.raises(InvalidInputError, match=f"{WEIGHT} cannot be saved with a mask: it is sharded"):
        save(path.with_name("new"), {WEIGHT: (model.body[0].weight, drawn((5, 3), 1))}, {})
