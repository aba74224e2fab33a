"""Distillation: the loss with which a student also learns from a teacher's logits (Hinton et al. 2015; Sanh et al. 2020)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .errors import InvalidInputError, is_number

IGNORED = -100
"""The label that PyTorch's cross-entropy, and so every model's own loss, leaves out."""


@dataclass(frozen=True)
class Distillation:
    """The task's loss together with the teacher's (Sanh et al. 2020, section 6; the defaults are the paper's runs).

        L = alpha_ce * CE + alpha_kd * T^2 * KL(softmax(teacher / T) || softmax(student / T))

    The gradient of KL is proportional to 1 / T^2; the factor T^2 keeps the balance of the two losses at any T.

    Args:
        temperature: T, above 0. A high one gives weight to how the teacher ranks the wrong classes.
        alpha_ce: weight of the task's own loss, 0 or more. 0 needs no labels.
        alpha_kd: weight of the teacher's loss, 0 or more.

    Raises:
        InvalidInputError: for a value outside those ranges, or if both weights are 0.
    """

    temperature: float = 2.0
    alpha_ce: float = 0.1
    alpha_kd: float = 0.9

    def __post_init__(self) -> None:
        if not is_number(self.temperature) or not 0 < self.temperature < math.inf:
            raise InvalidInputError(f"temperature must be a number above 0, got {self.temperature!r}. The paper's is 2.0.")
        for name in ("alpha_ce", "alpha_kd"):
            alpha = getattr(self, name)
            if not is_number(alpha) or not 0 <= alpha < math.inf:
                raise InvalidInputError(f"{name}, the weight of a loss, must be a number, 0 or more, got {alpha!r}.")
        if self.alpha_ce == self.alpha_kd == 0:
            raise InvalidInputError("alpha_ce and alpha_kd are both 0, which leaves no loss. Give one above 0.")

    def loss(
        self,
        task_loss: Tensor,
        student: Tensor | Sequence[Tensor],
        teacher: Tensor | Sequence[Tensor],
        mask: Tensor | None = None,
    ) -> Tensor:
        """Returns L, a scalar; gradients reach the student only.

            with torch.no_grad():
                taught = teacher(**batch).logits
            output = student(**batch)
            distillation.loss(output.loss, output.logits, taught).backward()

        Args:
            task_loss: CE, the student's own loss, a mean over the same examples or tokens.
            student, teacher, mask: as `teacher_loss` takes them, which raises the same errors.
        """
        return self.mix(task_loss, self.teacher_loss(student, teacher, mask))

    def teacher_loss(
        self, student: Tensor | Sequence[Tensor], teacher: Tensor | Sequence[Tensor], mask: Tensor | None = None
    ) -> Tensor:
        """Returns T^2 * KL, a scalar; gradients reach the student only.

        Args:
            student: logits, as `divergence` takes them; or a sequence of them, over which KL is averaged: (start, end)
                for extractive question answering.
            teacher: the same of the teacher.
            mask: as `divergence` takes it.

        Raises:
            InvalidInputError: for different numbers of tensors, and as `divergence`.
        """
        students, teachers = ([one] if isinstance(one, Tensor) else one for one in (student, teacher))
        if len(students) != len(teachers):
            raise InvalidInputError(
                f"The student gave {len(students)} tensors of logits and the teacher {len(teachers)}. "
                "Take a teacher of the same task."
            )
        pairs = zip(students, teachers, strict=True)
        return self.temperature**2 * torch.stack([divergence(s, t, self.temperature, mask) for s, t in pairs]).mean()

    def mix(self, task_loss: Tensor, teacher_loss: Tensor) -> Tensor:
        """Returns alpha_ce * CE + alpha_kd * (T^2 * KL)."""
        return self.alpha_ce * task_loss + self.alpha_kd * teacher_loss


def divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0, mask: Tensor | None = None) -> Tensor:
    """Returns KL(p || q) = sum over classes of p * (log p - log q), averaged over examples or tokens.

        p = softmax(teacher / T),  q = softmax(student / T)

    In float32 at least, whatever the dtype of the logits. A class that the teacher excludes (p = 0, as at logits of
    minus infinity) adds nothing. Gradients reach the student only.

    Args:
        student: logits, (examples, classes), or (examples, tokens, classes). The classes are the positions for
            the start or the end of an answer.
        teacher: logits of the same shape.
        temperature: T, above 0.
        mask: which examples or tokens count, a bool tensor in the shape of the logits without the classes;
            `labelled` and `next_labelled` make it. None: all. If none counts, the result is 0.

    Raises:
        InvalidInputError: for logits of other shapes or of one class, or a mask of another shape.
    """
    _check_shapes(student, teacher, mask)
    logits = (z.to(torch.promote_types(z.dtype, torch.float32)) for z in (teacher.detach(), student))
    log_p, log_q = (functional.log_softmax(z / temperature, dim=-1) for z in logits)
    log_p = log_p.to(log_q.device)
    p = log_p.exp()
    kl = torch.where(p > 0, p * (log_p - log_q), 0.0).sum(-1)
    if mask is None:
        return kl.mean()
    return torch.where(mask, kl, 0.0).sum() / mask.sum().clamp(min=1)


def labelled(labels: Tensor) -> Tensor:
    """Returns where a label counts (is not -100): the mask of classification, token classification and masked LMs."""
    return labels != IGNORED


def next_labelled(labels: Tensor) -> Tensor:
    """Returns where the *next* label counts: the mask of causal LMs, in which position t predicts token t + 1."""
    return functional.pad(labelled(labels)[..., 1:], (0, 1), value=False)


def _check_shapes(student: Tensor, teacher: Tensor, mask: Tensor | None) -> None:
    if student.shape != teacher.shape:
        raise InvalidInputError(
            f"The student's logits have the shape {tuple(student.shape)} and the teacher's {tuple(teacher.shape)}; they must "
            "be the same. Take a teacher with the same classes, or for a language model the same tokenizer."
        )
    if student.dim() not in (2, 3):
        raise InvalidInputError(
            f"The logits must have the shape (examples, classes) or (examples, tokens, classes), got {tuple(student.shape)}."
        )
    if student.shape[-1] < 2:
        raise InvalidInputError(
            "The logits have one column, as in a regression: their softmax is always 1, and teaches nothing. Distil a model "
            "with two classes or more, or train this one without a teacher."
        )
    if mask is not None and mask.shape != student.shape[:-1]:
        raise InvalidInputError(
            f"The labels or the mask must have the shape {tuple(student.shape[:-1])}, one value for each row of the logits, "
            f"got {tuple(mask.shape)}."
        )
