"""Measures a saved model on this machine: `fineprune bench FOLDER`."""

import json
from pathlib import Path

import torch

from ...compress.loading import from_pretrained
from ...compress.packing.load import is_packed
from ...compress.resizing.building import folder_of
from ...errors import InvalidInputError, require
from ...files import check_free, new_folder
from .forms import BenchedModel
from .measuring import measure
from .results import Measurement
from .runtimes import FORMS
from .shapes import read_shapes


def bench_folder(
    folder: str, output: str | None = None, shapes: str = "1x128,8x128", threads: int | None = None, rounds: int = 21
) -> Measurement:
    """Measures the latency, throughput, peak memory and file size of a saved model in each of its forms.

    The forms take turns in each round: dense (the zeros filled with random weights), masked (as saved), sparse (the zeros
    left out), packed (the compact file with int8 values), and ONNX Runtime and OpenVINO where they are installed.

    Args:
        folder: a saved model that takes one text, or images.
        output: new folder for bench.json, bench.md and bench.png; None: nothing is written.
        shapes: batch x tokens, separated by commas; for images the batch alone, as 1,8.
        threads: of each form; None: as many as PyTorch takes.
        rounds: in which the forms take turns.

    Raises:
        InvalidInputError: if the folder or a setting cannot be used; before anything is measured.
        MissingExtraError: if there is to be a picture, and matplotlib is not installed.
        FileError: if the output cannot be written.
    """
    wanted = read_shapes(shapes)
    for name, number in {"rounds": rounds, "threads": threads}.items():
        if number is not None and number < 1:
            raise InvalidInputError(f"{name} must be 1 or more, got {number}.")
    if output is not None:
        require("report", "matplotlib")
        check_free(output)
    if is_packed(folder):
        raise InvalidInputError(f"{folder} is packed. Give the folder of the model that it was packed from.")
    model, before = from_pretrained(folder).float(), torch.get_num_threads()
    model.config.use_cache = False  # one pass, and nothing to go on from
    try:
        measurement = measure(BenchedModel(folder_of(folder), model), wanted, list(FORMS.values()), threads or before, rounds)
    finally:
        torch.set_num_threads(before)
    if output is not None:
        _write(measurement, Path(output), title=Path(folder).name)
    return measurement


def _write(measurement: Measurement, folder: Path, title: str) -> None:
    """Writes a measurement as JSON, as a table with its verdicts, and as a picture."""
    from .drawing import draw

    lines = [f"# {title}", measurement.table(), "\n".join(f"- {line}" for line in measurement.sentences())]
    with new_folder(folder) as temporary:
        (temporary / "bench.json").write_text(json.dumps(measurement.facts(), indent=1) + "\n", encoding="utf-8")
        (temporary / "bench.md").write_text("\n\n".join(lines) + "\n", encoding="utf-8")
        draw(measurement, title).savefig(temporary / "bench.png", dpi=130)
