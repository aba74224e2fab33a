"""L0's random gates: drawn once for each optimizer step, and never seen by who saves, evaluates or resumes."""

import copy
import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import BertForSequenceClassification, TrainerCallback

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
from fineprune import L0, CubicSchedule, Movement, Pruner, Rule, SoftMovement, TrainingError, Uniform
from fineprune import inspect as inspect_model
from fineprune.trainer.callback import PruningCallback
from resumable_run import STEPS, trainer
from straight_through import drawn_gate, quiet_gate, uniform

Attach = Callable[..., Pruner]

GATES = L0(penalty=5.0, init=Uniform(3.0), score_lr=0.5)
"""Some of its gates are closed from the start."""

BATCHES = stack_batches(12)


@pytest.fixture
def run(attach: Attach) -> Callable[..., tuple[Stack, torch.optim.Optimizer, Pruner]]:
    """Makes a run of ten steps with gates."""

    def new(**settings: object) -> tuple[Stack, torch.optim.Optimizer, Pruner]:
        torch.manual_seed(92)
        model = Stack()
        optimizer = adamw(model)
        return model, optimizer, attach(model, optimizer, **{"method": GATES, "density": None, **settings})

    return new


Run = Callable[..., tuple[Stack, torch.optim.Optimizer, Pruner]]


def held(model: nn.Module) -> dict[str, Tensor]:
    """Copies the parameters, without asking for a state dict."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def drawn(pruner: Pruner) -> dict[str, Tensor]:
    """The gates for this step's forward passes, by their definition."""
    return {
        name: drawn_gate(score, uniform(score.numel(), 92, pruner.step, place).view_as(score))
        for place, (name, score) in enumerate(scores(pruner).items())
    }


def quiet(pruner: Pruner) -> dict[str, Tensor]:
    """The gates without noise, by their definition."""
    return {name: quiet_gate(score.flatten()).view_as(score) for name, score in scores(pruner).items()}


def assert_gated(pruner: Pruner, gates: dict[str, Tensor], tensors: dict[str, Tensor] | None = None) -> None:
    """Asserts that the parameters, or other tensors, are the dense weights times these gates, with +0.0 where closed."""
    for name, weight in dense(pruner).items():
        tensor = (tensors or held(pruner._masked.model))[name]
        assert torch.allclose(tensor, weight * gates[name], rtol=1e-13, atol=0)
        assert torch.equal(tensor == 0, gates[name] == 0)
        assert not tensor[gates[name] == 0].signbit().any()


def density_of(gates: dict[str, Tensor]) -> float:
    return sum(int((gate > 0).sum()) for gate in gates.values()) / sum(gate.numel() for gate in gates.values())


# Drawn once a step.


def test_the_gates_are_drawn_once_a_step(run: Run) -> None:
    model, optimizer, pruner = run()
    seen = []
    for batch in BATCHES[:8]:
        assert_gated(pruner, quiet(pruner))
        first = loss_of(model, batch)
        assert_gated(pruner, drawn(pruner))
        seen.append({name: gate.clone() for name, gate in masks(pruner).items()})
        assert torch.equal(loss_of(model, batch), first)
        assert_gated(pruner, drawn(pruner))
        first.backward()
        optimizer.step()
        optimizer.zero_grad()
    for before, after in pairwise(seen):
        assert min(float((before[name] - after[name]).abs().mean()) for name in before) > 0.1
    assert 0.1 < density_of(quiet(pruner)) < 0.9


def test_another_seed_draws_other_gates(attach: Attach) -> None:
    gates = []
    for seed in (1, 1, 2):
        torch.manual_seed(92)
        model = Stack()
        torch.manual_seed(seed)
        pruner = attach(model, adamw(model), method=L0(penalty=5.0), density=None)
        loss_of(model, BATCHES[0])
        gates.append(masks(pruner))
    assert differences(gates[0], gates[1]) == []
    assert len(differences(gates[0], gates[2])) == 4


def test_drawing_leaves_the_random_stream_alone(run: Run) -> None:
    model, optimizer, _ = run()
    before = torch.get_rng_state()
    train(model, optimizer, BATCHES[:2])
    assert torch.equal(torch.get_rng_state(), before)


def test_the_matrices_of_two_rules_have_noise_of_their_own(run: Run) -> None:
    model, _, pruner = run(rules=[Rule(["down"], method=L0(penalty=1.0))])
    loss_of(model, BATCHES[0])
    noise = [gate.flatten() for gate in masks(pruner).values()]
    assert len(noise) == 4
    assert len({tuple(gate.tolist()) for gate in noise}) == 4
    in_order = list(scores(pruner))
    assert in_order == ["blocks.0.up.weight", "blocks.1.up.weight", "blocks.0.down.weight", "blocks.1.down.weight"]
    assert_gated(pruner, drawn(pruner))


def test_a_step_is_taken_under_the_gates_of_its_forward_passes(run: Run) -> None:
    """Both gradients use the gate that was drawn, not the one between steps."""
    model, optimizer, pruner = run()
    train(model, optimizer, BATCHES[:4])
    loss_of(model, BATCHES[4]).backward()
    gates, weights = drawn(pruner), dense(pruner)
    gradients = {name: model.get_parameter(name).grad.clone() for name in weights}
    expected = {}
    for place, (name, score) in enumerate(scores(pruner).items()):
        score.requires_grad_()
        u = uniform(score.numel(), 92, pruner.step, place).view_as(score)
        (drawn_gate(score, u) * gradients[name] * weights[name]).sum().backward()
        expected[name] = score.grad
    seen = {}

    def watch(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        seen.update({name: model.get_parameter(name).grad.clone() for name in weights})

    before = {site.name: site.scores.tensors()["moments.exp_avg"].clone() for site in pruner._masked.sites}
    slopes = {name: (score + 2 / 3 * math.log(11)).sigmoid() for name, score in scores(pruner).items()}
    handle = optimizer.register_step_pre_hook(watch)
    optimizer.step()
    handle.remove()
    for site in pruner._masked.sites:
        penalty = 5.0 * (1 - (1 - 3 / 6) ** 3) / (4 * 96) * slopes[site.name] * (1 - slopes[site.name])
        moment = 0.9 * before[site.name] + 0.1 * (expected[site.name] + penalty)
        assert torch.allclose(site.scores.tensors()["moments.exp_avg"], moment, rtol=1e-10, atol=1e-16)
        assert torch.allclose(seen[site.name], gradients[site.name] * gates[site.name], rtol=1e-13, atol=0)


# Evaluating, saving and counting see no noise.


def test_a_saved_model_is_without_noise(tmp_path: Path) -> None:
    model = tiny_bert()
    optimizer = adamw(model)
    batches = bert_batches(10)
    with Pruner(model, optimizer, config(method=L0(penalty=20.0, score_lr=0.8), density=None), total_steps=10) as pruner:
        train(model, optimizer, batches[:8])
        model.save_pretrained(tmp_path / "middle")
        between = model.eval()(**batches[0]).loss
        model.train()
        train(model, optimizer, batches[8:])
        model.save_pretrained(tmp_path / "end")
    for name, expected in (("middle", between), ("end", model.eval()(**batches[0]).loss)):
        loaded = BertForSequenceClassification.from_pretrained(tmp_path / name)
        assert torch.equal(loaded(**batches[0]).loss, expected)
    saved = load_file(tmp_path / "end" / "model.safetensors")
    zeros = {name: saved[name] == 0 for name in pruner.names}
    gates = quiet(pruner)
    assert all(torch.equal(zeros[name], gates[name] == 0) for name in zeros)
    assert not any(saved[name][zeros[name]].signbit().any() for name in zeros)
    originals = torch.cat([dense(pruner)[name][zeros[name]] for name in zeros])
    assert (originals < 0).any(), "a negative weight must be among them"
    assert 0.1 < inspect_model(loaded, pruner.names).density == pruner.density() < 0.9


@pytest.mark.parametrize("look", ["state_dict", "save", "evaluate", "inference", "density"])
def test_looking_in_the_middle_of_a_step_sees_no_noise_and_changes_nothing(run: Run, look: str, tmp_path: Path) -> None:
    """Between two batches of an accumulation, and between the last one and the step."""
    results = []
    for looks in (False, True):
        model, optimizer, pruner = run()
        for first, second in zip(BATCHES[:8:2], BATCHES[1:8:2], strict=True):
            for batch in (first, second):
                loss_of(model, batch).backward()
                if not looks:
                    continue
                gates = quiet(pruner)
                if look in ("state_dict", "save"):
                    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
                    assert_gated(pruner, gates, tensors)
                elif look in ("evaluate", "inference"):
                    without = Stack()
                    without.load_state_dict(held(model) | {name: dense(pruner)[name] * gate for name, gate in gates.items()})
                    model.eval()
                    with torch.no_grad() if look == "evaluate" else torch.inference_mode():
                        assert torch.equal(loss_of(model, BATCHES[9]), loss_of(without.eval(), BATCHES[9]))
                    assert_gated(pruner, gates)
                    model.train()
                if look == "save":
                    pruner.save(tmp_path)
                    again = Stack()
                    again.load_state_dict(tensors)
                    optimizer_of_it = adamw(again)
                    with Pruner(again, optimizer_of_it, pruner.config, total_steps=10) as other:
                        other.load(tmp_path)
                        assert other.step == pruner.step
                        other.detach()
                        other._masked.step = 10
                assert pruner.density() == density_of(gates)
            optimizer.step()
            optimizer.zero_grad()
            assert pruner.density() == density_of(quiet(pruner))
        results.append(everything(pruner))
    assert differences(*results) == []
    assert density_of(quiet(pruner)) < 1.0


def test_the_density_is_without_noise_at_any_moment(run: Run) -> None:
    model, optimizer, pruner = run()
    noisy = []
    for batch in BATCHES[:10]:
        expected = density_of(quiet(pruner))
        assert pruner.density() == pruner.statistics()["density"] == expected
        loss = loss_of(model, batch)
        assert pruner.density() == pruner.statistics()["density"] == expected
        noisy.append(density_of(masks(pruner)) != expected)
        loss.backward()
        assert pruner.density() == expected
        optimizer.step()
        optimizer.zero_grad()
    assert all(noisy)
    assert pruner.density() < 0.8


def test_a_part_of_each_matrix_is_kept_in_any_case() -> None:
    model = Stack(width=20, inner=30)
    optimizer = adamw(model)
    batches = stack_batches(10, width=20)
    with Pruner(model, optimizer, config(method=L0(penalty=1e5, score_lr=2.0), density=None), total_steps=10) as pruner:
        train(model, optimizer, batches)
    assert all((score < -2.4).all() for score in scores(pruner).values())  # every gate would be closed
    for name, score in scores(pruner).items():
        kept = model.get_parameter(name) != 0
        assert int(kept.sum()) == 4  # floor(0.005 * 600) + 1
        assert score[kept].min() >= score[~kept].max()
    assert_gated(pruner, quiet(pruner))
    assert pruner.density() == 16 / 2400


def test_a_forward_pass_without_gradients_is_under_the_gates_of_its_step(run: Run) -> None:
    results = []
    for looks in (False, True):
        model, optimizer, pruner = run()
        for batch in BATCHES[:6]:
            if looks:
                with torch.inference_mode():
                    loss_of(model, BATCHES[9])
                assert_gated(pruner, drawn(pruner))
            train(model, optimizer, [batch])
        results.append(everything(pruner))
    assert differences(*results) == []


# What is refused.


class Wrapped(nn.Module):
    """Calls a stack by its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = Stack()

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        for block in self.stack.blocks:
            features = block(features)
        return nn.functional.cross_entropy(self.stack.head(features), labels)


NOT_DRAWN = "The forward pass of this step did not sample L0's gates.*Call model.train"


def test_a_forward_pass_of_the_parts_alone_is_refused_with_nothing_changed(attach: Attach) -> None:
    whole = Wrapped()
    optimizer = adamw(whole)
    pruner = attach(whole.stack, optimizer, method=GATES, density=None)
    for _ in range(2):
        loss_of(whole, BATCHES[0]).backward()
        before = everything(pruner)
        with pytest.raises(TrainingError, match=NOT_DRAWN):
            optimizer.step()
        assert differences(before, everything(pruner)) == []
        optimizer.zero_grad()
        train(whole.stack, optimizer, BATCHES[:1])  # and the next one, by the model itself, is taken
    assert pruner.step == 2


def test_training_in_evaluation_mode_is_refused_with_nothing_changed(run: Run) -> None:
    model, optimizer, pruner = run(max_grad_norm=1.0)
    train(model, optimizer, BATCHES[:4])
    model.eval()
    loss_of(model, BATCHES[4]).backward()
    before = everything(pruner)
    with pytest.raises(TrainingError, match=NOT_DRAWN):
        optimizer.step()
    assert differences(before, everything(pruner)) == []
    optimizer.zero_grad()
    train(model.train(), optimizer, BATCHES[4:10])
    assert pruner.step == 10


def test_gradients_of_before_a_load_are_refused(run: Run, tmp_path: Path) -> None:
    model, optimizer, pruner = run()
    train(model, optimizer, BATCHES[:4])
    pruner.save(tmp_path)
    loss_of(model, BATCHES[4]).backward()
    model.state_dict()  # lets the parameters hold what was saved
    pruner.load(tmp_path)
    with pytest.raises(TrainingError, match=NOT_DRAWN):
        optimizer.step()
    assert pruner.step == 4


def reload(model: Stack) -> None:
    torch.manual_seed(1)
    model.load_state_dict(Stack().state_dict())


def fill(model: Stack) -> None:
    model.blocks[0].up.weight.data.fill_(1.0)


@pytest.mark.parametrize("change", [reload, fill])
def test_weights_changed_between_steps_are_not_overwritten_by_a_forward_pass(run: Run, change: Callable[[Stack], None]) -> None:
    model, optimizer, _ = run()
    train(model, optimizer, BATCHES[:3])
    mine = held(model)
    change(model)
    theirs = held(model)
    loss_of(model.eval(), BATCHES[3])
    with pytest.raises(
        TrainingError, match=r"Something other than the optimizer changed blocks\.0\.up\.weight.* between two steps"
    ):
        loss_of(model.train(), BATCHES[3])
    assert differences(theirs, held(model)) == []
    model.load_state_dict(mine)
    train(model, optimizer, BATCHES[3:10])


def test_weights_swapped_in_during_a_step_are_left_alone(run: Run) -> None:
    """An average is evaluated between two batches of an accumulation."""
    results = []
    for swaps in (False, True):
        model, optimizer, pruner = run()
        train(model, optimizer, BATCHES[:4])
        loss_of(model, BATCHES[4]).backward()
        if swaps:
            mine = held(model)
            reload(model)
            theirs = held(model)
            loss_of(model.eval(), BATCHES[6])
            model.state_dict()
            assert differences(theirs, held(model)) == []
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.copy_(mine[name])
            model.train()
        loss_of(model, BATCHES[5]).backward()
        optimizer.step()
        optimizer.zero_grad()
        results.append(everything(pruner))
    assert differences(*results) == []


def test_weights_loaded_before_the_end_stay(run: Run) -> None:
    model, optimizer, pruner = run()
    train(model, optimizer, BATCHES[:9])
    loss_of(model, BATCHES[9])
    reload(model)
    theirs = held(model)
    pruner.close()
    assert differences(theirs, held(model)) == []


# The hooks.


def hooks(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    of_model = len(model._forward_pre_hooks) + len(model._state_dict_pre_hooks)
    return of_model + len(optimizer._optimizer_step_pre_hooks) + len(optimizer._optimizer_step_post_hooks)


def test_the_hooks_go_at_the_end(run: Run) -> None:
    model, optimizer, pruner = run()
    assert hooks(model, optimizer) == 4
    train(model, optimizer, BATCHES[:10])
    pruner.close()
    assert hooks(model, optimizer) == 0
    before = held(model)
    loss_of(model.train(), BATCHES[0])
    assert differences(before, held(model)) == []


@pytest.mark.parametrize("end", ["close", "detach", "error"])
@pytest.mark.parametrize("backward", [False, True])
def test_an_end_between_forward_and_step_leaves_no_noise(run: Run, end: str, backward: bool) -> None:
    model, optimizer, pruner = run()
    train(model, optimizer, BATCHES[:8])
    loss = loss_of(model, BATCHES[8])
    if backward:
        loss.backward()
    assert_gated(pruner, drawn(pruner))
    if end == "error":
        with pytest.raises(KeyError), pruner:
            raise KeyError
    else:
        getattr(pruner, end)()
    assert hooks(model, optimizer) == 0
    assert_gated(pruner, quiet(pruner))
    assert pruner.density() == density_of(quiet(pruner)) == inspect_model(model, pruner.names).density < 0.9


class Failing(torch.optim.SGD):
    """Runs out of memory in its eighth step, when some weights have been changed."""

    steps = 0

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        self.steps += 1
        for number, parameter in enumerate(self.param_groups[0]["params"]):
            if (self.steps, number) == (8, 3):
                raise MemoryError("in the middle of a step")
            parameter.sub_(parameter.grad, alpha=0.1)


def test_a_step_that_breaks_off_leaves_a_pruned_model_without_noise(attach: Attach) -> None:
    """Also where a rule prunes by another method."""
    model = Stack()
    optimizer = Failing(model.parameters(), lr=0.1)
    rules = [Rule(["down"], method=Movement(), density=0.3)]
    pruner = attach(model, optimizer, method=GATES, density=None, rules=rules, schedule=CubicSchedule(0, 3))
    with pytest.raises(MemoryError), pruner:
        train(model, optimizer, BATCHES[:8])
    assert pruner.step == 7
    for number in (0, 1):
        assert int(model.blocks[number].down.weight.count_nonzero()) == 28  # floor(0.3 * 96)
        up = f"blocks.{number}.up.weight"
        gate = quiet_gate(scores(pruner)[up].flatten()).view(12, 8)
        assert torch.allclose(model.get_parameter(up), dense(pruner)[up] * gate, rtol=1e-13, atol=0)
    assert pruner.density() == inspect_model(model, pruner.names).density


def test_a_copy_of_the_model_leaves_it_alone(run: Run) -> None:
    """A deep copy has the hooks, too."""
    results = []
    for copies in (False, True):
        model, optimizer, pruner = run()
        train(model, optimizer, BATCHES[:6])
        if copies:
            teacher = copy.deepcopy(model)
            before, of_teacher = held(model), held(teacher)
            loss_of(teacher, BATCHES[7])
            assert differences(before, held(model)) == []
        loss = loss_of(model, BATCHES[6])
        if copies:
            loss_of(teacher.eval(), BATCHES[6])
            teacher.state_dict()
            assert differences(of_teacher, held(teacher)) == []
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        results.append(everything(pruner))
    assert differences(*results) == []


# Compilation, scalers, checkpointing, lower precision.


def test_a_compiled_model_is_compiled_once(attach: Attach) -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    results = []
    for compiled in (False, True):
        torch.manual_seed(3)
        model = tiny_bert(problem_type="single_label_classification")
        optimizer = adamw(model)
        runner = torch.compile(model, backend=backend) if compiled else model
        pruner = attach(runner, optimizer, method=GATES, density=None)
        train(runner, optimizer, bert_batches(10))
        results.append(everything(pruner))
    assert len(graphs) == 1
    assert differences(*results) == []
    assert pruner.density() < 0.9


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_a_step_skipped_by_the_scaler_keeps_its_gates(attach: Attach, fused: bool) -> None:
    """The batch after an overflow runs under the same gates, and the run equals one without the bad batch bit for bit."""
    batches = [{"features": b["features"].float(), "labels": b["labels"]} for b in BATCHES[:11]]
    model = Stack().float()
    twin = copy.deepcopy(model)
    optimizer = adamw(model, fused=fused)
    pruner = attach(model, optimizer, method=GATES, density=None)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for number, batch in enumerate(batches):
        scaler.scale(loss_of(model, batch)).backward()
        if number == 6:
            model.blocks[1].up.weight.grad[0, 0] = math.inf
        gates = masks(pruner)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if number == 6:
            assert pruner.step == 6
            assert differences(gates, masks(pruner)) == []
            saved = model.state_dict()  # Trainer saves after a skipped step, too
            assert all(torch.equal(saved[name] == 0, gate == 0) for name, gate in quiet(pruner).items())
            loss_of(model, batch)
            assert differences(gates, masks(pruner)) == []
    assert pruner.step == 10

    plain = adamw(twin, fused=fused)
    other = attach(twin, plain, method=GATES, density=None)
    train(twin, plain, batches[:6] + batches[7:])
    assert differences(everything(pruner), everything(other)) == []
    assert pruner.density() < 0.8


def test_gradient_checkpointing_and_lower_precision(attach: Attach) -> None:
    results = []
    for checkpointing in (False, True):
        torch.manual_seed(3)
        model = tiny_bert(dropout=0.1).to(torch.bfloat16)
        if checkpointing:
            model.activation_checkpointing_enable()
        optimizer = adamw(model)
        pruner = attach(model, optimizer, method=GATES, density=None)
        train(model, optimizer, bert_batches(10))
        results.append(everything(pruner))
    assert differences(*results) == []
    assert {score.dtype for score in scores(pruner).values()} == {torch.float32}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert inspect_model(model, pruner.names).density == pruner.density() < 0.9


# Resuming.

METHODS = {
    "L0 by its penalty": (L0(penalty=20.0, score_lr=0.8), None),
    "L0 to a density": (L0(init=Uniform(3.0), score_lr=0.8), 0.3),
    "soft movement by its penalty": (SoftMovement(penalty=20.0, score_lr=0.4), None),
    "soft movement to a density": (SoftMovement(score_lr=0.4), 0.3),
}


@pytest.mark.parametrize("cut", [1, 7])
@pytest.mark.parametrize("name", METHODS)
def test_resuming_is_exact(attach: Attach, name: str, cut: int, tmp_path: Path) -> None:
    method, density = METHODS[name]
    batches, model = bert_batches(12), tiny_bert(dropout=0.1)

    def attached(model: nn.Module) -> tuple[torch.optim.Optimizer, Any, Pruner]:
        optimizer = adamw(model)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 24)
        return optimizer, scheduler, attach(model, optimizer, total_steps=12, method=method, density=density, max_grad_norm=1.0)

    def go(model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any, batches: list[dict[str, Tensor]]) -> None:
        for batch in batches:
            train(model, optimizer, [batch])
            scheduler.step()

    optimizer, scheduler, pruner = attached(model)
    go(model, optimizer, scheduler, batches[:cut])
    model.save_pretrained(tmp_path)
    pruner.save(tmp_path)
    rest = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict())), torch.get_rng_state()
    go(model, optimizer, scheduler, batches[cut:])
    whole, controllers = everything(pruner), [part.controller for part in pruner._masked.pools]

    torch.manual_seed(1234)  # another process would not know the first one's seed
    again = BertForSequenceClassification.from_pretrained(tmp_path).train()
    optimizer, scheduler, resumed = attached(again)
    (optimizer_state, scheduler_state), stream = rest
    optimizer.load_state_dict(optimizer_state)
    scheduler.load_state_dict(scheduler_state)
    resumed.load(tmp_path)
    assert resumed.step == cut
    torch.set_rng_state(stream)
    go(again, optimizer, scheduler, batches[cut:])
    assert differences(whole, everything(resumed)) == []
    assert [part.controller for part in resumed._masked.pools] == controllers
    if density is not None:
        assert controllers[0].penalty != 0
    assert 0 < resumed.density() < 0.9


@pytest.mark.parametrize("name", ["L0 to a density", "soft movement to a density"])
def test_resuming_takes_up_the_controller(attach: Attach, name: str, tmp_path: Path) -> None:
    """In its late phase, where its integral is at work."""
    method, density = METHODS[name]
    batches = stack_batches(100)
    model = Stack()
    optimizer = adamw(model)
    pruner = attach(model, optimizer, total_steps=100, method=method, density=density)
    train(model, optimizer, batches[:80])
    integral = pruner._masked.pools[0].controller.integral
    again, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    pruner.save(tmp_path)
    train(model, optimizer, batches[80:])
    assert integral != 0
    assert pruner._masked.pools[0].controller.integral != integral

    fresh = Stack()
    fresh.load_state_dict(again)
    optimizer = adamw(fresh)
    resumed = attach(fresh, optimizer, total_steps=100, method=method, density=density)
    optimizer.load_state_dict(state)
    resumed.load(tmp_path)
    train(fresh, optimizer, batches[80:])
    assert differences(everything(pruner), everything(resumed)) == []
    assert resumed._masked.pools[0].controller == pruner._masked.pools[0].controller


def test_the_same_step_of_the_same_seed_draws_the_same_gates_after_resuming(run: Run, tmp_path: Path) -> None:
    model, optimizer, pruner = run()
    train(model, optimizer, BATCHES[:5])
    saved = copy.deepcopy(model.state_dict())
    pruner.save(tmp_path)
    loss = loss_of(model, BATCHES[5]).detach()
    gates = masks(pruner)

    torch.manual_seed(1234)
    again = Stack()
    again.load_state_dict(saved)
    with Pruner(again, adamw(again), pruner.config, total_steps=10) as resumed:
        loss_of(again, BATCHES[5])  # a forward pass before the load changes nothing
        again.load_state_dict(saved)
        resumed.load(tmp_path)
        assert_gated(resumed, quiet(resumed))
        assert torch.equal(loss_of(again, BATCHES[5]), loss)
        assert differences(masks(resumed), gates) == []
        resumed._masked.step = 10  # so that its end is no error


# Trainer.


class Watch(TrainerCallback):
    """Counts the gates that each batch runs under, and looks at what is held when Trainer evaluates and saves."""

    def __init__(self) -> None:
        self.gates: list[tuple[int, Tensor]] = []
        self.quiet: list[bool] = []
        self.pruning: PruningCallback | None = None

    def watch(self, module: nn.Module, args: object) -> None:
        pruner = self.pruning.pruner
        if module.training:
            self.gates.append((pruner.step, torch.cat([gate.flatten() for gate in masks(pruner).values()])))
        else:
            self.quiet.append(self.is_quiet(pruner))

    def is_quiet(self, pruner: Pruner) -> bool:
        parameters, gates = held(pruner._masked.model), quiet(pruner)
        return all(torch.equal(parameters[name], weight * gates[name]) for name, weight in dense(pruner).items())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.quiet.append(self.is_quiet(self.pruning.pruner))


def gated_trainer(folder: Path) -> tuple[Any, Watch, PruningCallback]:
    watch = Watch()
    made = trainer(
        folder,
        watch,
        gradient_accumulation_steps=2,
        eval_strategy="steps",
        eval_steps=6,
        per_device_train_batch_size=2,
        save_total_limit=None,
    )
    watch.pruning = next(each for each in made.callback_handler.callbacks if isinstance(each, PruningCallback))
    watch.pruning.config = config(method=L0(penalty=30.0, score_lr=0.5), density=None)
    made.model.bert.embeddings.register_forward_pre_hook(lambda _, args: watch.watch(made.model, args))
    return made, watch, watch.pruning


@pytest.fixture
def _own_accelerate() -> Iterator[None]:
    """Trainer leaves Accelerate in the middle of an epoch when it stops."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.mark.usefixtures("_own_accelerate")
def test_trainer_with_accumulation(tmp_path: Path) -> None:
    made, watch, callback = gated_trainer(tmp_path)
    made.train()
    assert [step for step, _ in watch.gates] == [step for step in range(STEPS) for _ in range(2)]
    pairs = [gates for _, gates in watch.gates]
    assert all(torch.equal(first, second) for first, second in zip(pairs[::2], pairs[1::2], strict=True))
    assert all((first - second).abs().mean() > 0.1 for first, second in zip(pairs[::2], pairs[2::2], strict=False))
    assert len(watch.quiet) == STEPS + 4  # each step's end, and a batch in each evaluation
    assert all(watch.quiet)
    logged = {entry["step"]: entry["density"] for entry in made.state.log_history if "density" in entry}
    evaluated = {entry["step"]: entry["eval_density"] for entry in made.state.log_history if "eval_density" in entry}
    assert list(evaluated) == [6, 12, 18, 24]
    for step, density in evaluated.items():
        saved = BertForSequenceClassification.from_pretrained(tmp_path / f"checkpoint-{step}")
        assert inspect_model(saved, callback.pruner.names).density == logged[step] == density
    assert 0.05 < callback.summary.density < 0.9

    again, _, resumed = gated_trainer(tmp_path)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-12"))
    assert differences(everything(callback.pruner), everything(resumed.pruner)) == []
    assert not again.model._forward_pre_hooks


def test_a_summary_in_the_middle_of_a_step_has_no_noise(attach: Callable[..., Pruner]) -> None:
    model = Stack(width=32, inner=64)
    optimizer = adamw(model)
    pruner = attach(model, optimizer, method=L0(init=Uniform(1.0)))
    loss_of(model, stack_batches(1, width=32)[0]).backward()
    assert any(bool((site.mask == 0).any()) for site in pruner._masked.sites), "the draw closes some gates"
    assert pruner.summary().density == pruner.density() == 1.0
    optimizer.step()
