"""Pruning around the optimizer's step: what is promised, and every edge that was found by trying."""

import copy
import inspect
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn
from transformers import BertForSequenceClassification

from conftest import (
    Stack,
    adamw,
    bert_batches,
    config,
    dense,
    differences,
    everything,
    loss_of,
    masks,
    scores,
    stack_batches,
    tiny_bert,
    train,
)
from fineprune import (
    Constant,
    CubicSchedule,
    FromMagnitude,
    InvalidInputError,
    Magnitude,
    Movement,
    Pruner,
    Random,
    TrainingError,
    Uniform,
)
from fineprune import inspect as inspect_model

Attach = Callable[..., Pruner]


def trained(steps: int = 10, **settings: object) -> Pruner:
    """Returns the detached pruner of a whole short run on a stack."""
    model = Stack()
    optimizer = adamw(model)
    with Pruner(model, optimizer, config(**settings), total_steps=steps) as pruner:
        train(model, optimizer, stack_batches(steps))
    return pruner


# What the model is between two steps.


def test_the_model_stays_as_it_is(attach: Attach) -> None:
    model = tiny_bert()
    kinds = [type(module) for module in model.modules()]
    keys, signature = list(model.state_dict()), inspect.signature(model.forward)
    parameters = list(model.parameters())
    optimizer = adamw(model)
    attach(model, optimizer)
    train(model, optimizer, bert_batches(5))
    assert [type(module) for module in model.modules()] == kinds
    assert list(model.state_dict()) == keys
    assert inspect.signature(model.forward) == signature
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("method", [Magnitude(), Movement(), Random()], ids=repr)
def test_the_density_follows_the_schedule_at_each_step(attach: Attach, method: object) -> None:
    model, schedule = Stack(), CubicSchedule(2, 3)
    optimizer = adamw(model)
    pruner = attach(model, optimizer, total_steps=12, method=method, schedule=schedule, density=0.1)
    for step, batch in enumerate(stack_batches(14)):
        asked = schedule.value(step, 12, 1.0, 0.1)
        assert pruner.step == step
        assert pruner.value == asked
        assert pruner.finished == (step >= 9)
        for name, mask in masks(pruner).items():
            assert int(mask.sum()) == math.floor(asked * mask.numel())
            held = model.get_parameter(name)
            assert torch.equal(held, dense(pruner)[name] * mask)
        assert pruner.density() == 4 * math.floor(asked * 96) / 384
        train(model, optimizer, [batch])


def test_a_pruned_weight_is_plus_zero() -> None:
    pruner = trained(method=Magnitude())
    pruned = torch.cat([weight.parameter[~weight.mask] for weight in pruner._masked.weights])
    originals = torch.cat([weight.dense[~weight.mask] for weight in pruner._masked.weights])
    assert (originals < 0).any()
    assert (pruned == 0).all()
    assert not pruned.signbit().any()


def test_a_checkpoint_of_mid_run_is_a_plain_one(attach: Attach, tmp_path: Path) -> None:
    model = tiny_bert()
    optimizer = adamw(model)
    pruner = attach(model, optimizer)
    train(model, optimizer, bert_batches(5))
    model.save_pretrained(tmp_path)
    loaded = BertForSequenceClassification.from_pretrained(tmp_path)
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    assert inspect_model(loaded, pruner.names).density == pruner.density() < 0.7
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_the_summary_and_the_statistics() -> None:
    pruner = trained(density=0.25)
    summary = pruner.summary()
    assert [layer.name for layer in summary.layers] == pruner.names == list(masks(pruner))
    assert summary.density == pruner.density() == 0.25
    values = torch.cat([score.flatten() for score in scores(pruner).values()])
    assert pruner.statistics() == pytest.approx(
        {
            "density": 0.25,
            "density_asked": 0.25,
            "score_mean": values.mean().item(),
            "score_std": values.std(correction=0).item(),
            "score_min": values.min().item(),
            "score_max": values.max().item(),
        }
    )


def test_the_joint_norm_is_among_the_statistics(attach: Attach) -> None:
    model = Stack()
    optimizer = adamw(model)
    pruner = attach(model, optimizer, max_grad_norm=1.0)
    assert "joint_grad_norm" not in pruner.statistics()
    train(model, optimizer, stack_batches(1))
    assert pruner.statistics()["joint_grad_norm"] > 0


@pytest.mark.parametrize("method", [Random(), Movement(Uniform())], ids=repr)
def test_attaching_leaves_the_random_stream_alone(attach: Attach, method: object) -> None:
    model = Stack()
    optimizer = adamw(model)
    before = torch.get_rng_state()
    attach(model, optimizer, method=method)
    train(model, optimizer, stack_batches(2))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_seed_decides_over_random_scores(attach: Attach) -> None:
    def first(seed: int) -> dict[str, Tensor]:
        model = Stack()
        torch.manual_seed(seed)
        return scores(attach(model, adamw(model), method=Random()))

    assert differences(first(1), first(1)) == []
    assert len(differences(first(1), first(2))) == 4


@pytest.mark.parametrize(
    "kind",
    [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.NAdam, torch.optim.Adafactor],
)
def test_optimizers_of_pytorch(kind: type[torch.optim.Optimizer]) -> None:
    model = Stack()
    optimizer = kind(model.parameters(), lr=1e-2)
    with Pruner(model, optimizer, config(density=0.2), total_steps=10) as pruner:
        losses = train(model, optimizer, stack_batches(10))
    assert all(loss.isfinite() for loss in losses)
    assert pruner.density() == math.floor(0.2 * 96) / 96
    assert min(float(score.abs().max()) for score in scores(pruner).values()) > 0


# The life of the hooks.


def hooks(optimizer: torch.optim.Optimizer) -> int:
    return len(optimizer._optimizer_step_pre_hooks) + len(optimizer._optimizer_step_post_hooks)


def test_the_hooks_go_at_the_end() -> None:
    model = Stack()
    optimizer = adamw(model)
    with Pruner(model, optimizer, config(), total_steps=10) as pruner:
        assert hooks(optimizer) == 2
        train(model, optimizer, stack_batches(10))
    assert hooks(optimizer) == 0
    assert pruner.density() == 28 / 96  # floor(0.3 * 96)
    assert inspect_model(model, pruner.names).density == 28 / 96


def test_a_run_that_ended_early_is_an_error() -> None:
    model = Stack()
    optimizer = adamw(model)
    with (
        pytest.raises(TrainingError, match=r"ended after 5 of total_steps=10 optimizer steps.*not yet the final one"),
        Pruner(model, optimizer, config(), total_steps=10),
    ):
        train(model, optimizer, stack_batches(5))
    assert hooks(optimizer) == 0


def test_the_cool_down_need_not_be_run_to_its_end() -> None:
    model = Stack()
    optimizer = adamw(model)
    with Pruner(model, optimizer, config(schedule=CubicSchedule(0, 3)), total_steps=10) as pruner:
        train(model, optimizer, stack_batches(7))
    assert pruner.finished


def test_an_error_in_the_loop_is_not_hidden() -> None:
    model = Stack()
    optimizer = adamw(model)
    with pytest.raises(KeyError, match="the loop's own"), Pruner(model, optimizer, config(), total_steps=10):
        raise KeyError("the loop's own")
    assert hooks(optimizer) == 0


def test_close_reports_and_may_be_called_again(caplog: pytest.LogCaptureFixture) -> None:
    model = Stack()
    optimizer = adamw(model)
    pruner = Pruner(model, optimizer, config(density=0.25), total_steps=10)
    train(model, optimizer, stack_batches(10))
    with caplog.at_level("INFO", logger="fineprune"):
        assert pruner.close().density == 0.25
    assert "density of the prunable weights: 0.250000 (96 of 384)" in caplog.text
    assert pruner.close().density == 0.25
    assert hooks(optimizer) == 0


class Failing(torch.optim.Optimizer):
    """Plain descent, which runs out of memory in its fifth step, when some weights have been changed."""

    steps = 0

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        self.steps += 1
        for number, parameter in enumerate(self.param_groups[0]["params"]):
            if (self.steps, number) == (5, 1):
                raise MemoryError("in the middle of a step")
            parameter.sub_(parameter.grad, alpha=0.1)


def test_a_step_that_breaks_off_leaves_a_pruned_model() -> None:
    model = Stack()
    optimizer = Failing(model.parameters(), {"lr": 0.1})
    with (
        pytest.raises(MemoryError),
        Pruner(model, optimizer, config(schedule=CubicSchedule(0, 3)), total_steps=10) as pruner,
    ):
        train(model, optimizer, stack_batches(5))
    assert pruner.step == 4
    assert pruner.density() < 0.5
    assert inspect_model(model, pruner.names).density == pruner.density()
    assert hooks(optimizer) == 0


def test_a_step_within_a_step_is_refused(attach: Attach) -> None:
    """PyTorch runs the hooks of both, if the parent's step has been hooked by an instance of its own."""

    class Nested(torch.optim.SGD):
        def step(self, closure: None = None) -> None:
            super().step(closure)

    model = Stack()
    torch.optim.SGD(model.parameters())
    optimizer = Nested(model.parameters(), lr=0.1)
    attach(model, optimizer)
    with pytest.raises(TrainingError, match=r"Nested\.step calls super\(\)\.step\(\)"):
        train(model, optimizer, stack_batches(1))


def test_training_on_after_a_step_that_broke_off_is_refused(attach: Attach) -> None:
    model = Stack()
    optimizer = Failing(model.parameters(), {"lr": 0.1})
    attach(model, optimizer)
    with pytest.raises(MemoryError):
        train(model, optimizer, stack_batches(5))
    with pytest.raises(TrainingError, match="an earlier step broke off"):
        optimizer.step()


def test_a_step_that_broke_off_can_be_resumed_from_a_save(attach: Attach, tmp_path: Path) -> None:
    model = Stack()
    optimizer = Failing(model.parameters(), {"lr": 0.1})
    pruner = attach(model, optimizer)
    train(model, optimizer, stack_batches(4))
    pruner.save(tmp_path)
    saved = copy.deepcopy(model.state_dict())
    with pytest.raises(MemoryError):
        train(model, optimizer, stack_batches(1))
    model.load_state_dict(saved)
    pruner.load(tmp_path)
    optimizer.zero_grad()
    train(model, optimizer, stack_batches(3))
    assert pruner.step == 7


def test_a_matrix_that_global_scope_emptied_is_named(caplog: pytest.LogCaptureFixture) -> None:
    model = Stack()
    with torch.no_grad():
        model.blocks[0].up.weight.mul_(1e-6)
    optimizer = adamw(model, lr=1e-9)
    with Pruner(model, optimizer, config(method=Magnitude(), scope="global", density=0.1), total_steps=10):
        train(model, optimizer, stack_batches(10))
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "Nothing is left of blocks.0.up.weight. Choose scope='local', or a higher density."
    ]


# Overflow and broken gradients.


@pytest.mark.parametrize("unscale", [False, True], ids=["scaled", "unscaled"])
@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
def test_a_step_skipped_by_the_scaler(attach: Attach, fused: bool, unscale: bool, max_grad_norm: float | None) -> None:
    """A power of two as the scale, so that the run must equal one without a scaler and without the bad batch bit for bit."""
    batches = [{"features": b["features"].float(), "labels": b["labels"]} for b in stack_batches(10)]
    model = Stack().float()
    twin = copy.deepcopy(model)

    optimizer = adamw(model, fused=fused)
    pruner = attach(model, optimizer, total_steps=9, max_grad_norm=max_grad_norm)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for number, batch in enumerate(batches):
        scaler.scale(loss_of(model, batch)).backward()
        if number == 4:
            model.blocks[1].up.weight.grad[0, 0] = math.inf
        if unscale:
            scaler.unscale_(optimizer)
        before = everything(pruner)
        scaler.step(optimizer)
        scaler.update()
        if number == 4:
            assert pruner.step == 4
            changed = differences(before, everything(pruner))
            assert [name for name in changed if not name.startswith("gradient.")] == []  # which the scaler may unscale
        optimizer.zero_grad()
    assert pruner.step == 9
    assert scaler.get_scale() == 512.0

    plain = adamw(twin, fused=fused)
    other = attach(twin, plain, total_steps=9, max_grad_norm=max_grad_norm)
    train(twin, plain, batches[:4] + batches[5:])
    assert differences(everything(pruner), everything(other)) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["blocks.1.up.weight", "head.bias"])
def test_a_broken_gradient_is_refused_with_nothing_changed(attach: Attach, name: str, value: float) -> None:
    model = Stack()
    optimizer = adamw(model)
    pruner = attach(model, optimizer, max_grad_norm=1.0)
    train(model, optimizer, stack_batches(4))
    loss_of(model, stack_batches(5)[4]).backward()
    good = model.get_parameter(name).grad.clone()
    model.get_parameter(name).grad.view(-1)[1] = value
    before = everything(pruner)
    with pytest.raises(
        TrainingError, match=re.escape(f"At step 4 the gradient is NaN or infinite in {name}. Nothing was changed")
    ):
        optimizer.step()
    assert differences(before, everything(pruner)) == []
    model.get_parameter(name).grad.copy_(good)
    optimizer.step()
    assert pruner.step == 5


def test_a_run_that_diverged_is_told_so(attach: Attach) -> None:
    """Its weights are NaN, and nobody else changed them."""
    model = Stack()
    optimizer = adamw(model)
    attach(model, optimizer, method=Random())
    optimizer.param_groups[0]["lr"] = math.nan
    train(model, optimizer, stack_batches(1))
    assert model.blocks[0].up.weight.isnan().any()
    with pytest.raises(TrainingError, match="the gradient is NaN or infinite"):
        train(model, optimizer, stack_batches(1))


def test_a_sparse_gradient_is_refused_with_nothing_changed(attach: Attach) -> None:
    model = Stack()
    model.table = nn.Embedding(5, 8, sparse=True, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = attach(model, optimizer)
    loss_of(model, {"features": model.table(torch.tensor([1, 2])), "labels": torch.tensor([0, 1])}).backward()
    assert model.table.weight.grad.is_sparse
    before = everything(pruner)
    with pytest.raises(TrainingError, match=r"The gradient of table\.weight is sparse"):
        optimizer.step()
    after = everything(pruner)
    for held in (before, after):
        held["gradient.table.weight"] = held["gradient.table.weight"].to_dense()
    assert differences(before, after) == []


def test_a_closure_is_refused_with_nothing_changed(attach: Attach) -> None:
    model = Stack()
    optimizer = adamw(model)
    pruner = attach(model, optimizer)
    before = everything(pruner)
    with pytest.raises(TrainingError, match="got a closure"):
        optimizer.step(lambda: loss_of(model, stack_batches(1)[0]))
    assert differences(before, everything(pruner)) == []
    train(model, optimizer, stack_batches(1))
    optimizer.step(closure=None)
    assert pruner.step == 2


def test_a_parameter_without_elements_does_no_harm(attach: Attach) -> None:
    model = Stack()
    model.nothing = nn.Parameter(torch.zeros(0, dtype=torch.float64))
    optimizer = adamw(model)
    pruner = attach(model, optimizer, max_grad_norm=1.0)
    (loss_of(model, stack_batches(1)[0]) + model.nothing.sum()).backward()
    assert model.nothing.grad is not None
    optimizer.step()
    assert pruner.step == 1


def test_a_weight_without_a_gradient_keeps_its_scores(attach: Attach) -> None:
    model = Stack()
    optimizer = adamw(model)
    pruner = attach(model, optimizer, max_grad_norm=1.0)
    train(model, optimizer, stack_batches(4))
    before = scores(pruner)
    loss_of(model, stack_batches(5)[4]).backward()
    model.blocks[0].up.weight.grad = None
    optimizer.step()
    assert differences(before, scores(pruner)) == [name for name in before if name != "blocks.0.up.weight"]
    optimizer.zero_grad()
    optimizer.step()  # no gradient at all
    assert pruner.step == 6


# Precision, checkpointing, compilation, sharing, accumulation.


def test_autocast(attach: Attach) -> None:
    model = tiny_bert()
    optimizer = adamw(model)
    with Pruner(model, optimizer, config(), total_steps=10) as pruner:
        for batch in bert_batches(10):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = loss_of(model, batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    assert {score.dtype for score in scores(pruner).values()} == {torch.float32}
    assert pruner.density() == pytest.approx(0.3, abs=1e-3)
    assert min(float(score.abs().max()) for score in scores(pruner).values()) > 1e-3


def test_weights_of_lower_precision_have_scores_of_full_precision(attach: Attach) -> None:
    model = tiny_bert().to(torch.bfloat16)
    optimizer = adamw(model)
    pruner = attach(model, optimizer, total_steps=10)
    loss_of(model, bert_batches(1)[0]).backward()
    expected = {
        name: 0.1 * weight.grad.float() * weight.detach().float()
        for name, weight in model.named_parameters()
        if name in pruner.names
    }
    optimizer.step()
    moments = {site.name: site.scores.tensors()["moments.exp_avg"] for site in pruner._masked.sites}
    assert {moment.dtype for moment in moments.values()} == {torch.float32}
    assert all(torch.allclose(moments[name], expected[name], rtol=1e-6, atol=0) for name in expected)
    optimizer.zero_grad()
    train(model, optimizer, bert_batches(9))
    assert pruner.density() == pytest.approx(0.3, abs=1e-3)
    assert {tensor.dtype for tensor in [*dense(pruner).values(), *model.parameters()]} == {torch.bfloat16}


def test_gradient_checkpointing_changes_nothing(attach: Attach) -> None:
    held = []
    for checkpointing in (False, True):
        torch.manual_seed(3)
        model = tiny_bert(dropout=0.1)
        if checkpointing:
            model.activation_checkpointing_enable()
        optimizer = adamw(model)
        pruner = attach(model, optimizer)
        train(model, optimizer, bert_batches(10))
        held.append(everything(pruner))
    assert differences(*held) == []


def test_a_compiled_model_is_compiled_once(attach: Attach) -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    held = []
    for compiled in (False, True):
        torch.manual_seed(3)
        model = tiny_bert(problem_type="single_label_classification")  # or Transformers finds out, and recompiles
        optimizer = adamw(model)
        runner = torch.compile(model, backend=backend) if compiled else model
        pruner = attach(runner, optimizer)
        train(runner, optimizer, bert_batches(10))
        held.append(everything(pruner))
    assert len(graphs) == 1, "one graph, and no recompilation as the density falls"
    assert differences(*held) == []


def test_accelerate_calls_once_a_real_step(attach: Attach) -> None:
    batches, model = bert_batches(12), tiny_bert()
    twin = copy.deepcopy(model)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    try:
        model, optimizer = accelerator.prepare(model, adamw(model))
        pruner = attach(model, optimizer, total_steps=6)
        for batch in batches:
            with accelerator.accumulate(model):
                accelerator.backward(loss_of(model, batch))
                optimizer.step()
                optimizer.zero_grad()
        assert pruner.step == 6
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()

    plain = adamw(twin)
    other = attach(twin, plain, total_steps=6)
    for first, second in zip(batches[::2], batches[1::2], strict=True):
        for batch in (first, second):
            (loss_of(twin, batch) / 2).backward()
        plain.step()
        plain.zero_grad()
    assert differences(everything(pruner), everything(other)) == []


# The rate of the scores.


def test_scores_do_not_move_in_a_warm_up_that_starts_at_zero(attach: Attach) -> None:
    model = Stack()
    optimizer = adamw(model)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 4)
    assert optimizer.param_groups[0]["lr"] == 0.0
    pruner = attach(model, optimizer, method=Movement(Constant(0.0), score_lr=0.5))
    moved = []
    for batch in stack_batches(3):
        before = scores(pruner)["blocks.0.up.weight"]
        train(model, optimizer, [batch])
        scheduler.step()
        moved.append(float((scores(pruner)["blocks.0.up.weight"] - before).abs().max()))
    assert moved[0] == 0.0
    assert 0.05 < moved[1] < 0.126
    assert moved[2] > 0.1


@pytest.mark.parametrize("made", ["never", "after", "after another rate was set"])
def test_the_base_rate_is_the_rate_at_attach(attach: Attach, made: str) -> None:
    model = Stack()
    optimizer = adamw(model, lr=0.02)
    pruner = attach(model, optimizer, method=Movement(Constant(0.0), score_lr=0.5))
    if made == "after another rate was set":
        optimizer.param_groups[0]["lr"] = 0.04
    if made != "never":
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    train(model, optimizer, stack_batches(1))
    first = scores(pruner)["blocks.0.up.weight"].abs().max()
    assert float(first) == pytest.approx(0.5 if made == "never" else 0.25, rel=1e-3)  # Adam's first step is the rate


def test_each_weight_follows_its_own_group(attach: Attach) -> None:
    model = Stack()
    slow = [model.blocks[0].up.weight]
    rest = [parameter for parameter in model.parameters() if parameter is not slow[0]]
    optimizer = torch.optim.AdamW([{"params": rest, "lr": 1e-3}, {"params": slow, "lr": 1e-5}])
    pruner = attach(model, optimizer, method=Movement(Constant(0.0), score_lr=0.5))
    optimizer.param_groups[1]["lr"] = 1e-6
    train(model, optimizer, stack_batches(1))
    moved = {name: float(score.abs().max()) for name, score in scores(pruner).items()}
    assert moved["blocks.0.up.weight"] == pytest.approx(0.05, rel=1e-3)
    assert moved["blocks.1.up.weight"] == pytest.approx(0.5, rel=1e-3)


# Somebody else changes a pruned parameter.


def replace(model: Stack) -> None:
    model.blocks[0].up.weight = nn.Parameter(model.blocks[0].up.weight.detach().clone())


def replace_block(model: Stack) -> None:
    model.blocks[0] = nn.Identity()


def replace_data(model: Stack) -> None:
    model.blocks[0].up.weight.data = torch.ones_like(model.blocks[0].up.weight)


def copy_into_data(model: Stack) -> None:
    """As an average of weights is swapped in: PyTorch does not count it."""
    model.blocks[0].up.weight.data.fill_(1.0)


def replace_one_value(model: Stack) -> None:
    """Of a copy, at a place that is not among the probed ones: only the address tells."""
    weight = model.blocks[0].up.weight
    other = weight.detach().clone()
    other[11, 7] += 1.0
    weight.data = other


def change_one_value(model: Stack) -> None:
    """At a place that is not among the probed ones: only PyTorch's count tells."""
    with torch.no_grad():
        model.blocks[0].up.weight[11, 7] += 1.0


def load_other_weights(model: Stack) -> None:
    model.load_state_dict(Stack(inner=50).state_dict())


@pytest.mark.parametrize(
    "change",
    [replace, replace_block, replace_data, replace_one_value, copy_into_data, change_one_value, load_other_weights],
)
def test_a_change_by_somebody_else_is_refused(attach: Attach, change: Callable[[Stack], None]) -> None:
    model = Stack(inner=50)  # every sixth of the 400 values of a matrix is probed
    optimizer = adamw(model)
    pruner = attach(model, optimizer, density=0.9)
    train(model, optimizer, stack_batches(5))
    loss_of(model, stack_batches(6)[5]).backward()
    change(model)
    before = everything(pruner)
    with pytest.raises(TrainingError, match=r"blocks\.0\.up\.weight"):
        optimizer.step()
    assert differences(before, everything(pruner)) == []


def test_another_precision_is_refused(attach: Attach) -> None:
    model = Stack().float()
    optimizer = adamw(model)
    attach(model, optimizer)
    train(model, optimizer, [{**batch, "features": batch["features"].float()} for batch in stack_batches(5)])
    model.double()  # the same values, in other memory
    with pytest.raises(TrainingError, match=r"changed blocks\.0\.up\.weight.* between two steps"):
        train(model, optimizer, stack_batches(1))


def swap_data(model: Stack) -> None:
    weight = model.blocks[0].up.weight
    mine, weight.data = weight.data, torch.ones(12, 8, dtype=torch.float64)
    weight.data = mine


def swap_by_copy(model: Stack) -> None:
    weight = model.blocks[0].up.weight
    with torch.no_grad():
        mine = weight.clone()
        weight.copy_(torch.ones(12, 8))
        weight.copy_(mine)


def reload_the_same(model: Stack) -> None:
    model.load_state_dict(copy.deepcopy(model.state_dict()))


def move_to_a_copy(model: Stack) -> None:
    model.blocks[0].up.weight.data = model.blocks[0].up.weight.data.clone()


def assert_makes_no_difference(attach: Attach, change: Callable[[Stack, torch.optim.Optimizer], object]) -> None:
    """Asserts that a run with a change after each step ends, bit for bit, as one without."""
    held = []
    for disturbed in (False, True):
        torch.manual_seed(1)
        model = Stack()
        optimizer = adamw(model)
        pruner = attach(model, optimizer)
        for batch in stack_batches(10):
            train(model, optimizer, [batch])
            if disturbed:
                change(model, optimizer)
        held.append(everything(pruner))
    assert differences(*held) == []


@pytest.mark.parametrize("change", [swap_data, swap_by_copy, reload_the_same, move_to_a_copy])
def test_weights_that_were_put_back_are_accepted(attach: Attach, change: Callable[[Stack], None]) -> None:
    assert_makes_no_difference(attach, lambda model, _: change(model))


def test_a_parameter_that_leaves_the_optimizer_is_refused(attach: Attach) -> None:
    model = Stack()
    optimizer = adamw(model)
    attach(model, optimizer)
    train(model, optimizer, stack_batches(1))
    optimizer.param_groups[0]["params"] = optimizer.param_groups[0]["params"][1:]
    with pytest.raises(TrainingError, match=r"blocks\.0\.up\.weight is no longer .* or has left the optimizer"):
        train(model, optimizer, stack_batches(1))


def test_the_optimizers_state_may_be_loaded_between_steps(attach: Attach) -> None:
    assert_makes_no_difference(attach, lambda _, optimizer: optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict())))


def test_more_parameters_may_join_the_optimizer(attach: Attach) -> None:
    model = Stack()
    optimizer = adamw(model)
    pruner = attach(model, optimizer)
    outside = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer.add_param_group({"params": [outside]})
    (loss_of(model, stack_batches(1)[0]) + outside.sum()).backward()
    optimizer.step()
    assert (outside != 0).all()
    outside.grad.fill_(math.nan)
    with pytest.raises(TrainingError, match=r"infinite in parameter \d+"):
        optimizer.step()
    assert pruner.step == 1


def test_a_second_pruner_on_one_optimizer_is_refused(attach: Attach) -> None:
    model = Stack()
    optimizer = adamw(model)
    first = attach(model, optimizer)
    with pytest.raises(InvalidInputError, match="This optimizer has a pruner already"):
        attach(model, optimizer, target_modules=["head"])
    assert hooks(optimizer) == 2
    first.detach()
    attach(model, optimizer)
    train(model, optimizer, stack_batches(1))


# Save and load.

METHODS = [Magnitude(), Random(), Movement(), Movement(Uniform(0.1)), Movement(FromMagnitude())]


def run_of(model: nn.Module, method: object, steps: int = 12) -> tuple[torch.optim.Optimizer, object, Pruner]:
    optimizer = adamw(model)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    return optimizer, scheduler, Pruner(model, optimizer, config(method=method), total_steps=steps)


def steps_of(model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: object, batches: list[dict[str, Tensor]]) -> None:
    for batch in batches:
        train(model, optimizer, [batch])
        scheduler.step()


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("cut", [1, 7])
def test_resuming_is_exact(method: object, cut: int, tmp_path: Path) -> None:
    batches, model = bert_batches(12), tiny_bert(dropout=0.1)
    optimizer, scheduler, pruner = run_of(model, method)
    steps_of(model, optimizer, scheduler, batches[:cut])
    model.save_pretrained(tmp_path)
    pruner.save(tmp_path)
    rest = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict())), torch.get_rng_state()
    steps_of(model, optimizer, scheduler, batches[cut:])
    whole = everything(pruner)

    torch.manual_seed(1234)  # another process would not know the first one's seed
    again = BertForSequenceClassification.from_pretrained(tmp_path).train()
    optimizer, scheduler, resumed = run_of(again, method)
    (optimizer_state, scheduler_state), stream = rest
    optimizer.load_state_dict(optimizer_state)
    scheduler.load_state_dict(scheduler_state)
    resumed.load(tmp_path)
    assert resumed.step == cut
    assert resumed._masked.pools[0].seed == pruner._masked.pools[0].seed
    torch.set_rng_state(stream)
    steps_of(again, optimizer, scheduler, batches[cut:])
    assert differences(whole, everything(resumed)) == []
    resumed.close()


@pytest.fixture
def saved(tmp_path: Path) -> Iterator[tuple[Stack, torch.optim.Optimizer, Pruner, Path]]:
    """A run in its middle, and its state in a folder."""
    model = Stack()
    optimizer, scheduler, pruner = run_of(model, Movement())
    steps_of(model, optimizer, scheduler, stack_batches(6))
    pruner.save(tmp_path)
    yield model, optimizer, pruner, tmp_path
    pruner.detach()


def refuse_load(pruner: Pruner, folder: Path, message: str) -> None:
    """Asserts that a load is refused in these words, with nothing changed, and that training can go on."""
    before = everything(pruner)
    with pytest.raises(InvalidInputError, match=message):
        pruner.load(folder)
    assert differences(before, everything(pruner)) == []
    train(pruner._masked.model, pruner._step.optimizer, stack_batches(1))


Saved = tuple[Stack, torch.optim.Optimizer, Pruner, Path]


def test_a_state_that_is_missing(saved: Saved) -> None:
    *_, pruner, folder = saved
    refuse_load(pruner, folder / "elsewhere", r"holds no pruner\.json")


@pytest.mark.parametrize(
    ("settings", "total", "message"),
    [
        ({"density": 0.2}, 12, r"another config: density 0\.3 there, 0\.2 here"),
        ({"method": Magnitude()}, 12, "another config: method"),
        ({"method": Movement(Constant(1.0))}, 12, "another config: method"),
        ({"schedule": CubicSchedule(1, 3)}, 12, "another config: schedule"),
        ({"exclude_modules": ["blocks.0.up"]}, 12, "another config: exclude_modules None there"),
        ({}, 13, "another total_steps: 12 there, 13 here"),
    ],
)
def test_a_state_of_another_run(saved: Saved, attach: Attach, settings: dict[str, object], total: int, message: str) -> None:
    model, optimizer, first, folder = saved
    first.detach()
    refuse_load(attach(model, optimizer, total_steps=total, **settings), folder, message)


def test_a_state_of_another_model(saved: Saved, attach: Attach) -> None:
    folder = saved[-1]
    model = Stack(inner=16)
    refuse_load(attach(model, adamw(model), total_steps=12), folder, r"another weights: blocks\.0\.up\.weight .*12, 8.*16, 8")


def test_a_state_of_other_weights(saved: Saved, attach: Attach) -> None:
    folder = saved[-1]
    model = Stack()
    refuse_load(
        attach(model, adamw(model), total_steps=12), folder, r"blocks\.0\.up\.weight is not the one saved with the state"
    )


def test_a_state_of_another_step(saved: Saved) -> None:
    model, optimizer, pruner, folder = saved
    train(model, optimizer, stack_batches(1))
    refuse_load(pruner, folder, "is not the one saved with the state")


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Changes the tensors of a state and leaves its id, so that the two files still belong together."""
    import safetensors.torch

    path = folder / "pruner.safetensors"
    with safetensors.safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(tensors)
    safetensors.torch.save_file(tensors, path, metadata)


@pytest.mark.parametrize(
    "name",
    ["scores.blocks.0.up.weight", "dense.blocks.1.down.weight", "moments.blocks.0.up.weight.exp_avg"],
)
def test_nan_in_a_state(saved: Saved, name: str) -> None:
    *_, pruner, folder = saved
    rewrite(folder, lambda tensors: tensors[name].view(-1)[3].fill_(math.nan))
    refuse_load(pruner, folder, f"NaN in {re.escape(name)}")


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop("dense.blocks.0.up.weight"),
        lambda tensors: tensors.pop("scores.blocks.0.up.weight"),
        lambda tensors: tensors.pop("moments.blocks.0.up.weight.exp_avg_sq"),
        lambda tensors: tensors.update(
            {"moments.blocks.0.up.weight.exp_avf": tensors.pop("moments.blocks.0.up.weight.exp_avg")}
        ),
        lambda tensors: tensors.update({"dense.more": torch.zeros(1)}),
    ],
)
def test_a_state_with_other_tensors(saved: Saved, change: Callable[[dict[str, Tensor]], object]) -> None:
    *_, pruner, folder = saved
    rewrite(folder, change)
    refuse_load(pruner, folder, "disagree over")


@pytest.mark.parametrize("key", ["step", "seed", "base_rates", "tensors", "config", "format", "weights"])
def test_facts_that_lack_something(saved: Saved, key: str) -> None:
    *_, pruner, folder = saved
    path = folder / "pruner.json"
    path.write_text(path.read_text().replace(f'"{key}"', '"other"'))
    refuse_load(pruner, folder, f"lacks '{key}'|another {key}")


def test_names_that_end_in_each_other_are_kept_apart(tmp_path: Path) -> None:
    class Two(Stack):
        """Its second stack has the names of the first, with a prefix."""

        def __init__(self) -> None:
            super().__init__()
            self.second = Stack()

        def forward(self, features: Tensor, labels: Tensor) -> Tensor:
            return super().forward(features, labels) + self.second(features, labels)

    model = Two()
    optimizer = adamw(model)
    pruner = Pruner(model, optimizer, config(), total_steps=10)
    train(model, optimizer, stack_batches(5))
    pruner.save(tmp_path)
    before = everything(pruner)
    pruner.load(tmp_path)
    assert differences(before, everything(pruner)) == []
    pruner.detach()
