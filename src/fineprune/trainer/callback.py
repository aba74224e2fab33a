"""PruningCallback: prunes while Hugging Face's Trainer trains."""

import logging
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import DefaultFlowCallback, ExportableState

from ..config.config import PruningConfig
from ..models.inspection import Inspection
from ..pruner.pruner import Pruner

logger = logging.getLogger(__name__)


class PruningCallback(TrainerCallback, ExportableState):
    """Prunes while a stock Trainer trains.

        Trainer(model=model, args=arguments, callbacks=[PruningCallback(config)], ...).train()

    - It takes over `max_grad_norm` and clips by the paper's joint norm (see Pruner).
    - It adds to every training log the density in force and the one asked for, the scores' mean, spread and range, and the
      joint gradient norm; to every evaluation `eval_density`. With `report_to`, call `attach` to show them there too.
    - Each checkpoint also holds the pruner's state, and `train(resume_from_checkpoint=...)` loads it; `last_whole_checkpoint`
      chooses one. The state is written before older checkpoints are deleted; but after that if the save was decided later than
      the end of a step: by `save_strategy="best"`, or by a callback behind this one.
    - On several ranks, it compares their masks before each evaluation and each save, and stops a run whose ranks disagree.
    - Only evaluations at the final density count for `load_best_model_at_end` and early stopping.

    Args:
        config: what to prune, and how far; or the same as `PruningConfig.to_dict` writes it.
        resume_from: the folder of the pruner's state, if training resumes from a checkpoint outside `output_dir`.
            None: `output_dir/checkpoint-<step>`.
    """

    def __init__(self, config: PruningConfig | dict[str, Any], resume_from: str | Path | None = None) -> None:
        self.config = PruningConfig.from_dict(config) if isinstance(config, dict) else config
        self.resume_from = resume_from
        self.pruner: Pruner | None = None
        """The pruner of the run under way, or of the last one."""
        self.summary: Inspection | None = None
        """What is left of the model, counted at the end of training."""
        self._before_reporters = False
        self._training = False
        self._unclipped: TrainingArguments | None = None
        """The arguments whose `max_grad_norm` is switched off, from the beginning of a step to its clipping."""
        self._max_grad_norm = 0.0
        self._compared_at: int | None = None
        """The step at which the ranks were compared last."""
        self._saved_at: int | None = None
        """The step at which the state was saved last."""

    def attach(self, trainer: Trainer) -> None:
        """Puts this callback before a Trainer's reporters, so that they show the pruning figures.

            callback = PruningCallback(config)
            trainer = Trainer(..., callbacks=[callback])
            callback.attach(trainer)
            trainer.train()

        Trainer calls the reporters of `report_to` first, and they send a log as they get it; without this line the figures
        reach the log history, the console and the callbacks behind this one. DistillationTrainer does it by itself.

        Args:
            trainer: any Trainer, whether the callback was given to it or not.
        """
        callbacks = trainer.callback_handler.callbacks
        if self in callbacks:
            callbacks.remove(self)
        flow = [number for number, other in enumerate(callbacks, 1) if isinstance(other, DefaultFlowCallback)]
        callbacks.insert(max(flow, default=0), self)  # which decides when to log, to evaluate and to save
        self._before_reporters = True

    # Begin and end.

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Attaches the pruner, and loads its state if training resumes."""
        if self.pruner is not None:
            self.pruner.detach()  # from a run that an exception ended
        self._restore_clipping()
        if args.report_to and not self._before_reporters:
            logger.warning(
                "Trainer logs to %s before this callback adds the pruning figures. Call callback.attach(trainer) before train.",
                ", ".join(args.report_to),
            )
        self._compared_at = self._saved_at = None
        self._max_grad_norm = args.max_grad_norm
        self.pruner = Pruner(
            *(kwargs["model"], kwargs["optimizer"], self.config),
            total_steps=state.max_steps,
            max_grad_norm=float(args.max_grad_norm or 0.0) or None,
        )
        if state.global_step > 0:
            try:
                self.pruner.load(self.resume_from or _checkpoint(args, state))
            except BaseException:
                self.pruner.detach()
                raise
        self._training = True

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Removes the hooks and counts what is left; warns if the schedule had not finished."""
        pruner = self._attached
        pruner.detach()
        self._training = False
        self.summary = pruner.report()
        if not pruner.finished:
            logger.warning(
                "Training ended after %d of %d optimizer steps, before the pruning schedule did; the density is %.4f.",
                *(pruner.step, pruner.total_steps, pruner.density()),
            )

    @property
    def _attached(self) -> Pruner:
        assert self.pruner is not None
        return self.pruner

    # Clipping: by the pruner, not by Trainer, whose norm would be that of the dense gradients.

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Switches Trainer's clipping off for this step, and forgets a best model that was not at the final density."""
        self._unclipped, args.max_grad_norm = args, 0.0
        if not self._attached.finished:
            state.best_metric = state.best_global_step = state.best_model_checkpoint = None

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Restores `max_grad_norm`, for other callbacks and for what a checkpoint keeps."""
        self._restore_clipping()

    def _restore_clipping(self) -> None:
        if self._unclipped is not None:
            self._unclipped.max_grad_norm, self._unclipped = self._max_grad_norm, None

    # Logs.

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Adds the pruning figures to what Trainer logs."""
        if self.pruner is None:
            return  # an evaluation before the first training
        logs: dict[str, float] = kwargs["logs"]
        figures: dict[str, float] = {}
        if "loss" in logs:
            figures = self.pruner.statistics()
        elif any(key.startswith("eval_") for key in logs):
            figures = {"eval_density": self.pruner.density()}
        logs.update(figures)
        if state.log_history:
            state.log_history[-1].update(figures)

    # Checkpoints. On several ranks all of them save and compare, at the same events.

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Saves into the checkpoint that Trainer is about to write; compares the ranks before an evaluation."""
        if control.should_save and _is_resumable(args, state):
            self._save(args, state)
        elif control.should_save or control.should_evaluate:
            self._compare(state)

    on_epoch_end = on_step_end

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Compares the ranks, if a callback behind this one asked for the evaluation."""
        if self._training:
            self._compare(state)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Saves, if the checkpoint was asked for after the end of the step; warns of one that will have no state."""
        if _is_resumable(args, state):
            self._save(args, state)
        elif not args.save_only_model and state.is_world_process_zero:
            logger.warning("A checkpoint of a hyper-parameter search holds no pruner state and cannot be resumed.")

    def state(self) -> dict[str, Any]:
        """Returns how to make this callback again, for `trainer_state.json`."""
        return {"args": {"config": self.config.to_dict()}, "attributes": {}}

    def _save(self, args: TrainingArguments, state: TrainerState) -> None:
        if self._saved_at != state.global_step:
            self._attached.save(_checkpoint(args, state))
            self._saved_at = self._compared_at = state.global_step

    def _compare(self, state: TrainerState) -> None:
        if self._compared_at != state.global_step:
            self._attached.check_ranks()
            self._compared_at = state.global_step


def _is_resumable(args: TrainingArguments, state: TrainerState) -> bool:
    """Whether checkpoints can be resumed from, and lie in `output_dir`; those of a hyper-parameter search lie elsewhere."""
    return not args.save_only_model and not state.is_hyper_param_search


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir or "") / f"checkpoint-{state.global_step}"
