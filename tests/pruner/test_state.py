"""The two files of a pruner's state: whole or refused, whatever happens to the disk."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from conftest import Stack, adamw
from fineprune import FileError, InvalidInputError, Pruner
from fineprune.pruner import state_files

TENSORS = {"dense.a": torch.arange(6.0).view(2, 3), "scores.a": torch.zeros(2, 3, dtype=torch.float64)}
FACTS = {"step": 3, "names": ["a"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    state_files.write(tmp_path / "new" / "folder", TENSORS, FACTS)
    return tmp_path / "new" / "folder"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def read(folder: Path) -> tuple[dict[str, object], dict[str, Tensor]]:
    return state_files.read_facts(folder), state_files.read_tensors(folder)


def test_what_is_written_is_read(folder: Path) -> None:
    facts, tensors = read(folder)
    assert FACTS.items() <= facts.items()
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) and tensors[name].dtype == TENSORS[name].dtype for name in TENSORS)
    assert sorted(files(folder)) == ["pruner.json", "pruner.safetensors"]


def test_a_tensor_laid_out_otherwise_is_saved_too(tmp_path: Path) -> None:
    transposed, spread = torch.randn(3, 4).t(), torch.ones(2, 1).expand(2, 5)
    state_files.write(tmp_path, {"t": transposed, "s": spread}, {})
    _, tensors = read(tmp_path)
    assert torch.equal(tensors["t"], transposed)
    assert torch.equal(tensors["s"], spread)


def test_a_later_save_takes_the_place_of_an_earlier_one(folder: Path) -> None:
    state_files.write(folder, {"dense.a": torch.ones(1)}, {"step": 4})
    facts, tensors = read(folder)
    assert facts["step"] == 4
    assert list(tensors) == ["dense.a"]


@pytest.mark.parametrize("name", ["pruner.json", "pruner.safetensors"])
def test_a_missing_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(InvalidInputError, match=f"holds no {name}"):
        read(folder)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(InvalidInputError, match=r"holds no pruner\.json"):
            read(folder)


def test_two_saves_are_not_mixed(folder: Path, tmp_path: Path) -> None:
    state_files.write(tmp_path / "other", TENSORS, FACTS)
    (tmp_path / "other" / "pruner.safetensors").replace(folder / "pruner.safetensors")
    with pytest.raises(InvalidInputError, match="two different saves"):
        read(folder)


@pytest.mark.parametrize("name", ["pruner.json", "pruner.safetensors"])
def test_a_truncated_file_is_refused_at_any_length(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    ends = len(whole) - (1 if name.endswith("json") else 0)  # without its last newline JSON is whole
    for length in range(ends):
        (folder / name).write_bytes(whole[:length])
        with pytest.raises(InvalidInputError, match=r"damaged|two different saves"):
            read(folder)


def test_a_longer_file_is_refused(folder: Path) -> None:
    with (folder / "pruner.safetensors").open("ab") as file:
        file.write(b"more")
    with pytest.raises(InvalidInputError, match="damaged"):
        read(folder)


def test_any_flipped_bit_of_a_header_is_refused_or_seen(folder: Path) -> None:
    """A flip in the header is an error in words, or changes a name; the pruner knows those that it wrote."""
    whole = (folder / "pruner.safetensors").read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    refused = 0
    for position in range(header):
        for bit in range(8):
            changed = bytearray(whole)
            changed[position] ^= 1 << bit
            (folder / "pruner.safetensors").write_bytes(changed)
            try:
                _, tensors = read(folder)
            except InvalidInputError:
                refused += 1
                continue
            layout = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
            if layout == {name: (tensor.dtype, tensor.shape) for name, tensor in TENSORS.items()}:
                assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert refused > 4 * header


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '{"step": 1}', "\x00", "{" * 5000])
def test_damaged_facts_are_refused(folder: Path, text: str) -> None:
    (folder / "pruner.json").write_text(text)
    with pytest.raises(InvalidInputError, match=r"pruner\.json is damaged"):
        read(folder)


def test_facts_that_are_not_text_are_refused(folder: Path) -> None:
    (folder / "pruner.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInputError, match=r"pruner\.json is damaged"):
        read(folder)


def test_nothing_is_unpickled(folder: Path) -> None:
    torch.save({"save": "x"}, folder / "pruner.safetensors")
    with pytest.raises(InvalidInputError, match="damaged"):
        read(folder)


@pytest.mark.parametrize("broken", ["save_file", "replace", "fsync"])
def test_a_failed_save_leaves_the_old_one(folder: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    before = files(folder)

    def full(*arguments: object, **settings: object) -> None:
        if broken == "save_file":
            Path(arguments[1]).write_bytes(b"half of a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch if broken == "save_file" else os, broken, full)
    with pytest.raises(FileError, match=r"No space left on device.*Free some space"):
        state_files.write(folder, {"dense.a": torch.ones(1)}, {"step": 4})
    assert files(folder) == before


def test_a_save_that_fails_between_its_files_is_noticed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **settings: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(FileError, match="could not be saved"):
        state_files.write(folder, {"dense.a": torch.ones(1)}, {"step": 4})
    assert sorted(files(folder)) == ["pruner.json", "pruner.safetensors"]
    with pytest.raises(InvalidInputError, match="two different saves"):
        read(folder)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="could not be saved"):
        state_files.write(tmp_path / "file" / "inside", TENSORS, FACTS)


def test_a_full_disk_is_refused_in_words(folder: Path) -> None:
    """A limit on file sizes stands for the disk; the real writer meets it, in a process of its own."""
    before = files(folder)
    program = f"""
import resource, torch
from fineprune import FileError
from fineprune.pruner import state_files as state
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    state.write({str(folder)!r}, {{"dense.a": torch.ones(100_000)}}, {{"step": 4}})
except FileError as error:
    print("refused:", error)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("refused: The pruner's state could not be saved in")
    assert files(folder) == before


def test_numbers_that_json_does_not_have_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        state_files.write(tmp_path, TENSORS, {"step": float("nan")})
    assert files(tmp_path) == {}


def test_the_facts_are_json_for_people(folder: Path) -> None:
    text = (folder / "pruner.json").read_text()
    assert json.loads(text)["step"] == 3
    assert text.endswith("}\n")
    assert '\n  "step": 3' in text


def test_a_state_from_before_a_setting_existed_resumes(attach: Callable[..., Pruner], tmp_path: Path) -> None:
    model = Stack()
    pruner = attach(model, adamw(model))
    pruner.save(tmp_path)
    facts = json.loads((tmp_path / "pruner.json").read_text())
    for name in ("scores", "frozen_weights", "budget"):
        del facts["config"][name]
    (tmp_path / "pruner.json").write_text(json.dumps(facts))
    pruner.load(tmp_path)
    facts["config"]["density"] = 0.4
    (tmp_path / "pruner.json").write_text(json.dumps(facts))
    with pytest.raises(InvalidInputError, match=r"another config: density 0\.4 there, 0\.3 here"):
        pruner.load(tmp_path)
