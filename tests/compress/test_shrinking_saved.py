"""A shrunken model on the disk: a stock folder where the config can say it, and else one that from_pretrained loads."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers
from test_shrinking import (
    KILLERS,
    NORMS,
    VARIANTS,
    assert_same,
    attentions,
    batch_for,
    counts,
    empty_block,
    exact,  # noqa: F401
    kill_columns,
    kill_features,
    kill_heads,
    kill_neurons,
    kill_output,
    make,
    matrix,
    outputs,
    shapes,
)
from torch import Tensor, nn
from transformers import PreTrainedModel

from conftest import tiny_bert
from fineprune import FileError, InvalidInputError
from fineprune.apps.convert.shrink import shrink_folder
from fineprune.apps.training import pretrained
from fineprune.compress.loading import from_pretrained
from fineprune.compress.resizing.saving import save
from fineprune.compress.shrinking.shrink import shrink
from fineprune.models.anatomy import find_blocks, find_stream

pytestmark = pytest.mark.usefixtures("exact")

PLAIN_ERRORS = (RuntimeError, ValueError)


def kill_everything(model: nn.Module) -> None:
    kill_heads(model)
    kill_neurons(model)
    if any(isinstance(module, nn.Embedding) for module in model.modules()):
        kill_columns(model)


def loads_plainly(folder: Path, kind: type[PreTrainedModel]) -> bool:
    """Whether Transformers loads a folder by itself; if not, it must say so."""
    try:
        kind.from_pretrained(folder)
    except PLAIN_ERRORS:
        return False
    return True


def is_marked(model: PreTrainedModel) -> bool:
    return hasattr(model.config, "fineprune")


@pytest.mark.parametrize("killer", ["nothing", "everything", "first block"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_saved_is_loaded_bit_for_bit(variant: str, killer: str, tmp_path: Path) -> None:
    model = make(variant)
    {**KILLERS, "everything": kill_everything}[killer](model)
    smaller = shrink(model)
    save(smaller, tmp_path / "one")
    loaded = from_pretrained(tmp_path / "one")
    assert type(loaded) is type(model)
    assert not loaded.training
    assert loaded.dtype == torch.float64
    assert shapes(loaded) == shapes(smaller)
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in smaller.state_dict().items())
    assert_same(smaller, loaded, batch_for(variant), tolerance=0.0)
    assert loads_plainly(tmp_path / "one", type(model)) == (not is_marked(smaller)) == (not is_marked(loaded))
    loaded.save_pretrained(tmp_path / "two")  # without this library, as after more training
    assert_same(loaded, from_pretrained(tmp_path / "two"), batch_for(variant), tolerance=0.0)
    assert is_marked(loaded) == (not loads_plainly(tmp_path / "two", type(model)))
    assert shapes(shrink(loaded)) == shapes(loaded)


@pytest.mark.parametrize("variant", NORMS)
def test_streams_with_fewer_features_are_loaded_bit_for_bit(variant: str, tmp_path: Path) -> None:
    model, batch = make(variant, dtype=torch.float32), batch_for(variant)
    kill_features(model, torch.arange(32) % 3 == 0)
    kill_columns(model, share=0.2)
    smaller = shrink(model)
    kill_features(smaller, torch.arange(find_stream(smaller).width) < 2)
    smaller = shrink(smaller)  # eps is the same whether it was cut once or twice
    save(smaller, tmp_path / "saved")
    assert_same(smaller, from_pretrained(tmp_path / "saved"), batch, tolerance=0.0)
    assert loads_plainly(tmp_path / "saved", type(model)) == (not is_marked(smaller))


def test_what_norms_add_does_not_depend_on_how_often_was_cut(tmp_path: Path) -> None:
    """1e-5 * (32 / 31) * (31 / 30) is not 1e-5 * (32 / 30) in floating point."""
    smaller = make("llama", dtype=torch.float32, rms_norm_eps=1e-5)
    for _ in range(2):
        kill_features(smaller, torch.arange(find_stream(smaller).width) < 1)
        smaller = shrink(smaller)
    save(smaller, tmp_path / "saved")
    assert is_marked(smaller)
    loaded = from_pretrained(tmp_path / "saved")
    assert loaded.model.norm.variance_epsilon == smaller.model.norm.variance_epsilon == 1e-5 * (32 / 30)


# Stock configs.


def even(model: nn.Module, heads: int = 0, neurons: int = 0) -> None:
    """Kills the same heads and neurons of each block."""
    for attention in attentions(model):
        for group in range(heads):
            kill_output(model, attention, group)
    for block in find_blocks(model):
        matrix(model, block.feed_forward.second)[:, :neurons] = 0


SAYS_HEADS = ["t5", "t5 gated, untied", "llama", "llama with biases", "mistral", "qwen2", "qwen3", "vit"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_equal_numbers_of_neurons_are_stock(variant: str, tmp_path: Path) -> None:
    model = make(variant)
    even(model, neurons=11)
    smaller = shrink(model)
    assert not is_marked(smaller)
    save(smaller, tmp_path / "saved")
    plain = type(model).from_pretrained(tmp_path / "saved")
    assert_same(smaller, plain, batch_for(variant), tolerance=0.0)
    assert type(smaller.config).from_dict(smaller.config.to_dict()).to_dict() == smaller.config.to_dict()


@pytest.mark.parametrize("variant", VARIANTS)
def test_equal_heads_are_stock_where_the_config_says_their_size(variant: str, tmp_path: Path) -> None:
    model = make(variant)
    even(model, heads=1, neurons=11)
    smaller = shrink(model)
    assert is_marked(smaller) == (VARIANTS[variant][0] not in {VARIANTS[name][0] for name in SAYS_HEADS})
    save(smaller, tmp_path / "saved")
    assert_same(smaller, from_pretrained(tmp_path / "saved"), batch_for(variant), tolerance=0.0)
    assert loads_plainly(tmp_path / "saved", type(model)) == (not is_marked(smaller))
    if not is_marked(smaller):
        plain = type(model).from_pretrained(tmp_path / "saved")
        assert_same(model, plain, batch_for(variant))
        for implementation in ("eager", "sdpa"):
            for one in (smaller, plain):
                one.set_attn_implementation(implementation)
            assert_same(smaller, plain, batch_for(variant), tolerance=0.0)


def test_other_heads_in_other_blocks_of_t5_are_not_stock() -> None:
    """As many in each, but the table of position biases is one."""
    model = make("t5")
    for number, attention in enumerate(attentions(model)):
        kill_output(model, attention, number % 2)
    assert is_marked(shrink(model))


def test_a_number_of_heads_that_the_config_does_not_allow_is_not_stock() -> None:
    model = make("llama", num_key_value_heads=4)
    even(model, heads=1)
    smaller = shrink(model)
    assert counts(smaller)[0] == [3, 3]
    assert is_marked(smaller)  # 32 is no multiple of 3
    qwen = make("qwen2", num_key_value_heads=4)
    even(qwen, heads=1)
    assert not is_marked(shrink(qwen))


@pytest.mark.parametrize("variant", ["llama", "mistral", "qwen2", "qwen3", "t5", "t5 gated, untied"])
def test_a_stream_with_fewer_features_is_stock_where_the_config_says_it(variant: str, tmp_path: Path) -> None:
    model = make(variant, dtype=torch.float32)
    kill_features(model, torch.arange(32) % 2 == 0)
    smaller = shrink(model)
    # Qwen3 has norms over heads with the same eps; the decoder of a tied T5 divides by the root of the width.
    assert is_marked(smaller) == (variant in ("qwen3", "t5"))
    save(smaller, tmp_path / "saved")
    assert loads_plainly(tmp_path / "saved", type(model)) == (not is_marked(smaller))
    if not is_marked(smaller):
        plain = type(model).from_pretrained(tmp_path / "saved")
        assert_same(smaller, plain, batch_for(variant), tolerance=0.0)
        assert smaller.config.hidden_size == 16


@pytest.mark.parametrize("variant", ["llama", "mistral", "qwen2", "qwen3", "gpt2", "vit"])
def test_fewer_blocks_are_stock(variant: str, tmp_path: Path) -> None:
    model = make(variant, num_hidden_layers=3)
    empty_block(model, 1, biases=True)
    smaller = shrink(model)
    assert not is_marked(smaller)
    save(smaller, tmp_path / "saved")
    plain = type(model).from_pretrained(tmp_path / "saved")
    assert plain.config.num_hidden_layers == 2
    assert_same(model, plain, batch_for(variant))


def test_a_mark_goes_where_the_rest_is_stock_again() -> None:
    model = make("qwen2")
    matrix(model, "model.layers.0.mlp.down_proj")[:, :5] = 0
    smaller = shrink(model)
    assert is_marked(smaller)
    matrix(smaller, "model.layers.1.mlp.down_proj")[:, :5] = 0
    assert not is_marked(shrink(smaller))
    assert is_marked(smaller)


def test_sizes_that_differ_from_layer_to_layer_are_written_for_others(tmp_path: Path) -> None:
    model = make("llama with biases", num_hidden_layers=11, head_dim=8)
    kill_output(model, attentions(model)[1], 0)
    empty_block(model, 3)
    matrix(model, "model.layers.10.mlp.down_proj")[:, :5] = 0
    smaller = shrink(model)
    smaller.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["num_attention_heads"] == 4
    assert config["fineprune"]["shrunken"] is True
    assert config["per_layer_config"] == {
        "01": {"num_attention_heads": 2, "num_key_value_heads": 1},
        "03": {"num_attention_heads": 0, "num_key_value_heads": 0, "intermediate_size": 0},
        "10": {"intermediate_size": 59},
    }
    read = transformers.AutoConfig.from_pretrained(tmp_path)  # LlamaConfig checks heads, which must pass
    assert [layer.intermediate_size for layer in read.per_layer_config] == [*[64] * 3, 0, *[64] * 6, 59]
    assert smaller.config.num_attention_heads == 4  # in memory it is as before
    assert not hasattr(from_pretrained(tmp_path).config, "_heterogeneity_spec")


@pytest.mark.parametrize("variant", ["t5", "bart"])
def test_models_of_two_stacks_have_no_layers_to_write(variant: str, tmp_path: Path) -> None:
    model = make(variant)
    empty_block(model, 0)
    shrink(model).save_pretrained(tmp_path)
    assert "per_layer_config" not in json.loads((tmp_path / "config.json").read_text())


def test_a_pair_of_models_is_saved(tmp_path: Path) -> None:
    encoder, decoder = make("bert"), make("bert decoder")
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(encoder.config, decoder.config)
    model = transformers.EncoderDecoderModel(config).double().eval()
    kill_heads(model)
    tokens = batch_for("bert")
    smaller = shrink(model)
    save(smaller, tmp_path / "pair")
    batch = {**tokens, "decoder_input_ids": tokens["input_ids"]}
    assert_same(smaller, from_pretrained(tmp_path / "pair"), batch, tolerance=0.0)


# Folders.


Change = Callable[[Path], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A shrunken BERT that is not stock."""
    model = make("bert")
    kill_everything(model)
    save(shrink(model), tmp_path / "bert")
    return tmp_path / "bert"


def test_parts_and_settings(folder: Path, tmp_path: Path) -> None:
    whole = from_pretrained(folder)
    whole.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    assert_same(whole, from_pretrained(tmp_path / "parts"), batch_for("bert"), tolerance=0.0)
    assert from_pretrained(folder, attn_implementation="eager").config._attn_implementation == "eager"
    whole.bfloat16().save_pretrained(tmp_path / "half")
    assert from_pretrained(tmp_path / "half").dtype == torch.bfloat16


def test_generation_settings_are_kept(tmp_path: Path) -> None:
    model = make("gpt2")
    kill_heads(model)
    model.generation_config.max_new_tokens = 17
    save(shrink(model), tmp_path / "gpt2")
    assert from_pretrained(tmp_path / "gpt2").generation_config.max_new_tokens == 17


def test_another_head_is_initialised(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved = from_pretrained(folder)
    same = from_pretrained(folder, head="AutoModelForTokenClassification")
    assert torch.equal(same.classifier.weight, saved.classifier.weight)  # of this name and size, as Transformers has it
    assert not caplog.records
    model = from_pretrained(folder, head="AutoModelForQuestionAnswering")
    assert "a new one is trained" in caplog.text
    assert isinstance(model, transformers.BertForQuestionAnswering)
    assert 0 < float(model.qa_outputs.weight.detach().std()) < 0.1
    assert torch.equal(model.bert.encoder.layer[0].output.dense.weight, saved.bert.encoder.layer[0].output.dense.weight)
    bare = from_pretrained(folder, head="AutoModel")
    assert isinstance(bare, transformers.BertModel)
    bare.save_pretrained(tmp_path / "bare")
    headed = from_pretrained(tmp_path / "bare", head="AutoModelForSequenceClassification")
    assert torch.equal(headed.bert.encoder.layer[0].output.dense.weight, saved.bert.encoder.layer[0].output.dense.weight)
    model(**batch_for("bert"))


def test_a_new_head_on_a_stream_with_fewer_features(tmp_path: Path) -> None:
    model = make("qwen3", dtype=torch.float32, pad_token_id=0)
    kill_features(model, torch.arange(32) < 7)
    save(shrink(model), tmp_path / "saved")
    classifier = from_pretrained(tmp_path / "saved", head="AutoModelForSequenceClassification")
    assert classifier.score.weight.shape == (2, 25)
    assert outputs(classifier, batch_for("qwen3"))[0].shape == (4, 2)


def test_tasks_load_shrunken_models(model_folder: Path, tmp_path: Path) -> None:
    model = pretrained.load_any(str(model_folder))
    kill_everything(model)
    save(shrink(model), tmp_path / "saved", [model_folder / "tokenizer.json", model_folder / "tokenizer_config.json"])
    tokenizer, classifier = pretrained.load_pretrained(str(tmp_path / "saved"), num_labels=3, hidden_dropout_prob=0.5)
    assert classifier.classifier.out_features == 3
    assert classifier.config.hidden_dropout_prob == 0.5
    assert tokenizer("good film")["input_ids"]
    assert shapes(pretrained.load_any(str(tmp_path / "saved"))) == shapes(shrink(model))
    with pytest.raises(InvalidInputError, match="has no setting 'num_label'"):
        pretrained.load_pretrained(str(tmp_path / "saved"), num_label=3)


def edit_config(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def edit_tensors(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, {"format": "pt"})


LAYER = "bert.encoder.layer.0"
QUERY, OUTPUT = f"{LAYER}.attention.self.query.weight", f"{LAYER}.attention.output.dense.weight"
TABLE = "bert.embeddings.word_embeddings"


def without_last(name: str, axis: int = 0) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.update({name: tensors[name].narrow(axis, 0, tensors[name].shape[axis] - 1)})


DAMAGES: dict[str, tuple[Change, str]] = {
    "no tensors": (lambda folder: (folder / "model.safetensors").unlink(), "holds no model.safetensors"),
    "cut off": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100]),
        "could not be loaded",
    ),
    "no config": (lambda folder: (folder / "config.json").unlink(), "could not be loaded"),
    "broken config": (lambda folder: (folder / "config.json").write_text("{"), "could not be loaded"),
    "a config that is no object": (lambda folder: (folder / "config.json").write_text("[]"), "could not be loaded"),
    "no architecture": (lambda folder: edit_config(folder, architectures=["os"]), "no class of Transformers"),
    "a function for an architecture": (lambda folder: edit_config(folder, architectures=["set_seed"]), "no class of"),
    "an unknown model": (lambda folder: edit_config(folder, model_type="berd"), "could not be loaded"),
    "code": (lambda folder: edit_config(folder, auto_map={"AutoModel": "evil.Model"}, architectures=["Evil"]), "no class of"),
    "another mark": (lambda folder: edit_config(folder, fineprune={"shrunken": 1e300}), "The config says fineprune"),
    "a mark that is no object": (lambda folder: edit_config(folder, fineprune=[1, 2]), "The config says fineprune"),
    "more layers": (lambda folder: edit_config(folder, num_hidden_layers=3), "is missing"),
    "fewer layers": (lambda folder: edit_config(folder, num_hidden_layers=1), "has no place for bert.encoder.layer.1"),
    "another width": (lambda folder: edit_config(folder, hidden_size=36), "gives 36"),
    "other heads": (lambda folder: edit_config(folder, num_attention_heads=1), "features; there may be 1 to 1 times 32"),
    "no heads": (lambda folder: edit_config(folder, num_attention_heads=0), "could not be loaded"),
    "a missing tensor": (lambda folder: edit_tensors(folder, lambda t: t.pop(QUERY)), f"{QUERY} is missing"),
    "a missing size": (lambda folder: edit_tensors(folder, lambda t: t.pop(OUTPUT)), f"{OUTPUT} is missing"),
    "one tensor more": (lambda folder: edit_tensors(folder, lambda t: t.update(evil=torch.ones(1))), "no place for evil"),
    "query and key that disagree": (lambda folder: edit_tensors(folder, without_last(QUERY)), "query.weight holds"),
    "half a head": (lambda folder: edit_tensors(folder, without_last(OUTPUT, axis=1)), "features; there may be 1 to 4 times 8"),
    "neurons that disagree": (
        lambda folder: edit_tensors(folder, without_last(f"{LAYER}.intermediate.dense.bias")),
        "would have",
    ),
    "a flat matrix": (
        lambda folder: edit_tensors(folder, lambda t: t.update({OUTPUT: t[OUTPUT].flatten()})),
        "has 1 dimensions instead of 2",
    ),
    "whole numbers": (lambda folder: edit_tensors(folder, lambda t: t.update({QUERY: t[QUERY].long()})), "int64"),
    "columns that disagree": (lambda folder: edit_tensors(folder, without_last(f"{TABLE}.weight", axis=1)), "would have to be"),
    "too few columns": (lambda folder: edit_tensors(folder, without_last(f"{TABLE}.columns")), "gives 32"),
    "columns that are numbers": (
        lambda folder: edit_tensors(folder, lambda t: t.update({f"{TABLE}.columns": t[f"{TABLE}.columns"].float()})),
        "one line of bool",
    ),
    "columns of a norm": (
        lambda folder: edit_tensors(folder, lambda t: t.update({"bert.embeddings.LayerNorm.columns": torch.ones(32) > 0})),
        "no place for",
    ),
    "parts elsewhere": (
        lambda folder: (
            (folder / "model.safetensors").rename(folder.parent / "away.safetensors"),
            (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../away.safetensors"}})),
        ),
        "names files outside its folder",
    ),
    "a broken index": (
        lambda folder: (
            (folder / "model.safetensors").unlink(),
            (folder / "model.safetensors.index.json").write_text('{"weight_map": [1]}'),
        ),
        "could not be read",
    ),
    "a missing part": (
        lambda folder: (
            (folder / "model.safetensors").unlink(),
            (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "b.safetensors"}})),
        ),
        "holds no b.safetensors",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_and_hostile_folders_are_refused(damage: str, folder: Path) -> None:
    change, message = DAMAGES[damage]
    change(folder)
    with pytest.raises(InvalidInputError, match=message):
        from_pretrained(folder)


def test_a_position_table_that_fits_only_one_block_is_refused(tmp_path: Path) -> None:
    model = make("t5")
    kill_output(model, attentions(model)[1], 0)
    save(shrink(model), tmp_path / "t5")
    table = "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"
    edit_tensors(tmp_path / "t5", lambda tensors: tensors.pop(table))
    with pytest.raises(InvalidInputError, match=r"encoder\.block share a table of position biases"):
        from_pretrained(tmp_path / "t5")


def test_tied_tensors_that_differ_are_refused(tmp_path: Path) -> None:
    model = make("gpt2")
    kill_heads(model)
    save(shrink(model), tmp_path / "gpt2")
    edit_tensors(tmp_path / "gpt2", lambda tensors: tensors.update({"lm_head.weight": tensors["transformer.wte.weight"] + 1}))
    with pytest.raises(InvalidInputError, match="are tied, and differ"):
        from_pretrained(tmp_path / "gpt2")


def test_stock_folders_are_loaded_from_plain_tensors_only(tmp_path: Path) -> None:
    model = tiny_bert().eval()
    model.save_pretrained(tmp_path)
    assert torch.equal(from_pretrained(tmp_path).bert.pooler.dense.weight, model.bert.pooler.dense.weight)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    edit_tensors(tmp_path, lambda tensors: tensors.pop("classifier.weight"))
    with pytest.raises(InvalidInputError, match=r"lacks tensors that its config names: classifier\.weight"):
        from_pretrained(tmp_path)
    assert from_pretrained(tmp_path, head="AutoModelForSequenceClassification").classifier.weight.shape == (2, 32)
    config = (tmp_path / "config.json").read_text()
    edit_config(tmp_path, id2label={str(number): str(number) for number in range(5)})
    assert from_pretrained(tmp_path, head="AutoModelForSequenceClassification").classifier.weight.shape == (5, 32)
    edit_config(tmp_path, intermediate_size=8)
    for head in ("BertForMaskedLM", "AutoModelForSequenceClassification", "AutoModel"):
        with pytest.raises(
            InvalidInputError, match=r"holds tensors of other sizes than its config says: .*intermediate\.dense"
        ):
            from_pretrained(tmp_path, head=head)
    (tmp_path / "config.json").write_text(config)
    edit_tensors(tmp_path, lambda tensors: tensors.pop("bert.encoder.layer.0.output.dense.weight"))
    with pytest.raises(InvalidInputError, match="lacks tensors that its config names"):
        from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InvalidInputError, match="could not be loaded"):
        from_pretrained(tmp_path)
    with pytest.raises(InvalidInputError, match="could not be loaded"):
        from_pretrained(tmp_path / "nothing")


# Saving, whole or not at all.


def test_nothing_is_overwritten_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("bert")
    kill_heads(model)
    smaller = shrink(model)
    (tmp_path / "taken").write_text("")
    with pytest.raises(InvalidInputError, match="taken exists already"):
        save(smaller, tmp_path / "taken")

    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
    with pytest.raises(FileError, match="No space left"):
        save(smaller, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    model = make("bert")
    model.classifier = nn.Sequential(nn.Linear(32, 8), nn.Linear(8, 2)).double()
    kill_heads(model)
    smaller = shrink(model)
    assert_same(model, smaller, batch_for("bert"))
    with pytest.raises(InvalidInputError, match="could be saved, but not loaded"):
        save(smaller, tmp_path / "new")

    class Mine(transformers.BertForSequenceClassification):
        pass

    mine = Mine(tiny_bert().config)
    kill_heads(mine)
    with pytest.raises(InvalidInputError, match="Mine is no class of Transformers"):
        save(shrink(mine), tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_the_command_copies_what_lies_beside(model_folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(model_folder, source)
    model = pretrained.load_any(str(source))
    kill_heads(model)
    kill_neurons(model)
    model.save_pretrained(source)
    (source / "recipe.yaml").write_text("model: x\n")
    (source / "optimizer.pt").write_text("")
    outcome = shrink_folder(str(source), str(tmp_path / "smaller"))
    names = {path.name for path in (tmp_path / "smaller").iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "recipe.yaml"}
    assert outcome.before["heads"] == 4
    assert outcome.after["heads"] < 4
    assert outcome.before["neurons"] == 128
    assert outcome.after["neurons"] < 128
    assert outcome.before["parameters"] > outcome.after["parameters"]
    assert outcome.before["bytes of the weights"] > outcome.after["bytes of the weights"] > 4 * outcome.after["parameters"]


def test_a_class_that_transformers_lacks_is_not_replaced_by_half_a_model(tmp_path: Path) -> None:
    tiny_bert().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    stated = json.loads(path.read_text())
    path.write_text(json.dumps({**stated, "architectures": ["MyBertForRegression"]}))
    with pytest.raises(InvalidInputError, match=r"says architectures \['MyBertForRegression'\], no class of Transformers"):
        from_pretrained(tmp_path)
    path.write_text(json.dumps(stated))
    with pytest.raises(InvalidInputError, match="head is 'AutoModelForSequenceClasification', no class of Transformers"):
        from_pretrained(tmp_path, head="AutoModelForSequenceClasification")


def test_tensors_without_a_place_are_said_to_be_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_bert()
    state = {**model.state_dict(), "bert.encoder.layer.0.extra.weight": torch.ones(2)}
    model.save_pretrained(tmp_path)
    safetensors.torch.save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    from_pretrained(tmp_path)
    assert "has no place for bert.encoder.layer.0.extra.weight" in caplog.text
