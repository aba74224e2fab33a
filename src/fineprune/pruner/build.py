"""Makes the pools of a pruner from a config and a model: assigns parameters to rules, checks them, makes sites and scores."""

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from ..config.config import PruningConfig
from ..core.pool import Pool
from ..core.site import Site
from ..core.weight import Weight
from ..distributed import process_group
from ..distributed.process_group import ProcessGroup
from ..errors import InvalidInputError, enumeration
from ..methods.base import Method, PenalisedMethod
from ..methods.controller import Controller
from ..models import targets
from ..structures.base import Structure
from ..structures.linked import Whole
from . import compatibility
from .compatibility import Groups, base_rate

Assigned = list[tuple[PruningConfig, dict[str, nn.Parameter]]]
"""The settings of each pool with the parameters, by name, that follow it."""


def build(model: nn.Module, groups: Groups, config: PruningConfig, total_steps: int, seed: int) -> list[Pool]:
    """Makes a pool for the config's own modules and one for each of its rules.

    Args:
        model: whose parameters are pruned.
        groups: the optimizer's parameter group of each parameter, by the parameter's id.
        config: what to prune.
        total_steps: optimizer steps of the run.
        seed: of the initial scores and of the noise.

    Raises:
        InvalidInputError: if the config does not fit the model, the optimizer or the run.
    """
    assigned = assign(model, config)
    everything = {name: parameter for _, parameters in assigned for name, parameter in parameters.items()}
    compatibility.check_parameters(everything)
    maker = _Maker(model, groups, total_steps, seed, process_group.of(next(iter(everything.values()))))
    surviving: dict[Weight, float] = {}
    for settings, parameters in assigned:
        settings.schedule.check(total_steps)
        compatibility.check_pool(settings, parameters, groups, maker.processes, maker.weights)
        pool = maker.pool(settings, parameters)
        compatibility.check_budget(pool, surviving)
        if not settings.method.decides_density:
            share = settings.values()[1]
            thinned = [w for site in pool.sites for w, grouped in site.grouping.items() if not isinstance(grouped, Whole)]
            surviving |= {weight: surviving.get(weight, 1.0) * share for weight in thinned}
    return maker.pools


class _Maker:
    """Makes one pool after the other. Weights are shared by name; the scores of all sites come from one generator."""

    def __init__(self, model: nn.Module, groups: Groups, total_steps: int, seed: int, processes: ProcessGroup) -> None:
        self.pools: list[Pool] = []
        self.weights: dict[str, Weight] = {}
        self.processes = processes
        self._model, self._groups, self._total_steps, self._seed = model, groups, total_steps, seed
        self._generator = torch.Generator().manual_seed(seed)

    def pool(self, config: PruningConfig, parameters: Mapping[str, nn.Parameter]) -> Pool:
        place = sum(len(pool.sites) for pool in self.pools)
        sites: list[Site] = []
        for grouping in config.structure.link(self._model, parameters):
            compatibility.check_whole_groups({name: parameters[name] for name in grouping}, grouping, config.structure)
            key = self._free_key(next(iter(grouping)), sites)
            held = {self._weight(name, parameters[name], config): structure for name, structure in grouping.items()}
            sites.append(self._site(key, held, config, place + len(sites)))
        controller = _controller(config.method, self._total_steps)
        self.pools.append(Pool(config, sites, self._total_steps, self._seed, place, self.processes, controller))
        return self.pools[-1]

    def _weight(self, name: str, parameter: nn.Parameter, config: PruningConfig) -> Weight:
        if name not in self.weights:
            dense = process_group.local(parameter.detach()).clone()
            if config.dense_on_cpu and dense.device.type != "cpu":
                dense = dense.cpu().pin_memory()
            rate, rows_before = base_rate(self._groups[id(parameter)]), process_group.rows_before(parameter)
            self.weights[name] = Weight(name, parameter, dense, rate, rows_before, config.frozen_weights)
        return self.weights[name]

    def _site(self, key: str, grouping: dict[Weight, Structure], config: PruningConfig, place: int) -> Site:
        """A site with its scores: those of the whole are initialised on each process, which keeps its rows."""
        site = Site(grouping, None, key)
        magnitude = site.whole(self.processes).stretched_magnitude()
        site.scores = config.scores.initialised(config.method, magnitude, self._generator, self._seed, place, site.rows)
        return site

    def _free_key(self, name: str, sites: Sequence[Site]) -> str:
        """The name under which a site's scores are saved: that of its first weight, numbered where another site has it."""
        taken = {site.key for pool in self.pools for site in pool.sites} | {site.key for site in sites}
        numbered = (f"{name}.{number}" for number in itertools.count(2))
        return next(key for key in itertools.chain([name], numbered) if key not in taken)


def _controller(method: Method, total_steps: int) -> Controller | None:
    if not isinstance(method, PenalisedMethod) or method.decides_density:
        return None
    return Controller(max(20.0, total_steps / 20), method.strongest)


def assign(model: nn.Module, config: PruningConfig) -> Assigned:
    """Returns the settings of each rule with the parameters that follow it, the config's own first.

    Raises:
        InvalidInputError: if a rule names nothing, or only what earlier rules name.
    """
    taken: dict[str, nn.Parameter] = {}
    first: Assigned = []
    later: Assigned = []
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
        later.append((under, surviving))
    if taken and config.target_modules is None and not any(True for _ in targets.blocks(model)):
        return [*first, *later]  # the rules name everything in a model without blocks
    found = config.structure.find(model, config.target_modules, config.exclude_modules)
    own = {name: parameter for name, parameter in found.items() if name not in taken}
    if config.structure.linked and own and len(own) < len(found):
        own = {name: own[name] for grouping in config.structure.link(model, own) for name in grouping}
    return [*first, *([(config, own)] if own else []), *later]
