"""The state of a pruner: saved, loaded and compared, on any number of processes."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config.config import PruningConfig
from ..core.gradients import parameters_of
from ..core.masked_model import MaskedModel
from ..core.pool import Pool, masks_of, masks_of_weights
from ..core.site import Site
from ..core.weight import Weight, checksum
from ..distributed import process_group
from ..distributed.coordinator import Coordinator
from ..errors import InvalidInputError, TrainingError, enumeration
from ..masks import file as mask_file
from ..methods.controller import Controller
from . import state_files

FORMAT = 1
"""Version of the saved state."""


def save(pools: Sequence[Pool], folder: str | Path, facts: dict[str, Any], writes: bool) -> None:
    """Writes the tensors of the pools and the facts into the folder, see `state_files.write`.

    Args:
        pools: of this process; the shards of others are fetched, one tensor at a time.
        folder: to write into.
        facts: to write beside.
        writes: whether this process is the one that writes.
    """
    sites = [site for pool in pools for site in pool.sites]
    processes, tensors = pools[0].processes, {}
    for name, tensor in ((name, tensor) for site in sites for name, tensor in site.tensors().items()):
        whole = processes.joined(tensor.to(processes.device)) if processes.size > 1 and tensor.dim() else tensor
        if writes:
            tensors[name] = whole.cpu() if processes.size > 1 else whole
    here = {
        "seed": pools[0].seed,
        "base_rates": {weight.name: weight.base_rate for site in sites for weight in site.weights},
        "controllers": [pool.controller and asdict(pool.controller) for pool in pools],
        "tensors": list(tensors),
    }
    if writes:
        state_files.write(folder, tensors, {**facts, **here})


def load(pools: Sequence[Pool], folder: str | Path, expected: Mapping[str, Any]) -> tuple[list[Pool], int]:
    """Makes pools like those in use from a saved state, and returns them with its step. Nothing in use is changed.

    Raises:
        InvalidInputError: if the state is missing or damaged, or its facts are not the expected ones.
    """
    facts = state_files.read_facts(folder)
    for key, mine in expected.items():
        saved = _as_now(facts.get(key)) if key == "config" else facts.get(key)
        if saved != mine:
            raise InvalidInputError(
                f"The state in {folder} was saved with another {key}: {_difference(saved, mine)}. Resume with the "
                "same config, model and total_steps as the run had, or start a new run."
            )
    tensors = state_files.read_tensors(folder, _rows(pools))
    broken = [name for name, tensor in tensors.items() if tensor.isnan().any()]
    if broken:
        raise InvalidInputError(f"The state in {folder} holds NaN in {enumeration(broken)}. Choose an earlier checkpoint.")
    try:
        strays = set(tensors) ^ set(facts["tensors"])
        if strays:
            raise InvalidInputError(
                f"The two files in {folder} disagree over {enumeration(strays)}. Choose a whole checkpoint."
            )
        return _saved_pools(pools, tensors, facts), int(facts["step"])
    except InvalidInputError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInputError(f"The state in {folder} lacks {error}. Choose a whole checkpoint.") from error


def settings(config: PruningConfig) -> dict[str, Any]:
    """Returns the settings that a resumed run must share: not where dense weights lie, nor the version that wrote them."""
    return {name: setting for name, setting in config.to_dict().items() if name not in ("version", "dense_on_cpu")}


def _as_now(saved: Any) -> Any:
    """Reads settings that an earlier version wrote, which knew fewer."""
    try:
        return settings(PruningConfig.from_dict(saved))
    except InvalidInputError:
        return saved


def _rows(pools: Sequence[Pool]) -> dict[str, slice]:
    """Returns which rows of the saved tensors this process holds, by the beginnings of their names; none where it holds all."""
    if pools[0].processes.size == 1:
        return {}
    sites = [site for pool in pools for site in pool.sites]
    rows = {f"{kind}.{site.key}": site.rows for site in sites for kind in ("scores", "moments")}
    return rows | {f"dense.{weight.name}": weight.rows for site in sites for weight in site.weights}


def _saved_pools(pools: Sequence[Pool], tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> list[Pool]:
    rates = facts["base_rates"]
    held = {weight for pool in pools for site in pool.sites for weight in site.grouping}
    saved = {w: replace(w, dense=_like(w.dense, tensors[f"dense.{w.name}"]), base_rate=rates[w.name]) for w in held}
    return [
        replace(
            pool,
            sites=[_saved_site(site, saved, tensors) for site in pool.sites],
            seed=int(facts["seed"]),
            controller=None if controller is None else Controller(**controller),
        )
        for pool, controller in zip(pools, facts["controllers"], strict=True)
    ]


def _like(dense: Tensor, saved: Tensor) -> Tensor:
    """A copy where the dense weight lies: a tensor as read lies in the file itself, which would have to stay."""
    copied = saved.to(dense, copy=True)
    return copied.pin_memory() if dense.is_pinned() else copied


def _saved_site(site: Site, saved: Mapping[Weight, Weight], tensors: Mapping[str, Tensor]) -> Site:
    scores = None
    if site.scores is not None:
        own: dict[str, Tensor] = {}
        for kind in ("scores", "moments"):
            whole = f"{kind}.{site.key}"
            own |= {
                kind + name.removeprefix(whole): each for name, each in tensors.items() if f"{name}.".startswith(f"{whole}.")
            }
        scores = site.scores.like_saved(own)
    return Site({saved[weight]: structure for weight, structure in site.grouping.items()}, scores, site.key)


def check_weights(
    pools: Sequence[Pool], masks: Sequence[Sequence[Tensor]], at_attach: Mapping[str, Tensor], folder: str | Path
) -> None:
    """Raises unless the model holds W * M of the pools, or held it when a pruner was attached."""
    for weight, mask in masks_of_weights(pools, masks).items():
        held = (weight.held, at_attach.get(weight.name, weight.held).to(mask.device))
        if not any(_is_effective(tensor, weight, mask) for tensor in held):
            raise InvalidInputError(
                f"The model's {weight.name} is not the one saved with the state in {folder}: it is not the dense "
                "weight times the mask. Load the model from the same checkpoint before the pruner's state."
            )


def _is_effective(tensor: Tensor, weight: Weight, mask: Tensor) -> bool:
    """Whether a tensor is W * M: bit for bit, but for gates, which come out otherwise in a last place where shards are."""
    effective = weight.effective(mask)
    if mask.dtype is torch.bool:
        return torch.equal(tensor, effective)
    nearly = 8 * torch.finfo(effective.dtype).eps * weight.dense.to(mask.device).abs()
    return tensor.shape == effective.shape and bool(((tensor - effective).abs() <= nearly).all())


def facts(weights: Sequence[Weight], config: PruningConfig, total_steps: int) -> dict[str, Any]:
    """Returns the facts that a state must share with the pruner that takes it up."""
    shapes = {weight.name: [str(weight.parameter.dtype), *weight.parameter.shape] for weight in weights}
    return {"format": FORMAT, "config": settings(config), "total_steps": total_steps, "weights": shapes}


def check_equal(masked: MaskedModel, coordinator: Coordinator) -> None:
    """Raises TrainingError, on every rank, if two of them hold different masks, weights or scores.

    A sharded mask is also compared with the one that the scores give: each shard's is computed again at each step.
    """
    weights = masked.weights
    differs = coordinator.unequal(_checksums(masked), masked.processes.rank)
    if masked.processes.size > 1:
        again = masks_of_weights(masked.pools, masks_of(masked.pools, masked.step))
        astray = coordinator.any([not torch.equal(weight.mask, again[weight]) for weight in weights])
        differs = [one or other for one, other in zip(differs, astray, strict=True)]
    if any(differs):
        names = [weight.name for weight, is_different in zip(weights, differs, strict=True) if is_different]
        raise TrainingError(
            f"At step {masked.step} the ranks hold different masks, weights or scores of {enumeration(names)}. Is the model "
            "wrapped in DDP or sharded, and does every rank take the same steps? Resume from the last checkpoint; nothing "
            "was saved since."
        )


def _checksums(masked: MaskedModel) -> list[int]:
    """One of each weight, with the scores of the site in which it comes first: a wrong mask is replaced at the next step, but
    its effect on W and S stays."""
    sums = {weight: weight.checksum() for weight in masked.weights}
    for site in masked.sites:
        for name, tensor in sorted(site.tensors().items()):
            if name.startswith("scores."):
                sums[site.weights[0]] = checksum(tensor, sums[site.weights[0]])
    return list(sums.values())


def check_mask_is_all(masked: MaskedModel) -> None:
    """Raises InvalidInputError unless the masks, as bits, are all that a run did to the pruned weights."""
    trained = [weight.name for weight in masked.weights if not weight.frozen]
    if trained or masked.stochastic:
        wrong = f"this run trains {enumeration(trained)}" if trained else "L0's gates are numbers from 0 to 1"
        raise InvalidInputError(
            f"A mask alone is the result of a run with frozen_weights=True and a method like Movement(), and {wrong}. Save "
            "the model with save_pretrained()."
        )


def save_mask(masked: MaskedModel, optimizer: torch.optim.Optimizer, path: str | Path, coordinator: Coordinator) -> None:
    """Writes the masks, and the other parameters that the optimizer trains, into one file; rank 0 writes."""
    process_group.reshard(masked.model)
    held = {id(parameter) for parameter in parameters_of(optimizer)} - {id(weight.parameter) for weight in masked.weights}
    others = {n: p for n, p in masked.model.named_parameters() if id(p) in held and p.requires_grad}
    joined = masked.processes.joined
    weights = {weight.name: (joined(weight.wide()), joined(weight.mask)) for weight in masked.weights}
    values = {name: process_group.of(p).joined(process_group.local(p.detach())) for name, p in others.items()}
    with coordinator.failing_together():
        if coordinator.rank == 0:
            mask_file.save(path, weights, values)


def _difference(saved: Any, mine: Any) -> str:
    """Says where two plain values differ, the saved one first."""
    if isinstance(saved, dict) and isinstance(mine, dict):
        keys = [key for key in {**saved, **mine} if saved.get(key) != mine.get(key)]
        return enumeration((f"{key} {saved.get(key)!r} there, {mine.get(key)!r} here" for key in keys), most=2)
    return f"{saved!r} there, {mine!r} here"
