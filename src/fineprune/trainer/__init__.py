"""Hugging Face's Trainer: a callback that prunes, a Trainer with a teacher, checkpoints to resume from."""

from ..errors import require

require("hub", "transformers", "accelerate")

from .callback import PruningCallback  # noqa: E402
from .checkpoints import last_whole_checkpoint  # noqa: E402
from .distillation_trainer import DistillationTrainer  # noqa: E402

__all__ = ["DistillationTrainer", "PruningCallback", "last_whole_checkpoint"]
