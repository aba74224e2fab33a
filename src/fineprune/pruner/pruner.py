"""Pruner: prunes a model around the optimizer's step, and leaves the model's code untouched.

Between two steps each pruned parameter holds the effective weight W' = W * M. Around step t:

    before    G = p.grad                      the gradient of the effective weight
              dL/dS = reduce(G * W)           (Sanh et al. 2020, section 4; each method adds what is its own)
              p.grad = G * M ;  p = W         the optimizer sees the dense weight and its masked gradient
              the scores' optimizer steps
    the optimizer's own step
    after     W = p ;  M = mask(S, v(t+1)) ;  p = W where M, else +0.0
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from ..config.config import PruningConfig
from ..core.clipping import joint_norm, times
from ..core.pool import Pool, density_of, masks_of, share_weights, spread_masks
from ..core.site import Site
from ..core.weight import Weight, checksum, times_mask
from ..distributed import process_group
from ..distributed.coordinator import Coordinator
from ..distributed.process_group import ProcessGroup, local
from ..errors import InvalidInputError, TrainingError, enumeration, is_number
from ..masks import file as mask_file
from ..methods.penalised import Penalised
from ..models import inspection, targets
from ..selection.counts import groups_of, kept_of
from . import build, compatibility, state

logger = logging.getLogger(__name__)

FORMAT = 1
"""Version of the saved state."""


class Pruner:
    """Prunes a model while an optimizer trains it.

        with Pruner(model, optimizer, config, total_steps=len(loader) * epochs):
            for batch in batches:
                model(**batch).loss.backward()
                optimizer.step()              # trains, and prunes
                optimizer.zero_grad()

    At the end of the `with` block the hooks are removed and the final density is logged. A loop
    without `with` calls `close()`. In a run of several processes each has a pruner, and all call the same methods of it.

    Args:
        model: the model to prune, already on its device. Its classes, signatures and state-dict
            keys stay as they are.
        optimizer: the optimizer that trains it, any that touches parameters only in `step()`.
            Accelerate's wrapper is looked through.
        config: what to prune, and how far.
        total_steps: optimizer steps of the whole run, not batches.
        max_grad_norm: clips as the paper does, by the joint norm of the masked gradients of the
            pruned weights, the gradients of the optimizer's other parameters, and the gradients
            of the scores. None: no clipping here.

    Raises:
        InvalidInputError: if the config does not fit the model, the run or the optimizer. Nothing
            has been changed then.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: PruningConfig,
        *,
        total_steps: int,
        max_grad_norm: float | None = None,
    ) -> None:
        if isinstance(total_steps, bool) or not isinstance(total_steps, int) or total_steps < 1:
            raise InvalidInputError(f"total_steps was given as {total_steps!r}; it is a number of optimizer steps, 1 or more.")
        if max_grad_norm is not None and not (is_number(max_grad_norm) and 0 < max_grad_norm < math.inf):
            raise InvalidInputError(f"max_grad_norm was given as {max_grad_norm!r}; it is a number above 0, or None.")
        self.config = config
        self.total_steps = total_steps
        self.max_grad_norm = max_grad_norm
        self.step = 0
        """Optimizer steps done; a step skipped by GradScaler for an overflow does not count."""
        self.gradient_norm: Tensor | None = None
        """The joint norm before clipping at the last step; None unless max_grad_norm is given."""

        self._model = targets.unwrap(model)
        self._optimizer = compatibility.unwrap_optimizer(optimizer)
        compatibility.check_supported(self._model, self._optimizer)
        hooks = self._optimizer._optimizer_step_pre_hooks.values()
        if any(isinstance(getattr(hook, "__self__", None), Pruner) for hook in hooks):
            raise InvalidInputError("This optimizer has a pruner already. Close that one first.")
        process_group.reshard(self._model)
        self._coordinator = Coordinator.of_all()
        compatibility.check_same_run(self._coordinator, self._model, state.settings(config), total_steps)
        self._pools = build.build(self._model, self._groups(), config, total_steps, process_group.shared_seed())
        self._skipping = False
        self._inside_step = False
        self._drawn = False
        """Whether the parameters hold W' with M drawn."""
        self._drawn_at: int | None = None
        """The last step for whose forward passes M was drawn."""
        self._settle(masks_of(self._pools, self.step))
        self._hooks = [
            self._optimizer.register_step_pre_hook(self._before_step),
            self._optimizer.register_step_post_hook(self._after_step),
        ]
        if self._draws:
            before_forward = torch.compiler.disable(self._before_forward)  # type: ignore[no-untyped-call]
            # first of all: `fully_shard` gathers the weights in such a hook
            self._hooks.append(self._model.register_forward_pre_hook(before_forward, prepend=True))
            self._hooks.append(self._model.register_state_dict_pre_hook(self._before_state_dict))  # type: ignore[no-untyped-call]

    # What a user asks.

    @property
    def value(self) -> float:
        """The schedule's value in force: the density asked for at this step; with a penalty, tau or its ramp. With rules, the
        config's own, or the first rule's if the rules hold for everything."""
        own = next((pool for pool in self._pools if pool.config is self.config), self._pools[0])
        return own.value(self.step)

    @property
    def finished(self) -> bool:
        """Whether the schedule's final value is in force."""
        return all(pool.finished(self.step) for pool in self._pools)

    @property
    def names(self) -> list[str]:
        """The names of the pruned parameters, in the model's order."""
        held = {weight.name for weight in self._weights}
        return [name for name, _ in self._model.named_parameters() if name in held]

    @property
    def alone(self) -> bool:
        """Whether the run has no other processes."""
        return self._coordinator.size == 1

    def density(self) -> float:
        """Returns the fraction of the prunable weights that the masks keep now."""
        return self._density if self._ranks.size > 1 else density_of(self._pools, self._quiet_masks())

    @torch.no_grad()
    def summary(self) -> inspection.Inspection:
        """Returns the density of each pruned weight, of all of them and of the whole model; `print` shows a table.

        Without noise: in the middle of a step, L0's gates of evaluation are put back first.
        """
        self._quieten()
        return inspection.inspect(self._model, self.names)

    @torch.no_grad()
    def scores(self) -> dict[str, Tensor]:
        """Returns S of each weight that has scores of its own, spread over its shape; copies. Of a weight under several rules,
        those of the last."""
        return {
            weight.name: self._ranks.joined(cut.expand(site.value(), weight.dense.shape).clone())
            for site in self._sites
            if site.scores is not None
            for weight, cut in site.grouping.items()
        }

    def statistics(self) -> dict[str, float]:
        """Returns figures to log.

        The density kept and the one asked for; the scores' mean, spread and range; the joint gradient
        norm, if clipping; the penalty and the threshold of methods that have them. With several rules
        the density asked for, the penalty and the threshold are those of each, numbered from 0.
        """
        scores = [tensor for pool in self._pools for tensor in pool.scores()]
        count = sum(groups_of(scores, self._ranks))
        mean = self._sum([score.sum(dtype=torch.float64) for score in scores]) / count
        variance = self._sum([(score - mean).square().sum(dtype=torch.float64) for score in scores]) / count
        extremes = torch.stack([_extremes(score) for score in scores])
        lowest, highest = self._ranks.highest(extremes.amax(0)).tolist()
        figures = {
            "density": self.density(),
            "score_mean": mean,
            "score_std": math.sqrt(variance),
            "score_min": -lowest,
            "score_max": highest,
        }
        for number, pool in enumerate(self._pools):
            suffix = f"_{number}" if len(self._pools) > 1 else ""
            figures |= {f"{name}{suffix}": figure for name, figure in pool.figures(self.step).items()}
        if self.gradient_norm is not None:
            figures["joint_grad_norm"] = self.gradient_norm.item()
        return figures

    def _sum(self, values: Sequence[Tensor]) -> float:
        """The sum of what each process has of each site."""
        return float(self._ranks.total(torch.stack([value.cpu() for value in values]).sum()))

    # The life of the hooks.

    def __enter__(self) -> "Pruner":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.detach()

    def close(self) -> inspection.Inspection:
        """Removes the hooks, logs the final density and returns the summary. The model keeps its zeros.

        Raises:
            TrainingError: if the schedule had not reached its final value; the hooks are removed all the same.
        """
        self.detach()
        if not self.finished:
            raise TrainingError(
                f"The run ended after {self.step} of total_steps={self.total_steps} optimizer steps, before the schedule did: "
                f"the density is {self.density():.4f}, not yet the final one. Give total_steps in optimizer "
                "steps (batches / gradient accumulation), or train on."
            )
        return self.report()

    def report(self) -> inspection.Inspection:
        """Logs the density, warns of matrices of which nothing is left, and returns the summary."""
        summary = self.summary()
        logger.info("Pruned. %s", "; ".join(summary.totals()))
        left = kept_of([weight.mask for weight in self._weights], self._ranks)
        emptied = [weight.name for weight, number in zip(self._weights, left, strict=True) if not number]
        if emptied:
            logger.warning("Nothing is left of %s. Choose scope='local', or a higher density.", enumeration(emptied))
        for pool in self._pools:
            if isinstance(pool.method, Penalised) and pool.method.cuts and pool.controller is not None and self.finished:
                self._warn_if_missed(pool)
        return summary

    def _warn_if_missed(self, pool: Pool) -> None:
        kept, asked = pool.share_kept(pool.masks(self.step)), pool.value(self.step)
        if abs(kept - asked) > 0.05 * asked:
            logger.warning(
                "The density is %.4f, and %.4f was asked for: the scores had no time to get there. Train longer, or raise "
                "score_lr.",
                *(kept, asked),
            )

    @torch.no_grad()
    def detach(self) -> None:
        """Removes the hooks. After a step that broke off half-way, the model gets its zeros back."""
        for hook in self._hooks:
            hook.remove()
        if self._inside_step:
            for weight in self._weights:
                times_mask(weight.held, weight.mask)
        if self._drawn and (self._inside_step or not self._changed()):
            self._undraw()
        self._inside_step = False

    # Before the forward pass, for methods that draw M.

    @property
    def _draws(self) -> bool:
        return any(pool.method.draws for pool in self._pools)

    @torch.inference_mode(False)
    @torch.no_grad()
    def _before_forward(self, model: nn.Module, args: tuple[Any, ...]) -> None:
        if model is not self._model or self._inside_step:
            return  # a copy of the model has its hooks, too
        if model.training and not self._drawn:
            process_group.reshard(model)
            self._check_weights_unchanged()
            self._draw()
        elif not model.training:
            self._quieten()

    @torch.inference_mode(False)
    @torch.no_grad()
    def _before_state_dict(self, model: nn.Module, prefix: str, keep_vars: bool) -> None:
        """What is saved has no noise, also in the middle of a step."""
        if model is self._model:
            self._quieten()

    def _quieten(self) -> None:
        """Takes the noise out, outside of a step and unless somebody else has put other weights there."""
        if self._drawn and not self._inside_step and not self._changed():
            self._undraw()

    def _draw(self) -> None:
        self._quiet = self._masks if self._ranks.size > 1 else None
        gates = [pool.gates(self.step) if pool.method.draws else [site.mask for site in pool.sites] for pool in self._pools]
        self._hold(gates)
        self._drawn, self._drawn_at = True, self.step

    def _undraw(self) -> None:
        self._hold(self._quiet_masks())
        self._drawn = False

    def _quiet_masks(self) -> Sequence[Sequence[Tensor]]:
        """M without noise: made again from the scores, but where that takes the other ranks, and one may ask alone."""
        if not self._drawn:
            return self._masks
        return masks_of(self._pools, self.step) if self._quiet is None else self._quiet

    # Around the step.

    @torch.no_grad()
    def _before_step(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # Everything that can be refused is refused before anything is changed.
        compatibility.check_no_closure(args, kwargs)
        if self._inside_step:
            raise TrainingError(
                "optimizer.step() was entered before it had ended. Either an earlier step broke off: resume from a checkpoint. "
                f"Or {type(optimizer).__name__}.step calls super().step(), for which PyTorch runs step hooks twice: take an "
                "optimizer whose step is one method."
            )
        found_inf, grad_scale = getattr(optimizer, "found_inf", None), getattr(optimizer, "grad_scale", None)
        # Under GradScaler a fused optimizer is called even if it must skip, and unscales within its own kernel.
        self._skipping = (found_inf is not None and bool(found_inf)) or compatibility.only_makes_state(optimizer, self._ranks)
        if self._skipping:
            return
        process_group.reshard(self._model)
        compatibility.check_gradients(self._model, self._parameters(), self.step, self._ranks)
        self._check_weights_unchanged()
        if self._draws and self._drawn_at != self.step:
            raise TrainingError(
                "The forward pass of this step did not draw L0's gates: they are drawn when the model itself is called, in "
                "training mode. Call model.train() and model(...), not a module inside it."
            )
        if self._draws and not self._drawn:
            self._draw()  # again, after an evaluation or a save since
        unscale = None if grad_scale is None else grad_scale.reciprocal()
        groups = self._groups()
        for pool in self._pools:
            pool.steer(self.step, self._penalised_rate(pool, pool.sites[0], groups))
        self._inside_step = True
        learned = self._learned(unscale)
        clip = None
        if self.max_grad_norm is not None:
            learned = iter(held := list(learned))
            clip = self._clip_factor(
                [gradient for _, _, gradients in held for gradient in gradients], unscale, self.max_grad_norm
            )
            for parameter in self._parameters():
                if parameter.grad is not None:
                    times(local(parameter.grad), clip)
        for pool, site, gradients in learned:
            if gradients and site.scores is not None:
                site.scores.learn([times(gradient, clip) for gradient in gradients], self._score_rate(pool, site, groups))
            site.restore()

    @torch.no_grad()
    def _after_step(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._skipping:
            return
        for weight in self._weights:
            weight.take_step()
        self._contract()
        self._settle(masks_of(self._pools, self.step + 1))
        self.step += 1
        self._drawn = False
        self._inside_step = False

    def _learned(self, unscale: Tensor | None) -> Iterator[tuple[Pool, Site, list[Tensor]]]:
        """Yields each site with the gradients of its scores, none where they do not learn or no gradient came; leaves G * M
        behind."""
        sites = self._sites
        last = {weight: site for site in sites for weight in site.grouping}  # which needs G of a shared weight
        shared = share_weights(self._pools)
        for pool in self._pools:
            for site in pool.sites:
                others = [other for other in sites if other is not site] if shared else []
                movement = site.movement(others) if site.learns else None
                if movement is None and site.learns and pool.penalty(self.step):
                    movement = torch.zeros_like(site.value())  # the penalty reaches a matrix that the loss does not
                gradients = []
                if movement is not None and site.scores is not None:
                    gradients = site.scores.gradients(pool.score_gradient(site, times(movement, unscale), self.step))
                for weight in site.weights:
                    if last[weight] is site:
                        weight.end_gradient()
                yield pool, site, gradients

    def _score_rate(self, pool: Pool, site: Site, groups: Mapping[int, dict[str, Any]]) -> float:
        """The learning rate of a site's scores now; 0 where they do not learn."""
        if not site.learns:
            return 0.0
        weight = site.weights[0]
        return pool.method.score_rate(_rate_factor(groups[id(weight.parameter)], weight.base_rate))

    def _penalised_rate(self, pool: Pool, site: Site, groups: Mapping[int, dict[str, Any]]) -> float:
        """The learning rate of what a pool's penalty acts on: a site's scores, or its weights."""
        if pool.method.contracts:
            return float(groups[id(site.weights[0].parameter)]["lr"])
        return self._score_rate(pool, site, groups)

    def _contract(self) -> None:
        """Takes the proximal step of those penalties that act on the weights, which a parameter that holds W then follows."""
        contracting = [pool for pool in self._pools if pool.method.contracts]
        groups = self._groups() if contracting else {}
        for pool in contracting:
            for site in pool.sites:
                pool.contract(site, self.step, self._penalised_rate(pool, site, groups))
                site.restore()

    def _clip_factor(self, score_gradients: Sequence[Tensor], unscale: Tensor | None, max_grad_norm: float) -> Tensor | None:
        """min(1, max_grad_norm / norm); None where there is no gradient."""
        norm = joint_norm(self._parameters(), score_gradients, unscale, self._ranks)
        if norm is None:
            return None
        self.gradient_norm = norm
        return (max_grad_norm / (norm + 1e-6)).clamp(max=1.0)

    def _settle(self, masks: Sequence[Sequence[Tensor]]) -> None:
        """Applies masks without noise, and counts them while all ranks are here."""
        self._apply(masks)
        self._density = density_of(self._pools, masks) if self._ranks.size > 1 else 0.0

    @torch.no_grad()
    def _apply(self, masks: Sequence[Sequence[Tensor]]) -> None:
        """Lets the parameters, which hold W, hold W' = W * M."""
        for pool, of_pool in zip(self._pools, masks, strict=True):
            for site, mask in zip(pool.sites, of_pool, strict=True):
                site.mask = mask
        for weight, mask in spread_masks(self._pools, masks).items():
            weight.apply(mask)
        self._probes = self._probe()

    def _hold(self, masks: Sequence[Sequence[Tensor]]) -> None:
        """Lets the parameters, whatever they hold, hold W' = W * M."""
        process_group.reshard(self._model)
        for site in self._sites:
            site.restore()
        self._apply(masks)

    def _probe(self) -> Tensor:
        return torch.cat([weight.probe().to(self._weights[0].held.device) for weight in self._weights])

    # What is refused at a step.

    def _check_weights_unchanged(self) -> None:
        groups, parameters = self._groups(), dict(self._model.named_parameters())
        for weight in self._weights:
            if parameters.get(weight.name) is not weight.parameter or id(weight.parameter) not in groups:
                raise TrainingError(
                    f"{weight.name} is no longer the parameter that the pruner was attached to, or has left the optimizer. "
                    "Wrap, shard (fully_shard), move or replace the model's parameters first, then make the optimizer, then "
                    "the Pruner."
                )
        changed = self._changed()
        if self._ranks.any(bool(changed)):
            names = enumeration(changed or ["what another rank holds"])
            raise TrainingError(
                f"Between two steps something other than the optimizer changed {names} (a reload, an average "
                "swapped in?). The pruner would overwrite it. Put the weights back before the step, or take up the state "
                "that belongs to them with pruner.load()."
            )

    def _changed(self) -> list[str]:
        """The pruned weights that hold anything but W * M, because somebody else put it there."""
        untouched = all(weight.version == weight.current_version() for weight in self._weights)
        if untouched and torch.equal(self._probes, self._probe()):
            return []
        return [weight.name for weight in self._weights if weight.was_changed()]

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self._optimizer.param_groups for parameter in group["params"]]

    def _groups(self) -> dict[int, dict[str, Any]]:
        """The parameter group of each parameter, looked up anew: load_state_dict replaces the groups."""
        return {id(parameter): group for group in self._optimizer.param_groups for parameter in group["params"]}

    @property
    def _sites(self) -> list[Site]:
        return [site for pool in self._pools for site in pool.sites]

    @property
    def _weights(self) -> list[Weight]:
        return list(dict.fromkeys(weight for site in self._sites for weight in site.grouping))

    @property
    def _ranks(self) -> ProcessGroup:
        """The processes among which the pruned weights are shared out."""
        return self._pools[0].processes

    @property
    def _masks(self) -> list[list[Tensor]]:
        return [[site.mask for site in pool.sites] for pool in self._pools]

    # State.

    def save(self, folder: str | Path) -> None:
        """Writes the state into `pruner.safetensors` and `pruner.json` in the folder, each atomically.

        Save the model, the optimizer and the scheduler beside it; take a new folder for each save. In a run of several
        processes each of them calls this, and rank 0 writes.

        Raises:
            FileError: if the folder cannot be written.
            TrainingError: if the ranks hold different masks, see `check_ranks`: nothing has been written then. And on the
                others, if the rank that writes could not.
        """
        self.check_ranks()
        writes = self._coordinator.rank == 0
        with self._coordinator.failing_together():
            state.save(self._pools, folder, {**self._facts(), "step": self.step, "processes": self._coordinator.size}, writes)

    @torch.no_grad()
    def check_ranks(self) -> None:
        """Compares the masks of all ranks, by a checksum of each; every rank calls it. Alone it does nothing.

        Where processes share a weight out, the masks of each are also compared with what the scores say.

        Raises:
            TrainingError: on every rank, if two of them hold different masks; names the parameters.
        """
        if self._coordinator.size == 1:
            return
        self._quieten()
        wrong = self._coordinator.unequal(self._checksums(), self._ranks.rank)
        if self._ranks.size > 1:
            again = spread_masks(self._pools, masks_of(self._pools, self.step))
            astray = self._coordinator.any([not torch.equal(weight.mask, again[weight]) for weight in self._weights])
            wrong = [one or other for one, other in zip(wrong, astray, strict=True)]
        if any(wrong):
            names = [weight.name for weight, is_wrong in zip(self._weights, wrong, strict=True) if is_wrong]
            raise TrainingError(
                f"At step {self.step} the ranks hold different masks, weights or scores of {enumeration(names)}. Is the model "
                "wrapped in DDP or sharded, and does every rank take the same steps? Resume from the last checkpoint; nothing "
                "was saved since."
            )

    def _checksums(self) -> list[int]:
        """Of each weight, with the scores of the site that it comes first in: a wrong mask is made anew at the next step, and
        what it has done to W and S by then stays."""
        sums = {weight: weight.checksum() for weight in self._weights}
        for site in self._sites:
            for name, tensor in sorted(site.tensors().items()):
                if name.startswith("scores."):
                    sums[site.weights[0]] = checksum(tensor, sums[site.weights[0]])
        return list(sums.values())

    @torch.no_grad()
    def save_mask(self, path: str | Path) -> None:
        """Writes what a run with frozen weights comes to: the masks, one bit a weight, and other parameters that it trained;
        no buffers.

        `fineprune.apply_mask` gives it to the same pretrained model. In a run of several processes each of them calls this, and
        rank 0 writes.

        Args:
            path: of the one file; one that holds a mask is replaced.

        Raises:
            InvalidInputError: if weights were trained, or gates are no bits (L0). Nothing is written then.
            FileError: if the file cannot be written.
        """
        trained = [weight.name for weight in self._weights if not weight.frozen]
        if trained or self._draws:
            what = f"this run trains {enumeration(trained)}" if trained else "L0's gates are numbers from 0 to 1"
            raise InvalidInputError(
                f"A mask alone is what a run with frozen_weights=True and a method like Movement() comes to, and {what}. Save "
                "the model with save_pretrained()."
            )
        self.check_ranks()
        process_group.reshard(self._model)
        held = {id(parameter) for parameter in self._parameters()}
        pruned = {id(weight.parameter) for weight in self._weights}
        others = {n: p for n, p in self._model.named_parameters() if id(p) in held - pruned and p.requires_grad}
        weights = {w.name: (self._ranks.joined(w.wide()), self._ranks.joined(w.mask)) for w in self._weights}
        values = {name: process_group.of(p).joined(local(p.detach())) for name, p in others.items()}
        with self._coordinator.failing_together():
            if self._coordinator.rank == 0:
                mask_file.save(path, weights, values)

    def _facts(self) -> dict[str, Any]:
        """What a state must share with the pruner that takes it up."""
        shapes = {weight.name: [str(weight.parameter.dtype), *weight.parameter.shape] for weight in self._weights}
        return {"format": FORMAT, "config": state.settings(self.config), "total_steps": self.total_steps, "weights": shapes}

    @torch.no_grad()
    def load(self, folder: str | Path) -> None:
        """Takes up a state saved by a pruner of the same config and total_steps.

        The model must already hold the weights of the same checkpoint, and the optimizer and the
        scheduler their own state.

        Raises:
            InvalidInputError: if the state is missing or damaged, of another config, model or run,
                or does not belong to the weights that the model holds. Nothing has been changed then.
        """
        with self._coordinator.failing_together():
            saved, step = state.load(self._pools, folder, self._facts())
        found = masks_of(saved, step)
        at_attach = {weight.name: weight.dense for weight in self._weights} if self.step == 0 else {}
        with self._coordinator.failing_together():
            state.check_weights(saved, found, at_attach, folder)
        self._pools, self.step = saved, step
        self._inside_step, self._drawn, self._drawn_at = False, False, None
        self._hold(found)
        self._density = density_of(self._pools, found) if self._ranks.size > 1 else 0.0


def _extremes(scores: Tensor) -> Tensor:
    """Returns the negative lowest and the highest; of none, minus infinity twice."""
    return torch.stack([-scores.amin(), scores.amax()]) if scores.numel() else scores.new_full((2,), -math.inf)


def _rate_factor(group: dict[str, Any], base_rate: float) -> float:
    """Returns the weights' learning rate over its base: what a scheduler makes of it now."""
    return float(group["lr"]) / float(group.get("initial_lr", base_rate))
