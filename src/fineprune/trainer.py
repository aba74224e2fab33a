"""The stock Trainer: PruningCallback prunes in it, DistillationTrainer adds a teacher to it."""

import inspect
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import state as pruner_state
from .config import PruningConfig
from .distillation import Distillation, labelled, next_labelled
from .errors import InvalidInputError, enumeration
from .extras import require
from .inspection import Inspection
from .pruner import Pruner

require("hub", "transformers", "accelerate")

from transformers import (  # noqa: E402
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss  # noqa: E402
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES  # noqa: E402
from transformers.trainer_callback import CallbackHandler, DefaultFlowCallback, ExportableState  # noqa: E402

logger = logging.getLogger(__name__)


class PruningCallback(TrainerCallback, ExportableState):
    """Prunes while a stock Trainer trains.

        Trainer(model=model, args=arguments, callbacks=[PruningCallback(config)], ...).train()

    - It takes over `max_grad_norm` and clips by the paper's joint norm (see Pruner).
    - Every training log, and so every `report_to`, also gets the density in force and the one asked
      for, the scores' mean, spread and range, and the joint gradient norm; every evaluation, `eval_density`.
    - Each checkpoint also holds the pruner's state, written before older checkpoints are deleted;
      `train(resume_from_checkpoint=...)` takes it up. `last_whole_checkpoint` chooses one.
    - On several ranks their masks are compared before each evaluation and each save, and a run whose ranks disagree is stopped.
    - Only evaluations at the final density count for `load_best_model_at_end` and early stopping.

    Args:
        config: what to prune, and how far; or the same as `PruningConfig.to_dict` writes it.
        resume_from: where the pruner's state lies when training resumes from a checkpoint outside
            `output_dir`. None: `output_dir/checkpoint-<step>`.
    """

    def __init__(self, config: PruningConfig | dict[str, Any], resume_from: str | Path | None = None) -> None:
        self.config = PruningConfig.from_dict(config) if isinstance(config, dict) else config
        self.resume_from = resume_from
        self.pruner: Pruner | None = None
        """The pruner of the run under way, or of the last one."""
        self.summary: Inspection | None = None
        """What is left of the model, counted at the end of training."""
        self._arguments: TrainingArguments | None = None
        self._trainer_state: TrainerState | None = None
        self._control: TrainerControl | None = None
        self._max_grad_norm = 0.0
        self._compared_at: int | None = None
        """The step at which the ranks were compared last."""
        self._saved_at: int | None = None
        """The step at which all ranks saved last."""

    # Begin and end.

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Attaches the pruner, and takes its state up again if training resumes."""
        if self.pruner is not None:
            self.pruner.detach()  # left from a run that broke off
            self._give_back_clipping()
        self._arguments, self._trainer_state, self._control = args, state, control
        self._compared_at = self._saved_at = None
        clip = float(args.max_grad_norm or 0.0)
        self.pruner = Pruner(
            kwargs["model"], kwargs["optimizer"], self.config, total_steps=state.max_steps, max_grad_norm=clip or None
        )
        if state.global_step > 0:
            try:
                self.pruner.load(self.resume_from or self._checkpoint())
            except BaseException:
                self.pruner.detach()
                raise
        _log_before_reporters(self)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Removes the hooks and counts what is left; warns if the schedule had not finished."""
        pruner = self._attached()
        pruner.detach()
        self._control = None
        self.summary = pruner.report()
        if not pruner.finished:
            logger.warning(
                "Training ended after %d of %d optimiser steps, before the pruning schedule did; the density is %.4f.",
                *(pruner.step, pruner.total_steps, pruner.density()),
            )

    # Clipping: by the pruner, not by Trainer, whose norm would be that of the dense gradients.

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Switches Trainer's clipping off for this step, and forgets a best model that was not at the final density."""
        self._control = control
        self._give_back_clipping()
        self._max_grad_norm, args.max_grad_norm = args.max_grad_norm, 0.0
        if not self._attached().finished:
            state.best_metric = state.best_global_step = state.best_model_checkpoint = None

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Gives the arguments back as they were, so that they are saved so."""
        self._give_back_clipping()

    def _give_back_clipping(self) -> None:
        if self._arguments is not None and self._max_grad_norm:
            self._arguments.max_grad_norm, self._max_grad_norm = self._max_grad_norm, 0.0

    # Several ranks: all of them take part in a save, where Trainer asks the first one alone for its state.

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Compares the ranks before an evaluation or a save, and saves."""
        self._save_together(control)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Compares the ranks before an evaluation or a save, and saves."""
        self._save_together(control)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Compares the ranks, where another callback asked for the evaluation."""
        if self._control is not None and self._compared_at != state.global_step:
            self._attached().check_ranks()

    def _save_together(self, control: TrainerControl) -> None:
        pruner = self._attached()
        if pruner.alone:
            return
        if self._keeps_state(control):
            self._save_once()
        elif (control.should_save or control.should_evaluate) and self._compared_at != self._step:
            pruner.check_ranks()
            self._compared_at = self._step

    def _save_once(self) -> None:
        if self._saved_at != self._step:
            self._attached().save(self._checkpoint())
            self._saved_at = self._compared_at = self._step

    # Logs.

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Adds the pruning figures to what Trainer logs, for every reporter."""
        if self.pruner is None:
            return  # an evaluation before the first training
        logs: dict[str, float] = kwargs["logs"]
        figures: dict[str, float] = {}
        if "loss" in logs:
            figures = self._attached().statistics()
        elif any(key.startswith("eval_") for key in logs):
            figures = {"eval_density": self._attached().density()}
        logs.update(figures)
        if state.log_history:
            state.log_history[-1].update(figures)

    # Checkpoints.

    def state(self) -> dict[str, Any]:
        """Saves the pruner's state into the checkpoint that Trainer is writing, and returns how to make this callback.

        Trainer asks exportable callbacks for their state within each save, after the model and the
        optimiser and before older checkpoints are deleted: a crash never leaves no whole checkpoint.
        """
        if self._is_saving() and self._attached().alone:
            self._attached().save(self._checkpoint())
        return {"args": {"config": self.config.to_dict()}, "attributes": {}}

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Checks that the state lies in the checkpoint."""
        if not (self._attached().alone or args.save_only_model or state.is_hyper_param_search):
            self._save_once()  # where another callback, or a best model, asked for it: by now control.should_save is False
        if not args.save_only_model and state.is_world_process_zero and not (self._checkpoint() / pruner_state.FACTS).is_file():
            logger.warning("%s holds no pruner state and cannot be resumed (a hyper-parameter search?).", self._checkpoint())

    def _is_saving(self) -> bool:
        """Whether Trainer is writing a checkpoint: it asks for the state at other times too, and elsewhere in a search."""
        if self._arguments is None or self._trainer_state is None or self._control is None:
            return False
        return self._keeps_state(self._control) and self._checkpoint().is_dir()

    def _keeps_state(self, control: TrainerControl) -> bool:
        """Whether the checkpoint that is wanted can be resumed from."""
        assert self._arguments is not None
        assert self._trainer_state is not None
        wanted = control.should_save and not self._arguments.save_only_model
        return wanted and not self._trainer_state.is_hyper_param_search

    @property
    def _step(self) -> int:
        assert self._trainer_state is not None
        return self._trainer_state.global_step

    def _checkpoint(self) -> Path:
        assert self._arguments is not None
        assert self._trainer_state is not None
        return Path(self._arguments.output_dir or "") / f"checkpoint-{self._trainer_state.global_step}"

    def _attached(self) -> Pruner:
        assert self.pruner is not None
        return self.pruner


def _log_before_reporters(callback: TrainerCallback) -> None:
    """Moves the callback right behind Trainer's own flow control.

    Trainer puts the callbacks of `report_to` before the user's and hands a callback no reference to
    itself, so the list is found on the call stack of the event under way.
    """
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        handler = frame.f_locals.get("self")
        if isinstance(handler, CallbackHandler):
            handler.callbacks.remove(callback)
            flow = [isinstance(other, DefaultFlowCallback) for other in handler.callbacks]
            handler.callbacks.insert(flow.index(True) + 1 if True in flow else 0, callback)
            return
    logger.warning("Trainer's callbacks were not found: pruning figures reach only the log history.")


class DistillationTrainer(Trainer):
    """The stock Trainer with a teacher in the loss; everything else is as it was.

        DistillationTrainer(model=model, args=arguments, teacher=teacher, callbacks=[PruningCallback(config)], ...).train()

    - Training logs also hold `loss_ce` (the task's own loss) and `loss_kd` (T^2 KL), each before its weight.
    - Evaluation is without the teacher: `eval_loss` is the task's own, as of a dense run.
    - Over accumulated batches the loss is the mean over all their labels, as of one large batch. Trainer (5.23) by
      itself adds up the means where a model takes no count of its labels, as BERT: k batches, k times the gradient.
    - The teacher is in evaluation mode, without gradients, on the student's device and in its precision; it is neither
      trained nor saved. It gets those of the student's inputs that its `forward` names, without the labels.

    Args:
        model, args, others, settings: as Trainer's.
        teacher: a trained model with the student's task and classes. It returns `logits`, or `start_logits` and
            `end_logits`, or a tensor of logits.
        distillation: the temperature and the weights of the two losses.

    Raises:
        InvalidInputError: for a teacher that shares parameters with the student or has its classes in another order.
            While training: for outputs that cannot be distilled (regression, several labels at once, other shapes),
            and for a batch without labels unless `alpha_ce` is 0.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        args: TrainingArguments | None = None,
        *others: Any,
        teacher: nn.Module,
        distillation: Distillation = Distillation(),  # noqa: B008, it is immutable
        **settings: Any,
    ) -> None:
        if model is not None:  # None: `model_init` makes one
            _refuse_shared(model, teacher)
            _refuse_other_order(model, teacher)
        super().__init__(model, args, *others, **settings)
        self.teacher = teacher.eval()
        self.distillation = distillation
        self._move_model_to_device(teacher, self.args.device)
        self._sums = torch.zeros(3, device=self.args.device)
        """Of CE, T^2 KL and 1 over the batches since the last log, weighted by their share of a step's labels."""

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Returns the loss of one batch, distilled in training mode; and the student's outputs, if asked for."""
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        teacher = self._teach(inputs)
        mask = self._mask(inputs, teacher)
        items = None if num_items_in_batch is None or mask is None else mask.sum().clamp(min=1) / max(self.args.n_gpu, 1)
        task_loss, outputs = self._task_loss(model, inputs, items)
        teacher_loss = self.distillation.teacher_loss(_logits(outputs), teacher, mask)
        means = torch.stack([task_loss, teacher_loss, torch.ones_like(teacher_loss)])
        if items is not None:  # this batch's share of all labels of the step; else Trainer divides by the batches
            means = means * items * self._factor() / torch.as_tensor(num_items_in_batch).flatten()[0]
        self._sums += means.detach()
        loss = self.distillation.mix(means[0], means[1])
        return (loss, outputs) if return_outputs else loss

    def _teach(self, inputs: dict[str, Any]) -> list[Tensor]:
        """Returns the teacher's logits."""
        taken = _named_inputs(self.teacher) or set(inputs)
        if not _is_encoder_decoder(self.teacher):  # which makes its decoder's inputs out of the labels
            taken -= {"labels", *self.label_names}
        with torch.no_grad(), self.accelerator.autocast():
            return _logits(self.teacher(**{name: value for name, value in inputs.items() if name in taken}))

    def _mask(self, inputs: dict[str, Any], logits: list[Tensor]) -> Tensor | None:
        """Returns which rows of the logits count: those with a label; without labels, the tokens that are no padding."""
        labels = inputs.get("labels")
        if labels is None:
            attended = inputs.get("attention_mask")
            return attended.bool() if attended is not None and logits[0].dim() == 3 else None
        if not isinstance(labels, Tensor) or labels.is_floating_point():
            raise InvalidInputError(
                "The labels are not class numbers (a regression, or several labels at once); only a choice of one class "
                "can be distilled. Train this model with Trainer, without a teacher."
            )
        if "shift_labels" in inputs:
            return labelled(inputs["shift_labels"])
        return next_labelled(labels) if _shifts_labels(self.model) else labelled(labels)

    def _task_loss(self, model: nn.Module, inputs: dict[str, Any], items: Tensor | None) -> tuple[Tensor, Any]:
        """Returns the mean of the task's own loss over this batch, and the student's outputs."""
        if self.label_names and all(inputs.get(name) is None for name in self.label_names):
            if self.distillation.alpha_ce > 0:
                raise InvalidInputError(
                    f"A batch has no labels ({enumeration(self.label_names)}), which the task's own loss needs. Add them to "
                    "the data, or give Distillation(alpha_ce=0.0, alpha_kd=1.0) to learn from the teacher alone."
                )
            return torch.zeros((), device=self.args.device), model(**inputs)
        if items is None:
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
            return loss.mean(), outputs
        each = items.expand(self.args.n_gpu, 1) if self.args.n_gpu > 1 else items
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=each)
        return loss.mean() / self._factor(), outputs

    def _factor(self) -> int:
        """Returns what Trainer multiplies a loss by whose labels it counted over all devices."""
        if not self.args.average_tokens_across_devices:
            return 1
        return int(self.args.n_gpu if self.args.n_gpu > 1 else self.accelerator.num_processes // self.get_tp_size())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds `loss_ce` and `loss_kd`, averaged since the last log, to what is logged of training."""
        if "loss" in logs:
            task_loss, teacher_loss, weight = self.accelerator.gather(self._sums[None]).sum(0).tolist()
            logs |= {"loss_ce": task_loss / weight, "loss_kd": teacher_loss / weight} if weight else {}
            self._sums.zero_()
        super().log(logs, start_time)


def _named_inputs(model: nn.Module) -> set[str]:
    """Returns the inputs that a model's `forward` names."""
    kinds = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    return {name for name, parameter in inspect.signature(model.forward).parameters.items() if parameter.kind in kinds}


def _logits(outputs: Any) -> list[Tensor]:
    """Returns the logits among a model's outputs: one tensor, or two for extractive question answering."""
    if isinstance(outputs, Tensor):
        return [outputs]
    for names in (("logits",), ("start_logits", "end_logits")):
        if isinstance(outputs, Mapping) and all(name in outputs for name in names):
            return [outputs[name] for name in names]
    given = enumeration(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__
    raise InvalidInputError(
        f"A model returned {given}; distillation needs `logits`, or `start_logits` and `end_logits`, by name. "
        "Take a model with the head of the task."
    )


def _is_encoder_decoder(model: nn.Module | None) -> bool:
    return isinstance(model, PreTrainedModel) and bool(model.config.is_encoder_decoder)


def _shifts_labels(model: nn.Module | None) -> bool:
    """Whether the model's own loss compares position t with label t + 1, as causal language models do."""
    if not isinstance(model, PreTrainedModel) or _is_encoder_decoder(model):
        return False
    causal = type(model).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    return causal or LOSS_MAPPING.get(model.loss_type) is ForCausalLMLoss


def _refuse_shared(model: nn.Module, teacher: nn.Module) -> None:
    students = {id(parameter) for parameter in model.parameters()}
    shared = [name for name, parameter in teacher.named_parameters() if id(parameter) in students]
    if shared:
        raise InvalidInputError(
            f"The teacher shares parameters with the student: {enumeration(shared)}. It would change while the student "
            "is trained. Load it separately, or give copy.deepcopy(model)."
        )


def _refuse_other_order(model: nn.Module, teacher: nn.Module) -> None:
    """A teacher whose classes have the same names in another order would teach the wrong ones."""
    if not isinstance(model, PreTrainedModel) or not isinstance(teacher, PreTrainedModel):
        return
    orders = [[str(name).casefold() for _, name in sorted((each.config.id2label or {}).items())] for each in (model, teacher)]
    if orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1]):
        raise InvalidInputError(
            f"The student's classes are, in order, {enumeration(orders[0])}, and the teacher's {enumeration(orders[1])}. "
            "Give the student the teacher's order (`id2label` and `label2id` of its config, and the labels of the data)."
        )
