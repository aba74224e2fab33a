"""Which optimisers and trainers can be pruned around: those that touch parameters only in `step()`."""

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .errors import InvalidInputError, TrainingError

DEEPSPEED = "DeepSpeed keeps its own copies of the weights and cannot be pruned. Use DDP or one process."


def refuse_closure(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raises if the arguments of `optimizer.step`, the optimiser itself first, hold a closure."""
    if any(argument is not None for argument in (*args[1:], kwargs.get("closure"))):  # args[0] is the optimiser
        raise TrainingError(
            "optimizer.step() was given a closure, which would run the model on its dense weights. Call backward() first, "
            "then step() without one."
        )


def unwrap_optimizer(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Returns the optimiser inside Accelerate's wrapper, which is an Optimizer without hooks."""
    accelerate = sys.modules.get("accelerate.optimizer")  # loaded, if such a wrapper exists
    if accelerate is not None and type(optimizer) is accelerate.AcceleratedOptimizer:
        return unwrap_optimizer(vars(optimizer)["optimizer"])
    return optimizer


def shared_seed() -> int:
    """Returns PyTorch's seed, that of rank 0 on every rank. It is read, not drawn: the random stream stays as it is."""
    seed = [torch.initial_seed()]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(seed)
    return seed[0]


def refuse_unsupported(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Raises for trainers and optimisers that touch parameters elsewhere than in `step()`."""
    kind = type(optimizer)
    if any("deepspeed" in base.__module__ or "DeepSpeed" in base.__name__ for base in kind.__mro__):
        raise InvalidInputError(DEEPSPEED)  # its optimisers are not PyTorch's
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InvalidInputError(f"optimizer was given as {kind.__name__}; it takes a torch.optim.Optimizer.")
    if callable(getattr(kind, "eval", None)):
        raise InvalidInputError(
            f"{kind.__name__} is a schedule-free optimiser: it swaps the weights in eval(), where a pruner must hold them. "
            "Take one that changes parameters only in step(), such as AdamW."
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise InvalidInputError("LBFGS needs a closure, which would run the model on its dense weights. Take AdamW, say.")
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is not None and any(isinstance(module, fsdp.FullyShardedDataParallel) for module in model.modules()):
        raise InvalidInputError("FSDP1 flattens the weights and cannot be pruned. Use DDP or one process.")


def refuse_unsupported_parameters(parameters: Mapping[str, nn.Parameter]) -> None:
    """Raises for parameters that are sharded over processes, or whose gradients are gone before `step()`."""
    devices = {str(parameter.device) for parameter in parameters.values()}
    if len(devices) > 1:
        raise InvalidInputError(
            f"The weights lie on several devices ({', '.join(sorted(devices))}), which is not supported. Put the model on "
            "one, or use DDP."
        )
    dtensor = sys.modules.get("torch.distributed.tensor")
    for name, parameter in parameters.items():
        if "ds_id" in vars(parameter):
            raise InvalidInputError(DEEPSPEED)
        if dtensor is not None and isinstance(parameter, dtensor.DTensor):
            raise InvalidInputError(f"{name} is sharded over processes, which is not supported yet. Use DDP or one process.")
        if parameter._post_accumulate_grad_hooks or "_in_backward_optimizers" in vars(parameter):
            raise InvalidInputError(
                f"{name} has a hook that takes its gradient during backward (an optimiser in backward). The pruner needs the "
                "gradient at step(); take an ordinary optimiser."
            )
