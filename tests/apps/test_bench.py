"""The bench: its arithmetic, its forms, and the command as a user meets it. No test asserts on a time."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel, ViTConfig, ViTForImageClassification

from architectures import build
from conftest import tiny_bert
from fineprune import InvalidInputError
from fineprune.apps import cli
from fineprune.apps.bench import command, measuring, memory
from fineprune.apps.bench.forms import BenchedModel, DenseForm, Form, MaskedForm, PackedForm, Runner, SparseForm, fill_zeros
from fineprune.apps.bench.results import HEADINGS, BenchRow, Measurement
from fineprune.apps.bench.runtimes import FORMS, OnnxRuntime, OpenVino
from fineprune.apps.bench.shapes import Shape, random_batch, read_shapes
from fineprune.apps.bench.timing import Spread, Timing, in_turns, timed
from fineprune.compress.loading import from_pretrained

SHAPE = Shape(2, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved classifier of which a tenth of the matrices in the blocks is left."""
    torch.manual_seed(92)
    model = tiny_bert(initializer_range=0.2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "encoder" in name and parameter.ndim == 2:
                parameter.mul_(torch.rand_like(parameter) < 0.1)
    folder = tmp_path_factory.mktemp("bench") / "model"
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def saved(folder: Path) -> BenchedModel:
    return BenchedModel(folder, from_pretrained(folder))


def row(**settings: Any) -> BenchRow:
    spread = Spread(2.0, 1.5, 3.0)
    given = {"shape": "8x16", "batch": 8, "weights": "sparse", "runtime": "fineprune", "precision": "fp32"}
    return BenchRow(
        **{**given, "latency": spread, "faster": spread, "memory": 3_000_000, "file": 1_500_000, "difference": 1e-6, **settings}
    )


def test_a_spread_is_the_median_and_the_tenths_from_both_ends() -> None:
    assert Spread.of([float(number) for number in range(21, 0, -1)]) == Spread(11.0, 3.0, 19.0)
    assert Spread.of([4.0]) == Spread(4.0, 4.0, 4.0)
    assert Spread.of([1.0, 2.0, 4.0, 9.0]) == Spread(3.0, 1.0, 9.0)


def test_a_ratio_is_that_of_the_medians_and_its_range_that_within_rounds() -> None:
    slow, fast = Timing((10.0, 40.0, 20.0)), Timing((5.0, 10.0, 5.0))
    assert fast.times_faster_than(slow) == Spread(20.0 / 5.0, 2.0, 4.0)
    assert slow.times_faster_than(fast) == Spread(5.0 / 20.0, 0.25, 0.5)


def test_all_take_turns_and_the_first_runs_are_not_counted() -> None:
    order: list[str] = []

    def way(name: str) -> Any:
        def run() -> float:
            order.append(name)
            return float(len(order))

        return run

    timings = in_turns({name: way(name) for name in "abc"}, rounds=4, pause=0.0)
    rounds = [order[6 * number : 6 * number + 6] for number in range(6)]
    assert len(order) == 36
    for one in rounds:
        assert one[::2] == one[1::2], "a warmup, and right behind it the timed one"
        assert sorted(one[::2]) == ["a", "b", "c"]
    assert len({tuple(one) for one in rounds}) > 1, "the order changes"
    counted = {name: [1e3 * (i + 1) for i, ran in enumerate(order) if ran == name and i % 2 and i >= 12] for name in "abc"}
    assert {name: list(timing.milliseconds) for name, timing in timings.items()} == counted


def test_the_clock_runs_while_it_is_done() -> None:
    done = []
    assert timed(lambda: done.append(1))() >= 0.0
    assert done == [1]


@pytest.mark.parametrize(
    ("text", "shapes"), [("1x128,8x16", [Shape(1, 128), Shape(8, 16)]), ("4", [Shape(4)]), ("2X3,2x3", [Shape(2, 3)])]
)
def test_shapes_are_read(text: str, shapes: list[Shape]) -> None:
    assert read_shapes(text) == shapes
    assert read_shapes(",".join(map(str, shapes))) == shapes


@pytest.mark.parametrize("text", ["", "1x", "axb", "1x2x3", "1,", "1.5x2"])
def test_what_is_no_shape_raises(text: str) -> None:
    with pytest.raises(InvalidInputError, match="must be batch x tokens"):
        read_shapes(text)


@pytest.mark.parametrize("text", ["0x4", "1x0", "-1"])
def test_a_shape_of_nothing_raises(text: str) -> None:
    with pytest.raises(InvalidInputError, match="must have numbers of 1 or more, got"):
        read_shapes(text)


def test_texts_are_of_the_vocabulary_and_attended_to() -> None:
    batch = random_batch(tiny_bert(), Shape(3, 32))
    assert batch["input_ids"].shape == (3, 32)
    assert 0 <= int(batch["input_ids"].min()) <= int(batch["input_ids"].max()) < 100
    assert bool(batch["attention_mask"].all())


def test_images_have_the_models_size() -> None:
    assert random_batch(build("vit"), Shape(3))["pixel_values"].shape == (3, 3, 8, 8)
    wide = ViTForImageClassification(
        ViTConfig(
            image_size=(8, 16), patch_size=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
        )
    )
    assert random_batch(wide, Shape(1))["pixel_values"].shape == (1, 3, 8, 16)


@pytest.mark.parametrize(
    ("kind", "shape", "words"),
    [
        ("bert", Shape(2), "for a bert model must be batch x tokens"),
        ("vit", Shape(2, 8), "for a vit model must be the batch alone"),
        ("t5", Shape(2, 8), "and a target text; the bench measures"),
        ("wav2vec2", Shape(2, 8), "takes input_values"),
    ],
)
def test_another_kind_of_input_raises(kind: str, shape: Shape, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        random_batch(build(kind), shape)


def test_a_text_too_long_raises() -> None:
    with pytest.raises(InvalidInputError, match=r"at most 32 tokens, the positions of the model, got 1x33\. Give 32 at most"):
        random_batch(tiny_bert(), Shape(1, 33))


def test_zeros_are_filled_as_large_as_what_is_left() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(200, 100), torch.nn.Linear(4, 4))
    with torch.no_grad():
        model[0].weight.mul_(torch.rand(100, 200) < 0.1)
        model[0].bias.zero_()
        model[1].weight.zero_()
    kept = model[0].weight[model[0].weight != 0].clone()
    before = model[0].weight.clone()
    fill_zeros(model)
    assert bool((model[0].weight != 0).all())
    assert torch.equal(model[0].weight[before != 0], kept), "what is there stays"
    filled = model[0].weight[before == 0]
    assert filled.std().item() == pytest.approx(kept.std().item(), rel=0.1)
    assert bool((model[0].bias == 0).all()), "a bias is no matrix"
    assert 0 < model[1].weight.abs().max().item() < 0.2


def test_every_form_gives_what_the_saved_model_gives(saved: BenchedModel, tmp_path: Path) -> None:
    batch = random_batch(saved.model, SHAPE)
    with torch.inference_mode():
        expected = saved.model(**batch).logits
    for form in FORMS.values():
        place = tmp_path / form.name
        place.mkdir()
        prepared = form.prepare(saved, batch, place)
        difference = measuring.relative_difference(form.load(prepared, 1)(batch), expected)
        most = 0.1 if form.tolerance is None else form.tolerance
        assert (difference <= most) == form.comparable, form.name
        assert form.bytes_on_disk(prepared) > 1000, form.name


def test_files_are_as_large_as_they_are(saved: BenchedModel, tmp_path: Path) -> None:
    batch = random_batch(saved.model, SHAPE)
    numbers = 4 * sum(parameter.numel() for parameter in saved.model.parameters())
    sizes = {}
    for form in (DenseForm(), PackedForm(), OnnxRuntime(), OpenVino()):
        place = tmp_path / form.name
        place.mkdir()
        sizes[form.name] = form.bytes_on_disk(form.prepare(saved, batch, place))
        written = sum(path.stat().st_size for path in place.rglob("*") if path.is_file() and path.suffix != ".json")
        assert sizes[form.name] == written, form.name
    dense, packed, *_ = sizes.values()
    assert dense == MaskedForm().bytes_on_disk(saved.folder) == pytest.approx(numbers, rel=0.1)
    assert packed < dense / 2


def test_a_model_saved_in_bfloat16_is_run_in_float32_and_its_file_stays_small(saved: BenchedModel, tmp_path: Path) -> None:
    narrow = tmp_path / "narrow"
    from_pretrained(saved.folder).bfloat16().save_pretrained(narrow)
    batch, given = random_batch(saved.model, SHAPE), BenchedModel(narrow, from_pretrained(narrow).float())
    for form in (DenseForm(), MaskedForm(), SparseForm()):
        place = tmp_path / form.name
        place.mkdir()
        prepared = form.prepare(given, batch, place)
        assert form.load(prepared, 1)(batch).dtype == torch.float32
        assert form.bytes_on_disk(prepared) < 0.7 * MaskedForm().bytes_on_disk(saved.folder)


def test_the_peak_memory_grows_with_the_model(saved: BenchedModel, tmp_path: Path) -> None:
    """Numbers of 32 MB that are all needed do not fit into less."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 1 << 17}
    larger = BertModel(BertConfig(vocab_size=100, **sizes))
    larger.save_pretrained(tmp_path / "larger")
    batch = random_batch(saved.model, SHAPE)
    memory.safetensors.torch.save_file(batch, tmp_path / "batch.safetensors")
    peak = memory.peak(MaskedForm(), tmp_path / "larger", tmp_path / "batch.safetensors", 1, [type(larger).__module__])
    assert peak is not None
    assert 4 * 2 * 32 * (1 << 17) < peak < 500_000_000


class Broken(MaskedForm):
    """A runtime that cannot run the model."""

    weights = "broken"

    def load(self, prepared: Path, threads: int) -> Runner:
        raise RuntimeError("no such operation:\n Frobnicate " + "and so on " * 100)


class Wrong(MaskedForm):
    """A runtime that computes something else."""

    weights = "wrong"

    def load(self, prepared: Path, threads: int) -> Runner:
        run = super().load(prepared, threads)
        return lambda batch: run(batch) * 1.01


class NotHere(MaskedForm):
    """A runtime that is not installed."""

    weights = "not here"
    packages = ("torch", "frobnicate", "frobnicate_tools")


def test_failing_and_missing_forms_are_reported_and_the_rest_measured(
    saved: BenchedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "peak", lambda *_: None)
    forms: list[Form] = [DenseForm(), Broken(), NotHere(), Wrong(), MaskedForm()]
    found = measuring.measure(saved, [SHAPE, Shape(1, 4)], forms, threads=1, rounds=2)
    assert [(row.shape, row.weights) for row in found.rows] == [
        (shape, weights) for shape in ("2x8", "1x4") for weights in ("dense", "wrong", "masked")
    ]
    missing, broken, *wrong = found.remarks
    assert missing == "not here, PyTorch fp32 was not measured: frobnicate, frobnicate_tools not installed here."
    assert broken.startswith("broken, PyTorch fp32 failed with RuntimeError: no such operation: Frobnicate and so on")
    assert len(broken) < 400
    assert [words.partition(" gives")[0] for words in wrong] == ["wrong, PyTorch fp32 at 2x8", "wrong, PyTorch fp32 at 1x4"]
    assert "1.0e-02 of the largest value; rounding explains 1e-03" in wrong[0]
    assert found.rows[0].difference is None
    assert found.rows[2].difference == 0.0


def test_a_process_that_fails_is_reported(saved: BenchedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.sys, "executable", "false")
    found = measuring.measure(saved, [SHAPE], [MaskedForm()], threads=1, rounds=1)
    assert found.rows[0].memory is None
    assert found.remarks == ["masked, PyTorch fp32 failed with code 1 in a process of its own: "]


def test_outputs_that_are_not_comparable_are_infinitely_far() -> None:
    ones = torch.ones(2, 3)
    assert measuring.relative_difference(ones, torch.ones(3, 2)) == math.inf
    assert measuring.relative_difference(2 * ones, 4 * ones) == 0.5
    assert math.isnan(measuring.relative_difference(ones * math.nan, ones))


@pytest.mark.parametrize(
    ("faster", "words"),
    [
        (Spread(2.0, 1.1, 3.0), "2.00 times faster than dense"),
        (Spread(0.5, 0.4, 0.9), "2.00 times slower than dense"),
        (Spread(1.2, 0.99, 1.4), "no difference from dense that these rounds could tell"),
        (Spread(1.0, 1.0, 1.0), "no difference from dense that these rounds could tell"),
        (None, "not compared, since the dense form could not be measured"),
    ],
)
def test_no_gain_is_claimed_that_was_not_measured(faster: Spread | None, words: str) -> None:
    assert row(faster=faster).verdict() == words


def test_the_table_and_json_hold_every_figure() -> None:
    rows = [row(weights="dense", faster=None, difference=None), row(memory=None)]
    measurement = Measurement(rows, ["A remark."], {"threads": 1})
    headings, _, *lines = ([cell.strip() for cell in line.split("|")[1:-1]] for line in measurement.table().splitlines())
    assert headings == list(HEADINGS)
    assert lines == [
        ["8x16", "dense, fineprune fp32", "2.00", "3.00", "4000.0", "", "3", "1.5", ""],
        ["8x16", "sparse, fineprune fp32", "2.00", "3.00", "4000.0", "2.00 (1.50–3.00)", "", "1.5", "1e-06"],
    ]
    assert measurement.sentences() == ["sparse, fineprune fp32 at 8x16: 2.00 times faster than dense.", "A remark."]
    facts = json.loads(json.dumps(measurement.facts()))
    assert facts["threads"] == 1
    assert facts["remarks"] == ["A remark."]
    assert facts["rows"][1]["latency"] == {"median": 2.0, "low": 1.5, "high": 3.0}
    assert facts["rows"][1]["throughput"] == 4000.0
    assert facts["rows"][1]["verdict"] == "2.00 times faster than dense"


def test_the_command_measures_shows_and_writes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measuring, "peak", lambda *_: 12_000_000)
    before, output = torch.get_num_threads(), tmp_path / "out"
    arguments = ["bench", str(folder), "--shapes", "1x4,2x8", "--rounds", "2", "--threads", "2", "--output", str(output)]
    assert cli.main(arguments) == 0
    assert torch.get_num_threads() == before
    shown = capsys.readouterr().out
    facts = json.loads((output / "bench.json").read_text(encoding="utf-8"))
    assert {(row["shape"], row["weights"], row["runtime"]) for row in facts["rows"]} == {
        (shape, form.weights, form.runtime) for shape in ("1x4", "2x8") for form in FORMS.values()
    }
    assert facts["remarks"] == []
    assert facts["rounds"] == 2
    assert {"fineprune", "torch", "onnxruntime", "openvino"} <= facts["versions"].keys()
    page = (output / "bench.md").read_text(encoding="utf-8")
    for row in facts["rows"]:
        assert f"{row['latency']['median']:.2f}" in shown
        assert f"{row['latency']['median']:.2f}" in page
        assert row["weights"] == "dense" or f"at {row['shape']}: {row['verdict']}." in page
    assert (output / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert cli.main(arguments) == 2
    assert "exists already" in capsys.readouterr().err


def test_images_are_measured_and_nothing_is_written_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build("vit").save_pretrained(tmp_path / "vit")
    monkeypatch.setattr(measuring, "peak", lambda *_: None)
    monkeypatch.setattr(command, "FORMS", {form.name: form for form in (DenseForm(), MaskedForm(), OnnxRuntime())})
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", "vit", "--shapes", "1,3", "--rounds", "1", "--threads", "1"]) == 0
    assert "masked, ONNX Runtime fp32" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["vit"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--rounds", "0"], "rounds must be 1 or more, got 0"),
        (["--threads", "-1"], "threads must be 1 or more, got -1"),
        (["--shapes", "128"], "for a bert model must be batch x tokens"),
        (["--shapes", "1x64"], "Give 32 at most"),
    ],
)
def test_wrong_input_is_one_sentence(folder: Path, flags: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", str(folder), *flags]) == 2
    assert words in capsys.readouterr().err


def test_a_packed_model_raises(saved: BenchedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed = PackedForm().prepare(saved, {}, tmp_path)
    assert cli.main(["bench", str(packed)]) == 2
    assert "Give the folder of the model that it was packed from" in capsys.readouterr().err
