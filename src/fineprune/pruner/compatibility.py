"""Which optimizers and trainers can be pruned around: those that touch parameters only in `step()`."""

import json
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..distributed import process_group
from ..distributed.coordinator import Coordinator
from ..distributed.process_group import ProcessGroup, local
from ..errors import InvalidInputError, TrainingError, enumeration

DEEPSPEED = "DeepSpeed keeps its own copies of the weights and cannot be pruned. Use DDP, FSDP2 (fully_shard) or one process."

FSDP1 = "FSDP1 flattens the weights and cannot be pruned. Use FSDP2 (fully_shard; Accelerate's fsdp_version: 2), or DDP."


def only_makes_state(optimizer: torch.optim.Optimizer, processes: ProcessGroup) -> bool:
    """Whether a step is no step: PyTorch's sharded checkpoints take one with a rate of 0 and gradients of 0, to let an
    optimizer make its state."""
    if optimizer.state or any(float(group.get("lr", 1.0)) for group in optimizer.param_groups):
        return False
    gradients = [parameter.grad for group in optimizer.param_groups for parameter in group["params"]]
    return not processes.any(any(gradient is not None and bool(local(gradient).any()) for gradient in gradients))


def check_same_run(coordinator: Coordinator, model: nn.Module, settings: Mapping[str, Any], total_steps: int) -> None:
    """Raises, on every rank, if ranks are to prune other models, by another config or over another number of steps."""
    shapes = {name: [str(parameter.dtype), *parameter.shape] for name, parameter in model.named_parameters()}
    known = {"config": settings, "total_steps": total_steps, "model": shapes}
    unlike = coordinator.unequal([zlib.crc32(json.dumps(fact).encode()) for fact in known.values()])
    names = [name for name, is_unlike in zip(known, unlike, strict=True) if is_unlike]
    if names:
        raise InvalidInputError(
            f"The ranks were given different values of {enumeration(names)} (total_steps is {total_steps} here). Every rank "
            "takes as many steps, of the same model, by the same config; with loaders of different lengths give the shortest."
        )


def check_no_closure(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raises if the arguments of `optimizer.step`, the optimizer itself first, hold a closure."""
    if any(argument is not None for argument in (*args[1:], kwargs.get("closure"))):  # args[0] is the optimizer
        raise TrainingError(
            "optimizer.step() was given a closure, which would run the model on its dense weights. Call backward() first, "
            "then step() without one."
        )


def unwrap_optimizer(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Returns the optimizer inside Accelerate's wrapper, which is an Optimizer without hooks."""
    accelerate = sys.modules.get("accelerate.optimizer")  # loaded, if such a wrapper exists
    if accelerate is not None and type(optimizer) is accelerate.AcceleratedOptimizer:
        return unwrap_optimizer(vars(optimizer)["optimizer"])
    return optimizer


def check_supported(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Raises for trainers and optimizers that touch parameters elsewhere than in `step()`."""
    kind = type(optimizer)
    if any("deepspeed" in base.__module__ or "DeepSpeed" in base.__name__ for base in kind.__mro__):
        raise InvalidInputError(DEEPSPEED)  # its optimizers are not PyTorch's
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InvalidInputError(f"optimizer was given as {kind.__name__}; it takes a torch.optim.Optimizer.")
    if callable(getattr(kind, "eval", None)):
        raise InvalidInputError(
            f"{kind.__name__} is a schedule-free optimizer: it swaps the weights in eval(), where a pruner must hold them. "
            "Take one that changes parameters only in step(), such as AdamW."
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise InvalidInputError("LBFGS needs a closure, which would run the model on its dense weights. Take AdamW, say.")
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is not None and any(isinstance(module, fsdp.FullyShardedDataParallel) for module in model.modules()):
        raise InvalidInputError(FSDP1)


def check_parameters(parameters: Mapping[str, nn.Parameter]) -> None:
    """Raises for parameters that are sharded in other ways than by rows, or whose gradients are gone before `step()`."""
    devices = {str(parameter.device) for parameter in parameters.values()}
    if len(devices) > 1:
        raise InvalidInputError(
            f"The weights lie on several devices ({', '.join(sorted(devices))}), which is not supported. Put the model on "
            "one, or use DDP."
        )
    for name, parameter in parameters.items():
        if "ds_id" in vars(parameter):
            raise InvalidInputError(DEEPSPEED)
        if not process_group.in_rows(parameter):
            raise InvalidInputError(
                f"{name} is sharded as {parameter.placements}; only whole rows can be (FSDP2 without tensor parallelism, and "  # type: ignore[attr-defined]
                "its default placement). Shard with fully_shard alone."
            )
        if parameter._post_accumulate_grad_hooks or "_in_backward_optimizers" in vars(parameter):
            raise InvalidInputError(
                f"{name} has a hook that takes its gradient during backward (an optimizer in backward). The pruner needs the "
                "gradient at step(); take an ordinary optimizer."
            )
    if len({process_group.of(parameter) for parameter in parameters.values()}) > 1:
        raise InvalidInputError(
            "The weights to prune are shared out among several sets of processes, or some are and others are not. Shard all of "
            "them with fully_shard over one mesh, or leave some out with exclude_modules."
        )


def check_gradients(model: nn.Module, parameters: Sequence[nn.Parameter], step: int, processes: ProcessGroup) -> None:
    """Raises if a gradient is sparse, NaN or infinite, on every rank that shares the weights. One question to the device for
    all gradients.

    Args:
        model: whose names the message uses; other parameters get a number.
        parameters: those of the optimizer.
        step: about to be taken.
        processes: the processes among which the gradients are shared out.
    """
    gradients = [local(parameter.grad) for parameter in parameters if parameter.grad is not None]
    if any(_is_sparse(gradient) for gradient in gradients):
        raise TrainingError(
            f"The gradient of {enumeration(_names_of(model, parameters, _is_sparse))} is sparse; pruning takes dense ones (an "
            "Embedding's sparse=False)."
        )
    # NaN goes through aminmax, which is faster than asking each element (benchmarks/primitives.py).
    finite = [extreme.isfinite() for gradient in gradients if gradient.numel() for extreme in torch.aminmax(gradient)]
    whole = not finite or bool(torch.stack([answer.to(finite[0].device) for answer in finite]).all())
    if not processes.any(not whole):
        return
    broken = _names_of(model, parameters, lambda gradient: not gradient.isfinite().all())
    raise TrainingError(
        f"At step {step} the gradient is NaN or infinite in {enumeration(broken or ['what another rank holds'])}. Nothing was "
        "changed. Lower the "
        "learning rate, look for a division by zero in the loss, or use bf16 or a GradScaler instead of plain fp16."
    )


def _is_sparse(gradient: Tensor) -> bool:
    return gradient.layout != torch.strided


def _names_of(model: nn.Module, parameters: Sequence[nn.Parameter], wrong: Callable[[Tensor], bool]) -> list[str]:
    """The parameters whose gradient is wrong; those from outside the model get a number for a name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    held = [(names.get(id(p), f"parameter {n}"), local(p.grad)) for n, p in enumerate(parameters) if p.grad is not None]
    return [name for name, gradient in held if wrong(gradient)]
