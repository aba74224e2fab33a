"""Damaged and hostile packed files are refused with a clear error: no crash, no read out of range, no large memory."""

import copy
import json
import random
import resource
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
import zstandard
from torch import Tensor

import fineprune
from conftest import tiny_bert
from fineprune import FileError, InvalidInputError, files
from fineprune.compress.packing.gaps import frame
from fineprune.compress.packing.header import SparseEntry
from fineprune.compress.packing.load import load_parts, read_settings
from fineprune.compress.packing.read import opened
from fineprune.compress.packing.values import VALUES, Float16Values, Float32Values, Int8Values, PackedValues
from fineprune.compress.packing.write import PACKED, save, write
from fineprune.files import crc32

REFUSALS = (InvalidInputError, FileError)
QUERY = "bert.encoder.layer.0.attention.self.query.weight"
TABLE = "bert.embeddings.word_embeddings.weight"
BIAS = "classifier.bias"

Parts = dict[str, Any]
Tensors = dict[str, dict[str, Any]]


def small_model(layers: int = 1) -> torch.nn.Module:
    """A BERT with sparse, dense and raw tensors."""
    torch.manual_seed(3)
    model = tiny_bert()
    model.bert.encoder.layer = model.bert.encoder.layer[:layers]
    model.config.num_hidden_layers = layers
    with torch.no_grad():
        for parameter in model.bert.encoder.parameters():
            if parameter.dim() == 2:
                parameter.masked_fill_(torch.rand_like(parameter) < 0.9, 0.0)
    return model


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed") / "model"
    save(small_model(), folder, Int8Values())
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    for path in original.iterdir():
        (tmp_path / "model" / path.name).write_bytes(path.read_bytes())
    return tmp_path / "model"


# Changes.


def read(folder: Path) -> tuple[Parts, dict[str, str]]:
    with safetensors.safe_open(folder / PACKED, framework="np") as container:
        return {name: container.get_tensor(name) for name in container.keys()}, container.metadata()  # noqa: SIM118


def rewrite(folder: Path, parts: Parts, metadata: dict[str, str]) -> None:
    safetensors.numpy.save_file(parts, folder / PACKED, metadata)


def edit_metadata(folder: Path, change: Callable[[dict[str, str], Tensors], object]) -> None:
    """Changes the header, whose checksum is made right again."""
    parts, metadata = read(folder)
    tensors = json.loads(metadata["tensors"])
    change(metadata, tensors)
    if metadata.get("tensors"):
        metadata["tensors"] = json.dumps(tensors)
        metadata["checksum"] = crc32(metadata["tensors"].encode())
    rewrite(folder, parts, metadata)


def described(name: str, **said: Any) -> Callable[[Path], None]:
    return lambda folder: edit_metadata(folder, lambda _, tensors: tensors[name].update(said))


def stated(**said: str) -> Callable[[Path], None]:
    return lambda folder: edit_metadata(folder, lambda metadata, _: metadata.update(said))


def telling(text: str) -> Callable[[Path], None]:
    """Says this of the tensors, with a right checksum."""
    return lambda folder: rewrite(
        folder, read(folder)[0], {**read(folder)[1], "tensors": text, "checksum": crc32(text.encode())}
    )


def edit_parts(change: Callable[[Parts], object]) -> Callable[[Path], None]:
    def edited(folder: Path) -> None:
        parts, metadata = read(folder)
        change(parts)
        rewrite(folder, parts, metadata)

    return edited


def refilled(name: str, part: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Changes what a frame holds; the new one has a right checksum."""

    def refill(parts: Parts) -> None:
        held = zstandard.ZstdDecompressor().decompress(parts[f"{name}:{part}"].tobytes())
        parts[f"{name}:{part}"] = frame(part, change(held))

    return edit_parts(refill)


def edit_config(**settings: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))

    return edit


def edit_bytes(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda folder: (folder / PACKED).write_bytes(change((folder / PACKED).read_bytes())) and None


def raw_file(header: bytes, data: bytes = b"") -> Callable[[Path], None]:
    return edit_bytes(lambda _: struct.pack("<Q", len(header)) + header + data)


def swapped(parts: Parts) -> None:
    first, second = f"{QUERY}:values", f"{QUERY.replace('query', 'key')}:values"
    parts[first], parts[second] = parts[second], parts[first]


def bomb(part: str, size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return frame(part, bytes(size))


def bf16(value: float) -> bytes:
    return struct.pack("<f", value)[2:]


def planes_of(*values: float) -> bytes:
    """Scales of 32 rows as byte planes, of which the first ones are these."""
    encoded = [bf16(value) for value in (*values, *[1.0] * (32 - len(values)))]
    return bytes(one[0] for one in encoded) + bytes(one[1] for one in encoded)


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    # The container.
    "empty": (edit_bytes(lambda data: b""), "cannot be read"),
    "cut in the header": (edit_bytes(lambda data: data[:100]), "cannot be read"),
    "cut in a tensor": (edit_bytes(lambda data: data[:-100]), "cannot be read"),
    "one byte less": (edit_bytes(lambda data: data[:-1]), "cannot be read"),
    "one byte more": (edit_bytes(lambda data: data + b"\0"), "cannot be read"),
    "a header beyond the file": (edit_bytes(lambda data: struct.pack("<Q", 1 << 60) + data[8:]), "cannot be read"),
    "a header that is no JSON": (raw_file(b"evil"), "cannot be read"),
    "a deep header": (raw_file(b'{"__metadata__":' + b"[" * 100_000), "cannot be read"),
    "no metadata": (lambda folder: rewrite(folder, read(folder)[0], {}), "names another format, or none"),
    "a plain model": (stated(format="pt"), "names another format"),
    "a part less": (edit_parts(lambda parts: parts.pop(f"{QUERY}:gaps")), "describes other tensors than it holds: .*:gaps"),
    "a part more": (edit_parts(lambda parts: parts.update(evil=frame("values", b""))), "than it holds: evil"),
    "numbers for bytes": (edit_parts(lambda parts: parts.update({f"{BIAS}:values": np.ones(2, "f4")})), "no run of bytes"),
    "a part of two dimensions": (
        edit_parts(lambda parts: parts.update({f"{BIAS}:values": parts[f"{BIAS}:values"][None]})),
        "no run of bytes",
    ),
    # The header.
    "a newer version": (stated(version="2.0"), "version is 2.0, made by a newer fineprune: install that"),
    "an older version": (stated(version="0.9"), "version is 0.9, unknown"),
    "no version": (stated(version=""), "and no number"),
    "a version in other digits": (stated(version="١.٠"), "and no number"),
    "a long version": (stated(version="1." + "0" * 10_000), "and no number"),
    "no description": (lambda folder: edit_metadata(folder, lambda m, _: m.pop("tensors")), "do not belong together"),
    "a wrong checksum": (
        lambda folder: rewrite(folder, read(folder)[0], {**read(folder)[1], "checksum": "00000000"}),
        "do not belong together",
    ),
    "a description that is no JSON": (telling("evil"), "description of its tensors cannot be read"),
    "a deep description": (telling("[" * 100_000), "description of its tensors cannot be read"),
    "a long number": (telling("1" * 100_000), "description of its tensors cannot be read"),
    "a description that is no object": (telling("[1]"), "description of its tensors is no object"),
    "no tensors": (telling("{}"), "describes other tensors"),
    "a tensor less": (lambda folder: edit_metadata(folder, lambda _, t: t.pop(BIAS)), "describes other tensors"),
    "a tensor that is no object": (lambda folder: edit_metadata(folder, lambda _, t: t.update({BIAS: 3})), "is no object"),
    "another kind": (described(BIAS, kind="evil"), "a kind that is not known"),
    "a kind that is a list": (described(BIAS, kind=[]), "a kind that is not known"),
    "another dtype": (described(BIAS, dtype="float64"), "says dtype 'float64'; known are"),
    "a dtype that is a list": (described(BIAS, dtype=["float32"]), "says dtype"),
    "a wider dtype": (described(BIAS, dtype="int64"), r"int64 of shape \(2,\); beside the other tensors it would"),
    "other values": (described(QUERY, values="int4"), "says values 'int4'; known are int8, fp16, fp32"),
    "wider values": (described(TABLE, values="fp32"), "describes other tensors"),
    "a vector for a matrix": (described(QUERY, shape=[1024]), "has 1 dimensions, and a sparse tensor two or more"),
    "a negative size": (described(QUERY, shape=[-32, -32]), "no possible shape"),
    "a size that is true": (described(QUERY, shape=[True, 1024]), "no possible shape"),
    "a size with a fraction": (described(QUERY, shape=[32.0, 32.0]), "no possible shape"),
    "a size that is no number": (described(QUERY, shape=["32", "32"]), "no possible shape"),
    "a shape that is a number": (described(QUERY, shape=1024), "no possible shape"),
    "a shape past memory": (described(QUERY, shape=[1 << 40, 1 << 40]), "no possible shape"),
    "sizes that multiply past 64 bits": (described(TABLE, shape=[1 << 32, 1 << 32]), "no possible shape"),
    "sizes that multiply to what was there": (described(QUERY, shape=[1 << 33, 1 << 31, 0]), "keeps"),
    "many dimensions": (described(QUERY, shape=[1] * 1000), "no possible shape"),
    "a shape past this machine": (
        described(QUERY, shape=[1 << 20, 1 << 20]),
        "bytes of memory, and this machine has|would have to be",
    ),
    "another shape": (described(TABLE, shape=[50, 64]), "would have to be .* of shape"),
    "a turned shape": (described("bert.encoder.layer.0.output.dense.weight", shape=[64, 32]), "would have to be"),
    "a larger shape": (described(QUERY, shape=[32, 64]), "would have to be"),
    "fewer kept": (described(QUERY, kept=50), "bytes, and there must be 50"),
    "more kept": (described(QUERY, kept=1000), "bytes, and there must be 1000"),
    "more kept than there are": (described(QUERY, kept=1025), "says that it keeps 1025 of 1024"),
    "a negative count": (described(QUERY, kept=-1), "says that it keeps -1 of"),
    "a count with a fraction": (described(QUERY, kept=99.0), "says that it keeps"),
    "a count beyond all": (described(QUERY, kept=10**300), "says that it keeps"),
    "no count": (described(QUERY, kept=None), "says that it keeps None"),
    # What the frames hold.
    "gaps that lead outside": (refilled(QUERY, "gaps", lambda held: b"\xfe" * len(held)), "lead outside its 1024 entries"),
    "gaps that end nowhere": (refilled(QUERY, "gaps", lambda held: held + b"\xff"), "gaps lead to"),
    "a gap more": (refilled(QUERY, "gaps", lambda held: held + b"\0"), "gaps lead to"),
    "a gap less": (refilled(QUERY, "gaps", lambda held: held[:-1]), "bytes, and there must be"),
    "escapes only": (refilled(QUERY, "gaps", lambda held: b"\xff" * len(held)), "gaps lead to 0 entries"),
    "a value more": (refilled(QUERY, "values", lambda held: held + b"\1"), "bytes, and there must be"),
    "a value less": (refilled(TABLE, "values", lambda held: held[1:]), "holds 3199 bytes, and there must be 3200"),
    "a scale less": (refilled(QUERY, "scales", lambda held: held[2:]), "holds 62 bytes, and there must be 64"),
    "a negative scale": (refilled(QUERY, "scales", lambda _: planes_of(-1.0)), "a scale is negative"),
    "a NaN scale": (refilled(QUERY, "scales", lambda _: planes_of(float("nan"))), "NaN or too large"),
    "an infinite scale": (refilled(QUERY, "scales", lambda _: planes_of(float("inf"))), "NaN or too large"),
    "a scale that overflows": (refilled(QUERY, "scales", lambda _: planes_of(3.3e38)), "NaN or too large"),
    "frames of another matrix": (edit_parts(swapped), "there must be"),
    "a bomb of gaps": (edit_parts(lambda p: p.update({f"{QUERY}:gaps": bomb("gaps", 1 << 28)})), "there must be"),
    "a bomb of values": (edit_parts(lambda p: p.update({f"{TABLE}:values": bomb("values", 1 << 28)})), "there must be 3200"),
    "a bomb in a vector": (edit_parts(lambda p: p.update({f"{BIAS}:values": bomb("values", 1 << 28)})), "there must be 8"),
    "no frame": (edit_parts(lambda p: p.update({f"{BIAS}:values": np.frombuffer(b"evil evil", np.uint8)})), "cannot be read"),
    "two frames": (edit_parts(lambda p: p.update({f"{BIAS}:values": np.tile(p[f"{BIAS}:values"], 2)})), "cannot be read"),
    # The config beside it.
    "no config": (lambda folder: (folder / "config.json").unlink(), "could not be loaded"),
    "a broken config": (lambda folder: (folder / "config.json").write_text("{") and None, "could not be loaded"),
    "a deep config": (lambda folder: (folder / "config.json").write_text("[" * 100_000) and None, "could not be loaded"),
    "a config that is no object": (lambda folder: (folder / "config.json").write_text("[]") and None, "could not be loaded"),
    "code": (edit_config(auto_map={"AutoModel": "evil.Model"}, architectures=["Evil"]), "no class of Transformers"),
    "a function": (edit_config(architectures=["set_seed"]), "no class of Transformers"),
    "more layers": (edit_config(num_hidden_layers=2), "is missing"),
    "layers without end": (edit_config(num_hidden_layers=10**9), "says num_hidden_layers: 1000000000, and its tensors allow"),
    "layers inside without end": (edit_config(encoder={"n_layer": 10**9}), "says n_layer"),
    "negative layers": (edit_config(num_hidden_layers=-1), "says num_hidden_layers: -1"),
    "classes without end": (edit_config(num_labels=10**9), "says num_labels: 1000000000, and its tensors allow 100 at most"),
    "a wide model": (edit_config(hidden_size=1 << 40), "would have to be|could not be loaded"),
    "positions without end": (edit_config(max_position_embeddings=1 << 28), "would have to be"),
    "a mark that is none": (edit_config(fineprune=[1]), "The config says fineprune"),
    "the mark of a shrunken model": (
        edit_config(fineprune={"shrunken": True}, num_attention_heads=1, hidden_size=36),
        "times 36",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_and_hostile_folders_are_refused(damage: str, folder: Path) -> None:
    change, message = DAMAGES[damage]
    change(folder)
    for load in (fineprune.load, load_parts):
        with pytest.raises(InvalidInputError, match=message), limited(100_000_000):
            load(folder)


@contextmanager
def limited(most: int) -> Iterator[None]:
    """Limits the bytes of address space that the process may take beyond those that it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_what_would_not_fit_in_memory_is_refused_before_it_is_made(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a config that belongs to the tensors, too."""
    fineprune.load(folder)
    load_parts(folder)
    monkeypatch.setattr(files, "physical_memory", lambda: 5_000)

    def filled(*_: object) -> None:
        raise AssertionError("it was made")

    monkeypatch.setattr("fineprune.compress.packing.load.fill", filled)
    for load in (fineprune.load, load_parts):
        with pytest.raises(InvalidInputError, match=r"would take [\d,]+ bytes of memory, and this machine has 5,000"):
            load(folder)


def test_there_is_memory() -> None:
    assert 1e8 < files.physical_memory() < 1e16
    files.check_memory(1000, "Nothing")


def mixed_tensors() -> dict[str, Tensor]:
    """Tensors of all kinds and sizes."""
    torch.manual_seed(4)
    return {
        "few": torch.randn(40, 60) * (torch.rand(40, 60) < 0.02),
        "many": torch.randn(16, 16) * (torch.rand(16, 16) < 0.7),
        "filter": torch.randn(6, 3, 4, 4) * (torch.rand(6, 3, 4, 4) < 0.2),
        "all": torch.randn(20, 30),
        "zeros": torch.zeros(5, 9),
        "nothing": torch.zeros(0, 9),
        "vector": torch.randn(33),
        "truths": torch.rand(20) < 0.5,
        "numbers": torch.arange(12).view(3, 4),
    }


HARD_NUMBERS: dict[str, tuple[PackedValues, str, bytes, str]] = {
    "NaN in fp32": (Float32Values(), "all", b"\0\0\xc0\x7f", "of all, values are NaN or infinite"),
    "infinity in fp32": (Float32Values(), "few", b"\0\0\x80\x7f", "of few, values are NaN or infinite"),
    "infinity in fp16": (Float16Values(), "few", b"\0\x7c", "of few, values are NaN or infinite"),
    "a truth of 2": (Int8Values(), "truths", b"\2", "of truths, a truth value is neither 0 nor 1"),
}


@pytest.mark.parametrize("case", HARD_NUMBERS)
def test_numbers_that_cannot_be_are_refused(case: str, tmp_path: Path) -> None:
    values, name, number, message = HARD_NUMBERS[case]
    entry = write(tmp_path / PACKED, mixed_tensors(), values)[name].entry
    count = entry.kept if isinstance(entry, SparseEntry) else entry.size
    spread = b"".join(bytes([byte]) * count for byte in number)
    edit_parts(lambda parts: parts.update({f"{name}:values": frame("values", spread)}))(tmp_path)
    with opened(tmp_path / PACKED) as packed, pytest.raises(InvalidInputError, match=message):
        packed.tensor(name)


# Fuzzing.

MUTANTS, LOADS = 12_000, 2_000
"""Files that are read tensor by tensor, and files that are loaded as models."""

NASTY: list[Any] = [
    *(0, 1, -1, 2, 31, 32, 33, 255, 256, 1 << 16, 1 << 31, 1 << 32, 1 << 47, 1 << 48, 1 << 63, 1 << 64, 10**300),
    *(1.0, 0.5, float("nan"), float("inf"), True, None, "", "int8", "sparse", "dense", "raw", "float32", "bool"),
    *([], [0], [1], [32, 32], [1, 1024], [1024, 1], [1 << 24, 1 << 24], [1 << 47, 0], [-1, -1], {}, {"shape": 1}),
]


def flip(data: bytearray, random_: random.Random) -> None:
    for _ in range(random_.choice([1, 1, 1, 2, 8])):
        place = random_.randrange(len(data))
        data[place] ^= 1 << random_.randrange(8)


def overwrite(data: bytearray, random_: random.Random) -> None:
    place, length = random_.randrange(len(data)), random_.randrange(1, 40)
    data[place : place + length] = bytes([random_.choice([0, 255, random_.randrange(256)])]) * len(data[place : place + length])


def cut(data: bytearray, random_: random.Random) -> None:
    del data[random_.randrange(len(data)) :]


def drop(data: bytearray, random_: random.Random) -> None:
    place = random_.randrange(len(data))
    del data[place : place + random_.randrange(1, 20)]


def insert(data: bytearray, random_: random.Random) -> None:
    place = random_.randrange(len(data))
    data[place:place] = random_.randbytes(random_.randrange(1, 20))


def move(data: bytearray, random_: random.Random) -> None:
    place, other, length = random_.randrange(len(data)), random_.randrange(len(data)), random_.randrange(1, 200)
    data[place : place + length] = data[other : other + length]


BLIND = [flip, flip, flip, overwrite, cut, drop, insert, move]
"""What an accident does to the bytes of a file."""


def container(data: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def whole(header: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def edit_offsets(data: bytes, random_: random.Random) -> bytes:
    """Other offsets, dtypes and shapes of the container."""
    header, held = container(data)
    name = random_.choice([name for name in header if name != "__metadata__"])
    key = random_.choice(["data_offsets", "shape", "dtype"])
    if key == "data_offsets" and random_.random() < 0.5:
        header[name][key][random_.randrange(2)] = random_.choice(NASTY)
    else:
        header[name][key] = random_.choice(NASTY)
    return whole(header, held)


def rename(data: bytes, random_: random.Random) -> bytes:
    """Swaps what two names stand for."""
    header, held = container(data)
    first, second = random_.sample([name for name in header if name != "__metadata__"], 2)
    header[first], header[second] = header[second], header[first]
    return whole(header, held)


def edit_description(data: bytes, random_: random.Random) -> bytes:
    """Says something else of tensors, with a right checksum."""
    header, held = container(data)
    metadata = header["__metadata__"]
    tensors = json.loads(metadata["tensors"])
    for name in random_.sample(list(tensors), random_.choice([1, 1, 2])):
        entry, key = tensors[name], random_.choice(["kind", "shape", "values", "kept", "dtype"])
        if key == "shape" and random_.random() < 0.5:
            entry["shape"][random_.randrange(len(entry["shape"]))] = random_.choice(NASTY)
        elif key == "kept" and "kept" in entry and random_.random() < 0.5:
            entry["kept"] += random_.choice([-1, 1, 7])
        else:
            entry[key] = random_.choice(NASTY)
    metadata["tensors"] = json.dumps(tensors)
    metadata["checksum"] = crc32(metadata["tensors"].encode())
    return whole(header, held)


def refill(data: bytes, random_: random.Random) -> bytes:
    """Puts a whole frame, of other bytes or of very many, in the place of another."""
    parts = safetensors.numpy.load(data)
    metadata = container(data)[0]["__metadata__"]
    name = random_.choice(list(parts))
    held = bytearray(zstandard.ZstdDecompressor().decompress(parts[name].tobytes()))
    if random_.random() < 0.1 or not held:
        held = bytearray(1 << random_.choice([12, 20, 25]))
    else:
        random_.choice([flip, overwrite, drop, insert, move])(held, random_)
    parts[name] = frame("values", bytes(held))
    return safetensors.numpy.save(parts, metadata)


def lie(data: bytes, random_: random.Random) -> bytes:
    """Lets the header of a frame say another size."""
    header, held = container(data)
    name = random_.choice([name for name in header if name != "__metadata__"])
    start, _ = header[name]["data_offsets"]
    damaged = bytearray(held)
    damaged[start + 4] = random_.choice([damaged[start + 4], random_.randrange(256), 0xE0, 0xA0])
    for place in range(start + 5, min(start + 5 + random_.randrange(9), len(damaged))):
        damaged[place] = random_.choice([0, 255, random_.randrange(256)])
    return whole(header, bytes(damaged))


CUNNING = [edit_offsets, rename, edit_description, edit_description, edit_description, refill, refill, lie]
"""What an attacker does, who makes the rest fit."""


def mutants(data: bytes, number: int, seed: int) -> Iterator[tuple[bytes, bool]]:
    """Yields damaged files, and whether by an accident."""
    random_ = random.Random(seed)
    for turn in range(number):
        if turn % 2:
            yield random_.choice(CUNNING)(data, random_), False
        else:
            damaged = bytearray(data)
            random_.choice(BLIND)(damaged, random_)
            yield bytes(damaged), True


def everything(path: Path) -> dict[str, Tensor]:
    """Reads all tensors of a file, sparse ones both ways."""
    with opened(path) as packed:
        sizes = sum(entry.nbytes for entry in packed.entries.values())
        if sizes > 1_000_000:
            raise InvalidInputError("it says that it is larger than the model")  # as the model's shapes tell
        found = {name: packed.tensor(name) for name in packed.entries}
        for name, entry in packed.entries.items():
            assert found[name].shape == entry.shape
            if isinstance(entry, SparseEntry) and entry.cols <= 1 << 16:
                assert torch.equal(packed.matrix(name).to_dense().view(entry.shape), found[name])
        return found


@pytest.mark.parametrize("values", VALUES.values(), ids=lambda values: values.name)
def test_no_damaged_file_does_harm(values: PackedValues, tmp_path: Path) -> None:
    """What is not refused has the shapes that it says; after an accident it is what it was, or was refused."""
    path = tmp_path / PACKED
    write(path, mixed_tensors(), values)
    data, before = path.read_bytes(), everything(path)
    outcomes = {"refused": 0, "read": 0}
    with limited(150_000_000):
        for damaged, accident in mutants(data, MUTANTS // 3, seed=11):
            path.write_bytes(damaged)
            try:
                found = everything(path)
            except REFUSALS:
                outcomes["refused"] += 1
                continue
            outcomes["read"] += 1
            if accident:
                assert {name: tensor.tolist() for name, tensor in found.items()} == {n: t.tolist() for n, t in before.items()}
    assert outcomes["refused"] > 0.8 * MUTANTS // 3
    assert outcomes["read"] > 0


@pytest.mark.parametrize("load", [fineprune.load, load_parts])
def test_no_damaged_folder_does_harm(load: Callable[[Path], Any], folder: Path) -> None:
    """A model that is loaded has the shapes of the one that was packed."""
    data = (folder / PACKED).read_bytes()
    shapes = {name: tensor.shape for name, tensor in fineprune.load(folder).state_dict().items()}
    refused = 0
    with limited(150_000_000):
        for damaged, _ in mutants(data, LOADS // 2, seed=12):
            (folder / PACKED).write_bytes(damaged)
            try:
                loaded = load(folder)
            except REFUSALS:
                refused += 1
                continue
            model = loaded if isinstance(loaded, torch.nn.Module) else loaded[0]
            assert {name: tensor.shape for name, tensor in model.state_dict().items()} == shapes
    assert LOADS // 2 > refused > 0.4 * LOADS


@pytest.mark.filterwarnings("ignore")  # PyTorch and Transformers warn of strange sizes
def test_no_config_does_harm(folder: Path) -> None:
    """Settings of all kinds in the place of others."""
    random_, path = random.Random(13), folder / "config.json"
    settings = json.loads(path.read_text())
    names, refused = [*settings, "num_labels", "is_decoder", "fineprune", "pruned_heads", "torch_dtype"], 0
    packed = (folder / PACKED).read_bytes()
    with limited(300_000_000):
        for _ in range(1000):
            changed = {**copy.deepcopy(settings), random_.choice(names): random_.choice(NASTY)}
            path.write_text(json.dumps(changed))
            try:
                fineprune.load(folder)
            except REFUSALS:
                refused += 1
    assert refused > 200
    assert (folder / PACKED).read_bytes() == packed
    path.write_text(json.dumps(settings))
    assert read_settings(folder).dtype == torch.float32
