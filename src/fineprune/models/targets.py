"""Which parameters of a model are pruned: found by the model's structure, not by lists of names."""

import logging
import re
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from ..errors import InvalidInputError, enumeration, nearest
from .layers import has_prunable_weight, is_linear

logger = logging.getLogger(__name__)

Patterns = list[str] | str
"""The names of modules, or endings of names, in a list; or one regular expression for the whole name."""


def unwrap(model: nn.Module) -> nn.Module:
    """Returns the module inside DistributedDataParallel, DataParallel and torch.compile."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(model, torch._dynamo.OptimizedModule):
            model = model._orig_mod
        else:
            return model


def blocks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yields the transformer blocks: the modules in the outermost lists whose members hold linear layers.

    A list whose members are linear layers themselves (a small head, say) is not a list of blocks.
    """
    lists: list[str] = []
    for name, module in model.named_modules():
        if any(name.startswith(outer + ".") for outer in lists) or not isinstance(module, nn.ModuleList):
            continue
        members = [(f"{name}.{index}", member) for index, member in module.named_children()]
        members = [(inner, member) for inner, member in members if _holds_linear(member)]
        if members:
            lists.append(name)
            yield from members


def inside_blocks(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Returns those names, of modules or parameters, that lie inside the transformer blocks."""
    prefixes = tuple(f"{block}." for block, _ in blocks(model))
    return [name for name in names if name.startswith(prefixes)]


def _holds_linear(module: nn.Module) -> bool:
    return not is_linear(module) and any(is_linear(inner) for inner in module.modules())


def find(
    model: nn.Module, target_modules: Patterns | None = None, exclude_modules: Patterns | None = None
) -> dict[str, nn.Parameter]:
    """Finds the parameters to prune, in the model's order.

    Args:
        model: any module; wrappers of PyTorch are looked through.
        target_modules, exclude_modules: as in PruningConfig.

    Returns:
        Parameter name -> parameter. A parameter shared by several modules appears once, by its name in `named_parameters()`.

    Raises:
        InvalidInputError: if nothing matches, or a frozen parameter was named.
    """
    model = unwrap(model)
    modules = {name: module for name, module in model.named_modules() if has_prunable_weight(module) and module.weight.numel()}
    if target_modules is None:
        inside = [(f"{block}.{name}", inner) for block, member in blocks(model) for name, inner in member.named_modules()]
        chosen = [name for name, inner in inside if is_linear(inner) and name in modules]  # a shrunken one may be empty
    else:
        check_matched(target_modules, modules)
        chosen = [name for name in modules if matches(name, target_modules)]
    if exclude_modules is not None:
        check_matched(exclude_modules, modules)
        chosen = [name for name in chosen if not matches(name, exclude_modules)]
    parameters = {id(parameter): (name, parameter) for name, parameter in model.named_parameters()}
    found = dict(parameters[id(modules[name].weight)] for name in chosen)
    if not found:
        why = f"exclude_modules={exclude_modules!r} takes away every target."
        if exclude_modules is None:
            why = "the model has no list of blocks (nn.ModuleList) with linear layers inside. Name them with target_modules."
        linear = enumeration(name or "the model itself" for name, module in modules.items() if is_linear(module))
        raise InvalidInputError(f"Nothing is left to prune: {why} Linear layers: {linear}.")
    return _without_frozen(found, named=target_modules is not None)


def matches(name: str, patterns: Patterns) -> bool:
    """Whether a module's name is, or ends in, one of the names; or matches one regular expression as a whole."""
    if isinstance(patterns, str):
        return re.fullmatch(patterns, name) is not None
    return any(name == pattern or name.endswith("." + pattern) for pattern in patterns)


def check_matched(patterns: Patterns, modules: Iterable[str], kind: str = "module with a weight to prune") -> None:
    """Raises if an entry matches none of the modules: a misspelt name must not prune less than was asked for."""
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        try:
            matched = any(matches(name, pattern if isinstance(patterns, str) else [pattern]) for name in modules)
        except re.error as error:
            raise InvalidInputError(f"{pattern!r} is not a regular expression: {error}.") from error
        if not matched:
            lengths = (1, 2, pattern.count(".") + 1)
            endings = {".".join(name.split(".")[-length:]) for name in modules for length in lengths} | set(modules)
            raise InvalidInputError(
                f"No {kind} matches {pattern!r}; {nearest(pattern, endings)} "
                "A list takes names or endings of names, a string takes one regular expression for the whole name."
            )


def _without_frozen(found: dict[str, nn.Parameter], named: bool) -> dict[str, nn.Parameter]:
    frozen = [name for name, parameter in found.items() if not parameter.requires_grad]
    if not frozen:
        return found
    if named:
        raise InvalidInputError(
            f"target_modules names weights that are frozen (requires_grad=False): {enumeration(frozen)}. "
            "Unfreeze them, or leave them out."
        )
    if len(frozen) == len(found):
        raise InvalidInputError(
            f"Every weight that would be pruned is frozen (requires_grad=False): {enumeration(frozen)}. "
            "Pruning happens while training: unfreeze them."
        )
    logger.warning("Frozen weights are left dense: %s.", enumeration(frozen))
    return {name: parameter for name, parameter in found.items() if parameter.requires_grad}
