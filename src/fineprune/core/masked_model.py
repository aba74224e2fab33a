"""Which masks a model holds: one object with one state (dense, masked, sampled)."""

from collections.abc import Collection, Sequence
from enum import Enum

import torch
from torch import Tensor, nn

from ..distributed import process_group
from ..distributed.process_group import ProcessGroup
from ..errors import TrainingError, enumeration
from ..methods.base import StochasticMethod
from .pool import Pool, density_of, masks_of, masks_of_weights
from .site import Site
from .weight import Weight

Masks = Sequence[Sequence[Tensor]]
"""M of each site of each pool."""


class Holding(Enum):
    """The values that the pruned parameters hold."""

    DENSE = "W, within a step"
    MASKED = "W * M"
    SAMPLED = "W * M, with M sampled for the forward passes of this step"


class MaskedModel:
    """A model's pools, and the masks that its parameters hold: `apply` masks, `sample` gates.

    Args:
        model: whose parameters hold W.
        pools: its sites, with their scores.
    """

    def __init__(self, model: nn.Module, pools: list[Pool]) -> None:
        self.model = model
        self.pools = pools
        self.step = 0
        """Optimizer steps done: the masks in force are those of this step."""
        self.sampled_at: int | None = None
        """The last step for whose forward passes M was sampled."""
        self.holding = Holding.DENSE
        self._unsampled: Masks | None = None
        self._density: float | None = None
        self._probes = torch.empty(0)
        self.apply(masks_of(pools, 0))

    @property
    def sites(self) -> list[Site]:
        return [site for pool in self.pools for site in pool.sites]

    @property
    def weights(self) -> list[Weight]:
        return list(dict.fromkeys(weight for site in self.sites for weight in site.grouping))

    @property
    def processes(self) -> ProcessGroup:
        """The processes among which the pruned weights are sharded."""
        return self.pools[0].processes

    @property
    def stochastic(self) -> bool:
        """Whether the method of a pool samples its masks."""
        return any(isinstance(pool.method, StochasticMethod) for pool in self.pools)

    def masks(self) -> Masks:
        """M in force, without noise: computed again from the scores, except where that takes all processes, and only one
        may have asked."""
        if self.holding is Holding.MASKED or not self.stochastic:
            return self._masks_held()
        return masks_of(self.pools, self.step) if self._unsampled is None else self._unsampled

    def _masks_held(self) -> Masks:
        return [[site.mask for site in pool.sites] for pool in self.pools]

    def density(self) -> float:
        """The fraction of the prunable weights that M keeps."""
        return density_of(self.pools, self.masks()) if self._density is None else self._density

    # What the parameters hold.

    @torch.no_grad()
    def apply(self, masks: Masks | None = None) -> None:
        """Writes W * M into the parameters, without noise.

        Args:
            masks: new ones; None: those in force.
        """
        if masks is not None:  # counted while all processes are here
            self._density = density_of(self.pools, masks) if self.processes.size > 1 else None
        self._write(self.masks() if masks is None else masks)
        self.holding = Holding.MASKED

    @torch.no_grad()
    def sample(self) -> None:
        """Writes W * M into the parameters, with M sampled for the forward passes of this step."""
        self._unsampled = self._masks_held() if self.processes.size > 1 else None
        self._write([pool.samples(self.step) for pool in self.pools])
        self.holding, self.sampled_at = Holding.SAMPLED, self.step

    def remove_noise(self) -> None:
        """Writes W * M without noise, unless a step is under way or something else has changed the weights."""
        if self.holding is Holding.SAMPLED and not self.changed():
            self.apply()

    @torch.no_grad()
    def abandon_step(self) -> None:
        """Writes W * M without noise at the end, also after a step that broke off half-way."""
        if self.holding is not Holding.DENSE:
            self.remove_noise()
            return
        for weight in self.weights:
            weight.apply(weight.mask)
        self.holding = Holding.SAMPLED if self.stochastic else Holding.MASKED
        if self.stochastic:
            self.apply()  # W is as it was before the step then

    def begin_step(self) -> None:
        """Says that the parameters no longer hold W * M: each site writes W into its own, until `end_step`."""
        self.holding = Holding.DENSE

    def end_step(self) -> None:
        """Writes W * M into the parameters, which hold W, with the masks of the next step."""
        self.apply(masks_of(self.pools, self.step + 1))
        self.step += 1

    def take_up(self, pools: list[Pool], step: int, masks: Masks) -> None:
        """Replaces the pools by saved ones, and applies their masks, whatever the parameters hold."""
        self.pools, self.step, self.sampled_at = pools, step, None
        self.holding = Holding.MASKED
        self.apply(masks)

    def _write(self, masks: Masks) -> None:
        if self.holding is not Holding.DENSE:
            process_group.reshard(self.model)
            for site in self.sites:
                site.restore()
        for pool, of_pool in zip(self.pools, masks, strict=True):
            for site, mask in zip(pool.sites, of_pool, strict=True):
                site.mask = mask
        for weight, mask in masks_of_weights(self.pools, masks).items():
            weight.apply(mask)
        self._probes = self._probe()

    # Changes by others.

    def check_unchanged(self, trained: Collection[int]) -> None:
        """Raises TrainingError if a parameter was replaced, has left the optimizer, or holds anything but W * M.

        Args:
            trained: ids of the optimizer's parameters.
        """
        parameters = dict(self.model.named_parameters())
        for weight in self.weights:
            if parameters.get(weight.name) is not weight.parameter or id(weight.parameter) not in trained:
                raise TrainingError(
                    f"{weight.name} is no longer the parameter that the pruner was attached to, or has left the optimizer. "
                    "Wrap, shard (fully_shard), move or replace the model's parameters first, then make the optimizer, then "
                    "the Pruner."
                )
        changed = self.changed()
        if self.processes.any(bool(changed)):
            names = enumeration(changed or ["weights of another rank"])
            raise TrainingError(
                f"Something other than the optimizer changed {names} between two steps (a reload, an average swapped in?), and "
                "the pruner would overwrite it. Put the weights back before the step, or load the state that belongs to them "
                "with pruner.load()."
            )

    def changed(self) -> list[str]:
        """The names of the pruned weights that hold anything but W * M, because something else wrote there."""
        weights = self.weights
        untouched = all(weight.version == weight.current_version() for weight in weights)
        if untouched and torch.equal(self._probes, self._probe()):
            return []
        return [weight.name for weight in weights if weight.was_changed()]

    def _probe(self) -> Tensor:
        weights = self.weights
        return torch.cat([weight.probe().to(weights[0].held.device) for weight in weights])
