"""DistillationTrainer: the stock Trainer with a teacher in the loss."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ..distillation import Distillation, labelled, next_labelled
from ..errors import InvalidInputError, enumeration
from .callback import PruningCallback


class DistillationTrainer(Trainer):
    """The stock Trainer with a teacher in the loss.

        DistillationTrainer(model=model, args=arguments, teacher=teacher, callbacks=[PruningCallback(config)], ...).train()

    - Training logs also hold `loss_ce` (the task's own loss) and `loss_kd` (T^2 KL), each before its weight.
    - Evaluation is without the teacher: `eval_loss` is the task's own loss, as in a run without a teacher.
    - The loss of accumulated batches is the mean over all their labels, as of one large batch. The stock Trainer (5.23) adds
      up the means of the batches for a model that takes no count of the labels, such as BERT: k times the gradient.
    - The teacher is in evaluation mode, without gradients, on the student's device and in its precision; it is neither
      trained nor saved. It gets those of the student's inputs that its `forward` names, without the labels.
    - Reporters (`report_to`) also show the figures of a PruningCallback in `callbacks`.

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
            _check_unshared(model, teacher)
            _check_class_order(model, teacher)
        super().__init__(model, args, *others, **settings)
        self.teacher = teacher.eval()
        self.distillation = distillation
        self._move_model_to_device(teacher, self.args.device)
        self._sums = torch.zeros(3, device=self.args.device)
        """Of CE, T^2 KL and 1 over the batches since the last log, weighted by their share of a step's labels."""
        for callback in list(self.callback_handler.callbacks):
            if isinstance(callback, PruningCallback):
                callback.attach(self)

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
        teacher = self._teacher_logits(inputs)
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

    def _teacher_logits(self, inputs: dict[str, Any]) -> list[Tensor]:
        """Returns the teacher's logits."""
        names = _named_inputs(self.teacher) or set(inputs)
        if not _is_encoder_decoder(self.teacher):  # which makes its decoder's inputs out of the labels
            names -= {"labels", *self.label_names}
        with torch.no_grad(), self.accelerator.autocast():
            return _logits(self.teacher(**{name: value for name, value in inputs.items() if name in names}))

    def _mask(self, inputs: dict[str, Any], logits: list[Tensor]) -> Tensor | None:
        """Returns where a row of the logits counts: where it has a label; without labels, where its token is no padding."""
        labels = inputs.get("labels")
        if labels is None:
            attended = inputs.get("attention_mask")
            return attended.bool() if attended is not None and logits[0].dim() == 3 else None
        if not isinstance(labels, Tensor) or labels.is_floating_point():
            raise InvalidInputError(
                "The labels must be class numbers to be distilled, one for each example or token; these are of a regression, "
                "or of several labels at once. Train this model with Trainer, without a teacher."
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
        """Returns the factor by which Trainer multiplies a loss if it counted the labels of all devices."""
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
    """Returns the names of the inputs of a model's `forward`."""
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
    """Returns whether the model's own loss compares position t with label t + 1, as causal language models do."""
    if not isinstance(model, PreTrainedModel) or _is_encoder_decoder(model):
        return False
    causal = type(model).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    return causal or LOSS_MAPPING.get(model.loss_type) is ForCausalLMLoss


def _check_unshared(model: nn.Module, teacher: nn.Module) -> None:
    students = {id(parameter) for parameter in model.parameters()}
    shared = [name for name, parameter in teacher.named_parameters() if id(parameter) in students]
    if shared:
        raise InvalidInputError(
            f"The teacher shares parameters with the student: {enumeration(shared)}. It would change while the student "
            "is trained. Load it separately, or give copy.deepcopy(model)."
        )


def _check_class_order(model: nn.Module, teacher: nn.Module) -> None:
    """A teacher whose classes have the same names in another order would teach the wrong ones."""
    if not isinstance(model, PreTrainedModel) or not isinstance(teacher, PreTrainedModel):
        return
    orders = [[str(name).casefold() for _, name in sorted((each.config.id2label or {}).items())] for each in (model, teacher)]
    if orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1]):
        raise InvalidInputError(
            f"The student's classes are, in order, {enumeration(orders[0])}, and the teacher's {enumeration(orders[1])}. "
            "Give the student the teacher's order (`id2label` and `label2id` of its config, and the labels of the data)."
        )
