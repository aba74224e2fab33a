"""How the pools of a pruner are made from a config and a model."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..config.config import PruningConfig
from ..core.pool import Pool
from ..core.site import Site
from ..core.weight import Weight
from ..distributed import process_group
from ..errors import InvalidInputError, enumeration
from ..methods.base import Method
from ..models import targets
from ..structures.base import Structure
from ..structures.linked import Whole
from . import compatibility

Groups = Mapping[int, dict[str, Any]]
"""The optimizer's parameter group of each parameter, by the parameter's id."""


def build(model: nn.Module, groups: Groups, config: PruningConfig, total_steps: int, seed: int) -> list[Pool]:
    """Makes a pool for the config's own modules and one for each of its rules.

    Raises:
        InvalidInputError: if the config does not fit the model, the optimizer or the run.
    """
    generator, place = torch.Generator().manual_seed(seed), 0
    pools: list[Pool] = []
    weights: dict[str, Weight] = {}
    surviving: dict[Weight, float] = {}
    assigned = assign(model, config)
    everything = {name: parameter for _, parameters in assigned for name, parameter in parameters.items()}
    compatibility.check_parameters(everything)
    processes = process_group.of(next(iter(everything.values())))
    for settings, parameters in assigned:
        settings.schedule.check(total_steps)
        if processes.size > 1 and not settings.scores.shards:
            raise InvalidInputError(
                f"scores was given as {settings.scores}, and the weights are sharded over {processes.size} processes, where "
                "B would be on all and A on each. Take BFloat16Scores() or FullScores(), or train with DDP."
            )
        _check_trained(parameters, groups)
        _check_learning_rates(parameters, groups, settings.method)
        if settings.structure.density() is not None and not weights.keys().isdisjoint(parameters):
            raise InvalidInputError(
                f"{settings.structure} counts neighbours in whole rows, and a rule before it takes some out. Choose another "
                "structure for what the rule leaves, as Unstructured()."
            )
        sites: list[Site] = []
        for grouping in settings.structure.link(model, parameters):
            _check_whole_groups({name: parameters[name] for name in grouping}, grouping, settings.structure)
            key = _free_key(next(iter(grouping)), pools, sites)
            for name in grouping:
                if name not in weights:
                    p = parameters[name]
                    weights[name] = _weight(name, p, groups, settings)
            held = {weights[name]: cut for name, cut in grouping.items()}
            sites.append(_site(key, held, settings, processes, generator, seed, place + len(sites)))
        pools.append(Pool(settings, sites, total_steps, seed, place, processes).with_controller())
        pools[-1].check_costs()
        pools[-1].check_budget(surviving)
        if not settings.method.decides_density:
            share = settings.values()[1]
            thinned = [w for site in sites for w, cut in site.grouping.items() if not isinstance(cut, Whole)]
            surviving |= {weight: surviving.get(weight, 1.0) * share for weight in thinned}
        place += len(sites)
    return pools


def _weight(name: str, parameter: nn.Parameter, groups: Groups, config: PruningConfig) -> Weight:
    dense = process_group.local(parameter.detach()).clone()
    if config.dense_on_cpu and dense.device.type != "cpu":
        dense = dense.cpu().pin_memory()
    return Weight(
        name, parameter, dense, _base_rate(groups[id(parameter)]), process_group.rows_before(parameter), config.frozen_weights
    )


def _free_key(name: str, pools: Sequence[Pool], sites: Sequence[Site]) -> str:
    """The name under which a site's scores are saved: that of its first weight, with a number where another site has that."""
    taken = {site.key for pool in pools for site in pool.sites} | {site.key for site in sites}
    numbered = (f"{name}.{number}" for number in itertools.count(2))
    return next(key for key in itertools.chain([name], numbered) if key not in taken)


def assign(model: nn.Module, config: PruningConfig) -> list[tuple[PruningConfig, dict[str, nn.Parameter]]]:
    """Returns the settings of each rule with the parameters that follow it, the config's own first.

    Raises:
        InvalidInputError: if a rule names nothing, or only what earlier rules name.
    """
    taken: dict[str, nn.Parameter] = {}
    first, pools = [], []
    for rule in config.rules or ():
        under = config.under(rule)
        named = under.structure.find(model, under.target_modules, config.exclude_modules)
        if rule.comes_first:
            first.append((under, named))
            continue
        surviving = {name: parameter for name, parameter in named.items() if name not in taken}
        if not surviving or (under.structure.linked and len(surviving) < len(named)):
            raise InvalidInputError(
                f"The rule for {rule.target_modules!r} holds for {'less than it links' if surviving else 'nothing'}: earlier "
                f"rules name {enumeration(name for name in named if name in taken)}. The first "
                "rule that names a module holds for it; move this one up, or delete it."
            )
        taken |= surviving
        pools.append((under, surviving))
    if taken and config.target_modules is None and not any(True for _ in targets.blocks(model)):
        return [*first, *pools]  # the rules name everything in a model without blocks
    found = config.structure.find(model, config.target_modules, config.exclude_modules)
    own = {name: parameter for name, parameter in found.items() if name not in taken}
    if config.structure.linked and own and len(own) < len(found):
        own = {name: own[name] for grouping in config.structure.link(model, own) for name in grouping}
    return [*first, *([(config, own)] if own else []), *pools]


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
        rate = _base_rate(groups[id(parameter)])
        if (method.learns or method.contracts) and rate <= 0:
            following = "its scores" if method.learns else "its penalty"
            raise InvalidInputError(
                f"The learning rate of {name} is {rate}, so the rate of {following} cannot follow it. Give the "
                "optimizer a rate above 0, and make a warmup scheduler before the Pruner."
            )


def _check_whole_groups(
    parameters: Mapping[str, nn.Parameter], grouping: Mapping[str, Structure], structure: Structure
) -> None:
    """Raises where a group would lie on several processes: each must hold whole rows of the scores."""
    for name, cut in grouping.items():
        parameter = parameters[name]
        processes, whole = process_group.of(parameter), cut.groups(parameter.shape)
        try:
            here = cut.groups(process_group.local(parameter).shape)
        except InvalidInputError:
            here = torch.Size([0])
        own = here[0] if here[1:] == whole[1:] and len(grouping) == 1 else 0
        if processes.size > 1 and processes.totals([own]) != [whole[0]]:
            raise InvalidInputError(
                f"{name} is sharded over {processes.size} processes by rows, and groups of {structure} would lie on several "
                "of them (of a layer that keeps its weight transposed, as GPT-2's, all groups but single weights do). Take "
                "Unstructured(), or NofM(), Rows() or Blocks() whose rows divide those of each process; or train with DDP."
            )


def _site(
    key: str,
    grouping: dict[Weight, Structure],
    config: PruningConfig,
    processes: process_group.ProcessGroup,
    generator: torch.Generator,
    seed: int,
    place: int,
) -> Site:
    """Makes a site of the weights that share their scores, and initialises the scores: those of the whole, on each process."""
    site = Site(grouping, None, key)
    magnitude = site.whole(processes).stretched_magnitude()
    site.scores = config.scores.initialised(config.method, magnitude, generator, seed, place, site.rows)
    return site


def _base_rate(group: dict[str, Any]) -> float:
    """Returns the weights' learning rate before any scheduling; 0 where the optimizer has none."""
    rate = group.get("initial_lr", group.get("lr"))
    return 0.0 if rate is None else float(rate)
