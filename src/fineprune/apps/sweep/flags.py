"""The flags of `fineprune sweep`: its own, and all of `fineprune train`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ...errors import InvalidInputError
from . import grid, plan
from .engines import Engine, Local, Ray
from .plan import Sweep

USAGE = "fineprune sweep RECIPE.yaml [--grid KEY=VALUE,VALUE ...] [--variants FILE] [--seeds N] [--setting value ...]"

DESCRIPTION = """Runs a recipe for every choice of variant, grid and seed, and writes one table. Start it again with the same
command: finished trials are kept, interrupted ones resume, failed ones run again; new variants, values and seeds are
added. Every flag of `fineprune train` is allowed."""

GRID = """a setting and its values, as a flag of `fineprune train` takes it; give it again for more settings. Commas in [], {}
and quotes do not separate: pruning.method={class_path: Movement, init_args: {init: FromMagnitude}},Magnitude"""

VARIANTS = """settings that change together: a mapping from a name to a partial recipe, which wins over the recipe. A block
with a class_path replaces the class with all its settings; `pruning: null` is a dense run"""

SEEDS = """how many seeds, counted from the recipe's own training.seed (default: 1); or the seeds themselves, with commas: 5,6
(for one: 5,)"""

ENGINE = """local: this machine (default). ray: the cluster at RAY_ADDRESS, whose nodes share this folder, the output, the
data and the Python environment under the same paths; without RAY_ADDRESS, a cluster of this machine alone"""


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the flags that a sweep has beside those of `fineprune train`."""
    made = argparse.ArgumentParser(usage=USAGE, description=DESCRIPTION, allow_abbrev=False, exit_on_error=False)
    made.add_argument("--grid", action="append", default=[], metavar="KEY=VALUE,VALUE", help=GRID)
    made.add_argument("--variants", metavar="FILE.yaml", help=VARIANTS)
    made.add_argument("--seeds", default="1", metavar="N", help=SEEDS)
    made.add_argument("--output", metavar="FOLDER", help="folder of the sweep (default: the recipe's training.output_dir)")
    made.add_argument("--engine", choices=("local", "ray"), default="local", help=ENGINE)
    made.add_argument("--jobs", type=int, metavar="N", help="local: trials at the same time (default: 1)")
    made.add_argument("--cpus", type=int, metavar="N", help="ray: CPUs, and threads, of each trial (default: 1)")
    made.add_argument("--gpus", type=int, metavar="N", help="ray: GPUs of each trial (default: 0)")
    return made


def read(arguments: Sequence[str]) -> Sweep:
    """Reads a sweep from command-line arguments, and every recipe in it; writes nothing."""
    first = [word for word in arguments[:1] if not word.startswith("-")]
    try:
        chosen, flags = parser().parse_known_args(list(arguments[len(first) :]))
    except argparse.ArgumentError as error:
        raise InvalidInputError(f"{error}.") from error
    variants = {} if chosen.variants is None else plan.read_variants(chosen.variants)
    grids = grid.read_grids(chosen.grid)
    engine = _engine(chosen)
    settings, training = plan.read_settings(first[0] if first else None, flags, grids, variants)
    seeds = plan.read_seeds(chosen.seeds, training.seed)
    choices = {"recipe": first, "flags": flags, "grids": grids, "variants": list(variants), "seeds": seeds}
    return Sweep(settings, seeds, Path(chosen.output or str(training.output_dir)), engine, choices)


def _engine(chosen: argparse.Namespace) -> Engine:
    others = {"local": ("cpus", "gpus"), "ray": ("jobs",)}[chosen.engine]
    given = [f"--{name}" for name in others if getattr(chosen, name) is not None]
    if given:
        raise InvalidInputError(f"{given[0]} must be left out for --engine {chosen.engine}.")
    settings = {name: value for name in ("jobs", "cpus", "gpus") if (value := getattr(chosen, name)) is not None}
    return Local(**settings) if chosen.engine == "local" else Ray(**settings)
