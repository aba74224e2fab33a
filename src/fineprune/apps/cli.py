"""The command line: a table of commands and their runner. Exit codes: 0 done, 1 failed, 2 wrong input."""

import functools
import importlib
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import FinepruneError, InvalidInputError, MissingExtraError, nearest, require
from ..version import VERSION
from . import tables


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit code; a user's error becomes one sentence."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        _run(*(sys.argv[1:] if arguments is None else arguments))
    except FinepruneError as error:
        print(f"fineprune: {error}", file=sys.stderr)
        return 2 if isinstance(error, InvalidInputError | MissingExtraError) else 1
    except KeyboardInterrupt:
        print("fineprune: stopped. `fineprune train` resumes from its last checkpoint with --resume true.", file=sys.stderr)
        return 1
    return 0


def _run(name: str = "--help", *arguments: str) -> None:
    if name in ("-h", "--help"):
        print(_help())
    elif name == "--version":
        print(f"fineprune {VERSION}")
    elif name in COMMANDS:
        _prepare_libraries()
        COMMANDS[name].run(name, arguments)
    else:
        raise InvalidInputError(f"There is no command {name!r}; {nearest(name, COMMANDS)}")


def _help() -> str:
    lines = "\n".join(f"  {name:12}{command.help}" for name, command in COMMANDS.items())
    return (
        f"usage: fineprune COMMAND ...\n\nPrune a transformer while you fine-tune it.\n\n{lines}\n\n"
        "`fineprune COMMAND --help` shows every setting of a command, `fineprune --version` the version."
    )


def _prepare_libraries() -> None:
    require("hub", "transformers", "jsonargparse", "rich")
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()  # a new head is expected, and missing weights raise an error


def read_by_signature(name: str, function: Callable[..., Any], arguments: Sequence[str], several: str = "") -> dict[str, Any]:
    """Reads the arguments of a function, with help from its docstring: those without a default by position, others as flags.

    The parameter named by `several` takes one word or more.
    """
    import jsonargparse

    parser = jsonargparse.ArgumentParser(prog=f"fineprune {name}", description=COMMANDS[name].help)
    if several:
        parser.add_argument(several, nargs="+", type=str, help="folders of runs, or of sweeps, with all the runs in them")
    parser.add_function_arguments(function, as_positional=True, skip={several})
    settings: dict[str, Any] = parser.parse_args(list(arguments)).as_dict()
    return settings


def pass_through(name: str, function: Callable[..., Any], arguments: Sequence[str]) -> dict[str, Any]:
    """Passes the command line to a function that reads it itself, as one that takes a recipe."""
    return {"arguments": arguments}


@dataclass(frozen=True)
class Command:
    """One command: reads the settings of a function from the command line, calls it, and shows its result.

    The function is "module:name" in this package, imported when the command runs.
    """

    help: str
    function: str
    show: Callable[[Any, Mapping[str, Any]], None]
    read: Callable[[str, Callable[..., Any], Sequence[str]], dict[str, Any]] = read_by_signature

    def run(self, name: str, arguments: Sequence[str]) -> None:
        module, _, attribute = self.function.partition(":")
        function = getattr(importlib.import_module(f"{__package__}.{module}"), attribute)
        settings = self.read(name, function, arguments)
        self.show(function(**settings), settings)


COMMANDS = {
    "train": Command(
        "fine-tune a model and prune it: fineprune train RECIPE.yaml [--pruning.density 0.03 ...]",
        "training.commands:train",
        tables.show_training,
        pass_through,
    ),
    "evaluate": Command(
        "measure a saved model on a task: fineprune evaluate FOLDER [--task.validation FILE ...]",
        "training.commands:evaluate",
        tables.show_evaluation,
        pass_through,
    ),
    "sweep": Command(
        "run a recipe over a grid and seeds: fineprune sweep RECIPE.yaml --grid pruning.density=0.1,0.03 --seeds 3",
        "sweep.command:run",
        tables.show_sweep,
        pass_through,
    ),
    "report": Command(
        "one HTML page about runs or sweeps, with the paper's figures: fineprune report RUN ...",
        "report.page:write",
        tables.show_report,
        functools.partial(read_by_signature, several="runs"),
    ),
    "score": Command(
        "score predictions by SQuAD's rules: fineprune score DATA.json PREDICTIONS.json",
        "tasks.squad.score:score_files",
        tables.show_scores,
    ),
    "inspect": Command(
        "show the density of any checkpoint, layer by layer: fineprune inspect FOLDER",
        "training.commands:inspect_checkpoint",
        tables.show_layers,
    ),
    "shrink": Command(
        "remove the heads, neurons and layers that are all zero: fineprune shrink FOLDER NEW_FOLDER [--multiple 8]",
        "convert.shrink:shrink_folder",
        tables.show_shrinking,
    ),
    "pack": Command(
        "write a saved model as a compact one: fineprune pack FOLDER NEW_FOLDER [--values int8|fp16|fp32]",
        "convert.pack:pack_folder",
        tables.show_packing,
    ),
    "bench": Command(
        "measure a saved model on this machine, in each of its forms: fineprune bench FOLDER [--shapes 1x128,8x128 ...]",
        "bench.command:bench_folder",
        tables.show_measurement,
    ),
    "import": Command(
        "make an old PruneBERT checkpoint a plain one: fineprune import FOLDER NEW_FOLDER [--threshold X ...]",
        "convert.import_prunebert:convert",
        tables.show_import,
    ),
    "quickstart": Command(
        "prune a real pretrained model on real text, in minutes, without a download",
        "quickstart.run:run",
        tables.show_quickstart,
    ),
}
"""Every command by its name."""


if __name__ == "__main__":
    sys.exit(main())
