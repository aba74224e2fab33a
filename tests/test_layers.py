"""The floors of the house: a room imports only from lower floors."""

import ast
import math
import subprocess
import sys
from pathlib import Path

import pytest

import fineprune

HOUSE = Path(fineprune.__file__).parent

FLOORS: dict[str, float] = {
    "errors": 0,
    "extras": 0.5,
    "schedules": 0.5,
    "layers": 0.5,
    "version": 0,
    "noise": 0.5,
    "control": 0.5,
    "meeting": 0.2,
    "ranks": 0.2,
    "counting": 0.3,
    "selection": 0.5,
    "budgets": 0.5,
    "narrow": 0.5,
    "memory": 0.5,
    "targets": 0.55,
    "structures": 0.6,
    "plans": 0.5,
    "anatomy": 0.7,
    "linked": 0.8,
    "methods": 1,
    "scores": 1.5,
    "rounded": 1.6,
    "low_rank": 1.6,
    "proximal": 1.1,
    "sparse": 1,
    "config": 2,
    "state": 2,
    "support": 2,
    "weights": 1.9,
    "clipping": 1.9,
    "sites": 2,
    "inspection": 2.5,
    "parts": 2.5,
    "building": 2.7,
    "saving": 2.7,
    "pruner": 3,
    "distillation": 3,
    "checkpoints": 3,
    "masks": 2.9,
    "portrait": 3.5,
    "cards": 3.5,
    "loading": 4,
    "tasks.task": 4,
    "tasks.tables": 4,
    "tasks.tabular": 4.1,
    "tasks.glue": 4.2,
    "tasks.squad_scorer": 4.2,
    "tasks.squad_questions": 4.1,
    "tasks.squad_spans": 4.1,
    "tasks.squad": 4.3,
    "tasks.language": 4.2,
    "tasks.docstrings": 4,
    "tasks.minilm": 4,
    "trainer": 4,
    "shrinking": 3.5,
    "vocabulary": 3.5,
    "packing": 3.8,
    "legacy": 4,
    "recipe": 5,
    "training": 6,
    "sweep": 7,
    "quickstart": 7.5,
    "report": 7,
    "bench": 7,
    "cli": 8,
}
"""Every room, and the floor it stands on; rooms that are not built yet may be listed. Halves order one floor's rooms."""

CORE = 3
"""Up to this floor nothing but these packages and the standard library is needed."""
CORE_PACKAGES = {"torch", "numpy", "safetensors"}
SPARSE_PACKAGES = {"numba", "llvmlite"}
"""What the rooms of the CPU runtime need beside, but for those that `fineprune` shows at its root."""
SHOWN = {"sparse.converting", "sparse.format"}

LAZY = {"shrinking", "vocabulary", "packing"}
"""Rooms that `fineprune` shows at its root, and that import the extras only in the functions that use them."""

TRAINER_NAMES = {"Trainer", "Seq2SeqTrainer", "TrainerCallback"}
TRAINER_ROOMS = {"trainer", "training"}


def room_of(path: Path) -> str:
    """Returns `pruner`, or `tasks.glue`; the package of a folder is the folder's name."""
    return ".".join(path.relative_to(HOUSE).with_suffix("").parts).removesuffix(".__init__")


def floor_of(room: str) -> float:
    """A room inside a folder that is not listed itself stands on the folder's floor."""
    return FLOORS.get(room, FLOORS.get(room.partition(".")[0], math.inf))


def is_room(name: str) -> bool:
    return name in FLOORS or (HOUSE / (name.replace(".", "/") + ".py")).is_file() or (HOUSE / name.replace(".", "/")).is_dir()


def rooms() -> dict[str, Path]:
    """Every module of the package, the two kinds of `__init__` apart."""
    return {room_of(path): path for path in sorted(HOUSE.rglob("*.py")) if path.name != "__init__.py"}


def imported(source: str, room: str) -> set[str]:
    """Returns what a module imports, anywhere in it: `torch.nn`, `transformers.Trainer`, `fineprune.targets`."""
    names: set[str] = set()
    package = ["fineprune", *room.split(".")[:-1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            names |= {".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names}
    return names


def at_once(source: str) -> str:
    """Returns a module without its functions and without what is only for type checkers: what runs when it is imported."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.If):
            late = ast.FunctionDef | ast.AsyncFunctionDef
            node.body = [inner for inner in node.body if not (isinstance(inner, late) or _is_for_types(inner))] or [ast.Pass()]
    return ast.unparse(tree)


def _is_for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def own(names: set[str]) -> set[str]:
    """Returns the rooms among imported names: `errors` for `from .errors import X`, an empty name for the package's root."""
    found = set()
    for name in names:
        package, _, rest = name.partition(".")
        if package == "fineprune":
            while rest and not is_room(rest):
                rest = rest.rpartition(".")[0]
            found.add(rest)
    return found


ROOMS = rooms()
IMPORTS = {room: imported(path.read_text(encoding="utf-8"), room) for room, path in ROOMS.items()}


def test_the_reader_of_imports_sees_every_form() -> None:
    source = """
import torch.nn as nn, numpy
from .errors import InvalidInputError
from . import targets, __version__
from ..selection import Scope
def later():
    from transformers import Trainer
    import fineprune.pruner
    from fineprune import Pruner
"""
    top, inner = imported(source, "config"), imported(source, "tasks.glue")
    assert {"torch.nn", "numpy", "fineprune.errors.InvalidInputError", "fineprune.targets", "transformers.Trainer"} <= top
    assert {"fineprune.selection.Scope", "fineprune.tasks.errors.InvalidInputError"} <= inner
    assert own(top - {"fineprune.__version__", "fineprune.Pruner"}) == {"errors", "targets", "pruner"}
    assert "" in own({"fineprune.Pruner"})
    assert imported(at_once(source + "if TYPE_CHECKING:\n    import rich\n"), "config") == top - {
        "transformers.Trainer",
        "fineprune.pruner",
        "fineprune.Pruner",
    }


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_lower_floors(room: str) -> None:
    assert floor_of(room) < math.inf, f"{room} has no floor: add it to the table"
    rooms_of_its_own = own(IMPORTS[room]) - {room}
    assert "" not in rooms_of_its_own, "import from the sibling module, never from the package's root"
    inside = {other for other in rooms_of_its_own if other not in FLOORS and other.partition(".")[0] == room.partition(".")[0]}
    high = {other: floor_of(other) for other in rooms_of_its_own - inside if floor_of(other) >= floor_of(room)}
    assert not high, f"{room} (floor {floor_of(room)}) imports from {high}"


@pytest.mark.parametrize("room", [room for room in ROOMS if floor_of(room) <= CORE])
def test_the_core_needs_few_packages(room: str) -> None:
    packages = {name.partition(".")[0] for name in IMPORTS[room]}
    more = SPARSE_PACKAGES | {"transformers"} if room.startswith("sparse.") else set()
    assert packages <= CORE_PACKAGES | {"fineprune"} | more | sys.stdlib_module_names


@pytest.mark.parametrize("room", [room for room in ROOMS if room.partition(".")[0] in LAZY or room in SHOWN])
def test_rooms_shown_at_the_root_import_without_the_extras(room: str) -> None:
    source = ROOMS[room].read_text(encoding="utf-8")
    packages = {name.partition(".")[0] for name in imported(at_once(source), room)}
    assert packages <= CORE_PACKAGES | {"fineprune"} | sys.stdlib_module_names
    assert "import_module" not in source, "an import is written as one"


@pytest.mark.parametrize("room", ROOMS)
def test_few_rooms_know_the_trainer(room: str) -> None:
    known = {name for name in IMPORTS[room] if name.startswith("transformers.") and name.rpartition(".")[2] in TRAINER_NAMES}
    assert not known or room in TRAINER_ROOMS


def test_the_root_shows_the_core_only() -> None:
    """`import fineprune` must work without the extras, as the next test tries."""
    names = own(imported((HOUSE / "__init__.py").read_text(encoding="utf-8"), "__init__"))
    assert "" not in names
    assert {name for name in names if floor_of(name) > CORE} == LAZY


def test_the_root_imports_without_the_extras() -> None:
    code = (
        "import sys\n"
        "extras = ('transformers', 'tokenizers', 'huggingface_hub', 'datasets', 'jsonargparse', 'rich', 'numba', 'zstandard')\n"
        "sys.modules.update(dict.fromkeys(extras)); import fineprune\n"
        "fineprune.shrink, fineprune.select_vocabulary, fineprune.to_sparse, fineprune.load"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_the_core_is_there() -> None:
    core = {"errors", "schedules", "structures", "selection", "methods", "config", "targets", "inspection", "sites", "support"}
    assert core | {"state", "pruner"} <= ROOMS.keys()
