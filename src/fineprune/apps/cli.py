"""The command line: each command is a few lines around the library. Exit codes: 0 done, 1 failed, 2 wrong input."""

import logging
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import FinepruneError, InvalidInputError, MissingExtraError, nearest, require
from ..models.inspection import Inspection

if TYPE_CHECKING:
    from .training.run import Result

COMMANDS = {
    "train": "fine-tune a model and prune it: fineprune train RECIPE.yaml [--pruning.density 0.03 ...]",
    "evaluate": "measure a saved model on a task: fineprune evaluate FOLDER [--task.validation FILE ...]",
    "sweep": "run a recipe over a grid and seeds: fineprune sweep RECIPE.yaml --grid pruning.density=0.1,0.03 --seeds 3",
    "report": "one HTML page about runs or sweeps, with the paper's figures: fineprune report RUN ...",
    "score": "score predictions by SQuAD's rules: fineprune score DATA.json PREDICTIONS.json",
    "inspect": "show the density of any checkpoint, layer by layer: fineprune inspect FOLDER",
    "shrink": "remove what pruning has made superfluous: fineprune shrink FOLDER NEW_FOLDER [--multiple 8]",
    "pack": "write a saved model as a compact one: fineprune pack FOLDER NEW_FOLDER [--values int8|fp16|fp32]",
    "bench": "measure a saved model on this machine, in each of its forms: fineprune bench FOLDER [--shapes 1x128,8x128 ...]",
    "import": "make an old PruneBERT checkpoint a plain one: fineprune import FOLDER NEW_FOLDER [--threshold X ...]",
    "quickstart": "prune a real pretrained model on real text, in minutes, without a download",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit code; a user's error becomes one sentence."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        require("hub", "transformers", "jsonargparse", "rich")
        import transformers

        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()  # a new head on top is no news, and missing weights are refused
        _run(list(sys.argv[1:] if arguments is None else arguments))
    except FinepruneError as error:
        print(f"fineprune: {error}", file=sys.stderr)
        return 2 if isinstance(error, InvalidInputError | MissingExtraError) else 1
    except KeyboardInterrupt:
        print("fineprune: stopped. `fineprune train` goes on from its last checkpoint with --resume true.", file=sys.stderr)
        return 1
    return 0


def _run(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        _help()
        return
    command, *rest = arguments
    run = {
        "train": _train,
        "evaluate": _evaluate,
        "sweep": _sweep,
        "report": _report,
        "score": _score,
        "inspect": _inspect,
        "shrink": _shrink,
        "pack": _pack,
        "bench": _bench,
        "import": _import,
        "quickstart": _quickstart,
    }
    if command not in COMMANDS:
        raise InvalidInputError(f"There is no command {command!r}; {nearest(command, COMMANDS)}")
    run[command](rest)


def _help() -> None:
    print("usage: fineprune COMMAND ...\n\nPrune a transformer while you fine-tune it.\n")
    for name, text in COMMANDS.items():
        print(f"  {name:12}{text}")
    print("\n`fineprune COMMAND --help` shows every setting of a command.")


def _train(arguments: list[str]) -> None:
    from .training import recipe, run

    wanted = recipe.read(arguments)
    result = run.train(wanted)
    if wanted.training.process_index == 0:  # of several, under torchrun, one speaks
        show(result, f"{wanted.model}, saved in {wanted.training.output_dir}")


def _evaluate(arguments: list[str]) -> None:
    from pathlib import Path

    from .training import recipe, run

    if not arguments or arguments[0].startswith("-"):
        if not {"-h", "--help"} & set(arguments):
            raise InvalidInputError("evaluate needs a model: fineprune evaluate FOLDER [--task.validation FILE ...]")
        recipe.read(arguments, usage="fineprune evaluate FOLDER [--setting value ...]")
    folder, *flags = arguments
    saved = Path(folder) / run.RECIPE
    known = [str(saved)] if saved.is_file() and not any(flag.startswith("--recipe") for flag in flags) else []
    wanted = recipe.read([*known, *flags, "--model", folder])
    show(run.evaluate(folder, wanted.task, wanted.max_length, wanted.training), folder)


def _sweep(arguments: list[str]) -> None:
    from .sweep import command, flags, tables

    if {"-h", "--help"} & set(arguments):
        flags.parser().print_help()
        return
    outcome = command.run(arguments, lambda line: print(line, flush=True))
    show_table(*tables.shown(outcome.summary))
    print(f"The tables are in {outcome.folder}: trials.csv and summary.csv, and the same as .parquet.")
    outcome.check()


def _report(arguments: list[str]) -> None:
    import jsonargparse

    from .report.page import write

    parser = jsonargparse.ArgumentParser(prog="fineprune report", description=COMMANDS["report"])
    parser.add_argument("runs", nargs="+", type=str, help="folders of runs, or of sweeps, with all the runs in them")
    parser.add_function_arguments(write, skip={"runs"})
    print(f"The report is {write(**parser.parse_args(arguments).as_dict())}.")


def _score(arguments: list[str]) -> None:
    import jsonargparse

    from .tasks.squad import score

    parser = jsonargparse.ArgumentParser(prog="fineprune score", description=COMMANDS["score"])
    parser.add_function_arguments(score.score_files, as_positional=True)
    for name, value in score.score_files(**parser.parse_args(arguments).as_dict()).items():
        print(f"{name}: {value!r}")


def _inspect(arguments: list[str]) -> None:
    import jsonargparse

    parser = jsonargparse.ArgumentParser(prog="fineprune inspect", description=COMMANDS["inspect"])
    parser.add_argument("checkpoint", type=str, help="folder of a saved model, or its name on the Hub; made here or not")
    _load_and_show_layers(parser.parse_args(arguments).checkpoint)


def _shrink(arguments: list[str]) -> None:
    import jsonargparse

    from .convert.shrink import shrink_folder

    parser = jsonargparse.ArgumentParser(prog="fineprune shrink", description=COMMANDS["shrink"])
    parser.add_function_arguments(shrink_folder, as_positional=True)
    chosen = parser.parse_args(arguments)
    show_table(["", "before", "after", "left"], shrink_folder(**chosen.as_dict()).rows())
    print(f"The smaller model is in {chosen.new_folder}.")


def _pack(arguments: list[str]) -> None:
    import jsonargparse

    from .convert.pack import HEADINGS, pack_folder

    parser = jsonargparse.ArgumentParser(prog="fineprune pack", description=COMMANDS["pack"])
    parser.add_function_arguments(pack_folder, as_positional=True)
    chosen = parser.parse_args(arguments)
    show_table(HEADINGS, [size.row() for size in pack_folder(**chosen.as_dict())])
    print(f"The packed model is in {chosen.new_folder}. Measure it: fineprune evaluate {chosen.new_folder}")


def _bench(arguments: list[str]) -> None:
    import jsonargparse

    from .bench import command

    parser = jsonargparse.ArgumentParser(prog="fineprune bench", description=COMMANDS["bench"])
    parser.add_function_arguments(command.bench_folder, as_positional=True)
    chosen = parser.parse_args(arguments)
    measurement = command.bench_folder(**chosen.as_dict())
    show_table(*measurement.shown())
    print("\n".join(measurement.sentences()))
    if chosen.output is not None:
        print(f"The same as bench.md, bench.json and bench.png is in {chosen.output}.")


def _import(arguments: list[str]) -> None:
    import jsonargparse

    from .convert import import_prunebert

    parser = jsonargparse.ArgumentParser(prog="fineprune import", description=COMMANDS["import"])
    parser.add_function_arguments(import_prunebert.convert, as_positional=True)
    chosen = parser.parse_args(arguments)
    import_prunebert.convert(**chosen.as_dict())
    _load_and_show_layers(str(chosen.target))


def _load_and_show_layers(name: str) -> None:
    from ..models import targets
    from ..models.inspection import inspect
    from .training.pretrained import load_any

    model = load_any(name)
    show_layers(inspect(model, targets.find(model)))


def _quickstart(arguments: list[str]) -> None:
    import jsonargparse

    from .quickstart import run

    parser = jsonargparse.ArgumentParser(prog="fineprune quickstart", description=COMMANDS["quickstart"])
    parser.add_function_arguments(run.run)
    chosen = parser.parse_args(arguments)
    folder, results, compact = run.run(**chosen.as_dict())
    show_side_by_side(results)
    print(run.verdict(results))
    print(compact.sentence())
    print(f"The models, quickstart.png and quickstart.json are in {folder}.")


def show_side_by_side(results: Mapping[str, "Result"]) -> None:
    """Prints a row for each run."""
    from rich.table import Table

    table = Table("run", "accuracy", "macro F1", "density", "whole model", "training time", "seed")
    for name, result in results.items():
        inspection = result.inspection
        figures = (f"{result.metrics[key]:.4f}" for key in ("accuracy", "f1_macro"))
        densities = (f"{inspection.density:.4f}", f"{inspection.whole_model.density:.4f}")
        table.add_row(name, *figures, *densities, f"{result.seconds:.0f} s", str(result.seed))
    _print(table)


def show_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints rows as they are: brackets in a setting are no markup."""
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for heading in headings:
        table.add_column(Text(heading))
    for row in rows:
        table.add_row(*map(Text, row))
    _print(table)


def show(result: "Result", title: str) -> None:
    """Prints the closing table of a run."""
    from rich.table import Table

    table = Table("measure", "value", title=title, title_justify="left")
    for name, value in result.metrics.items():
        table.add_row(name, f"{value:.4f}")
    for row in result.inspection.densities():
        table.add_row(*row)
    if result.seconds is not None:
        table.add_row("training time", f"{result.seconds:.0f} s")
    _print(table)


def show_layers(inspection: Inspection) -> None:
    """Prints the density of every layer."""
    from rich.table import Table

    table = Table("weight", "shape", "kept", "of", "density")
    for layer in inspection.layers:
        shape = " x ".join(map(str, layer.shape))
        table.add_row(layer.name, shape, f"{layer.kept:,}", f"{layer.weights:,}", f"{layer.density:.4f}")
    _print(table)
    print("\n".join(inspection.totals()))


def _print(table: object) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 120).print(table)


if __name__ == "__main__":
    sys.exit(main())
