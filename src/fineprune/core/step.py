"""One pruned step: what happens around `optimizer.step()`, in the paper's letters.

Between two steps each pruned parameter p holds the effective weight W' = W * M, so that forward and backward passes are those
of a dense model. Around step t:

    before    G = p.grad                                     the gradient of the effective weight
              dL/dS = reduce(G * W) + lambda_t * R'(S)       Sanh et al. 2020, section 4; each method adds its own
              p.grad = G * M ;  p = W                        the optimizer sees the dense weight and its masked gradient
              S <- S - rate * Adam(dL/dS)                    the scores' own optimizer
    the optimizer's own step
    after     W = p                                          (and the proximal step of a penalty on the weights)
              M = mask(S, v(t + 1)) ;  p = W where M, else +0.0
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..distributed import process_group
from ..errors import TrainingError
from ..methods.base import LearnedMethod
from ..methods.penalised import PenalisedWeights
from .clipping import clip_factor, times
from .gradients import ScoreGradients, check_gradients, parameters_of, score_gradients, skips_step, unscaling
from .masked_model import Holding, MaskedModel
from .penalty import shrink_weights, steer
from .pool import Pool
from .site import Site
from .weight import Weight


class Step:
    """The step of a masked model, before and after that of its optimizer.

    Args:
        masked: the model.
        optimizer: trains its parameters.
        max_grad_norm: of G * M, the other parameters' gradients and dL/dS jointly; None: no clipping.
    """

    def __init__(self, masked: MaskedModel, optimizer: torch.optim.Optimizer, max_grad_norm: float | None) -> None:
        self.masked = masked
        self.optimizer = optimizer
        self.max_grad_norm = max_grad_norm
        self.gradient_norm: Tensor | None = None
        """The joint norm before clipping at the last step."""
        self._skipped = False

    @torch.no_grad()
    def before(self) -> None:
        """Steps the scores, and hands W and G * M to the optimizer. Whatever can be wrong raises before anything is changed.

        Raises:
            TrainingError: if a gradient is sparse, NaN or infinite, weights were changed by others, or a step broke off.
        """
        masked = self.masked
        self._check_not_inside()
        self._skipped = skips_step(self.optimizer, masked.processes)
        if self._skipped:
            return
        process_group.reshard(masked.model)
        check_gradients(masked.model, parameters_of(self.optimizer), masked.step, masked.processes)
        rates = LearningRates(self.optimizer)
        masked.check_unchanged(rates.groups)
        self._ensure_sampled()
        for pool in masked.pools:
            steer(pool, masked.step, rates.penalised(pool, pool.sites[0]))

        masked.begin_step()
        unscale = unscaling(self.optimizer)  # 1 / GradScaler's scale
        found: Iterable[ScoreGradients] = score_gradients(masked, unscale)  # dL/dS, one site at a time; leaves G * M in p.grad
        clip = None
        if self.max_grad_norm is not None:  # the norm is of all sites
            found = list(found)
            clip = self._clip(found, unscale, self.max_grad_norm)
        for pool, site, gradients in found:
            if gradients and site.scores is not None:
                site.scores.learn([times(gradient, clip) for gradient in gradients], rates.scores(pool, site))
            site.restore()  # p = W

    @torch.no_grad()
    def after(self) -> None:
        """Takes W from the optimizer, and writes W * M with the masks of the next step."""
        masked = self.masked
        if self._skipped:
            return
        for weight in masked.weights:
            weight.read()  # W = p
        shrinking = [pool for pool in masked.pools if isinstance(pool.method, PenalisedWeights)]
        if shrinking:
            rates = LearningRates(self.optimizer)
            for pool in shrinking:
                for site in pool.sites:
                    shrink_weights(pool, site, masked.step, rates.penalised(pool, site))
        masked.end_step()  # M = mask(S, v(t + 1)), and p = W * M

    def _clip(self, found: list[ScoreGradients], unscale: Tensor | None, max_grad_norm: float) -> Tensor | None:
        """Scales the gradients of the parameters to the joint norm; returns the factor for those of the scores."""
        parameters = parameters_of(self.optimizer)
        scores = [gradient for _, _, gradients in found for gradient in gradients]
        norm, clip = clip_factor(parameters, scores, unscale, self.masked.processes, max_grad_norm)
        self.gradient_norm = self.gradient_norm if norm is None else norm
        for parameter in parameters:
            if parameter.grad is not None:
                times(process_group.local(parameter.grad), clip)
        return clip

    def _ensure_sampled(self) -> None:
        masked = self.masked
        if not masked.stochastic:
            return
        if masked.sampled_at != masked.step:
            raise TrainingError(
                "The forward pass of this step did not sample L0's gates: they are sampled when the model itself is called, in "
                "training mode. Call model.train() and model(...), not a module inside it."
            )
        if masked.holding is not Holding.SAMPLED:
            masked.sample()  # the same gates again, after an evaluation or a save since

    def _check_not_inside(self) -> None:
        if self.masked.holding is Holding.DENSE:
            raise TrainingError(
                "optimizer.step() was entered before it had ended. Either an earlier step broke off: resume from a checkpoint. "
                f"Or {type(self.optimizer).__name__}.step calls super().step(), for which PyTorch runs step hooks twice: take "
                "an optimizer whose step is one method."
            )


class LearningRates:
    """The learning rates in force, read at each step: load_state_dict replaces an optimizer's groups."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.groups: Mapping[int, dict[str, Any]] = {
            id(parameter): group for group in optimizer.param_groups for parameter in group["params"]
        }

    def of(self, weight: Weight) -> float:
        return float(self.groups[id(weight.parameter)]["lr"])

    def factor(self, weight: Weight) -> float:
        """The rate of a weight over its base: the scheduler's factor now."""
        return self.of(weight) / float(self.groups[id(weight.parameter)].get("initial_lr", weight.base_rate))

    def scores(self, pool: Pool, site: Site) -> float:
        """The rate of a site's scores; 0 where they do not learn."""
        if not site.learns or not isinstance(pool.method, LearnedMethod):
            return 0.0
        return pool.method.score_rate(self.factor(site.weights[0]))

    def penalised(self, pool: Pool, site: Site) -> float:
        """The rate of a site's scores or weights, whichever the penalty of its pool acts on."""
        return self.of(site.weights[0]) if isinstance(pool.method, PenalisedWeights) else self.scores(pool, site)
