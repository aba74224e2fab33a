"""The file of a mask: what is saved is read, and anything else is refused before the model is changed."""

import contextlib
import copy
import hashlib
import json
import math
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_masks import BIAS, HEAD, WEIGHT, Model, bits, drawn, raw, save_task, seeds, shapes
from torch import Tensor

from fineprune import FileError, InvalidInputError, apply_mask
from fineprune.files import crc32
from fineprune.masks.bits import PackedMask, fingerprint
from fineprune.masks.file import MaskFile, read, save


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def path(model: Model, tmp_path: Path) -> Path:
    save_task(model, tmp_path / "sst2.mask.safetensors", 1)
    return tmp_path / "sst2.mask.safetensors"


# Both ways.


@settings(max_examples=40, deadline=None)
@given(st.lists(shapes, min_size=1, max_size=3), st.floats(0, 1), seeds)
def test_what_is_saved_is_read(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[list[int]], density: float, seed: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "drawn.safetensors"
    given_ = {f"w.{n}": (torch.randn(size), drawn(tuple(size), seed + n, density)) for n, size in enumerate(sizes)}
    save(path, given_, {})
    file = read(path)
    assert list(file.masks) == list(given_)
    for name, (W, M) in given_.items():
        assert file.masks[name].unpack().dtype is torch.bool
        assert torch.equal(file.masks[name].unpack(), M)
        assert file.fingerprints[name] == fingerprint(W)
    header = 8 + struct.unpack("<Q", path.read_bytes()[:8])[0]
    assert path.stat().st_size == header + sum(-(-math.prod(size) // 8) for size in sizes)


def test_bits_are_as_specified(tmp_path: Path) -> None:
    mask = torch.tensor([[1, 0, 0, 0, 0], [0, 0, 1, 1, 0], [0, 1, 0, 0, 0]], dtype=torch.bool)
    save(tmp_path / "m", {"w": (torch.ones(3, 5), mask)}, {"b": torch.ones(2, dtype=torch.bfloat16)})
    with safetensors.safe_open(tmp_path / "m", framework="pt") as file:
        metadata = file.metadata()
        assert sorted(file.keys()) == ["mask.w", "trained.b"]
        assert file.get_tensor("mask.w").tolist() == [0b10000001, 0b00001001]  # the first value in the lowest bit
        assert file.get_tensor("trained.b").dtype is torch.bfloat16
    said = json.loads(metadata["tensors"])
    assert (metadata["format"], metadata["version"]) == ("fineprune mask", "1")
    assert said["mask.w"]["shape"] == [3, 5]
    assert said["mask.w"]["weight"] == hashlib.sha256(b"\x80\x3f" * 15).hexdigest()  # 1.0 in bfloat16


def test_masks_laid_out_otherwise_are_saved_in_c_order(tmp_path: Path) -> None:
    W, M = torch.randn(4, 6).t(), drawn((4, 6), 3).t()
    save(tmp_path / "m", {"w": (W, M)}, {"b": torch.arange(6.0).view(2, 3).t()})
    file = read(tmp_path / "m")
    assert torch.equal(file.masks["w"].unpack(), M)
    assert torch.equal(file.trained["b"], torch.arange(6.0).view(2, 3).t())
    assert file.fingerprints["w"] == fingerprint(W.contiguous()) != fingerprint(W.t())


# The fingerprint.


def test_a_backbone_is_known_in_either_precision(model: Model, path: Path) -> None:
    W = torch.randn(1000) * torch.logspace(-40, 38, 1000)
    assert fingerprint(W) == fingerprint(W.bfloat16()) == fingerprint(W.double())
    assert fingerprint(W) != fingerprint(W * 1.01)
    assert fingerprint(torch.tensor([0.0])) != fingerprint(torch.tensor([-0.0]))


def test_all_nan_are_one_in_a_fingerprint() -> None:
    """Which one rounding to bfloat16 gives depends on the processor, and on the layout in memory."""
    W = torch.full((17,), math.nan)
    payload = torch.full((17,), 0x7F800001, dtype=torch.int32).view(torch.float32)
    expected = hashlib.sha256(b"\xc0\x7f" * 17).hexdigest()
    assert {fingerprint(each) for each in (W, payload, W.bfloat16(), W.double(), W.repeat(2, 1).t()[:, 0])} == {expected}


def test_one_mask_serves_a_backbone_in_float32_and_bfloat16(model: Model, tmp_path: Path) -> None:
    mask = drawn((5, 3), 1)
    save(tmp_path / "m", {WEIGHT: (model.body[0].weight, mask)}, {})
    for same in (model, copy.deepcopy(model).bfloat16(), copy.deepcopy(model).double()):
        with apply_mask(same, tmp_path / "m"):
            assert torch.equal(same.body[0].weight != 0, mask)


# What is refused of a file.


def contents(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safetensors.safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name).clone() for name in file.keys()}, file.metadata()  # noqa: SIM118


def rewritten(change: Callable[[dict[str, Tensor], dict[str, Any], dict[str, str]], object]) -> Callable[[Path], None]:
    """Changes tensors, what is said of them, and metadata; all checksums are made right again."""

    def rewrite(path: Path) -> None:
        tensors, metadata = contents(path)
        said = json.loads(metadata.pop("tensors"))
        metadata.pop("checksum")
        change(tensors, said, metadata)
        for name, tensor in tensors.items():
            if isinstance(said.get(name), dict) and said[name].get("checksum") != "kept":
                said[name]["checksum"] = crc32(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
        text = metadata.pop("text", json.dumps(said))
        of_text = metadata.pop("checksum", crc32(text.encode()))
        safetensors.torch.save_file(tensors, path, {**metadata, "tensors": text, "checksum": of_text})

    return rewrite


def said(name: str, **what: Any) -> Callable[[Path], None]:
    return rewritten(lambda _, said, __: said[name].update(what))


def with_bytes(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(change(path.read_bytes()))


M, T = f"mask.{WEIGHT}", f"trained.{HEAD}"

FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: path.unlink(), "No such file"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "cannot be read"),
    "empty": (with_bytes(lambda data: b""), "cannot be read"),
    "cut in the header": (with_bytes(lambda data: data[:100]), "cannot be read"),
    "one byte less": (with_bytes(lambda data: data[:-1]), "cannot be read"),
    "one byte more": (with_bytes(lambda data: data + b"\0"), "cannot be read"),
    "a header beyond the file": (with_bytes(lambda data: struct.pack("<Q", 1 << 60) + data[8:]), "cannot be read"),
    "no metadata": (lambda path: safetensors.torch.save_file(contents(path)[0], path), "it is no mask"),
    "a plain model": (rewritten(lambda _, __, metadata: metadata.update(format="pt")), "names another format"),
    "a newer version": (
        rewritten(lambda _, __, m: m.update(version="2")),
        "version is '2', and this fineprune reads version 1",
    ),
    "no version": (rewritten(lambda _, __, metadata: metadata.pop("version")), "version is ''"),
    "a wrong checksum": (rewritten(lambda _, __, m: m.update(checksum="00000000")), "do not belong together"),
    "no JSON": (rewritten(lambda _, __, metadata: metadata.update(text="evil")), "description of its tensors cannot be read"),
    "deep JSON": (rewritten(lambda _, __, metadata: metadata.update(text="[" * 100_000)), "cannot be read"),
    "a list": (rewritten(lambda _, __, metadata: metadata.update(text="[1]")), "no object of objects"),
    "a mask that is a number": (rewritten(lambda _, said, __: said.update({M: 3})), "no object of objects"),
    "a tensor less": (rewritten(lambda tensors, _, __: tensors.pop(M)), f"than it holds: {M}"),
    "a tensor more": (rewritten(lambda tensors, _, __: tensors.update(evil=torch.ones(1))), "than it holds: evil"),
    "a tensor of another kind": (
        rewritten(lambda tensors, said, _: (tensors.update(evil=torch.ones(1)), said.update(evil={}))),
        "not masks, one at least",
    ),
    "no mask": (
        rewritten(lambda t, said, _: [(t.pop(k), said.pop(k)) for k in list(t) if k.startswith("mask.")]),
        "not masks, one at least",
    ),
    "one name twice": (
        rewritten(
            lambda t, said, _: (t.update({f"trained.{WEIGHT}": t[T].clone()}), said.update({f"trained.{WEIGHT}": said[T]}))
        ),
        "of other parameters",
    ),
    "stray bits": (rewritten(lambda tensors, _, __: tensors[M][-1].bitwise_or_(0x80)), "bits set beyond its 15 values"),
    "a bit flipped": (
        rewritten(lambda t, s, _: (t[M][0].bitwise_xor_(1), s[M].update(checksum="kept"))),
        "its checksum do not",
    ),
    "another checksum of a head": (said(T, checksum="kept"), f"{T} and its checksum"),
    "no checksum of a mask": (rewritten(lambda t, s, _: s[M].update(checksum="kept") or t[M].zero_()), "its checksum"),
    "bits too few": (
        rewritten(lambda tensors, _, __: tensors.update({M: tensors[M][:1].clone()})),
        r"is U8 \[1\], and .*U8 \[2\]",
    ),
    "bits too many": (rewritten(lambda tensors, _, __: tensors.update({M: torch.zeros(3, dtype=torch.uint8)})), r"is U8 \[3\]"),
    "bits in a matrix": (rewritten(lambda tensors, _, __: tensors.update({M: tensors[M][None].clone()})), r"is U8 \[1, 2\]"),
    "bits of another type": (rewritten(lambda tensors, _, __: tensors.update({M: tensors[M].view(torch.int8)})), "is I8"),
    "a truth value for a size": (said(M, shape=[True, 15]), "no possible shape"),
    "a fraction for a size": (said(M, shape=[3.0, 5]), "no possible shape"),
    "a size of 0": (said(M, shape=[0, 5]), "no possible shape"),
    "negative sizes": (said(M, shape=[-3, -5]), "no possible shape"),
    "a huge size": (said(M, shape=[1 << 62, 1 << 62]), "no possible shape"),
    "no shape": (said(M, shape=None), "no possible shape"),
    "too many sizes": (said(M, shape=[15] + [1] * 9), "no possible shape"),
    "another shape": (said(M, shape=[3, 5]), r"has shape \(5, 3\) here, and \(3, 5\) there"),
    "a fingerprint that is a number": (said(M, weight=3), "has the weight '3', which is no text"),
    "another fingerprint": (said(M, weight="0" * 64), "another backbone|made on another"),
    "an unknown dtype": (said(T, dtype="U8"), "said to be U8; known are F64"),
    "no dtype": (said(T, dtype=None), "has the dtype 'None'"),
    "another dtype": (said(T, dtype="F16"), r"is F32 \[2, 5\], and its description asks for F16"),
    "another shape of a head": (said(T, shape=[5, 2]), r"asks for F32 \[5, 2\]"),
    "no shape of a head": (said(T, shape=None), "asks for F32 None"),
}


@pytest.mark.parametrize("what", FILES)
def test_a_file_that_is_not_right_is_refused_and_the_model_left_alone(model: Model, path: Path, what: str) -> None:
    change, words = FILES[what]
    before = bits(model)
    change(path)
    with pytest.raises(InvalidInputError, match=words) as refusal:
        apply_mask(model, path)
    assert str(path) in str(refusal.value)
    assert bits(model) == before


def test_a_rewritten_file_without_a_change_is_right(model: Model, path: Path) -> None:
    """So that the refusals above are for what was changed."""
    rewritten(lambda tensors, said, metadata: None)(path)
    with apply_mask(model, path):
        pass


def test_a_file_cut_anywhere_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for length in range(0, len(whole), 19):
        path.write_bytes(whole[:length])
        with pytest.raises(InvalidInputError):
            read(path)


def test_no_changed_byte_goes_unnoticed(path: Path) -> None:
    """Every byte, to something random: the same content or a refusal."""
    save(path, {"w": (torch.ones(3, 5), drawn((3, 5), 1))}, {"b": torch.ones(2)})
    whole, generator = path.read_bytes(), random.Random(8)
    expected, refused = plain(path), 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= generator.randrange(1, 256)
        path.write_bytes(damaged)
        try:
            assert plain(path) == expected
        except InvalidInputError:
            refused += 1
    assert refused > 0.99 * len(whole)


def plain(path: Path) -> object:
    return content(read(path))


def content(file: MaskFile) -> object:
    packed = {name: (each.shape, each.bits.tobytes()) for name, each in file.masks.items()}
    return packed, file.fingerprints, {name: (each.dtype, each.shape, raw(each)) for name, each in file.trained.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, object]:
    """A path to write on, a right file's bytes and what they hold."""
    path = tmp_path_factory.mktemp("whole") / "m"
    save_task(Model(), path, 1)
    return path, path.read_bytes(), plain(path)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_damage_ends_otherwise_than_in_a_refusal(whole: tuple[Path, bytes, object], data: st.DataObject) -> None:
    path, right, expected = whole
    start, left_out = data.draw(st.integers(0, len(right))), data.draw(st.integers(0, 12))
    path.write_bytes(right[:start] + data.draw(st.binary(max_size=12)) + right[start + left_out :])
    with contextlib.suppress(InvalidInputError):
        assert plain(path) == expected


# Saving.


def test_a_later_save_takes_the_place_of_an_earlier_one(model: Model, path: Path) -> None:
    save(path, {WEIGHT: (model.body[0].weight, torch.ones(5, 3, dtype=torch.bool))}, {})
    assert list(read(path).masks) == [WEIGHT]
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_what_was_read_does_not_change_with_the_file(path: Path) -> None:
    file, before = read(path), plain(path)
    with path.open("r+b") as opened:  # in place, as no save of ours does
        opened.write(bytes(path.stat().st_size))
    assert content(file) == before


@pytest.mark.parametrize("other", ["model", "text", "folder"])
def test_something_else_of_that_name_is_not_overwritten(model: Model, tmp_path: Path, other: str) -> None:
    path = tmp_path / "model.safetensors"
    if other == "model":
        safetensors.torch.save_file({"w": torch.ones(1)}, path)
    elif other == "text":
        path.write_text("mine")
    else:
        path.mkdir()
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(InvalidInputError, match="exists already and is no mask"):
        save_task(model, path, 1)
    assert path.is_dir() or path.read_bytes() == before


def test_the_folder_is_made(model: Model, tmp_path: Path) -> None:
    save_task(model, tmp_path / "a" / "b" / "m", 1)
    assert set(read(str(tmp_path / "a" / "b" / "m")).trained) == {BIAS, HEAD}


def test_a_full_disk_leaves_the_earlier_file(model: Model, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(FileError, match=r"could not be saved as .*No space left on device.*Free some space"):
        save_task(model, path, 2)
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_folder_that_is_a_file_is_refused(model: Model, path: Path) -> None:
    with pytest.raises(FileError, match="could not be saved"):
        save_task(model, path / "inside", 2)


ones = torch.ones(2, 3)
kept = torch.ones(2, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("weights", "trained", "words"),
    [
        ({}, {"b": ones}, "no mask to save"),
        ({"w": (ones, kept)}, {"w": ones}, "w must be given either with a mask or as trained, got both"),
        ({"w": (ones, kept.float())}, {}, r"mask of w must be bool \(2, 3\), got float32 \(2, 3\)"),
        ({"w": (ones, kept.t())}, {}, r"mask of w must be bool \(2, 3\), got bool \(3, 2\)"),
        ({"w": (ones.int(), kept)}, {}, "w cannot be saved with a mask: it is int32"),
        ({"w": (ones.to("meta"), kept)}, {}, "meta device"),
        ({"w": (ones[:0], kept[:0])}, {}, r"at least one value and 8 dimensions at most, got w of shape \(0, 3\)"),
        (
            {"w": (ones.view(1, 1, 1, 1, 1, 1, 1, 2, 3), kept.view(1, 1, 1, 1, 1, 1, 1, 2, 3))},
            {},
            "8 dimensions at most, got w",
        ),
        ({"w": (ones, kept)}, {"b": ones.to(torch.complex64)}, "b cannot be saved with a mask: it is complex64"),
        ({"w": (ones, kept)}, {"b": ones.to_sparse()}, "only dense floats"),
    ],
)
def test_what_is_no_mask_is_not_saved(tmp_path: Path, weights: Any, trained: Any, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        save(tmp_path / "m", weights, trained)
    assert not any(tmp_path.iterdir())


def test_trained_values_may_share_memory_and_may_be_empty(tmp_path: Path) -> None:
    flat = torch.arange(6.0)
    save(tmp_path / "m", {"w": (ones, kept)}, {"a": flat[:3], "b": flat, "c": flat[:0]})
    trained = read(tmp_path / "m").trained
    assert {name: value.tolist() for name, value in trained.items()} == {"a": [0, 1, 2], "b": list(range(6)), "c": []}


def test_packing_agrees_with_a_slow_reference() -> None:
    for size in range(1, 26):
        mask = drawn((size,), size)
        expected = [sum(int(bit) << place for place, bit in enumerate(mask[at : at + 8])) for at in range(0, size, 8)]
        assert PackedMask.of(mask).bits.tolist() == expected
