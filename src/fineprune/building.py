"""How the parts of a pruner are made from a config and a model."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from . import ranks, support, targets
from .config import PruningConfig
from .errors import InvalidInputError, enumeration
from .linked import Whole
from .methods import Method
from .parts import Part
from .sites import Site
from .structures import Structure
from .weights import Weight

Groups = Mapping[int, dict[str, Any]]
"""The optimiser's parameter group of each parameter, by the parameter's id."""


def build(model: nn.Module, groups: Groups, config: PruningConfig, total_steps: int, seed: int) -> list[Part]:
    """Makes a part for the config's own modules and one for each of its rules.

    Raises:
        InvalidInputError: if the config does not fit the model, the optimiser or the run.
    """
    generator, place = torch.Generator().manual_seed(seed), 0
    parts: list[Part] = []
    weights: dict[str, Weight] = {}
    left: dict[Weight, float] = {}
    assigned = assign(model, config)
    everything = {name: parameter for _, parameters in assigned for name, parameter in parameters.items()}
    support.refuse_unsupported_parameters(everything)
    sharers = ranks.of(next(iter(everything.values())))
    for settings, parameters in assigned:
        settings.schedule.check(total_steps)
        if sharers.count > 1 and not settings.scores.shards:
            raise InvalidInputError(
                f"scores was given as {settings.scores}, and the weights are shared out among {sharers.count} processes, where "
                "B would be on all and A on each. Take BFloat16Scores() or FullScores(), or train with DDP."
            )
        _refuse_untrained(parameters, groups)
        _refuse_resting(parameters, groups, settings.method)
        if settings.structure.density() is not None and not weights.keys().isdisjoint(parameters):
            raise InvalidInputError(
                f"{settings.structure} counts neighbours in whole rows, and a rule before it takes some out. Choose another "
                "structure for what the rule leaves, as Unstructured()."
            )
        sites: list[Site] = []
        for cuts in settings.structure.link(model, parameters):
            _refuse_cut_groups({name: parameters[name] for name in cuts}, cuts, settings.structure)
            key = _free_key(next(iter(cuts)), parts, sites)
            for name in cuts:
                if name not in weights:
                    p = parameters[name]
                    weights[name] = _weight(name, p, groups, settings)
            held = {weights[name]: cut for name, cut in cuts.items()}
            sites.append(_site(key, held, settings, sharers, generator, seed, place + len(sites)))
        parts.append(Part(settings, sites, total_steps, seed, place, sharers).with_controller())
        parts[-1].refuse_idle_groups()
        parts[-1].refuse_empty_budget(left)
        if not settings.method.decides_density:
            share = settings.values()[1]
            thinned = [w for site in sites for w, cut in site.cuts.items() if not isinstance(cut, Whole)]
            left |= {weight: left.get(weight, 1.0) * share for weight in thinned}
        place += len(sites)
    return parts


def _weight(name: str, parameter: nn.Parameter, groups: Groups, config: PruningConfig) -> Weight:
    dense = ranks.local(parameter.detach()).clone()
    if config.dense_on_cpu and dense.device.type != "cpu":
        dense = dense.cpu().pin_memory()
    return Weight(
        name, parameter, dense, _base_rate(groups[id(parameter)]), ranks.rows_before(parameter), config.frozen_weights
    )


def _free_key(name: str, parts: Sequence[Part], sites: Sequence[Site]) -> str:
    """The name under which a site's scores are saved: that of its first weight, with a number where another site has that."""
    taken = {site.key for part in parts for site in part.sites} | {site.key for site in sites}
    numbered = (f"{name}.{number}" for number in itertools.count(2))
    return next(key for key in itertools.chain([name], numbered) if key not in taken)


def assign(model: nn.Module, config: PruningConfig) -> list[tuple[PruningConfig, dict[str, nn.Parameter]]]:
    """Returns the settings of each rule with the parameters that follow it, the config's own first.

    Raises:
        InvalidInputError: if a rule names nothing, or only what earlier rules name.
    """
    taken: dict[str, nn.Parameter] = {}
    first, parts = [], []
    for rule in config.rules or ():
        under = config.under(rule)
        named = under.structure.find(model, under.target_modules, config.exclude_modules)
        if rule.comes_first:
            first.append((under, named))
            continue
        left = {name: parameter for name, parameter in named.items() if name not in taken}
        if not left or (under.structure.linked and len(left) < len(named)):
            raise InvalidInputError(
                f"The rule for {rule.target_modules!r} holds for {'less than it links' if left else 'nothing'}: earlier "
                f"rules name {enumeration(name for name in named if name in taken)}. The first "
                "rule that names a module holds for it; move this one up, or delete it."
            )
        taken |= left
        parts.append((under, left))
    if taken and config.target_modules is None and not any(True for _ in targets.blocks(model)):
        return [*first, *parts]  # the rules name everything in a model without blocks
    found = config.structure.find(model, config.target_modules, config.exclude_modules)
    own = {name: parameter for name, parameter in found.items() if name not in taken}
    if config.structure.linked and own and len(own) < len(found):
        own = {name: own[name] for cuts in config.structure.link(model, own) for name in cuts}
    return [*first, *([(config, own)] if own else []), *parts]


def _refuse_untrained(parameters: Mapping[str, nn.Parameter], groups: Groups) -> None:
    missing = [name for name, parameter in parameters.items() if id(parameter) not in groups]
    if missing:
        raise InvalidInputError(
            f"The optimiser does not train {enumeration(missing)}. Give it every parameter that is pruned, or leave those "
            "out with exclude_modules. Where the model is wrapped or moved, do that before making the optimiser."
        )


def _refuse_resting(parameters: Mapping[str, nn.Parameter], groups: Groups, method: Method) -> None:
    """Raises for weights without a learning rate, where scores or a penalty follow it."""
    for name, parameter in parameters.items():
        rate = _base_rate(groups[id(parameter)])
        if (method.learns or method.contracts) and rate <= 0:
            following = "its scores" if method.learns else "its penalty"
            raise InvalidInputError(
                f"The learning rate of {name} is {rate}, so the rate of {following} cannot follow it. Give the "
                "optimiser a rate above 0, and make a warm-up scheduler before the Pruner."
            )


def _refuse_cut_groups(parameters: Mapping[str, nn.Parameter], cuts: Mapping[str, Structure], structure: Structure) -> None:
    """Raises where a group would lie on several processes: each must hold whole rows of the scores."""
    for name, cut in cuts.items():
        parameter = parameters[name]
        sharers, whole = ranks.of(parameter), cut.groups(parameter.shape)
        try:
            here = cut.groups(ranks.local(parameter).shape)
        except InvalidInputError:
            here = torch.Size([0])
        own = here[0] if here[1:] == whole[1:] and len(cuts) == 1 else 0
        if sharers.count > 1 and sharers.totals([own]) != [whole[0]]:
            raise InvalidInputError(
                f"{name} is shared out among {sharers.count} processes by rows, and groups of {structure} would lie on several "
                "of them (of a layer that keeps its weight transposed, as GPT-2's, all groups but single weights do). Take "
                "Unstructured(), or NofM(), Rows() or Blocks() whose rows divide those of each process; or train with DDP."
            )


def _site(
    key: str,
    cuts: dict[Weight, Structure],
    config: PruningConfig,
    sharers: ranks.Ranks,
    generator: torch.Generator,
    seed: int,
    place: int,
) -> Site:
    """Makes a site of the weights that share their scores, and lets the scores be born: those of the whole, on each process."""
    site = Site(cuts, None, key)
    magnitude = site.whole(sharers).stretched_magnitude()
    site.scores = config.scores.born(config.method, magnitude, generator, seed, place, site.rows)
    return site


def _base_rate(group: dict[str, Any]) -> float:
    """Returns the weights' learning rate before any scheduling; 0 where the optimiser has none."""
    rate = group.get("initial_lr", group.get("lr"))
    return 0.0 if rate is None else float(rate)
