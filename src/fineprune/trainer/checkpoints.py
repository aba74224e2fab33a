"""Trainer's checkpoints, and whether each was saved to the end."""

import json
import logging
import zipfile
from pathlib import Path

from .. import files
from ..errors import InvalidInputError
from ..pruner import state_files

logger = logging.getLogger(__name__)


def last_whole_checkpoint(output_dir: str | Path, pruned: bool = True) -> str | None:
    """Returns the last checkpoint that was saved to the end; None if there is none.

    It passes over a checkpoint that was being written when the run died, with a message. Give the
    result to `Trainer.train(resume_from_checkpoint=...)`.

    Args:
        output_dir: Trainer's folder.
        pruned: whether the run prunes, so that a checkpoint must hold the pruner's state.
    """
    numbered = {int(path.name.removeprefix("checkpoint-")): path for path in checkpoints(output_dir)}
    for _, checkpoint in sorted(numbered.items(), reverse=True):
        try:
            _check_whole(checkpoint, state_files.read_facts(checkpoint).get("processes", 1) if pruned else 1)
        except InvalidInputError as error:
            logger.warning("Passing over %s. %s", checkpoint, error)
        else:
            return str(checkpoint)
    return None


def checkpoints(output_dir: str | Path) -> list[Path]:
    """Returns Trainer's checkpoint folders, whole or not."""
    return [path for path in Path(output_dir).glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdecimal()]


def _check_whole(checkpoint: Path, processes: int) -> None:
    """Raises InvalidInputError unless Trainer's files are complete, also those of each process that wrote it."""
    weights = list(checkpoint.glob("model*.safetensors"))
    required = {
        **{name: [name] for name in ("trainer_state.json", "scheduler.pt")},
        "optimizer.pt": ["optimizer.pt", "optimizer.bin", "optimizer_0/.metadata"],  # the others under FSDP
        "model.safetensors": ["model*.safetensors", "pytorch_model_fsdp.bin", "pytorch_model_fsdp_0/.metadata"],
        **{name: [name] for name in (f"rng_state_{rank}.pth" for rank in range(processes)) if processes > 1},
    }
    missing = [name for name, forms in required.items() if not any(any(checkpoint.glob(form)) for form in forms)]
    if missing:
        raise InvalidInputError(f"It lacks {', '.join(missing)}: its save did not finish.")
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidInputError(f"trainer_state.json is damaged: {error}.") from error
    for path in weights:
        files.check_safetensors(path)
    for path in [path for kind in ("*.pt", "*.pth", "*.bin") for path in checkpoint.glob(kind)]:
        if not zipfile.is_zipfile(path):
            raise InvalidInputError(f"{path.name} is damaged or was not written to its end.")
