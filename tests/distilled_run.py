"""Tiny tasks for distillation, their loss written from the equation, and one step of DistillationTrainer on them.

python distilled_run.py FOLDER     one rank of a run under DDP (RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are set)
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    TrainerCallback,
    TrainingArguments,
)

from fineprune import Distillation
from fineprune.trainer.distillation_trainer import DistillationTrainer

ROWS, LENGTH, VOCABULARY = 8, 6, 30
Row = tuple[Tensor, Tensor, int]
"""The logits of the student and the teacher for one choice, and the right one."""


def bert(kind: type[nn.Module], classes: int = 3) -> nn.Module:
    settings = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "num_labels": classes}
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return kind(BertConfig(vocab_size=VOCABULARY, max_position_embeddings=16, **sizes, **settings))


def llama() -> nn.Module:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=16, **sizes))


def gpt2() -> nn.Module:
    settings = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_positions=16, n_embd=16, n_layer=1, n_head=2, **settings))


def t5() -> nn.Module:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0}
    return T5ForConditionalGeneration(T5Config(vocab_size=VOCABULARY, decoder_start_token_id=0, pad_token_id=0, **sizes))


def one_label(row: int) -> dict[str, Any]:
    return {"labels": row % 3}


def answer(row: int) -> dict[str, Any]:
    return {"start_positions": row % LENGTH, "end_positions": (3 * row + 1) % LENGTH}


def token_labels(row: int, classes: int = VOCABULARY) -> dict[str, Any]:
    """Labels for the last tokens only, fewer in some rows than in others."""
    return {"labels": [-100] * (1 + row % 4) + [(row + 5 * token) % classes for token in range(LENGTH - 1 - row % 4)]}


def from_the_first(row: int) -> dict[str, Any]:
    """The same, with a label for the first token, which no token precedes."""
    return {"labels": [1, *token_labels(row)["labels"][1:]]}


def of_examples(student: Any, teacher: Any, batch: dict[str, Tensor]) -> Iterator[Row]:
    for row, label in enumerate(batch["labels"].tolist()):
        yield student.logits[row], teacher.logits[row], label


def of_answers(student: Any, teacher: Any, batch: dict[str, Tensor]) -> Iterator[Row]:
    for row in range(ROWS):
        yield student.start_logits[row], teacher.start_logits[row], int(batch["start_positions"][row])
        yield student.end_logits[row], teacher.end_logits[row], int(batch["end_positions"][row])


def of_tokens(student: Any, teacher: Any, batch: dict[str, Tensor], ahead: int = 0) -> Iterator[Row]:
    for row in range(len(batch["labels"])):
        for token in range(LENGTH - ahead):
            label = int(batch["labels"][row, token + ahead])
            if label != -100:
                yield student.logits[row, token], teacher.logits[row, token], label


def of_next_tokens(student: Any, teacher: Any, batch: dict[str, Tensor]) -> Iterator[Row]:
    yield from of_tokens(student, teacher, batch, ahead=1)


@dataclass(frozen=True)
class Task:
    """A model, its labels, the rows of logits that count, and how exact its own loss is in float64."""

    model: Callable[[], nn.Module]
    labels: Callable[[int], dict[str, Any]]
    rows: Callable[[Any, Any, dict[str, Tensor]], Iterator[Row]]
    tolerance: float = 1e-11


TASKS = {
    "classification": Task(lambda: bert(BertForSequenceClassification), one_label, of_examples),
    "question answering": Task(lambda: bert(BertForQuestionAnswering, 2), answer, of_answers),
    "token classification": Task(lambda: bert(BertForTokenClassification), lambda row: token_labels(row, 3), of_tokens),
    "masked LM": Task(lambda: bert(BertForMaskedLM), token_labels, of_tokens),
    "causal LM": Task(llama, from_the_first, of_next_tokens, 1e-6),  # its own loss is in float32
    "causal LM without a loss type": Task(gpt2, token_labels, of_next_tokens, 1e-6),
    "encoder-decoder": Task(t5, token_labels, of_tokens),
}


def models(task: str) -> tuple[nn.Module, nn.Module]:
    """Returns a student and a teacher in float64, far enough apart to have something to teach."""
    torch.manual_seed(1)
    student, teacher = TASKS[task].model().double(), TASKS[task].model().double()
    for parameter in (*student.parameters(), *teacher.parameters()):
        parameter.data.mul_(5.0)
    return student, teacher.eval()


def data(task: str) -> list[dict[str, Any]]:
    tokens = torch.randint(1, VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(3))
    return [{"input_ids": row, **TASKS[task].labels(number)} for number, row in enumerate(tokens)]


def batch_of(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    return {name: torch.stack([torch.as_tensor(row[name]) for row in rows]) for name in rows[0]}


def row_loss(row: Row, distillation: Distillation) -> Tensor:
    """alpha_ce * CE + alpha_kd * T^2 * KL for one row of logits, class by class."""
    student, teacher, label = row
    temperature = distillation.temperature
    cross_entropy = -(student.exp() / student.exp().sum())[label].log()
    q = (student / temperature).exp() / (student / temperature).exp().sum()
    p = (teacher / temperature).exp() / (teacher / temperature).exp().sum()
    kl = sum(p[number] * (p[number] / q[number]).log() for number in range(len(p)))
    return distillation.alpha_ce * cross_entropy + distillation.alpha_kd * temperature**2 * kl


def expected_loss(task: str, student: nn.Module, teacher: nn.Module, distillation: Distillation) -> Tensor:
    """The loss of all the data as one batch: a mean over its rows of logits."""
    batch = batch_of(data(task))
    with torch.no_grad():
        taught = teacher(**batch)
    losses = [row_loss(row, distillation) for row in TASKS[task].rows(student(**batch), taught, batch)]
    return torch.stack(losses).mean()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


class Watch(TrainerCallback):
    """Keeps the gradients with which the optimizer steps."""

    def __init__(self) -> None:
        self.gradients: dict[str, Tensor] = {}

    def on_pre_optimizer_step(self, *_: Any, model: nn.Module, **__: Any) -> None:
        self.gradients = gradients(model)


def arguments(folder: str | Path, **settings: Any) -> TrainingArguments:
    given = {
        "output_dir": str(folder),
        "max_steps": 1,
        "per_device_train_batch_size": ROWS,
        "max_grad_norm": 0.0,
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return TrainingArguments(**{**given, **settings})


def one_step(
    task: str, folder: str | Path, distillation: Distillation, rows: list[dict[str, Any]] | None = None, **settings: Any
) -> tuple[DistillationTrainer, dict[str, Tensor]]:
    """Trains for one optimizer step on all the data; returns the trainer, and the gradients it stepped with."""
    student, teacher = models(task)
    watch = Watch()
    made = DistillationTrainer(
        student,
        arguments(folder, **settings),
        train_dataset=rows or data(task),
        teacher=teacher,
        distillation=distillation,
        callbacks=[watch],
    )
    made.train()
    return made, watch.gradients


def largest_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Returns how far two collections of gradients are apart, relative to the largest entry."""
    assert found.keys() == expected.keys()
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    return max(float((found[name] - expected[name]).abs().max()) for name in expected) / scale


def expected_gradients(task: str, distillation: Distillation) -> dict[str, Tensor]:
    student, teacher = models(task)
    expected_loss(task, student, teacher, distillation).backward()
    return gradients(student)


def main(folder: str) -> None:
    """Prints, for some tasks, how far the gradients of two ranks with two batches each are from one large batch's."""
    torch.set_num_threads(1)
    for task in ("classification", "causal LM"):
        for averaged in (True, False):
            settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
            made, found = one_step(task, folder, Distillation(), average_tokens_across_devices=averaged, **settings)
            logged = made.state.log_history[0]
            error = largest_error(
                {n.removeprefix("module."): g for n, g in found.items()}, expected_gradients(task, Distillation())
            )
            print("RESULT", task, averaged, error, logged["loss_ce"], logged["loss_kd"])  # noqa: T201
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
