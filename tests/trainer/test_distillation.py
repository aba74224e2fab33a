"""Distillation: the equation against a loop over examples, through real models, and as a stock Trainer trains."""

import copy
import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import BertForPreTraining, Trainer, TrainerCallback

from conftest import Stack, config, differences, everything, stack_batches, tiny_bert
from distilled_run import (
    LENGTH,
    ROWS,
    TASKS,
    Watch,
    arguments,
    batch_of,
    bert,
    data,
    expected_gradients,
    expected_loss,
    gradients,
    largest_error,
    models,
    one_step,
    row_loss,
)
from fineprune import Distillation, InvalidInputError
from fineprune.distillation import divergence, labelled, next_labelled
from fineprune.trainer.callback import PruningCallback
from fineprune.trainer.distillation_trainer import DistillationTrainer
from resumable_run import STEPS, callback_of, trainer

EXCLUDED = -math.inf
TEACHER_ALONE = Distillation(alpha_ce=0.0, alpha_kd=1.0)


def logits(*shape: int, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(shape, dtype=torch.float64)


def looped(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL row by row and class by class."""
    rows = zip(student.flatten(0, -2), teacher.flatten(0, -2), strict=True)
    only = Distillation(temperature, alpha_ce=0.0, alpha_kd=1.0)
    return torch.stack([row_loss((s, t, 0), only) for s, t in rows]).mean()


# The equation.


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 7.5])
@pytest.mark.parametrize("shape", [(1, 2), (5, 3), (4, 6, 3)])
def test_equals_the_loop(shape: tuple[int, ...], temperature: float) -> None:
    student, teacher, task_loss = logits(*shape), logits(*shape), logits()
    expected = 0.3 * task_loss + 0.6 * looped(student, teacher, temperature)
    loss = Distillation(temperature, alpha_ce=0.3, alpha_kd=0.6).loss(task_loss, student, teacher)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


def test_the_defaults_are_the_papers() -> None:
    """T = 2, alphas 0.1 and 0.9; the authors' example: kl_div(log_softmax(s / T), softmax(t / T), "batchmean") * T ** 2."""
    student, teacher, task_loss = logits(4, 3), logits(4, 3), logits()
    log_q, p = (student / 2).log_softmax(-1), (teacher / 2).softmax(-1)
    expected = 0.1 * task_loss + 0.9 * nn.functional.kl_div(log_q, p, reduction="batchmean") * 4
    assert Distillation().loss(task_loss, student, teacher).item() == pytest.approx(expected.item(), rel=1e-12)


def test_start_and_end_are_averaged() -> None:
    start, end, other_start, other_end = (logits(4, 6) for _ in range(4))
    mean = (looped(start, other_start, 2.0) + looped(end, other_end, 2.0)) / 2
    assert TEACHER_ALONE.teacher_loss((start, end), (other_start, other_end)).item() == pytest.approx(mean.item())


def test_the_mask_leaves_rows_out() -> None:
    student, teacher = logits(3, 4, 5), logits(3, 4, 5)
    labels = torch.tensor([[-100, 1, 2, -100], [3, -100, -100, 4], [-100, -100, -100, -100]])
    here = [(0, 1), (0, 2), (1, 0), (1, 3)]
    ahead = [(0, 0), (0, 1), (1, 2)]
    for mask, counted in ((labelled(labels), here), (next_labelled(labels), ahead)):
        rows = [(student[row, token], teacher[row, token]) for row, token in counted]
        expected = torch.stack([looped(s[None], t[None], 2.0) for s, t in rows]).mean()
        assert 4 * divergence(student, teacher, 2.0, mask).item() == pytest.approx(expected.item(), rel=1e-12)
    assert divergence(student, teacher, mask=torch.zeros(3, 4, dtype=torch.bool)).item() == 0.0


def test_gradients_are_right_and_reach_the_student_only() -> None:
    student, teacher = logits(3, 4).requires_grad_(), logits(3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: TEACHER_ALONE.teacher_loss(z, teacher), student)
    TEACHER_ALONE.teacher_loss(student, teacher).backward()
    assert teacher.grad is None
    p, q = (teacher.detach() / 2).softmax(-1), (student.detach() / 2).softmax(-1)
    assert torch.allclose(student.grad, 2 * (q - p) / 3, rtol=1e-12)


numbers = st.lists(st.floats(-30, 30), min_size=4, max_size=4)


@settings(deadline=None)
@given(numbers, numbers, st.floats(0.1, 50), st.floats(-100, 100))
def test_a_divergence_is_positive_and_zero_between_equals(s: list[float], t: list[float], temperature: float, c: float) -> None:
    student, teacher = torch.tensor([s], dtype=torch.float64), torch.tensor([t], dtype=torch.float64)
    assert divergence(student, teacher, temperature) > -1e-12
    assert divergence(student + c, student, temperature).abs() < 1e-10


@settings(deadline=None)
@given(numbers, numbers, st.floats(1000, 1e5))
def test_at_a_high_temperature_the_gradient_is_that_of_matching_logits(s: list[float], t: list[float], high: float) -> None:
    """T^2 keeps its size: the limit is ((s - mean s) - (t - mean t)) / classes (Hinton et al. 2015, equation 4)."""
    student, teacher = torch.tensor([s], dtype=torch.float64, requires_grad=True), torch.tensor([t], dtype=torch.float64)
    Distillation(high, alpha_ce=0.0, alpha_kd=1.0).teacher_loss(student, teacher).backward()
    limit = ((student - student.mean()) - (teacher - teacher.mean())).detach() / 4
    assert torch.allclose(student.grad, limit, atol=0.5 * 60**2 / high, rtol=0)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_full(half: torch.dtype) -> None:
    student, teacher = logits(8, 50).to(half).requires_grad_(), logits(8, 50).to(half)
    loss = TEACHER_ALONE.teacher_loss(student, teacher)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(looped(student.detach().double(), teacher.double(), 2.0).item(), rel=1e-5)
    assert student.grad.dtype == half


@pytest.mark.parametrize("padding", [-1e4, -1e30, torch.finfo(torch.float32).min, EXCLUDED])
@pytest.mark.parametrize("temperature", [0.5, 2.0])
@pytest.mark.parametrize("both", [True, False])
def test_excluded_positions_give_no_nan(padding: float, temperature: float, both: bool) -> None:
    student, teacher = logits(2, 6).float(), logits(2, 6).float()
    teacher[1, 4:] = padding
    if both:
        student[1, 4:] = padding
    student.requires_grad_()
    loss = Distillation(temperature).loss(torch.zeros(()), student, teacher)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()
    if both:
        parts = [divergence(student[:1], teacher[:1], temperature), divergence(student[1:, :4], teacher[1:, :4], temperature)]
        assert loss.item() == pytest.approx(0.9 * temperature**2 * sum(parts).item() / 2, rel=1e-4)


def test_a_position_that_only_the_student_excludes_gives_a_finite_gradient() -> None:
    student, teacher = logits(1, 4), logits(1, 4)
    student[0, 3] = EXCLUDED
    student.requires_grad_()
    divergence(student, teacher).backward()
    assert student.grad.isfinite().all()


# What is refused.


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"temperature": 0}, r"temperature must be a number above 0, got 0\."),
        ({"temperature": math.inf}, "must be a number above 0, got inf"),
        ({"temperature": math.nan}, "must be a number above 0, got nan"),
        ({"temperature": "2"}, "must be a number above 0, got '2'"),
        ({"alpha_ce": -0.1}, r"alpha_ce, the weight of a loss, must be a number, 0 or more, got -0\.1\."),
        ({"alpha_kd": math.nan}, "alpha_kd, .* must be a number, 0 or more, got nan"),
        ({"alpha_kd": True}, "alpha_kd, .* must be a number, 0 or more, got True"),
        ({"alpha_ce": 0, "alpha_kd": 0}, "leaves no loss"),
    ],
)
def test_settings_that_cannot_be_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        Distillation(**given)


@pytest.mark.parametrize(
    ("student", "teacher", "mask", "words"),
    [
        ((4, 3), (4, 5), None, r"the shape \(4, 3\) and the teacher's \(4, 5\).*the same classes"),
        ((2, 6, 30), (2, 6, 31), None, "same tokenizer"),
        ((4, 1), (4, 1), None, "one column, as in a regression"),
        ((4,), (4,), None, r"must have the shape \(examples, classes\) .*, got \(4,\)"),
        ((2, 3, 4, 4), (2, 3, 4, 4), None, r"\(examples, tokens, classes\), got \(2, 3, 4, 4\)"),
        ((2, 6, 30), (2, 6, 30), (2, 5), r"must have the shape \(2, 6\), one value for each row .*, got \(2, 5\)"),
    ],
)
def test_logits_that_cannot_be_are_refused(student: Any, teacher: Any, mask: Any, words: str) -> None:
    chosen = None if mask is None else torch.ones(mask, dtype=torch.bool)
    with pytest.raises(InvalidInputError, match=words):
        divergence(logits(*student), logits(*teacher), 2.0, chosen)


def test_tasks_that_differ_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="The student gave 1 tensors of logits and the teacher 2"):
        TEACHER_ALONE.teacher_loss(logits(4, 6), (logits(4, 6), logits(4, 6)))


# Through models, in Trainer.


@pytest.mark.parametrize("accumulated", [1, 4])
@pytest.mark.parametrize("task", TASKS)
def test_a_step_equals_the_equation_over_all_the_data(task: str, accumulated: int, tmp_path: Path) -> None:
    """Also where the batches of a step hold different numbers of labels."""
    expected = expected_loss(task, *models(task), Distillation()).item()
    batches = {"per_device_train_batch_size": ROWS // accumulated, "gradient_accumulation_steps": accumulated}
    made, found = one_step(task, tmp_path, Distillation(), **batches)
    assert largest_error(found, expected_gradients(task, Distillation())) < TASKS[task].tolerance
    logged = made.state.log_history[0]
    assert logged["loss"] == pytest.approx(expected, rel=1e-5)
    assert 0.1 * logged["loss_ce"] + 0.9 * logged["loss_kd"] == pytest.approx(expected, rel=1e-5)


def test_accumulation_is_exact_for_a_causal_lm(tmp_path: Path) -> None:
    batches = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    _, found = one_step("causal LM", tmp_path, TEACHER_ALONE, **batches)
    assert largest_error(found, expected_gradients("causal LM", TEACHER_ALONE)) < 1e-12


def test_a_batch_of_a_step_may_hold_no_label_at_all(tmp_path: Path) -> None:
    rows = data("causal LM")
    silent = [{**row, "labels": [5] + [-100] * (LENGTH - 1)} for row in rows[:2]]  # the first token is no target
    batches = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    made, found = one_step("causal LM", tmp_path, TEACHER_ALONE, silent + rows[2:], **batches)
    _, alone = one_step("causal LM", tmp_path, TEACHER_ALONE, rows[2:], **{**batches, "gradient_accumulation_steps": 3})
    assert largest_error(found, alone) < 1e-12
    assert math.isfinite(made.state.log_history[0]["loss_ce"])


def test_label_smoothing_and_a_loss_function_are_trainers(tmp_path: Path) -> None:
    """With no weight on the teacher, the gradient is that of the stock Trainer."""
    task_alone = Distillation(alpha_ce=1.0, alpha_kd=0.0)
    student, _ = models("causal LM")

    def doubled(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | None = None) -> Tensor:
        losses = nn.functional.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
        return 2 * losses / num_items_in_batch

    for settled, function in (({"label_smoothing_factor": 0.3}, None), ({}, doubled)):
        batches = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, **settled}
        watches = Watch(), Watch()
        common = {"train_dataset": data("causal LM"), "compute_loss_func": function}
        Trainer(copy.deepcopy(student), arguments(tmp_path, **batches), callbacks=[watches[0]], **common).train()
        DistillationTrainer(
            copy.deepcopy(student),
            arguments(tmp_path, **batches),
            callbacks=[watches[1]],
            teacher=models("causal LM")[1],
            distillation=task_alone,
            **common,
        ).train()
        assert largest_error(watches[1].gradients, watches[0].gradients) < 1e-6


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, str(Path(__file__).parents[1].joinpath("distilled_run.py")), str(tmp_path)]
    environments = [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    ranks = [subprocess.Popen(command, env=environment, **pipes) for environment in environments]
    results = [rank.communicate(timeout=200) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], results
    first, second = ([line for line in output.splitlines() if line.startswith("RESULT")] for output, _ in results)
    assert [line.split()[-2:] for line in first] == [line.split()[-2:] for line in second]  # the averages of all ranks
    errors = {line.rsplit(maxsplit=3)[0]: float(line.split()[-3]) for line in first}
    assert len(errors) == 4
    assert errors["RESULT classification True"] < 1e-11
    assert errors["RESULT classification False"] < 1e-11  # equal numbers of labels on both ranks
    assert errors["RESULT causal LM True"] < 1e-6
    assert errors["RESULT causal LM False"] > 1e-3  # the user asked for each rank's own mean


class Replicas(nn.Module):
    """Runs a batch as two replicas would under DataParallel."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        halves = [self.model(**{name: value.chunk(2)[half] for name, value in inputs.items()}) for half in range(2)]
        return {
            "loss": torch.cat([half.loss.reshape(-1) for half in halves]),
            "logits": torch.cat([half.logits for half in halves]),
        }


@pytest.mark.parametrize("averaged", [True, False])
@pytest.mark.parametrize("task", ["classification", "causal LM"])
def test_replicas_equal_one_model(task: str, averaged: bool, tmp_path: Path) -> None:
    student, teacher = models(task)
    made = DistillationTrainer(student, arguments(tmp_path, average_tokens_across_devices=averaged), teacher=teacher)
    made.args._n_gpu = 2
    batches = [batch_of(data(task)[:4]), batch_of(data(task)[4:])]
    items = made._get_num_items_in_batch(batches, torch.device("cpu"))
    for batch in batches:
        made.compute_loss(Replicas(student).train(), batch, num_items_in_batch=items).mean().backward()
    assert largest_error(gradients(student), expected_gradients(task, Distillation())) < TASKS[task].tolerance


def test_the_teacher_stays_as_it_was(tmp_path: Path) -> None:
    student, teacher = tiny_bert(), tiny_bert(dropout=0.5)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    made = trainer(tmp_path)
    distilled = DistillationTrainer(student, made.args, train_dataset=made.train_dataset, teacher=teacher)
    distilled.train()
    assert not teacher.training
    assert not differences(before, teacher.state_dict())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in teacher.parameters())
    assert list(load_file(tmp_path / f"checkpoint-{STEPS}" / "model.safetensors")) == sorted(student.state_dict())
    optimised = {id(parameter) for group in distilled.optimizer.param_groups for parameter in group["params"]}
    assert optimised == {id(parameter) for parameter in student.parameters()}


def test_evaluation_is_without_the_teacher(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    common = {"args": made.args, "eval_dataset": made.eval_dataset}
    distilled = DistillationTrainer(model=made.model, teacher=tiny_bert(), **common)
    assert distilled.evaluate()["eval_loss"] == Trainer(model=made.model, **common).evaluate()["eval_loss"]


def pruned_and_distilled(folder: Path, *others: TrainerCallback, **given: Any) -> DistillationTrainer:
    made = trainer(folder, **given)
    torch.manual_seed(5)
    teacher = tiny_bert()
    callbacks = [PruningCallback(config()), *others]
    return DistillationTrainer(made.model, made.args, train_dataset=made.train_dataset, teacher=teacher, callbacks=callbacks)


class BreakOff(TrainerCallback):
    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 13:
            raise KeyboardInterrupt


def test_prunes_and_distils_and_resumes(tmp_path: Path) -> None:
    whole = pruned_and_distilled(tmp_path / "whole", report_to="tensorboard")
    kinds = [type(each).__name__ for each in whole.callback_handler.callbacks]
    assert kinds.index("PruningCallback") < kinds.index("TensorBoardCallback"), "reporters show the pruning figures"
    whole.train()
    pruner = callback_of(whole).pruner
    assert pruner.density() == pytest.approx(0.3, abs=1e-3)
    logged = [entry for entry in whole.state.log_history if "loss" in entry]
    assert all({"loss_ce", "loss_kd", "density"} <= entry.keys() for entry in logged)

    with pytest.raises(KeyboardInterrupt):
        pruned_and_distilled(tmp_path / "broken", BreakOff()).train()
    resumed = pruned_and_distilled(tmp_path / "broken")
    resumed.train(resume_from_checkpoint=str(tmp_path / "broken" / "checkpoint-12"))
    assert not differences(everything(callback_of(resumed).pruner), everything(pruner))
    again = [entry for entry in resumed.state.log_history if "loss" in entry]
    assert [entry["loss_kd"] for entry in again[6:]] == [entry["loss_kd"] for entry in logged[6:]]


def test_a_student_learns_from_the_teacher_alone(tmp_path: Path) -> None:
    """Without a single label it comes to say what the teacher says."""
    made = trainer(tmp_path)
    rows = [{"input_ids": row["input_ids"]} for row in made.train_dataset]
    student, teacher = tiny_bert(), tiny_bert()
    for parameter in teacher.parameters():
        parameter.data.mul_(2.0)
    given = arguments(tmp_path, max_steps=60, learning_rate=3e-3)
    DistillationTrainer(student, given, train_dataset=rows, teacher=teacher, distillation=TEACHER_ALONE).train()
    tokens = batch_of(rows)
    with torch.no_grad():
        said = [model.eval()(**tokens).logits.argmax(-1) for model in (student, teacher)]
    assert set(said[1].tolist()) == {0, 1}
    assert (said[0] == said[1]).float().mean() > 0.9


def test_without_labels_padding_does_not_count(tmp_path: Path) -> None:
    student, teacher = models("token classification")
    rows = [
        {"input_ids": row["input_ids"], "attention_mask": [1] * (6 - number % 3) + [0] * (number % 3)}
        for number, row in enumerate(data("token classification"))
    ]
    made = DistillationTrainer(student, arguments(tmp_path), teacher=teacher, distillation=TEACHER_ALONE)
    batch = batch_of(rows)
    attended = [(row, token) for row in range(ROWS) for token in range(LENGTH - row % 3)]
    outputs, taught = student(**batch).logits, teacher(**batch).logits.detach()
    expected = torch.stack([row_loss((outputs[at], taught[at], 0), TEACHER_ALONE) for at in attended]).mean()
    assert made.compute_loss(student.train(), batch).item() == pytest.approx(expected.item(), rel=1e-12)


class Narrow(nn.Module):
    """A teacher that takes the tokens only and returns logits as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.bert = tiny_bert()
        self.seen: set[str] = set()

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.bert(input_ids).logits


class Wide(Narrow):
    def forward(self, **inputs: Tensor) -> Tensor:
        self.seen |= inputs.keys()
        assert not torch.is_grad_enabled()
        return self.bert(**inputs).logits


def test_the_teacher_gets_the_inputs_it_names_and_no_labels(tmp_path: Path) -> None:
    batch = {**batch_of(trainer(tmp_path).train_dataset[:4]), "token_type_ids": torch.zeros(4, 8, dtype=torch.int64)}
    student, narrow, wide = tiny_bert(), Narrow(), Wide()
    losses = []
    for teacher in (narrow, wide):
        teacher.bert.load_state_dict(tiny_bert().state_dict() if teacher is narrow else narrow.bert.state_dict())
        losses.append(DistillationTrainer(student, arguments(tmp_path), teacher=teacher).compute_loss(student, batch).item())
    assert losses[0] == losses[1]
    assert wide.seen == {"input_ids", "token_type_ids"}


class Unnamed(nn.Module):
    """A teacher of the wrong kind: no logits by name."""

    def forward(self, input_ids: Tensor) -> tuple[Tensor]:
        return (torch.zeros(len(input_ids), 2),)


def first_step(folder: Path, student: nn.Module, teacher: nn.Module, rows: list[dict[str, Any]]) -> Callable[[], Any]:
    return DistillationTrainer(student, arguments(folder), train_dataset=rows, teacher=teacher).train


def test_what_cannot_be_distilled_is_refused_while_training(tmp_path: Path) -> None:
    tokens = [row["input_ids"] for row in data("classification")]
    plain = [{"input_ids": row, "labels": 1} for row in tokens]
    cases = {
        "must be class numbers": (tiny_bert(num_labels=1), tiny_bert(num_labels=1), [{**row, "labels": 0.5} for row in plain]),
        "must be class numbers.*": (tiny_bert(), tiny_bert(), [{**row, "labels": [0.0, 1.0]} for row in plain]),
        "the same classes": (tiny_bert(), tiny_bert(num_labels=3), plain),
        r"no labels \(labels\).*alpha_ce=0.0": (tiny_bert(), tiny_bert(), [{"input_ids": row} for row in tokens]),
        "A model returned tuple; distillation needs `logits`": (tiny_bert(), Unnamed(), plain),
        "A model returned prediction_logits, seq_relationship_logits": (tiny_bert(), bert(BertForPreTraining), plain),
    }
    for words, (student, teacher, rows) in cases.items():
        with pytest.raises(InvalidInputError, match=words):
            first_step(tmp_path, student, teacher, rows)()


def test_a_teacher_that_shares_weights_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    student, teacher = tiny_bert(), tiny_bert()
    for shared in (student, nn.Sequential(student.bert.pooler)):
        with pytest.raises(InvalidInputError, match=r"The teacher shares parameters with the student: .*deepcopy"):
            DistillationTrainer(student, arguments(tmp_path / "out"), teacher=shared)
    teacher.config.id2label, student.config.id2label = {0: "No", 1: "Yes"}, {0: "yes", 1: "no"}
    with pytest.raises(InvalidInputError, match="are, in order, yes, no, and the teacher's no, yes"):
        DistillationTrainer(student, arguments(tmp_path / "out"), teacher=teacher)
    assert not (tmp_path / "out").exists()
    student.config.id2label = {0: "no", 1: "yes"}
    DistillationTrainer(student, arguments(tmp_path / "out"), teacher=teacher)
    DistillationTrainer(args=arguments(tmp_path / "out"), model_init=lambda: tiny_bert(), teacher=teacher)


def test_the_plain_loop_of_the_docstring_learns() -> None:
    class Answering(Stack):
        def forward(self, features: Tensor, labels: Tensor) -> Any:
            for block in self.blocks:
                features = block(features)
            made = self.head(features)
            return {"loss": nn.functional.cross_entropy(made, labels), "logits": made}

    student, teacher = Answering(), Answering()
    optimizer, losses = torch.optim.SGD(student.parameters(), lr=0.1), []
    for batch in stack_batches(1) * 30:
        with torch.no_grad():
            taught = teacher(**batch)["logits"]
        output = student(**batch)
        loss = Distillation().loss(output["loss"], output["logits"], taught)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(parameter.grad is None for parameter in teacher.parameters())
