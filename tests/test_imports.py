"""What importing the package and asking for help run, in processes of their own; the contracts in pyproject.toml say who
may import whom."""

import json
import pickle
import subprocess
import sys

import pytest

import fineprune
from fineprune.version import VERSION

EXTRAS = [
    *("transformers", "tokenizers", "huggingface_hub", "accelerate", "datasets"),
    *("jsonargparse", "rich", "numba", "zstandard", "matplotlib", "sklearn", "ray"),
]


def run(code: str, *arguments: str) -> str:
    """Runs code in a fresh process, and returns what it prints."""
    ran = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def loaded(code: str) -> set[str]:
    """Returns the modules that are loaded after code has run in a fresh process."""
    listing = run(f"{code}\nimport json, sys; print(json.dumps(list(sys.modules)))")
    return set(json.loads(listing.splitlines()[-1]))


def test_every_name_is_there_without_the_extras() -> None:
    run(
        f"import sys; sys.modules.update(dict.fromkeys({EXTRAS}))\n"
        "import fineprune; [getattr(fineprune, name) for name in fineprune.__all__]"
    )


def test_the_names_import_none_of_the_extras_that_are_there() -> None:
    assert not set(EXTRAS) & loaded("from fineprune import Pruner")


def test_importing_the_package_imports_no_torch() -> None:
    assert not {*EXTRAS, "torch", "numpy"} & loaded("import fineprune; fineprune.__version__")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["--version"], ["trian"]])
def test_the_help_imports_neither_torch_nor_an_extra(arguments: list[str]) -> None:
    modules = loaded(f"from fineprune.apps.cli import main; main({arguments})")
    assert not {*EXTRAS, "torch", "numpy"} & modules


def test_the_package_runs_as_a_module() -> None:
    for arguments, expected in ((["--version"], f"fineprune {VERSION}\n"), (["--help"], "usage: fineprune COMMAND")):
        ran = subprocess.run([sys.executable, "-m", "fineprune", *arguments], capture_output=True, text=True, check=True)
        assert ran.stdout.startswith(expected)


def test_every_public_name_is_documented() -> None:
    nameless = [name for name in fineprune.__all__ if name != "__version__" and not getattr(fineprune, name).__doc__]
    assert not nameless


def test_the_names_come_in_every_way_of_importing() -> None:
    run(
        "from fineprune import *\n"
        "import fineprune\n"
        "assert Pruner is fineprune.Pruner and load is fineprune.load\n"
        "assert {name for name in fineprune.__all__ if name not in globals()} == set()"
    )
    run("import fineprune; assert fineprune.masks.apply.apply_mask is fineprune.apply_mask")
    run("from fineprune import apps, errors; import fineprune; assert fineprune.errors is errors")
    run("import fineprune; assert {*fineprune.__all__, 'masks', '__version__'} <= set(dir(fineprune))")
    assert pickle.loads(pickle.dumps(fineprune.Movement())) == fineprune.Movement()


@pytest.mark.parametrize("name", ["nothing", "__wrapped__", "Prunner"])
def test_an_unknown_name_is_an_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match=f"module 'fineprune' has no attribute '{name}'"):
        getattr(fineprune, name)
    with pytest.raises(ImportError, match=f"cannot import name '{name}' from 'fineprune'"):
        exec(f"from fineprune import {name}")
