"""A packed folder is the whole model: what is loaded is what was packed, for every architecture, dense or sparse."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
import transformers
from test_packing_gaps import bits, expected
from test_shrinking import assert_same, batch_for, kill_heads, kill_neurons, make
from torch import Tensor, nn
from transformers import PreTrainedModel

import fineprune
from architectures import ARCHITECTURES, batches, build
from conftest import tiny_bert
from fineprune import FileError, InvalidInputError, from_pretrained, shrink
from fineprune.apps import cli
from fineprune.apps.convert import pack
from fineprune.apps.training import pretrained
from fineprune.compress.packing.header import DenseEntry, RawEntry, SparseEntry
from fineprune.compress.packing.load import is_packed, load_parts, sparse_layers
from fineprune.compress.packing.read import PackedFile, opened
from fineprune.compress.packing.values import VALUES, Float32Values, Int8Values, PackedValues
from fineprune.compress.packing.write import PACKED, encoded, save
from fineprune.models.layers import is_linear, is_transposed

transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

KINDS = list(ARCHITECTURES)
QUERY = "bert.encoder.layer.0.attention.self.query"


def pruned(model: nn.Module, density: float = 0.1) -> nn.Module:
    """Sets a random share of all matrices but the embeddings to 0, and makes vectors random."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif id(parameter) not in tables:
                parameter.masked_fill_(torch.rand_like(parameter) >= density, 0.0)
    return model.eval()


@torch.no_grad()
def logits(model: nn.Module, kind: str) -> Tensor:
    batch = {name: tensor for name, tensor in batches(kind, 1)[0].items() if name not in ("start_positions", "end_positions")}
    given = model(**batch)
    return given.start_logits if "start_logits" in given else given.logits


def differing(model: nn.Module, loaded: nn.Module, change: Callable[[Tensor], Tensor]) -> list[str]:
    """Returns the names of tensors that are not bit for bit what the change makes of the model's; shared ones are told once."""
    state, now = model.state_dict(), loaded.state_dict()
    assert list(state) == list(now)

    def same(name: str) -> bool:
        wanted = change(state[name])
        if not wanted.is_floating_point():
            return torch.equal(wanted, now[name]) and wanted.dtype == now[name].dtype
        return torch.equal(bits(wanted.float()), bits(now[name]))

    return [name for name in state if not same(name)]


def as_stored(values: PackedValues) -> Callable[[Tensor], Tensor]:
    return lambda tensor: expected(tensor, values) if tensor.dim() >= 2 and tensor.is_floating_point() else tensor


# Loading again.


@pytest.mark.parametrize("values", VALUES.values(), ids=lambda values: values.name)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_loaded_is_what_was_packed(kind: str, values: PackedValues, tmp_path: Path) -> None:
    model = pruned(build(kind))
    save(model, tmp_path / "packed", values)
    loaded = fineprune.load(tmp_path / "packed")
    assert type(loaded) is type(model)
    assert not loaded.training
    assert {tensor.dtype for tensor in loaded.parameters()} == {torch.float32}
    assert all(parameter.device.type == "cpu" for parameter in loaded.parameters())
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in model.parameters()]
    assert differing(model, loaded, as_stored(values)) == []
    if values == Float32Values():
        assert torch.equal(logits(loaded, kind), logits(model, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_matrices_are_loaded_without_being_made_dense(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = pruned(build(kind))
    read: set[str] = set()
    original = PackedFile.tensor

    def watched(packed: PackedFile, name: str) -> Tensor:
        read.add(name)
        return original(packed, name)

    monkeypatch.setattr(PackedFile, "tensor", watched)
    for values in VALUES.values():
        save(model, tmp_path / values.name, values)
        dense = fineprune.load(tmp_path / values.name)
        assert set(dense.state_dict()) >= read
        read.clear()
        parts, matrices = load_parts(tmp_path / values.name)
        weights = {f"{name}.weight" for name in matrices}
        linear = {name for name, module in model.named_modules() if is_linear(module)}
        assert set(matrices) <= linear
        assert matrices
        assert read
        assert not weights & read
        on_meta = {name for name, parameter in parts.named_parameters() if parameter.device.type == "meta"}
        assert on_meta == weights
        for name, matrix in matrices.items():
            module = dense.get_submodule(name)
            whole = values == Int8Values() and not is_transposed(module)  # else a scale belongs to an input
            assert matrix.values.dtype == (torch.int8 if whole else torch.float32)
            weight = module.weight.detach()
            assert torch.equal(bits(matrix.to_dense()), bits(weight.t() if is_transposed(module) else weight))


def test_matrices_are_all_linear_layers_with_zeros(tmp_path: Path) -> None:
    model = pruned(tiny_bert())
    with torch.no_grad():
        model.bert.pooler.dense.weight.add_(1)
    save(model, tmp_path / "packed", Int8Values())
    _, matrices = load_parts(tmp_path / "packed")
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    assert set(matrices) == {*linear} - {"bert.pooler.dense"}


def test_tied_tensors_are_stored_once_and_stay_tied(tmp_path: Path) -> None:
    model = pruned(build("t5"))
    with torch.no_grad():
        model.shared.weight.masked_fill_(torch.rand_like(model.shared.weight) < 0.9, 0.0)
    save(model, tmp_path / "packed", Float32Values())
    with opened(tmp_path / "packed" / PACKED) as packed:
        tables = [name for name, entry in packed.entries.items() if entry.shape == (100, 32)]
    assert tables == ["shared.weight"]
    parts, matrices = load_parts(tmp_path / "packed")
    for loaded in (fineprune.load(tmp_path / "packed"), parts):
        assert loaded.lm_head.weight is loaded.shared.weight is loaded.encoder.embed_tokens.weight
        assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
    assert "lm_head" not in matrices, "a table that is looked up in is dense"


def test_other_precisions_are_loaded_as_float32(tmp_path: Path) -> None:
    model = pruned(tiny_bert()).bfloat16()
    save(model, tmp_path / "packed", Float32Values())
    loaded = fineprune.load(tmp_path / "packed")
    assert loaded.dtype == loaded.config.dtype == torch.float32
    assert differing(model, loaded, lambda tensor: tensor) == []
    assert model.config.dtype != torch.float32 or model.dtype == torch.bfloat16
    assert transformers.AutoConfig.from_pretrained(tmp_path / "packed").dtype == torch.float32


@pytest.mark.parametrize("variant", ["bert", "t5", "gpt2", "llama", "vit", "bart"])
def test_shrunken_models_are_packed_too(variant: str, tmp_path: Path) -> None:
    model = make(variant, dtype=torch.float32)
    kill_heads(model)
    kill_neurons(model)
    smaller = shrink(model)
    assert vars(smaller.config).get("fineprune") is not None
    save(smaller, tmp_path / "packed", Float32Values())
    loaded = fineprune.load(tmp_path / "packed")
    batch = batch_for(variant, torch.float32)
    assert_same(smaller, loaded, batch, tolerance=0.0)
    assert differing(smaller, loaded, lambda tensor: tensor) == []
    loaded.save_pretrained(tmp_path / "unpacked")
    assert_same(smaller, from_pretrained(tmp_path / "unpacked"), batch, tolerance=0.0)
    _, matrices = load_parts(tmp_path / "packed")
    assert matrices
    for name, matrix in matrices.items():
        module = loaded.get_submodule(name)
        assert torch.equal(matrix.to_dense(), module.weight.t() if is_transposed(module) else module.weight)


def test_tables_that_lack_columns(tmp_path: Path) -> None:
    model = make("bert", dtype=torch.float32)
    model.bert.embeddings.word_embeddings.weight.data[:, 3:9] = 0
    smaller = shrink(model)
    save(smaller, tmp_path / "packed", Float32Values())
    assert_same(smaller, fineprune.load(tmp_path / "packed"), batch_for("bert", torch.float32), tolerance=0.0)


def test_memory_grows_with_what_is_kept(tmp_path: Path) -> None:
    dense = torch.zeros(3000, 4000)
    dense.view(-1)[torch.randperm(dense.numel())[:120_000]] = 1.5
    model = tiny_bert()
    model.bert.pooler.dense.weight = nn.Parameter(dense)
    save(model, tmp_path / "packed", Int8Values())
    with opened(tmp_path / "packed" / PACKED) as packed:
        tracemalloc.start()
        matrix = packed.matrix("bert.pooler.dense.weight")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert len(matrix.columns) == 120_000
    assert matrix.nbytes <= packed.entries["bert.pooler.dense.weight"].sparse_nbytes
    assert peak < dense.nbytes / 10


def test_generation_settings_are_kept(tmp_path: Path) -> None:
    model = pruned(build("gpt2"))
    model.generation_config.max_new_tokens = 17
    model.save_pretrained(tmp_path / "saved")
    pack.pack_folder(str(tmp_path / "saved"), str(tmp_path / "packed"))
    assert fineprune.load(tmp_path / "packed").generation_config.max_new_tokens == 17


# The file.


def test_any_reader_of_safetensors_opens_the_container(tmp_path: Path) -> None:
    model = pruned(tiny_bert())
    written = save(model, tmp_path / "packed", Int8Values())
    with safetensors.safe_open(tmp_path / "packed" / PACKED, framework="pt") as container:
        names, metadata = set(container.keys()), container.metadata()
    assert {f"{QUERY}.weight:{part}" for part in ("gaps", "values", "scales")} <= names
    assert f"{QUERY}.bias:values" in names
    described = json.loads(metadata["tensors"])
    kept = int(encoded(model.get_submodule(QUERY).weight, Int8Values())[0].kept)
    assert described[f"{QUERY}.weight"] == {"kind": "sparse", "shape": [32, 32], "values": "int8", "kept": kept}
    assert described[f"{QUERY}.bias"] == {"kind": "raw", "shape": [32], "dtype": "float32"}
    assert described["bert.embeddings.word_embeddings.weight"]["kind"] == "dense"
    assert metadata["version"] == "1.0"
    assert set(described) == set(written)


def test_what_newer_minor_versions_add_is_left_alone(tmp_path: Path) -> None:
    from test_packing_hostile import edit_metadata

    save(pruned(tiny_bert()), tmp_path / "packed", Int8Values())
    before = fineprune.load(tmp_path / "packed")

    def newer(metadata: dict[str, str], tensors: dict[str, dict[str, object]]) -> None:
        metadata |= {"version": "1.7", "mood": "good"}
        tensors[f"{QUERY}.weight"]["note"] = [1, 2]

    edit_metadata(tmp_path / "packed", newer)
    assert differing(before, fineprune.load(tmp_path / "packed"), lambda tensor: tensor) == []


def test_leaving_zeros_out_has_to_pay() -> None:
    tensor = torch.ones(8, 100)
    for kept, kind in ((800, DenseEntry), (700, DenseEntry), (699, SparseEntry), (0, SparseEntry)):
        tensor = (torch.arange(800) < kept).float().view(8, 100)
        assert type(encoded(tensor, Int8Values())[0]) is kind
    assert type(encoded(torch.ones(8, 100).index_fill(0, torch.tensor([0]), 0), Float32Values())[0]) is SparseEntry
    assert type(encoded(torch.ones(0, 5), Int8Values())[0]) is DenseEntry
    assert type(encoded(torch.ones(5), Int8Values())[0]) is RawEntry


# Packing a folder.


@pytest.fixture
def saved(model_folder: Path, tmp_path: Path) -> Path:
    """A pruned classifier with its tokenizer and a recipe."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder)
    torch.manual_seed(5)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(model_folder, id2label={0: "bad", 1: "good"})
    pruned(model, 0.3).save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "recipe.yaml").write_text("model: x\ntask:\n  class_path: TextClassification\n")
    (tmp_path / "saved" / "optimizer.pt").write_text("")
    return tmp_path / "saved"


def test_a_folder_is_packed_with_what_lies_beside(saved: Path, tmp_path: Path) -> None:
    sizes = pack.pack_folder(str(saved), str(tmp_path / "packed"))
    names = {path.name for path in (tmp_path / "packed").iterdir()}
    assert names == {"config.json", PACKED, "tokenizer.json", "tokenizer_config.json", "recipe.yaml"}
    tensors = from_pretrained(saved).state_dict()
    whole = sizes[-1]
    assert whole.before == sum(tensor.nbytes for tensor in tensors.values())
    assert whole.after == (tmp_path / "packed" / PACKED).stat().st_size
    assert whole.bound == sum(size.bound for size in sizes[:-1])
    assert sum(size.after for size in sizes[:-1]) < whole.after
    with opened(tmp_path / "packed" / PACKED) as packed:
        raw = sum(entry.nbytes for entry in packed.entries.values() if isinstance(entry, RawEntry))
        dense = sum(entry.size for entry in packed.entries.values() if type(entry) is DenseEntry)
    assert [sizes[1].bound, sizes[2].bound] == [dense, raw]


def test_the_bound_is_the_formula(tmp_path: Path) -> None:
    tensor = torch.zeros(768, 768)
    tensor.view(-1)[:58982] = 1
    entry, _ = encoded(tensor, Int8Values())
    entropy = 0.46899  # H(0.1), in bits
    assert entry.bound == pytest.approx(768 * 768 * (entropy + 0.1 * 8), rel=1e-4)


def test_a_packed_folder_is_evaluated_and_inspected(
    saved: Path, reviews: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (saved / "recipe.yaml").unlink()
    figures = {}
    for values in ("fp32", "int8"):
        target = tmp_path / values
        assert cli.main(["pack", str(saved), str(target), "--values", values]) == 0
        shown = capsys.readouterr().out
        for words in ("matrices with zeros left out", "the whole file", "bound", f"fineprune evaluate {target}"):
            assert words in shown.replace("\n", "")
    for folder in (saved, tmp_path / "fp32", tmp_path / "int8"):
        assert cli.main(["evaluate", str(folder), "--task.validation", str(reviews / "train.csv")]) == 0
        figures[folder.name] = [line for line in capsys.readouterr().out.splitlines() if "│ accuracy" in line]
    assert figures["saved"] == figures["fp32"] != []
    assert figures["int8"]
    assert cli.main(["inspect", str(saved)]) == 0
    dense = capsys.readouterr().out
    assert cli.main(["inspect", str(tmp_path / "fp32")]) == 0
    assert capsys.readouterr().out == dense


def test_a_packed_model_with_another_head_is_refused(saved: Path, tmp_path: Path) -> None:
    pack.pack_folder(str(saved), str(tmp_path / "packed"))
    with pytest.raises(InvalidInputError, match=r"no place for .*classifier\.weight"):
        pretrained.load_pretrained(str(tmp_path / "packed"), "AutoModelForQuestionAnswering")
    with pytest.raises(InvalidInputError, match="no setting 'num_label'"):
        pretrained.load_pretrained(str(tmp_path / "packed"), num_label=3)
    _, model = pretrained.load_pretrained(str(tmp_path / "packed"), hidden_dropout_prob=0.5)
    assert model.config.hidden_dropout_prob == 0.5


def test_what_cannot_be_packed_is_refused_and_nothing_is_left(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pack.pack_folder(str(saved), str(tmp_path / "packed"))
    with pytest.raises(InvalidInputError, match="is packed already"):
        pack.pack_folder(str(tmp_path / "packed"), str(tmp_path / "again"))
    with pytest.raises(InvalidInputError, match="exists already, and nothing is overwritten"):
        pack.pack_folder(str(saved), str(tmp_path / "packed"))
    with pytest.raises(InvalidInputError, match="nothing could not be loaded"):
        pack.pack_folder(str(tmp_path / "nothing"), str(tmp_path / "again"))
    with pytest.raises(SystemExit):
        cli.main(["pack", str(saved), str(tmp_path / "again"), "--values", "int4"])
    assert "int8" in capsys.readouterr().err
    model = from_pretrained(saved)
    model.get_submodule(QUERY).weight.data[0, 0] = torch.nan
    with pytest.raises(InvalidInputError, match=r"query\.weight cannot be packed: it has NaN"):
        save(model, tmp_path / "again", Int8Values())

    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", full)
    with pytest.raises(FileError, match="No space left"):
        pack.pack_folder(str(saved), str(tmp_path / "again"))
    assert {path.name for path in tmp_path.iterdir()} == {"saved", "packed"}


def test_folders_that_are_not_packed_are_told_from_those_that_are(saved: Path, tmp_path: Path) -> None:
    assert not is_packed(saved)
    assert not is_packed("some/name-on-the-hub")
    with pytest.raises(InvalidInputError, match=r"holds no packed\.safetensors: it is no packed model\. fineprune pack makes"):
        fineprune.load(saved)
    with pytest.raises(InvalidInputError, match="holds no"):
        fineprune.load(tmp_path / "nothing", sparse=True)


def test_models_of_one_layer_type_in_two_files_do_not_mix(tmp_path: Path) -> None:
    """The config of one model beside the tensors of another is refused."""
    for layers in (1, 2):
        config = transformers.BertConfig(**{**ARCHITECTURES["bert"].settings, "num_hidden_layers": layers})
        model: PreTrainedModel = transformers.BertModel(config)
        save(pruned(model), tmp_path / str(layers), Int8Values())
    for here, there in ("12", "21"):
        original = (tmp_path / here / "config.json").read_text()
        (tmp_path / here / "config.json").write_text((tmp_path / there / "config.json").read_text())
        with pytest.raises(InvalidInputError, match=r"is missing|no place for"):
            fineprune.load(tmp_path / here)
        (tmp_path / here / "config.json").write_text(original)


def test_the_reader_in_the_page_reads(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "packed_file.md").read_text(encoding="utf-8")
    room: dict[str, Callable[[Path, str], np.ndarray[Any, Any]]] = {}
    exec(page.partition("```python\n")[2].partition("```")[0], room)
    model = pruned(build("vit"))
    for values in VALUES.values():
        save(model, tmp_path / values.name, values)
        with opened(tmp_path / values.name / PACKED) as packed:
            for name in packed.entries:
                read = torch.from_numpy(room["read_tensor"](packed.path, name).copy())
                assert torch.equal(bits(read), bits(packed.tensor(name)))


@pytest.mark.parametrize("kind", ["bert", "distilbert", "t5", "gpt2", "llama", "vit"])
def test_a_sparse_model_computes_what_the_dense_one_does(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fineprune.sparse import autotune
    from fineprune.sparse.linear import SparseLinear

    monkeypatch.setattr(autotune, "is_faster", lambda *_: True)
    save(pruned(build(kind)), tmp_path / "packed", Int8Values())
    dense, sparse = fineprune.load(tmp_path / "packed"), fineprune.load(tmp_path / "packed", sparse=True)
    assert any(isinstance(module, SparseLinear) for module in sparse.modules())
    torch.testing.assert_close(logits(sparse, kind), logits(dense, kind), rtol=1e-4, atol=1e-5)


def test_what_is_not_trained_stays_so(tmp_path: Path) -> None:
    model = transformers.ViTMAEModel(transformers.ViTMAEConfig(**ARCHITECTURES["vit"].settings))
    assert not model.embeddings.position_embeddings.requires_grad
    save(model, tmp_path / "packed", Float32Values())
    loaded = fineprune.load(tmp_path / "packed")
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in model.parameters()]
    assert differing(model, loaded, lambda tensor: tensor) == []


def test_a_config_of_another_precision_is_read_as_float32(tmp_path: Path) -> None:
    save(pruned(build("llama")), tmp_path / "packed", Int8Values())
    path = tmp_path / "packed" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "dtype": "bfloat16"}))
    assert fineprune.load(tmp_path / "packed").config.dtype == torch.float32


def test_matrices_with_more_columns_than_two_bytes_count_are_made_dense() -> None:
    for columns, found in ((1 << 16, True), ((1 << 16) + 1, False)):
        model = nn.Sequential(nn.Linear(columns, 2, device="meta"))
        assert bool(sparse_layers(model, {"0.weight": SparseEntry((2, columns), Int8Values(), 3)})) == found
        model = nn.Sequential(transformers.pytorch_utils.Conv1D(2, columns))
        assert bool(sparse_layers(model, {"0.weight": SparseEntry((columns, 2), Int8Values(), 3)})) == found
