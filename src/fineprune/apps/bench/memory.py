"""The peak memory of a process of its own, which loads one form of a model and runs it (Linux)."""

import importlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch

from .forms import Form
from .runtimes import FORMS

STATUS = Path("/proc/self/status")


def peak(form: Form, prepared: Path, batch: Path, threads: int, modules: Sequence[str]) -> int | None:
    """Returns the peak memory of loading a form and running it on a file with a batch, over that of importing, in bytes.

    The modules, as the one of the model's class, are imported before counting. None where the system does not report its
    memory, as outside Linux. Raises CalledProcessError if the process fails.
    """
    if not STATUS.is_file():
        return None
    command = [sys.executable, "-m", __name__, form.name, str(prepared), str(batch), str(threads), *modules, *form.packages]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(ran.stdout.split()[-1])


def high_water_mark() -> int:
    """Returns the most memory that this process has held, in bytes; `getrusage` would include its parent's."""
    status = STATUS.read_text(encoding="utf-8")
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def main(form: str, prepared: str, batch: str, threads: str, *modules: str) -> None:
    """Measures a form in this process, as `peak` describes, and prints the bytes."""
    given = safetensors.torch.load_file(batch)
    for module in modules:
        importlib.import_module(module)
    imported = high_water_mark()
    run = FORMS[form].load(Path(prepared), int(threads))
    for _ in range(3):
        run(given)
    sys.stdout.write(f"{high_water_mark() - imported}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
