"""What importing the package runs, in processes of their own; who may import whom is for the contracts in pyproject.toml."""

import json
import subprocess
import sys

import fineprune

HUB = ("transformers", "tokenizers", "huggingface_hub", "accelerate", "datasets", "sklearn")
EXTRAS = (*HUB, "jsonargparse", "rich", "numba", "zstandard", "matplotlib", "ray")


def run(code: str, *arguments: str) -> str:
    """Runs code in a fresh process, and returns what it prints."""
    ran = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_root_imports_without_the_extras() -> None:
    gone = f"import sys; sys.modules.update(dict.fromkeys({EXTRAS}))"
    run(f"{gone}; import fineprune; [getattr(fineprune, name) for name in fineprune.__all__]")


def test_the_root_imports_none_of_the_extras_that_are_there() -> None:
    loaded = json.loads(run("import sys, json, fineprune; print(json.dumps(list(sys.modules)))"))
    assert not set(EXTRAS) & set(loaded)


def test_the_help_imports_none_of_the_extras() -> None:
    code = (
        "import sys\n"
        "from fineprune.apps.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"assert not set({EXTRAS}) & set(sys.modules), set({EXTRAS}) & set(sys.modules)"
    )
    assert "train" in run(code)


def test_every_public_name_is_documented() -> None:
    nameless = [name for name in fineprune.__all__ if name != "__version__" and not vars(fineprune)[name].__doc__]
    assert not nameless
