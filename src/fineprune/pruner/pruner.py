"""Pruner: attaches a pruned step to a model and its optimizer, and answers questions about it."""

import logging
import math
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from ..config.config import PruningConfig
from ..core.masked_model import Holding, MaskedModel
from ..core.pool import masks_of
from ..core.step import LearningRates, Step
from ..distributed import process_group
from ..distributed.coordinator import Coordinator
from ..errors import InvalidInputError, TrainingError, is_number
from ..models import inspection, targets
from . import build, compatibility, state, statistics

logger = logging.getLogger(__name__)


class Pruner:
    """Prunes a model while an optimizer trains it. The step itself is `fineprune.core.step`.

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
            raise InvalidInputError(f"total_steps must be the number of optimizer steps, 1 or above, got {total_steps!r}.")
        if max_grad_norm is not None and not (is_number(max_grad_norm) and 0 < max_grad_norm < math.inf):
            raise InvalidInputError(f"max_grad_norm must be a number above 0, or None, got {max_grad_norm!r}.")
        self.config = config
        self.total_steps = total_steps
        model, optimizer = targets.unwrap(model), compatibility.unwrap_optimizer(optimizer)
        compatibility.check_supported(model, optimizer)
        hooks = optimizer._optimizer_step_pre_hooks.values()
        if any(isinstance(getattr(hook, "__self__", None), Pruner) for hook in hooks):
            raise InvalidInputError("This optimizer has a pruner already. Close that one first.")
        process_group.reshard(model)
        self._coordinator = Coordinator.of_all()
        compatibility.check_same_run(self._coordinator, model, state.settings(config), total_steps)
        groups = LearningRates(optimizer).groups
        pools = build.build(model, groups, config, total_steps, process_group.shared_seed())
        self._masked = MaskedModel(model, pools)
        self._step = Step(self._masked, optimizer, max_grad_norm)
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]
        if self._masked.stochastic:
            before_forward = torch.compiler.disable(self._before_forward)  # type: ignore[no-untyped-call]
            # before all other hooks: `fully_shard` gathers the weights in one
            self._hooks.append(model.register_forward_pre_hook(before_forward, prepend=True))
            self._hooks.append(model.register_state_dict_pre_hook(self._before_state_dict))  # type: ignore[no-untyped-call]

    # Hooks.

    def _before_step(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        compatibility.check_no_closure(args, kwargs)
        self._step.before()

    def _after_step(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._step.after()

    @torch.inference_mode(False)
    @torch.no_grad()
    def _before_forward(self, model: nn.Module, args: tuple[Any, ...]) -> None:
        masked = self._masked
        if model is not masked.model or masked.holding is Holding.DENSE:
            return  # a copy of the model has its hooks, too
        if not model.training:
            masked.remove_noise()
        elif masked.holding is Holding.MASKED:
            process_group.reshard(model)
            masked.check_unchanged(LearningRates(self._step.optimizer).groups)
            masked.sample()

    @torch.inference_mode(False)
    @torch.no_grad()
    def _before_state_dict(self, model: nn.Module, prefix: str, keep_vars: bool) -> None:
        """A saved model has no noise, also one that is saved between a forward pass and its step."""
        if model is self._masked.model:
            self._masked.remove_noise()

    @torch.no_grad()
    def detach(self) -> None:
        """Removes the hooks. After a step that broke off half-way, the model gets its zeros back."""
        for hook in self._hooks:
            hook.remove()
        self._masked.abandon_step()

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

    def __enter__(self) -> "Pruner":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.detach()

    # Questions.

    @property
    def step(self) -> int:
        """Optimizer steps done; a step skipped by GradScaler for an overflow does not count."""
        return self._masked.step

    @property
    def max_grad_norm(self) -> float | None:
        """The joint norm that gradients are clipped to; may be changed between steps."""
        return self._step.max_grad_norm

    @max_grad_norm.setter
    def max_grad_norm(self, norm: float | None) -> None:
        self._step.max_grad_norm = norm

    @property
    def gradient_norm(self) -> Tensor | None:
        """The joint norm before clipping at the last step; None unless max_grad_norm is given."""
        return self._step.gradient_norm

    @property
    def value(self) -> float:
        """The schedule's value in force: the density asked for at this step; with a penalty, tau or its ramp. With rules, the
        config's own, or the first rule's if the rules hold for everything."""
        pools = self._masked.pools
        own = next((pool for pool in pools if pool.config is self.config), pools[0])
        return own.value(self.step)

    @property
    def finished(self) -> bool:
        """Whether the schedule's final value is in force."""
        return all(pool.finished(self.step) for pool in self._masked.pools)

    @property
    def names(self) -> list[str]:
        """The names of the pruned parameters, in the model's order."""
        held = {weight.name for weight in self._masked.weights}
        return [name for name, _ in self._masked.model.named_parameters() if name in held]

    def density(self) -> float:
        """Returns the fraction of the prunable weights that the masks keep now."""
        return self._masked.density()

    @torch.no_grad()
    def summary(self) -> inspection.Inspection:
        """Returns the density of each pruned weight, of all of them and of the whole model; `print` shows a table.

        Without noise: in the middle of a step, L0's gates of evaluation are put back first.
        """
        self._masked.remove_noise()
        return inspection.inspect(self._masked.model, self.names)

    @torch.no_grad()
    def scores(self) -> dict[str, Tensor]:
        """Returns S of each weight that has scores of its own, spread over its shape; copies. Of a weight under several rules,
        those of the last."""
        return {
            weight.name: self._masked.processes.joined(structure.expand(site.value(), weight.dense.shape).clone())
            for site in self._masked.sites
            if site.scores is not None
            for weight, structure in site.grouping.items()
        }

    def statistics(self) -> dict[str, float]:
        """Returns figures to log.

        The density kept and the one asked for; the scores' mean, standard deviation and range; the joint gradient
        norm, if clipping; the penalty and the threshold of methods that have them. With several rules
        the density asked for, the penalty and the threshold are those of each, numbered from 0.
        """
        figures = statistics.figures(self._masked)
        return figures if self.gradient_norm is None else {**figures, "joint_grad_norm": self.gradient_norm.item()}

    def report(self) -> inspection.Inspection:
        """Logs the density, warns of matrices of which nothing is kept, and returns the summary."""
        summary = self.summary()
        logger.info("Pruned. %s", "; ".join(summary.totals()))
        for warning in statistics.warnings(self._masked):
            logger.warning("%s", warning)
        return summary

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
        facts = {**self._facts(), "step": self.step, "processes": self._coordinator.size}
        with self._coordinator.failing_together():
            state.save(self._masked.pools, folder, facts, writes=self._coordinator.rank == 0)

    @torch.no_grad()
    def load(self, folder: str | Path) -> None:
        """Takes up a state saved by a pruner of the same config and total_steps.

        The model must already hold the weights of the same checkpoint, and the optimizer and the
        scheduler their own state.

        Raises:
            InvalidInputError: if the state is missing or damaged, of another config, model or run,
                or does not belong to the weights that the model holds. Nothing has been changed then.
        """
        masked = self._masked
        with self._coordinator.failing_together():
            saved, step = state.load(masked.pools, folder, self._facts())
        masks = masks_of(saved, step)
        at_attach = {weight.name: weight.dense for weight in masked.weights} if self.step == 0 else {}
        with self._coordinator.failing_together():
            state.check_weights(saved, masks, at_attach, folder)
        masked.take_up(saved, step, masks)

    @torch.no_grad()
    def check_ranks(self) -> None:
        """Compares the masks of all ranks, by a checksum of each; every rank calls it. Alone it does nothing.

        Where processes share a weight, the masks of each are also compared with those that its scores give.

        Raises:
            TrainingError: on every rank, if two of them hold different masks; names the parameters.
        """
        if self._coordinator.size > 1:
            self._masked.remove_noise()
            state.check_equal(self._masked, self._coordinator)

    @torch.no_grad()
    def save_mask(self, path: str | Path) -> None:
        """Writes the result of a run with frozen weights: the masks, one bit a weight, and other parameters that it trained;
        no buffers.

        `fineprune.apply_mask` gives it to the same pretrained model. In a run of several processes each of them calls this, and
        rank 0 writes.

        Args:
            path: of the one file; one that holds a mask is replaced.

        Raises:
            InvalidInputError: if weights were trained, or gates are no bits (L0). Nothing is written then.
            FileError: if the file cannot be written.
        """
        state.check_mask_is_all(self._masked)
        self.check_ranks()
        state.save_mask(self._masked, self._step.optimizer, path, self._coordinator)

    def _facts(self) -> dict[str, Any]:
        return state.facts(self._masked.weights, self.config, self.total_steps)
