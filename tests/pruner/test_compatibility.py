"""Optimizers and trainers that cannot be pruned around are refused, with nothing changed."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import schedulefree
import torch
import torch.distributed
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

from conftest import Stack, adamw, config, loss_of, stack_batches, train
from fineprune import CubicSchedule, InvalidInputError, Magnitude, Pruner, TrainingError
from fineprune.pruner import compatibility


def refuse(model: nn.Module, optimizer: Any, message: str, **settings: object) -> None:
    """Asserts that a pruner is refused in these words, and leaves no hook and no changed weight behind."""
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        Pruner(model, optimizer, config(**settings), total_steps=10)
    if isinstance(optimizer, torch.optim.Optimizer):
        assert not optimizer._optimizer_step_pre_hooks
        assert not optimizer._optimizer_step_post_hooks
    assert all(torch.equal(parameter, old) for parameter, old in zip(model.parameters(), before, strict=True))


@pytest.fixture
def one_process() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_what_is_no_optimizer() -> None:
    refuse(Stack(), None, "optimizer must be a torch.optim.Optimizer, got NoneType")
    refuse(Stack(), "adamw", "must be a torch.optim.Optimizer")


@pytest.mark.parametrize("kind", [schedulefree.AdamWScheduleFree, schedulefree.SGDScheduleFree])
def test_schedule_free(kind: type[torch.optim.Optimizer]) -> None:
    model = Stack()
    refuse(model, kind(model.parameters(), lr=1e-3), f"{kind.__name__} is a schedule-free optimizer")


def test_lbfgs() -> None:
    model = Stack()
    refuse(model, torch.optim.LBFGS(model.parameters()), "LBFGS needs a closure")


def test_an_optimizer_in_backward() -> None:
    model = Stack()
    model.blocks[0].up.weight.register_post_accumulate_grad_hook(lambda parameter: None)
    refuse(model, adamw(model), "blocks.0.up.weight has a hook that takes its gradient during backward")


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, while the import below runs
def test_an_optimizer_in_backward_of_pytorch() -> None:
    from torch.distributed.optim import _apply_optimizer_in_backward

    model = Stack()
    _apply_optimizer_in_backward(torch.optim.SGD, model.parameters(), {"lr": 0.1})
    refuse(model, adamw(model), "an optimizer in backward")


@pytest.mark.usefixtures("one_process")
@pytest.mark.filterwarnings("ignore:FSDP is switching to use `NO_SHARD`")  # with one process
def test_fsdp_of_the_first_kind() -> None:
    model = FullyShardedDataParallel(Stack(), device_id=torch.device("cpu"))
    refuse(model, adamw(model), "FSDP1 flattens the weights")
    model = Stack()
    model.blocks[0] = FullyShardedDataParallel(model.blocks[0], device_id=torch.device("cpu"))
    refuse(model, adamw(model), "FSDP1 flattens the weights")


@pytest.mark.usefixtures("one_process")
def test_fsdp_of_the_second_kind_before_the_pruner() -> None:
    torch.manual_seed(1)
    model = Stack()
    torch.manual_seed(1)
    twin = Stack()
    fully_shard(model, mesh=torch.distributed.init_device_mesh("cpu", (1,)))
    for module in (model, twin):
        optimizer = adamw(module)
        with Pruner(module, optimizer, config(), total_steps=10):
            train(module, optimizer, stack_batches(10))
    assert all(torch.equal(a.to_local(), b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


@pytest.mark.usefixtures("one_process")
def test_fsdp_of_the_second_kind_after_the_pruner() -> None:
    model = Stack()
    optimizer = adamw(model)
    pruner = Pruner(model, optimizer, config(), total_steps=10)
    fully_shard(model, mesh=torch.distributed.init_device_mesh("cpu", (1,)))
    loss_of(model, stack_batches(1)[0]).backward()
    with pytest.raises(TrainingError, match=r"no longer the parameter .* shard \(fully_shard\)"):
        optimizer.step()
    pruner.detach()


@pytest.mark.usefixtures("one_process")
def test_tensor_parallel() -> None:
    model = Stack()
    mesh = torch.distributed.init_device_mesh("cpu", (1,))
    up = model.blocks[0].up
    up.weight = nn.Parameter(distribute_tensor(up.weight.detach(), mesh, [Shard(1)]))
    refuse(model, adamw(model), "blocks.0.up.weight is sharded as (Shard(dim=1),); only whole rows can be")


@pytest.mark.usefixtures("one_process")
def test_data_parallel_processes_are_fine() -> None:
    torch.manual_seed(1)
    model = Stack()
    torch.manual_seed(1)
    twin = Stack()
    for module in (nn.parallel.DistributedDataParallel(model), twin):
        optimizer = adamw(module)
        with Pruner(module, optimizer, config(), total_steps=10):
            train(module, optimizer, stack_batches(10))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_deepspeed() -> None:
    class DeepSpeedZeroOptimizer:
        """Like its own, no optimizer of PyTorch's."""

    class DeepSpeedOptimizerWrapper(torch.optim.SGD):
        """Like Accelerate's around it."""

    model = Stack()
    refuse(model, DeepSpeedZeroOptimizer(), "DeepSpeed keeps its own copies")
    refuse(model, DeepSpeedOptimizerWrapper(model.parameters()), "DeepSpeed keeps its own copies")
    model.blocks[1].up.weight.ds_id = 3
    refuse(model, adamw(model), "DeepSpeed keeps its own copies")


def test_a_closure() -> None:
    compatibility.check_no_closure((object(),), {})
    compatibility.check_no_closure((object(), None), {"closure": None})
    for args, kwargs in (((object(), len), {}), ((object(),), {"closure": len})):
        with pytest.raises(RuntimeError, match=r"optimizer\.step\(\) got a closure"):
            compatibility.check_no_closure(args, kwargs)


def test_weights_that_the_optimizer_does_not_train() -> None:
    model = Stack()
    optimizer = torch.optim.AdamW([*model.blocks[0].parameters(), model.blocks[1].up.weight])
    refuse(model, optimizer, "The optimizer does not train blocks.1.down.weight")
    refuse(model, adamw(Stack()), "The optimizer does not train blocks.0.up.weight, blocks.0.down.weight")


def test_several_devices() -> None:
    model = Stack()
    model.blocks[0].to("meta")
    with pytest.raises(InvalidInputError, match=r"lie on several devices \(cpu, meta\)"):
        Pruner(model, adamw(model), config(), total_steps=10)


def test_a_learning_rate_of_zero_without_a_scheduler() -> None:
    model = Stack()
    refuse(model, adamw(model, lr=0.0), "The learning rate of blocks.0.up.weight is 0.0")


@pytest.mark.parametrize("settings", [{}, {"lr": None}])
def test_an_optimizer_without_a_learning_rate(settings: dict[str, None]) -> None:
    class Own(torch.optim.Optimizer):
        """Chooses its steps itself."""

        def step(self, closure: None = None) -> None:
            pass

    model = Stack()
    optimizer = Own(model.parameters(), settings)
    refuse(model, optimizer, "The learning rate of blocks.0.up.weight is 0.0")
    Pruner(model, optimizer, config(method=Magnitude()), total_steps=10)  # has no scores that would follow a rate


@pytest.mark.parametrize("scope", ["local", "global"])
def test_a_density_that_keeps_nothing(scope: str) -> None:
    model = Stack()
    refuse(model, adamw(model), "would keep nothing of", density=1e-3, scope=scope)
    bound = {"local": 0.0105, "global": 0.00261}[scope]  # of 96 weights in each of 4 matrices, one is kept
    Pruner(model, adamw(model), config(density=bound, scope=scope), total_steps=10)
    refuse(model, adamw(model), f"Ask for at least {1 / {'local': 96, 'global': 384}[scope]:.3g}", density=1e-3, scope=scope)


def test_a_density_that_prunes_nothing() -> None:
    model = Stack()
    refuse(model, adamw(model), "density 1.0 would prune nothing", density=1.0)


def test_a_schedule_longer_than_the_run() -> None:
    model = Stack()
    refuse(
        model,
        adamw(model),
        "warmup and cooldown must be shorter than the run, which has 10 optimizer steps, got 7 and 3",
        schedule=CubicSchedule(7, 3),
    )


@pytest.mark.parametrize("total", [0, -1, 2.0, True, None, "10"])
def test_a_number_of_steps_is_asked_for(total: object) -> None:
    model = Stack()
    with pytest.raises(InvalidInputError, match="total_steps must be the number of optimizer steps, 1 or above, got"):
        Pruner(model, adamw(model), config(), total_steps=total)


@pytest.mark.parametrize("norm", [0, 0.0, -1.0, float("nan"), float("inf"), True, "1"])
def test_a_norm_above_zero_is_asked_for(norm: object) -> None:
    model = Stack()
    with pytest.raises(InvalidInputError, match="max_grad_norm must be a number above 0, or None, got"):
        Pruner(model, adamw(model), config(), total_steps=10, max_grad_norm=norm)
