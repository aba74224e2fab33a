"""PruningCallback: prunes while a stock Trainer trains."""

import logging
import sys
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler, DefaultFlowCallback, ExportableState

from ..config.config import PruningConfig
from ..errors import require
from ..models.inspection import Inspection
from ..pruner import state_files as pruner_state
from ..pruner.pruner import Pruner

require("hub", "transformers", "accelerate")
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
                "Training ended after %d of %d optimizer steps, before the pruning schedule did; the density is %.4f.",
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
        optimizer and before older checkpoints are deleted: a crash never leaves no whole checkpoint.
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
