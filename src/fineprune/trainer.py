"""PruningCallback: the pruner in the stock Trainer. The only room that imports Trainer's callbacks."""

import json
import logging
import sys
import zipfile
from pathlib import Path
from typing import Any

from . import state as pruner_state
from .config import PruningConfig
from .errors import InvalidInputError
from .extras import require
from .inspection import Inspection
from .pruner import Pruner

require("hub", "transformers", "accelerate")

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments  # noqa: E402
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

    # Begin and end.

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Attaches the pruner, and takes its state up again if training resumes."""
        if self.pruner is not None:
            self.pruner.detach()  # left from a run that broke off
            self._give_back_clipping()
        self._arguments, self._trainer_state, self._control = args, state, control
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
                "Training ended after %d of %d optimiser steps, before the pruning schedule: the density is %.4f, not %s.",
                *(pruner.step, pruner.total_steps, pruner.density(), self.config.density),
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
        if self._is_saving():
            self._attached().save(self._checkpoint())
        return {"args": {"config": self.config.to_dict()}, "attributes": {}}

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Checks that the state lies in the checkpoint."""
        if not args.save_only_model and state.is_world_process_zero and not (self._checkpoint() / pruner_state.FACTS).is_file():
            logger.warning("%s holds no pruner state and cannot be resumed (a hyper-parameter search?).", self._checkpoint())

    def _is_saving(self) -> bool:
        """Whether Trainer is writing a checkpoint: it asks for the state at other times too, and elsewhere in a search."""
        if self._arguments is None or self._trainer_state is None or self._control is None:
            return False
        wanted = self._control.should_save and not self._arguments.save_only_model
        return wanted and not self._trainer_state.is_hyper_param_search and self._checkpoint().is_dir()

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


def last_whole_checkpoint(output_dir: str | Path, pruned: bool = True) -> str | None:
    """Returns the last checkpoint that was saved to the end; None if there is none.

    A checkpoint that was being written when the run died is passed over, with a message. Give the
    result to `Trainer.train(resume_from_checkpoint=...)`.

    Args:
        output_dir: Trainer's folder.
        pruned: whether the run prunes, so that a checkpoint must hold the pruner's state.
    """
    numbered = {int(path.name.removeprefix("checkpoint-")): path for path in checkpoints(output_dir)}
    for _, checkpoint in sorted(numbered.items(), reverse=True):
        try:
            if pruned:
                pruner_state.read_facts(checkpoint)
            _check_whole(checkpoint)
        except InvalidInputError as error:
            logger.warning("Passing over %s. %s", checkpoint, error)
        else:
            return str(checkpoint)
    return None


def checkpoints(output_dir: str | Path) -> list[Path]:
    """Returns the folders that Trainer calls checkpoints, whole or not."""
    return [path for path in Path(output_dir).glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdecimal()]


def _check_whole(checkpoint: Path) -> None:
    """Raises InvalidInputError unless every file of Trainer's is there to its end."""
    weights = list(checkpoint.glob("model*.safetensors"))
    required = [checkpoint / name for name in ("trainer_state.json", "optimizer.pt", "scheduler.pt")]
    missing = [path.name for path in required if not path.is_file()] + ([] if weights else ["model.safetensors"])
    if missing:
        raise InvalidInputError(f"It lacks {', '.join(missing)}: its save did not finish.")
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidInputError(f"trainer_state.json is damaged: {error}.") from error
    for path in weights:
        pruner_state.check_safetensors(path)
    for path in [*checkpoint.glob("*.pt"), *checkpoint.glob("*.pth")]:
        if not zipfile.is_zipfile(path):
            raise InvalidInputError(f"{path.name} is damaged or was not written to its end.")
