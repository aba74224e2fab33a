"""Hugging Face's Trainer: a callback that prunes, a Trainer with a teacher, checkpoints to resume from."""

from .callback import PruningCallback
from .checkpoints import last_whole_checkpoint
from .distillation_trainer import DistillationTrainer

__all__ = ["DistillationTrainer", "PruningCallback", "last_whole_checkpoint"]
