"""The stock Trainer with PruningCallback: the same method, logs, checkpoints, resume, the choice of the best model."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing import event_accumulator
from transformers import (
    AutoModelForSequenceClassification,
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    get_linear_schedule_with_warmup,
)

from conftest import config, differences, everything, tiny_bert
from fineprune import InvalidInputError, Magnitude, Pruner, TrainingError
from fineprune.pruner import state_files
from fineprune.trainer.callback import PruningCallback
from fineprune.trainer.checkpoints import last_whole_checkpoint
from resumable_run import SAVE_STEPS, STEPS, callback_of, resume, trainer


def test_prunes_and_saves_a_plain_checkpoint(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    made.train()
    summary = callback_of(made).summary
    assert summary is not None
    assert summary.kept == sum(int(0.3 * layer.weights) for layer in summary.layers)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / f"checkpoint-{STEPS}")
    assert not differences(made.model.state_dict(), loaded.state_dict())


def test_equals_the_plain_loop_with_joint_clipping(tmp_path: Path) -> None:
    made = trainer(tmp_path, dropout=0.0, train_sampling_strategy="sequential", save_strategy="no", max_grad_norm=0.05)
    made.args.logging_steps = 1
    model = tiny_bert()
    model.load_state_dict(made.model.state_dict())
    data = made.train_dataset
    made.train()

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    scheduler = get_linear_schedule_with_warmup(optimizer, 3, STEPS)
    norms = []
    with Pruner(model, optimizer, config(), total_steps=STEPS, max_grad_norm=0.05) as pruner:
        for step in range(STEPS):
            rows = [data[(4 * step + offset) % len(data)] for offset in range(4)]
            batch = {"input_ids": torch.stack([row["input_ids"] for row in rows])}
            model(**batch, labels=torch.tensor([row["labels"] for row in rows])).loss.backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            norms.append(float(pruner.gradient_norm))
    assert min(norms) > 0.05  # every step was clipped
    logged = [entry["joint_grad_norm"] for entry in made.state.log_history if "loss" in entry]
    assert logged == pytest.approx(norms, rel=1e-3)  # Trainer sums a loss in another order
    for name, weight in model.state_dict().items():
        assert torch.allclose(weight, made.model.state_dict()[name], atol=2e-3), name


def test_logs_reach_the_history_and_every_reporter(tmp_path: Path) -> None:
    made = trainer(tmp_path, report_to="tensorboard", eval_strategy="steps", eval_steps=12)
    callback_of(made).attach(made)
    made.train()
    training = [entry for entry in made.state.log_history if "loss" in entry]
    keys = {"density", "density_asked", "score_mean", "score_std", "score_min", "score_max", "joint_grad_norm"}
    assert all(keys <= set(entry) for entry in training)
    densities = [entry["density"] for entry in training]
    assert densities == sorted(densities, reverse=True)
    assert densities[0] > 0.9
    assert densities[-1] == pytest.approx(0.3, abs=1e-3)
    evaluations = [entry for entry in made.state.log_history if "eval_loss" in entry]
    assert [entry["eval_density"] for entry in evaluations] == [entry["density"] for entry in training[5::6]]

    folder = next((tmp_path / "runs").iterdir())
    events = event_accumulator.EventAccumulator(str(folder)).Reload()
    assert {"train/density", "train/score_std", "train/joint_grad_norm", "eval/density"} <= set(events.Tags()["scalars"])
    assert [event.value for event in events.Scalars("train/density")] == pytest.approx(densities)


def test_without_attach_reporters_get_no_figures_and_a_warning_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen = []

    class Watch(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.append("density" in kwargs["logs"])

    made = trainer(tmp_path, Watch(), report_to="tensorboard", save_strategy="no")
    made.train()
    assert "Trainer logs to tensorboard before this callback adds the pruning figures" in caplog.text
    assert "callback.attach(trainer)" in caplog.text
    assert all("density" in entry for entry in made.state.log_history if "loss" in entry)
    assert seen == [True] * (STEPS // 2) + [False]  # the last log is that of the whole training


def test_attach_adds_the_callback_once_behind_the_flow_control(tmp_path: Path) -> None:
    made = trainer(tmp_path, report_to="tensorboard")
    callback, others = callback_of(made), made.callback_handler.callbacks[2:]
    for _ in range(2):
        callback.attach(made)
        kinds = [type(each).__name__ for each in made.callback_handler.callbacks]
        assert kinds == ["DefaultFlowCallback", "PruningCallback", "TensorBoardCallback", "PrinterCallback"], others
    made.remove_callback(callback)
    callback.attach(made)
    assert [type(each).__name__ for each in made.callback_handler.callbacks] == kinds


def test_clipping_is_taken_over_and_given_back(tmp_path: Path) -> None:
    seen = []

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.append(args.max_grad_norm)

    made = trainer(tmp_path, Watch(), max_grad_norm=0.5)
    made.train()
    pruner = callback_of(made).pruner
    assert pruner is not None
    assert pruner.max_grad_norm == 0.5
    assert set(seen) == {0.5}
    saved = torch.load(tmp_path / f"checkpoint-{STEPS}" / "training_args.bin", weights_only=False)
    assert saved.max_grad_norm == 0.5


def falling_metric() -> Callable[[Any], dict[str, float]]:
    """A metric that gets worse with every evaluation: the densest model looks best."""
    value = 1.0

    def compute(_: Any) -> dict[str, float]:
        nonlocal value
        value -= 0.01
        return {"score": value}

    return compute


FIRST_FINAL = 18
"""The first evaluation at the final density, of a run of 24 steps evaluated every second one."""

BEST = {"load_best_model_at_end": True, "metric_for_best_model": "score", "greater_is_better": True, "save_total_limit": None}


@pytest.mark.parametrize("strategy", ["steps", "best"])
def test_the_best_model_is_one_at_the_final_density(tmp_path: Path, strategy: str) -> None:
    made = trainer(tmp_path, **BEST, eval_strategy="steps", eval_steps=2, save_steps=2, save_strategy=strategy)
    made.compute_metrics = falling_metric()
    made.train()
    assert made.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{FIRST_FINAL}")
    summary = callback_of(made).summary
    assert summary is not None
    assert summary.density == pytest.approx(0.3, abs=1e-3)
    assert state_files.read_facts(tmp_path / f"checkpoint-{FIRST_FINAL}")["step"] == FIRST_FINAL


def test_early_stopping_waits_for_the_final_density(tmp_path: Path) -> None:
    made = trainer(tmp_path, EarlyStoppingCallback(2), **BEST, eval_strategy="steps", eval_steps=2, save_steps=2)
    made.compute_metrics = falling_metric()
    made.train()
    assert made.state.global_step == FIRST_FINAL + 4  # the best one, and two that were worse
    assert callback_of(made).summary.density < 0.3


def test_warns_when_training_ends_before_the_schedule(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step == 8

    made = trainer(tmp_path, Stop(), save_strategy="no")
    made.train()
    assert "Training ended after 8 of 24 optimizer steps" in caplog.text
    pruner = callback_of(made).pruner
    assert not pruner._step.optimizer._optimizer_step_post_hooks


def test_an_error_in_training_is_not_covered_up_and_a_second_run_works(tmp_path: Path) -> None:
    made = trainer(tmp_path, save_strategy="no")
    weight = made.model.bert.encoder.layer[0].output.dense.weight
    handle = weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(TrainingError, match="At step 0 the gradient is NaN or infinite in bert"):
        made.train()
    handle.remove()
    made.train()
    assert callback_of(made).summary.density < 0.3
    assert made.args.max_grad_norm == 1.0


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    made = trainer(tmp_path_factory.mktemp("uninterrupted"))
    made.train()
    return made


def assert_same_ending(resumed: Trainer, uninterrupted: Trainer) -> None:
    first, second = callback_of(resumed).pruner, callback_of(uninterrupted).pruner
    assert not differences(everything(first), everything(second))

    def losses(made: Trainer) -> dict[int, float]:
        return {entry["step"]: entry["loss"] for entry in made.state.log_history if "loss" in entry}

    assert losses(resumed).items() <= losses(uninterrupted).items()
    assert resumed.evaluate()["eval_loss"] == uninterrupted.evaluate()["eval_loss"]


MOMENTS = {
    "a random step": f"step {random.randrange(SAVE_STEPS + 1, STEPS)}",
    "before the model is saved": "model",
    "between model and optimizer": "optimizer",
    "within the pruner's tensors": "tensors",
    "before the pruner's facts": "facts",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_ends_as_if_it_had_not_been(moment: str, tmp_path: Path, uninterrupted: Trainer) -> None:
    command = [sys.executable, str(Path(__file__).parents[1].joinpath("resumable_run.py")), str(tmp_path), MOMENTS[moment]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run(command, capture_output=True, timeout=120, check=False, env=environment)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert last_whole_checkpoint(tmp_path) is not None
    assert_same_ending(resume(tmp_path), uninterrupted)


def test_rotation_keeps_one_checkpoint_with_the_state(uninterrupted: Trainer) -> None:
    assert [path.name for path in Path(uninterrupted.args.output_dir).glob("checkpoint-*")] == [f"checkpoint-{STEPS}"]
    assert last_whole_checkpoint(uninterrupted.args.output_dir) is not None


@pytest.fixture
def checkpoint(uninterrupted: Trainer, tmp_path: Path) -> Path:
    """A copy of a checkpoint in the middle of a run."""
    made = trainer(tmp_path, max_steps=STEPS, save_total_limit=None)
    made.train()
    return tmp_path / "checkpoint-12"


BROKEN = {
    "no facts": lambda folder: (folder / state_files.FACTS).unlink(),
    "no tensors": lambda folder: (folder / state_files.TENSORS).unlink(),
    "truncated tensors": lambda folder: os.truncate(folder / state_files.TENSORS, 1000),
    "truncated facts": lambda folder: os.truncate(folder / state_files.FACTS, 100),
    "swapped tensors": lambda folder: shutil.copy(folder.with_name("checkpoint-18") / state_files.TENSORS, folder),
    "another moment's state": lambda folder: [
        shutil.copy(folder.with_name("checkpoint-18") / name, folder) for name in (state_files.TENSORS, state_files.FACTS)
    ],
}


def test_broken_state_raises_a_clear_error(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name, breakage in BROKEN.items():
        copy = tmp_path_factory.mktemp("copy") / "run"
        shutil.copytree(checkpoint.parent, copy)
        breakage(copy / "checkpoint-12")
        made = trainer(copy, save_total_limit=None)
        with pytest.raises(InvalidInputError, match=r"[Cc]heckpoint"):
            made.train(resume_from_checkpoint=str(copy / "checkpoint-12"))
        assert not made.optimizer.optimizer._optimizer_step_pre_hooks, name
    made = trainer(checkpoint.parent, save_total_limit=None)
    callback_of(made).config = config(method=Magnitude())
    with pytest.raises(InvalidInputError, match="another config"):
        made.train(resume_from_checkpoint=str(checkpoint))


def test_resumes_from_a_checkpoint_elsewhere(checkpoint: Path, tmp_path: Path, uninterrupted: Trainer) -> None:
    made = trainer(tmp_path / "elsewhere")
    callback_of(made).resume_from = checkpoint
    made.train(resume_from_checkpoint=str(checkpoint))
    assert_same_ending(made, uninterrupted)


def test_last_whole_checkpoint_passes_over_broken_ones(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = checkpoint.parent
    assert last_whole_checkpoint(folder) == str(folder / "checkpoint-24")
    os.truncate(folder / "checkpoint-24" / "optimizer.pt", 1000)
    assert last_whole_checkpoint(folder) == str(folder / "checkpoint-18")
    assert "optimizer.pt is damaged" in caplog.text
    (folder / "checkpoint-18" / "trainer_state.json").unlink()
    assert last_whole_checkpoint(folder) == str(folder / "checkpoint-12")
    os.truncate(folder / "checkpoint-12" / "model.safetensors", 1000)
    assert last_whole_checkpoint(folder) == str(folder / "checkpoint-6")
    (folder / "checkpoint-6" / state_files.FACTS).write_text("{")
    assert last_whole_checkpoint(folder) is None
    assert last_whole_checkpoint(folder / "nowhere") is None


def test_the_callback_can_be_made_again_from_a_checkpoint(checkpoint: Path) -> None:
    stored = json.loads((checkpoint / "trainer_state.json").read_text())["stateful_callbacks"]["PruningCallback"]
    assert PruningCallback(**stored["args"]).config == config()


def test_evaluating_before_the_first_training_works(tmp_path: Path) -> None:
    made = trainer(tmp_path, save_strategy="no")
    assert "eval_density" not in made.evaluate()


def test_a_checkpoint_is_written_in_its_save_and_never_again(tmp_path: Path, uninterrupted: Trainer) -> None:
    class Break(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == SAVE_STEPS + 1:
                raise KeyboardInterrupt

    breaking = Break()
    made = trainer(tmp_path, breaking)
    with pytest.raises(KeyboardInterrupt):
        made.train()
    saved = state_files.read_facts(tmp_path / f"checkpoint-{SAVE_STEPS}")
    Trainer(tiny_bert(), made.args, train_dataset=made.train_dataset, callbacks=[callback_of(made)])
    made.remove_callback(breaking)
    made.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{SAVE_STEPS}"))  # in the same session
    assert saved["step"] == SAVE_STEPS
    assert_same_ending(made, uninterrupted)


def test_a_dense_checkpoint_is_whole_too(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    made.remove_callback(PruningCallback)
    made.train()
    assert last_whole_checkpoint(tmp_path) is None
    assert last_whole_checkpoint(tmp_path, pruned=False) == str(tmp_path / f"checkpoint-{STEPS}")
