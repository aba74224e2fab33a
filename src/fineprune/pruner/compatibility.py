"""Checks at attach: optimizers that touch parameters only in `step()`, shards, learning rates, budgets, equal runs."""

import json
import math
import sys
import zlib
from collections.abc import Container, Mapping
from typing import Any

import torch
from torch import nn

from ..config.config import PruningConfig
from ..core.pool import Pool
from ..core.weight import Weight
from ..distributed import process_group
from ..distributed.coordinator import Coordinator
from ..distributed.process_group import ProcessGroup
from ..errors import InvalidInputError, TrainingError, enumeration
from ..methods.base import LearnedMethod, Method
from ..methods.penalised import PenalisedScores, PenalisedWeights
from ..selection.counts import budget_of, least_of
from ..structures.base import Structure

DEEPSPEED = "DeepSpeed keeps its own copies of the weights and cannot be pruned. Use DDP, FSDP2 (fully_shard) or one process."

FSDP1 = "FSDP1 flattens the weights and cannot be pruned. Use FSDP2 (fully_shard; Accelerate's fsdp_version: 2), or DDP."


def check_same_run(coordinator: Coordinator, model: nn.Module, settings: Mapping[str, Any], total_steps: int) -> None:
    """Raises, on every rank, if ranks are to prune other models, by another config or over another number of steps."""
    shapes = {name: [str(parameter.dtype), *parameter.shape] for name, parameter in model.named_parameters()}
    known = {"config": settings, "total_steps": total_steps, "model": shapes}
    unlike = coordinator.unequal([zlib.crc32(json.dumps(fact).encode()) for fact in known.values()])
    names = [name for name, is_unlike in zip(known, unlike, strict=True) if is_unlike]
    if names:
        raise InvalidInputError(
            f"The ranks got different values of {enumeration(names)} (total_steps is {total_steps} here). Every rank "
            "takes as many steps, of the same model, by the same config; with loaders of different lengths give the shortest."
        )


def check_no_closure(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raises if the arguments of `optimizer.step`, the optimizer itself first, hold a closure."""
    if any(argument is not None for argument in (*args[1:], kwargs.get("closure"))):  # args[0] is the optimizer
        raise TrainingError(
            "optimizer.step() got a closure, which would run the model on its dense weights. Call backward() first, "
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
        raise InvalidInputError(f"optimizer must be a torch.optim.Optimizer, got {kind.__name__}.")
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
            "The weights to prune are sharded over several sets of processes, or only some of them are. Shard all of them "
            "with fully_shard over one mesh, or leave some out with exclude_modules."
        )


Groups = Mapping[int, Mapping[str, Any]]
"""The optimizer's parameter group of each parameter, by the parameter's id."""


def base_rate(group: Mapping[str, Any]) -> float:
    """Returns the weights' learning rate before any scheduling; 0 where the optimizer has none."""
    rate = group.get("initial_lr", group.get("lr"))
    return 0.0 if rate is None else float(rate)


def check_pool(
    config: PruningConfig,
    parameters: Mapping[str, nn.Parameter],
    groups: Groups,
    processes: ProcessGroup,
    earlier: Container[str],
) -> None:
    """Raises if the settings of a pool do not fit its parameters.

    Args:
        config: the settings.
        parameters: those of the pool, by name.
        groups: the optimizer's.
        processes: those over which the parameters are sharded.
        earlier: names of parameters in earlier pools.
    """
    if processes.size > 1 and not config.scores.shards:
        raise InvalidInputError(
            f"The weights are sharded over {processes.size} processes, and {config.scores} would hold B on all and A on each. "
            "Take BFloat16Scores() or FullScores(), or train with DDP."
        )
    _check_trained(parameters, groups)
    _check_learning_rates(parameters, groups, config.method)
    if config.structure.density() is not None and any(name in earlier for name in parameters):
        raise InvalidInputError(
            f"{config.structure} counts neighbours in whole rows, and a rule before it takes some out. Choose another "
            "structure for the rest, as Unstructured()."
        )


def _check_trained(parameters: Mapping[str, nn.Parameter], groups: Groups) -> None:
    missing = [name for name, parameter in parameters.items() if id(parameter) not in groups]
    if missing:
        raise InvalidInputError(
            f"The optimizer does not train {enumeration(missing)}. Give it every parameter that is pruned, or leave those "
            "out with exclude_modules. Where the model is wrapped or moved, do that before making the optimizer."
        )


def _check_learning_rates(parameters: Mapping[str, nn.Parameter], groups: Groups, method: Method) -> None:
    """Raises for weights without a learning rate, where scores or a penalty follow it."""
    for name, parameter in parameters.items():
        rate = base_rate(groups[id(parameter)])
        learns = isinstance(method, LearnedMethod)
        if (learns or isinstance(method, PenalisedWeights)) and rate <= 0:
            following = "its scores" if learns else "its penalty"
            raise InvalidInputError(
                f"The learning rate of {name} is {rate}, so the rate of {following} cannot follow it. Give the "
                "optimizer a rate above 0, and make a warmup scheduler before the Pruner."
            )


def check_whole_groups(parameters: Mapping[str, nn.Parameter], grouping: Mapping[str, Structure], structure: Structure) -> None:
    """Raises where a group would lie on several processes: each must hold whole rows of the scores."""
    for name, grouped in grouping.items():
        parameter = parameters[name]
        processes, whole = process_group.of(parameter), grouped.groups(parameter.shape)
        try:
            here = grouped.groups(process_group.local(parameter).shape)
        except InvalidInputError:
            here = torch.Size([0])
        own = here[0] if here[1:] == whole[1:] and len(grouping) == 1 else 0
        if processes.size > 1 and processes.totals([own]) != [whole[0]]:
            raise InvalidInputError(
                f"{name} is sharded over {processes.size} processes by rows, and groups of {structure} would lie on several "
                "of them (of a layer that keeps its weight transposed, as GPT-2's, all groups but single weights do). Take "
                "Unstructured(), or NofM(), Rows() or Blocks() whose rows divide those of each process; or train with DDP."
            )


def _check_costs(pool: Pool) -> None:
    """Raises if groups take nothing of the budget."""
    idle = [site.name for site in pool.sites if pool.cost(site) == 0]
    if idle:
        raise InvalidInputError(
            f"The groups of {enumeration(idle)} take no operations, which {pool.config.budget} counts. Count weights, with "
            "InWeights()."
        )


def check_budget(pool: Pool, surviving: Mapping[Weight, float]) -> None:
    """Raises if the final density keeps nothing of a matrix, or everything.

    Args:
        pool: to check.
        surviving: the fraction of a weight that earlier pools keep at their end; 1 for those not named.
    """
    _check_costs(pool)
    if pool.method.decides_density or pool.config.structure.density() is not None:
        return
    final = pool.config.values()[1]
    if final == 1:
        raise InvalidInputError("density 1.0 would prune nothing. Ask for less than 1, or train without a Pruner.")
    numbers = [int(site.groups * min(surviving.get(weight, 1.0) for weight in site.grouping)) for site in pool.sites]
    weights = sum(number * pool.cost(site) for number, site in zip(numbers, pool.sites, strict=True))
    counts = {site.name: (number, 1) for number, site in zip(numbers, pool.sites, strict=True)}
    if isinstance(pool.method, PenalisedScores):
        each = (least_of(number, pool.method.LEAST) * pool.cost(s) for number, s in zip(numbers, pool.sites, strict=True))
        least = sum(each)
        counts = {"a matrix, though at least 0.5 % of each and one more are to be kept": (weights, least)}
    elif pool.config.scope == "global":  # counts weights, and its best group may be one of the largest
        counts = {"all matrices": (weights, max(pool.cost(site) for site in pool.sites))}
    for name, (count, least) in counts.items():
        if budget_of(count, final) < least:
            enough = math.ceil(1e6 * least / max(count, 1)) / 1e6
            enough += 1e-6 * (budget_of(count, enough) < least)  # where rounding falls short
            raise InvalidInputError(
                f"density {final} would keep nothing of {name}: {final} of {count:,} is less than {least:,}. Ask for at "
                f"least {enough:.6g}, or leave some out with exclude_modules."
            )
