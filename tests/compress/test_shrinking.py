"""A shrunken model gives what the pruned one gave: for every known architecture, whatever fell."""

import copy
from collections.abc import Callable

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import PreTrainedModel

from architectures import ARCHITECTURES, batches
from conftest import Stack, adamw, tiny_bert
from fineprune import L0, InvalidInputError, Movement, Pruner, PruningConfig
from fineprune.compress.shrinking.shrink import shrink
from fineprune.models.anatomy import Attention, find_blocks, find_stream, find_tables
from fineprune.models.layers import is_transposed
from fineprune.models.placeholders import COLUMNS, RemovedAttention

transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

FOUR_HEADS = {
    **{kind: {"num_attention_heads": 4} for kind in ("bert", "roberta", "xlm-roberta", "electra", "vit")},
    "distilbert": {"n_heads": 4},
    "t5": {"num_heads": 4, "d_kv": 8},
    "bart": {"encoder_attention_heads": 4, "decoder_attention_heads": 4},
    "gpt2": {"n_head": 4},
    **{kind: {"num_attention_heads": 4, "num_key_value_heads": 2} for kind in ("llama", "mistral", "qwen2", "qwen3")},
}
DECODER = {"is_decoder": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}

VARIANTS: dict[str, tuple[str, dict[str, object], str]] = {
    **{name: (name, {}, ARCHITECTURES[name].task) for name in FOUR_HEADS if name in ARCHITECTURES},
    "xlm-roberta": ("xlm-roberta", {}, "TokenClassification"),
    "mistral": ("mistral", {"sliding_window": 4}, "CausalLM"),
    "bert decoder": ("bert", DECODER, "CausalLM"),
    "roberta decoder": ("roberta", DECODER, "CausalLM"),
    "t5 gated, untied": ("t5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, "Seq2SeqLM"),
    "t5 classifier": ("t5", {"eos_token_id": 99}, "SequenceClassification"),
    "bart scaled": ("bart", {"scale_embedding": True}, "Seq2SeqLM"),
    "gpt2 reordered": ("gpt2", {"scale_attn_by_inverse_layer_idx": True, "activation_function": "relu"}, "CausalLM"),
    "gpt2 classifier": ("gpt2", {"pad_token_id": 0}, "SequenceClassification"),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 12}, "CausalLM"),
    "llama for questions": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
        "QuestionAnswering",
    ),
    "qwen3 with biases": ("qwen3", {"attention_bias": True, "tie_word_embeddings": True}, "CausalLM"),
    "qwen2 classifier": ("qwen2", {"pad_token_id": 0}, "SequenceClassification"),
    "electra projected": ("electra", {"embedding_size": 16}, "SequenceClassification"),
}
NORMS = [name for name, (kind, _, _) in VARIANTS.items() if kind in ("t5", "llama", "mistral", "qwen2", "qwen3")]
TABLES = [name for name, (kind, _, _) in VARIANTS.items() if kind != "vit"]

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, makes RMSNorm and softmax compute in it; some models of Transformers take them in fp32 whatever the dtype.

    There a difference of 1e-16, as from another order of a sum, now and then rounds to another fp32, and becomes 1e-8.
    """

    def forward(norm: nn.Module, hidden_states: Tensor) -> Tensor:
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        return norm.weight * (hidden_states * torch.rsqrt(variance + norm.variance_epsilon))

    def softmax(tensor: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
        return tensor.softmax(dim)

    models = transformers.models
    for kind in (
        models.t5.modeling_t5.T5LayerNorm,
        models.llama.modeling_llama.LlamaRMSNorm,
        models.mistral.modeling_mistral.MistralRMSNorm,
        models.qwen2.modeling_qwen2.Qwen2RMSNorm,
        models.qwen3.modeling_qwen3.Qwen3RMSNorm,
    ):
        monkeypatch.setattr(kind, "forward", forward)
    monkeypatch.setattr(nn.functional, "softmax", softmax)


pytestmark = pytest.mark.usefixtures("exact")


def make(
    variant: str, seed: int = 3, dtype: torch.dtype = torch.float64, spread: float = 0.3, **more: object
) -> PreTrainedModel:
    """Returns a model whose parameters are all random, biases and norms too."""
    torch.manual_seed(seed)
    kind, extra, task = VARIANTS[variant]
    base = ARCHITECTURES.get(kind, ARCHITECTURES["bert" if kind == "xlm-roberta" else "llama"])
    config = transformers.AutoConfig.for_model(kind, **{**base.settings, **FOUR_HEADS[kind], **extra, **more})
    model = getattr(transformers, f"AutoModelFor{task}").from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    return model.to(dtype).eval()


def batch_for(variant: str, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Returns a batch without labels; the first text is padded on the right."""
    kind, _, task = VARIANTS[variant]
    known = {"SequenceClassification": "bert", "TokenClassification": "electra", "QuestionAnswering": "roberta"}
    batch = batches(known.get(task, "bert" if kind == "xlm-roberta" else "llama" if kind == "mistral" else kind), 1)[0]
    if kind == "t5" and task == "SequenceClassification":
        batch["input_ids"][:, -4] = 99
        batch["input_ids"][:, -3:] = 3
        batch["input_ids"][:, :-4].clamp_(max=98)
    names = {"input_ids", "attention_mask", "pixel_values"} | ({"labels"} if task == "Seq2SeqLM" else set())
    if task == "CausalLM" and kind in ("bert", "roberta"):
        batch = batches("gpt2", 1)[0]
    return {name: t.to(dtype) if t.is_floating_point() else t for name, t in batch.items() if name in names}


@torch.no_grad()
def outputs(model: nn.Module, batch: dict[str, Tensor]) -> list[Tensor]:
    """Returns what tells about every position: the logits."""
    given = model(**batch)
    found = [given.start_logits, given.end_logits] if "start_logits" in given else [given.logits]
    assert all(tensor.isfinite().all() for tensor in found)
    return found


def assert_same(model: nn.Module, smaller: nn.Module, batch: dict[str, Tensor], tolerance: float = 1e-10) -> None:
    for expected, now in zip(outputs(model, batch), outputs(smaller, batch), strict=True):
        torch.testing.assert_close(now, expected, rtol=0, atol=tolerance * float(expected.abs().max().clamp(min=1)))


def matrix(model: nn.Module, name: str) -> Tensor:
    """Returns the weight of a linear layer, outputs x inputs, to be written into."""
    module = model.get_submodule(name)
    return module.weight.data.t() if is_transposed(module) else module.weight.data


def bias(model: nn.Module, name: str) -> Tensor:
    """Returns the bias of a linear layer to be written into; where it has none, zeros that nobody reads."""
    found = model.get_submodule(name).bias
    return torch.zeros(len(matrix(model, name))) if found is None else found.data


def attentions(model: nn.Module) -> list[Attention]:
    return [attention for block in find_blocks(model) for attention in block.attentions]


def projection(model: nn.Module, part: object) -> tuple[Tensor, Tensor]:
    """Returns the rows and biases of a projection, to be written into."""
    rows, biases = matrix(model, part.module), bias(model, part.module)
    return rows.chunk(part.parts)[part.place], biases.chunk(part.parts)[part.place]


def kill_output(model: nn.Module, attention: Attention, group: int) -> None:
    """Zeros the columns that read a key and value head."""
    width = attention.heads // attention.groups * attention.head_size
    matrix(model, attention.output)[:, group * width : (group + 1) * width] = 0


def kill_rows(model: nn.Module, attention: Attention, part: str, group: int, biases: bool = False) -> None:
    """Zeros the rows of queries, keys or values of a group."""
    width = attention.head_size * (attention.heads // attention.groups if part == "query" else 1)
    rows, its_biases = projection(model, getattr(attention, part))
    rows[group * width : (group + 1) * width] = 0
    if biases:
        its_biases[group * width : (group + 1) * width] = 0


def kill_head(model: nn.Module, attention: Attention, group: int) -> None:
    kill_output(model, attention, group)
    for part in ("query", "key", "value"):
        kill_rows(model, attention, part, group, biases=True)


def kill_heads(model: nn.Module, share: float = 0.5) -> None:
    """Kills one head and random others, half of them by their output alone; of others, a part is zero, which alone does not."""
    for attention in attentions(model)[-1:] if share else []:
        kill_output(model, attention, 0)
    for attention in attentions(model):
        for group in range(attention.groups):
            draw = float(torch.rand(()))
            if draw < share / 2:
                kill_output(model, attention, group)
            elif draw < share:
                kill_head(model, attention, group)
            elif draw < share + 0.1:
                kill_rows(model, attention, "query", group, biases=True)
            elif draw < share + 0.2:
                kill_rows(model, attention, "key", group)
            elif draw < share + 0.3:
                kill_rows(model, attention, "value", group)


def kill_neurons(model: nn.Module, share: float = 0.3) -> None:
    """Zeros random rows of the first matrices, with and without their biases, and random columns of the second."""
    for block in find_blocks(model):
        layer = block.feed_forward
        for first in layer.first:
            dead = torch.rand(len(matrix(model, first))) < share
            matrix(model, first)[dead] = 0
            bias(model, first)[dead & (torch.rand(len(dead)) < 0.5)] = 0
        second = matrix(model, layer.second)
        second[:, torch.rand(second.shape[1]) < share] = 0


def kill_columns(model: nn.Module, share: float = 0.3) -> None:
    """Zeros random columns of each embedding table."""
    for name in find_tables(model):
        table = model.get_submodule(name).weight.data
        table[:, torch.rand(table.shape[1]) < share] = 0


def kill_features(model: nn.Module, dead: Tensor) -> None:
    """Zeros everything that writes these features of the residual stream."""
    stream = find_stream(model)
    for name in stream.writers:
        matrix(model, name)[dead] = 0
        bias(model, name)[dead] = 0
    for name in stream.tables:
        table = model.get_submodule(name)
        table.weight.data[:, dead[table.columns] if COLUMNS in table._buffers else dead] = 0


def empty_block(model: nn.Module, number: int, biases: bool = False) -> None:
    """Kills all heads and all neurons of a block; with its last biases, it adds nothing."""
    block = find_blocks(model)[number]
    for name in (*(attention.output for attention in block.attentions), block.feed_forward.second) if biases else ():
        bias(model, name).zero_()
    for attention in block.attentions:
        for group in range(attention.groups):
            kill_output(model, attention, group)
    matrix(model, block.feed_forward.second).zero_()


KILLERS: dict[str, Callable[[nn.Module], None]] = {
    "nothing": lambda model: None,
    "heads": kill_heads,
    "all heads": lambda model: kill_heads(model, share=1.0),
    "neurons": kill_neurons,
    "first block": lambda model: empty_block(model, 0),
    "all": lambda model: (kill_heads(model), kill_neurons(model)),
}


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def counts(model: nn.Module) -> tuple[list[int], list[int]]:
    """Returns the key and value heads of each attention that is left, and the neurons of each block."""
    neurons = [matrix(model, block.feed_forward.second).shape[1] for block in find_blocks(model)]
    return [attention.groups for attention in attentions(model)], neurons


@pytest.mark.parametrize("killer", KILLERS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_output_is_the_same(variant: str, killer: str) -> None:
    """In both attention implementations; the original is untouched; a second time there is nothing to remove."""
    model, batch = make(variant), batch_for(variant)
    KILLERS[killer](model)
    before = copy.deepcopy(model.state_dict())
    smaller = shrink(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert (shapes(smaller) != shapes(model)) == (killer != "nothing")
    again = shrink(smaller)
    assert shapes(again) == shapes(smaller)
    for implementation in ("sdpa", "eager"):
        for one in (model, smaller, again):
            one.set_attn_implementation(implementation)
        assert_same(model, smaller, batch)
        assert_same(smaller, again, batch, tolerance=0.0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_output_is_the_same_in_single_precision(variant: str) -> None:
    model, batch = make(variant, dtype=torch.float32), batch_for(variant, torch.float32)
    KILLERS["all"](model)
    smaller = shrink(model)
    assert smaller.dtype == torch.float32
    assert_same(model, smaller, batch, tolerance=1e-5)


@pytest.mark.parametrize("variant", TABLES)
def test_tables_lose_their_columns(variant: str) -> None:
    model = make(variant)
    kill_columns(model)
    kill_neurons(model)
    smaller = shrink(model)
    cut = {name.rpartition(".")[0] for name in shapes(smaller) if name.endswith(f".{COLUMNS}")}
    tied = model.get_output_embeddings()
    free = {name for name in find_tables(model) if tied is None or model.get_submodule(name).weight is not tied.weight}
    assert {name for name in find_tables(model) if name in cut} == free
    for name in cut:
        table = smaller.get_submodule(name)
        assert table.weight.shape[1] == table.embedding_dim == int(table.columns.sum()) < len(table.columns)
    assert_same(model, smaller, batch_for(variant))
    kill_columns(smaller, share=0.5)
    assert_same(smaller, shrink(smaller), batch_for(variant))


def test_a_table_without_any_column_gives_zeros() -> None:
    model = make("bert")
    model.bert.embeddings.token_type_embeddings.weight.data.zero_()
    smaller = shrink(model)
    assert smaller.bert.embeddings.token_type_embeddings.weight.shape == (2, 0)
    assert_same(model, smaller, batch_for("bert"))


def test_tables_shared_between_stacks_stay_shared() -> None:
    model = make("t5 gated, untied")
    kill_columns(model)
    smaller = shrink(model)
    assert smaller.shared.weight is smaller.encoder.embed_tokens.weight is smaller.decoder.embed_tokens.weight
    assert smaller.shared.weight is not model.shared.weight


@pytest.mark.parametrize("variant", NORMS)
def test_features_fall_where_the_norm_is_rms(variant: str) -> None:
    """Three quarters are removed, so that sqrt(d / k) is 2 and the norms' weights do not round."""
    eps = {"layer_norm_epsilon": 0.5} if variant.startswith("t5") else {"rms_norm_eps": 0.5}
    model, batch = make(variant, dtype=torch.float32, **eps), batch_for(variant)
    dead = torch.ones(32, dtype=torch.bool).index_fill(0, torch.randperm(32)[:8], False)
    kill_features(model, dead)
    kill_columns(model, share=0.2)
    kill_heads(model)
    smaller = shrink(model)
    assert find_stream(smaller).width == 8
    assert_same(model.double(), smaller.double(), batch)
    smaller.float()
    kill_features(smaller, torch.arange(8) % 4 > 0)
    again = shrink(smaller)
    assert find_stream(again).width == 2
    assert_same(smaller.double(), again.double(), batch)


@pytest.mark.parametrize("variant", NORMS)
def test_features_fall_to_the_rounding_of_the_norms(variant: str) -> None:
    """Transformers' RMSNorm rounds to fp32, also in float64: there, where more is promised, they stay."""
    model, batch = make(variant, dtype=torch.float32, spread=0.1), batch_for(variant)
    kill_features(model, torch.rand(32) < 0.4)
    smaller = shrink(model)
    assert find_stream(smaller).width < 32
    assert_same(model, smaller, batch, tolerance=1e-5)
    again = shrink(model.double())
    assert find_stream(again).width == 32
    assert_same(model, again, batch)


def test_with_layer_norm_features_stay() -> None:
    model = make("gpt2")
    for block in find_blocks(model):
        for name in (block.attentions[0].output, block.feed_forward.second):
            matrix(model, name)[:5] = 0
            bias(model, name)[:5] = 0
    model.transformer.wte.weight.data[:, :5] = 0
    model.transformer.wpe.weight.data[:, :5] = 0
    smaller = shrink(model)
    assert smaller.transformer.ln_f.weight.shape == (32,)
    assert smaller.transformer.wpe.weight.shape == (32, 27)
    assert_same(model, smaller, batch_for("gpt2"))


# Which groups are removed, and which stay.


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("part", ["query", "key"])
def test_a_head_without_queries_or_keys_alone_stays(variant: str, part: str) -> None:
    model = make(variant)
    for attention in attentions(model):
        kill_rows(model, attention, part, 1, biases=True)
    assert shapes(shrink(model)) == shapes(model)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_head_without_values_falls(variant: str) -> None:
    model = make(variant)
    for attention in attentions(model):
        kill_rows(model, attention, "value", 1, biases=True)
    assert counts(shrink(model))[0] == [attention.groups - 1 for attention in attentions(model)]


@pytest.mark.parametrize("variant", ["bert", "roberta", "distilbert", "electra", "bart"])
def test_the_constant_of_a_head_is_folded(variant: str) -> None:
    """Where every position sees another, weights sum to 1 and a head without values gives its bias."""
    model = make(variant)
    for attention in attentions(model):
        kill_rows(model, attention, "value", 2)
    smaller = shrink(model)
    assert counts(smaller)[0] == [3 if attention.constant else 4 for attention in attentions(model)]
    assert_same(model, smaller, batch_for(variant))


@pytest.mark.parametrize("variant", ["gpt2", "llama with biases", "bert decoder", "vit"])
def test_a_head_that_gives_only_nearly_a_constant_stays(variant: str) -> None:
    """A position that sees none gets 0 from SDPA; a softmax in fp32 does not sum to 1 in float64."""
    model = make(variant)
    for attention in attentions(model):
        kill_rows(model, attention, "value", 1)
    smaller = shrink(model)
    assert shapes(smaller) == shapes(model)
    if variant != "vit":
        batch = batch_for(variant)
        batch["attention_mask"][1, :5] = 0  # padded on the left
        assert_same(model, smaller, batch)


def test_where_nothing_holds_a_constant_the_part_stays() -> None:
    model = make("llama with biases", mlp_bias=False)
    assert model.model.layers[0].mlp.down_proj.bias is None
    with_bias = make("llama with biases")
    for one in (model, with_bias):
        for block in find_blocks(one):
            for first in block.feed_forward.first:
                matrix(one, first)[:7] = 0
    assert counts(shrink(model))[1] == [57, 57]  # without biases of their own they give 0
    assert counts(shrink(with_bias))[1] == [57, 57]
    for block in find_blocks(with_bias):
        with_bias.get_submodule(block.feed_forward.second).bias = None
    assert counts(shrink(with_bias))[1] == [64, 64]


@pytest.mark.parametrize("variant", ["t5 gated, untied", "llama with biases"])
def test_a_gated_neuron_falls_with_either_factor(variant: str) -> None:
    model = make(variant)
    for block in find_blocks(model):
        gate, up = block.feed_forward.first
        matrix(model, gate)[:3] = 0
        bias(model, gate)[:2] = 0  # of the third the gate gives act(b), and the neuron stays
        matrix(model, up)[5:8] = 0
        bias(model, up)[5:6] = 0
    smaller = shrink(model)
    has_biases = variant.startswith("llama")
    assert counts(smaller)[1] == [64 - (3 if has_biases else 6)] * len(find_blocks(model))
    assert_same(model, smaller, batch_for(variant))


def test_parts_of_one_group_of_queries_stay() -> None:
    """A key and value head is removed with all the query heads that it serves, or not at all."""
    model = make("llama")
    for attention in attentions(model):
        matrix(model, attention.output)[:, : attention.head_size] = 0
    assert shapes(shrink(model)) == shapes(model)


def test_what_a_cut_leaves_unused_falls_too() -> None:
    """A neuron that reads only dead features is removed with them, a feature that only dead neurons write with these."""
    model = make("llama", dtype=torch.float32, spread=0.1)
    kill_features(model, torch.arange(32) < 4)
    for block in find_blocks(model):
        matrix(model, block.feed_forward.first[0])[0] = 0
        matrix(model, block.feed_forward.second)[3, 0] = 1.0  # the last of the four features is removed after this neuron
    gate = find_blocks(model)[1].feed_forward.first[0]
    matrix(model, gate)[5] = 0
    matrix(model, gate)[5, 3] = 1.0  # and another neuron after that feature
    smaller = shrink(model)
    assert find_stream(smaller).width == 28
    assert counts(smaller)[1] == [63, 62]
    assert_same(model, smaller, batch_for("llama"), tolerance=1e-5)


ADDS_NOTHING = ["llama", "llama for questions", "mistral", "qwen2", "qwen2 classifier", "qwen3"]
"""Without biases, a block that is emptied adds nothing to the stream."""


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_emptied_layer_is_its_bias(variant: str) -> None:
    model = make(variant)
    for number in range(len(find_blocks(model))):
        empty_block(model, number)
    smaller = shrink(model)
    left = 1 if variant in ADDS_NOTHING else len(find_blocks(model))
    assert counts(smaller) == ([], [0] * left)
    emptied = sum(isinstance(module, RemovedAttention) for module in smaller.modules())
    assert emptied == (1 if variant in ADDS_NOTHING else len(attentions(model)))
    assert_same(model, smaller, batch_for(variant))


@pytest.mark.parametrize("variant", [*ADDS_NOTHING, "gpt2", "vit", "llama with biases"])
def test_a_block_that_adds_nothing_is_taken_out(variant: str) -> None:
    model = make(variant, num_hidden_layers=4)
    for number in (0, 2):
        empty_block(model, number, biases=True)
    kill_output(model, attentions(model)[1], 0)
    smaller = shrink(model)
    assert smaller.config.num_hidden_layers == len(find_blocks(smaller)) == 2
    assert [attention.groups for attention in attentions(smaller)] == [
        attentions(model)[1].groups - 1,
        attentions(model)[3].groups,
    ]
    assert_same(model, smaller, batch_for(variant))
    assert shapes(shrink(smaller)) == shapes(smaller)
    assert model.config.num_hidden_layers == 4
    if VARIANTS[variant][2] == "CausalLM":
        tokens = batch_for(variant)["input_ids"]
        settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        assert torch.equal(smaller.generate(tokens, **settings), model.generate(tokens, **settings))


@pytest.mark.parametrize("variant", ["bert", "t5", "bart", "gpt2 reordered"])
def test_a_block_that_does_more_than_add_stays(variant: str) -> None:
    """A norm after the layers, another stack, or attention that depends on the number of the layer."""
    model = make(variant)
    empty_block(model, 0, biases=True)
    smaller = shrink(model)
    assert len(find_blocks(smaller)) == len(find_blocks(model))
    assert_same(model, smaller, batch_for(variant))


@pytest.mark.parametrize(("multiple", "left"), [(1, 20), (8, 24), (16, 32), (50, 50), (100, 64)])
@pytest.mark.parametrize("variant", ["bert", "gpt2", "llama"])
def test_neurons_are_kept_in_multiples(variant: str, multiple: int, left: int) -> None:
    model = make(variant, **({"n_inner": 64} if variant == "gpt2" else {}))
    for block in find_blocks(model):
        matrix(model, block.feed_forward.second)[:, 20:57] = 0
        matrix(model, block.feed_forward.first[0])[:7] = 0
    smaller = shrink(model, multiple)
    assert counts(smaller)[1] == [left, left]
    assert_same(model, smaller, batch_for(variant))
    assert shapes(shrink(smaller, multiple)) == shapes(smaller)


def test_features_are_kept_in_multiples() -> None:
    model = make("llama", dtype=torch.float32)
    kill_features(model, torch.arange(32) < 13)
    assert [find_stream(shrink(model, multiple)).width for multiple in (1, 8, 16, 32)] == [19, 24, 32, 32]


GENERATING = [name for name, (_, _, task) in VARIANTS.items() if task in ("CausalLM", "Seq2SeqLM")]


@pytest.mark.parametrize("killer", ["heads", "first block", "all heads"])
@pytest.mark.parametrize("variant", GENERATING)
def test_it_generates_the_same_with_a_cache(variant: str, killer: str) -> None:
    model, batch = make(variant), batch_for(variant)
    KILLERS[killer](model)
    kill_neurons(model)
    smaller = shrink(model)
    text = {name: batch[name] for name in ("input_ids", "attention_mask")}
    text["attention_mask"] = text["attention_mask"].flip(1)  # padded on the left
    for more in ({"num_beams": 1}, {"num_beams": 3}, {"num_beams": 1, "use_cache": False}):
        settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None, **more}
        assert torch.equal(smaller.generate(**text, **settings), model.generate(**text, **settings))


@torch.no_grad()
def test_an_emptied_first_layer_counts_tokens_in_a_cache() -> None:
    model = make("llama")
    for group in range(2):
        kill_output(model, attentions(model)[0], group)
    smaller = shrink(model)
    tokens = batch_for("llama")["input_ids"]
    first = smaller(input_ids=tokens[:, :7], use_cache=True)
    assert first.past_key_values.get_seq_length() == 7
    rest = smaller(input_ids=tokens[:, 7:], past_key_values=first.past_key_values)
    torch.testing.assert_close(rest.logits, model(input_ids=tokens).logits[:, 7:], rtol=0, atol=1e-6)  # rotations are in fp32


def test_it_can_be_trained_on() -> None:
    model = make("t5")
    KILLERS["all"](model)
    smaller = shrink(model).train()
    before, original = (copy.deepcopy(one.state_dict()) for one in (smaller, model))
    optimizer = adamw(smaller, lr=0.1)
    smaller(**batch_for("t5")).loss.backward()
    optimizer.step()
    after = smaller.state_dict()
    tables = [name for name in after if name.endswith("relative_attention_bias.weight")]
    assert tables
    assert all(not torch.equal(after[name], before[name]) for name in tables)
    assert all(torch.equal(tensor, original[name]) for name, tensor in model.state_dict().items())  # nothing is shared


def test_training_mode_and_frozen_parameters_stay_so() -> None:
    model = make("bert").train()
    model.bert.embeddings.requires_grad_(False)
    kill_heads(model)
    smaller = shrink(model)
    assert all(module.training for module in smaller.modules())
    frozen = {name for name, parameter in smaller.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name in dict(smaller.named_parameters()) if name.startswith("bert.embeddings.")}


def test_what_captures_hidden_states_stays() -> None:
    """Transformers leaves hooks on a model that has given hidden states once."""
    model, batch = make("bert"), batch_for("bert")
    with torch.no_grad():
        expected = model(**batch, output_hidden_states=True).hidden_states
        kill_neurons(model, share=0.0)
        given = shrink(model)(**batch, output_hidden_states=True).hidden_states
    assert len(given) == len(expected) == 3
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-10)


def test_a_pair_of_models_is_shrunken_in_both() -> None:
    encoder, decoder = make("bert"), make("bert decoder")
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(encoder.config, decoder.config)
    model = transformers.EncoderDecoderModel(config).double().eval()
    model.config.decoder_start_token_id, model.config.pad_token_id = 1, 0
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    kill_heads(model)
    kill_neurons(model)
    tokens = batch_for("bert")
    batch = {**tokens, "decoder_input_ids": tokens["input_ids"]}
    smaller = shrink(model)
    assert sum(counts(smaller)[0]) < sum(counts(model)[0])
    assert_same(model, smaller, batch)


ENCODERS = ["bert", "distilbert", "vit"]
KINDS = [*ENCODERS, "t5", "t5 gated, untied", "bart", "gpt2", "llama with biases", "qwen3"]


def sizes_of(variant: str, groups: int, serves: int, head_size: int, neurons: int) -> dict[str, object]:
    """Returns settings of a model with these sizes; heads fill the width where the config cannot say their size."""
    kind = VARIANTS[variant][0]
    if kind in ENCODERS:
        names = ("dim", "n_heads", "hidden_dim") if kind == "distilbert" else LONG
        return dict(zip(names, (groups * head_size, groups, neurons), strict=True))
    if kind == "t5":
        return {"d_kv": head_size, "num_heads": groups, "d_ff": neurons}
    if kind == "bart":
        heads = {f"{stack}_attention_heads": groups for stack in ("encoder", "decoder")}
        return {"d_model": groups * head_size, **heads, "encoder_ffn_dim": neurons, "decoder_ffn_dim": neurons + 1}
    if kind == "gpt2":
        return {"n_embd": groups * head_size, "n_head": groups, "n_inner": neurons}
    settings = {"hidden_size": 2 * groups * serves, "num_attention_heads": groups * serves, "num_key_value_heads": groups}
    return {**settings, "head_dim": 2 * head_size, "intermediate_size": neurons}


LONG = ("hidden_size", "num_attention_heads", "intermediate_size")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    variant=st.sampled_from(KINDS),
    groups=st.integers(1, 4),
    serves=st.integers(1, 3),
    head_size=st.integers(2, 5),
    neurons=st.integers(1, 20),
    shares=st.tuples(*[st.sampled_from([0.0, 0.3, 0.7, 1.0])] * 3),
    multiple=st.sampled_from([1, 1, 3, 8]),
    seed=st.integers(0, 2**20),
)
def test_any_sizes_and_any_masks(
    variant: str, groups: int, serves: int, head_size: int, neurons: int, shares: tuple[float, ...], multiple: int, seed: int
) -> None:
    model = make(variant, seed, **sizes_of(variant, groups, serves, head_size, neurons))
    kill_heads(model, shares[0])
    kill_neurons(model, shares[1])
    if variant != "vit":
        kill_columns(model, shares[2])
    smaller = shrink(model, multiple)
    assert_same(model, smaller, batch_for(variant), tolerance=1e-9)
    assert shapes(shrink(smaller, multiple)) == shapes(smaller)
    kill_heads(smaller, 0.5)
    assert_same(smaller, shrink(smaller), batch_for(variant), tolerance=1e-9)


# What is refused.


@pytest.mark.parametrize("multiple", [0, -8, 1.5, True, "8", None])
def test_a_multiple_that_cannot_be(multiple: object) -> None:
    with pytest.raises(InvalidInputError, match="whole number from 1"):
        shrink(make("bert"), multiple)


def test_models_that_are_not_known() -> None:
    with pytest.raises(InvalidInputError, match=r"shrink\(\) takes a PreTrainedModel of Transformers, got a Stack"):
        shrink(Stack())
    config = transformers.AutoConfig.for_model("mpnet", **ARCHITECTURES["mpnet"].settings)
    with pytest.raises(InvalidInputError, match="MPNetLayer"):
        shrink(transformers.MPNetForSequenceClassification(config))


def test_models_that_are_not_plain_or_not_in_memory() -> None:
    model = make("bert")
    model.hf_quantizer = object()
    with pytest.raises(InvalidInputError, match="quantised"):
        shrink(model)
    with torch.device("meta"):
        empty = transformers.BertModel(tiny_bert().config)
    with pytest.raises(InvalidInputError, match="not a plain tensor in memory"):
        shrink(empty)
    adapted = make("bert")
    adapted.bert.encoder.layer[1].intermediate.dense = nn.Sequential(nn.Linear(32, 64))
    with pytest.raises(InvalidInputError, match=r"intermediate\.dense is no plain linear layer"):
        shrink(adapted)
    adapted.bert.encoder.layer[1] = nn.Sequential(nn.Linear(32, 32))
    with pytest.raises(InvalidInputError, match="Sequential"):
        shrink(adapted)


def test_layers_that_share_weights() -> None:
    model = make("bert")
    first, second = model.bert.encoder.layer
    second.intermediate.dense.weight = first.intermediate.dense.weight
    with pytest.raises(InvalidInputError, match="is shared with another layer"):
        shrink(model)
    model.bert.encoder.layer[1] = first
    with pytest.raises(InvalidInputError, match="is shared with another layer"):
        shrink(model)


def test_hooks_of_others_are_refused_and_a_pruner_without_any_is_not() -> None:
    model = make("bert")
    handle = model.bert.register_forward_hook(lambda *_: None)
    with pytest.raises(InvalidInputError, match="bert carries hooks"):
        shrink(model)
    handle.remove()
    model.bert.pooler.forward = model.bert.pooler.forward
    with pytest.raises(InvalidInputError, match=r"bert\.pooler carries hooks"):
        shrink(model)
    del model.bert.pooler.forward
    model.train()
    optimizer = adamw(model)
    with Pruner(model, optimizer, PruningConfig(method=L0(), density=0.5), total_steps=1) as pruner:
        with pytest.raises(InvalidInputError, match="Close the Pruner"):
            shrink(model)
        model(**batch_for("bert"), labels=torch.zeros(4, dtype=torch.int64)).loss.backward()
        optimizer.step()
        pruner.close()
    shrink(model)
    with Pruner(model, optimizer, PruningConfig(method=Movement(), density=0.5), total_steps=1) as pruner:
        assert not any("Pruner" in str(type(one)) for one in vars(shrink(model)).values())
        model(**batch_for("bert"), labels=torch.zeros(4, dtype=torch.int64)).loss.backward()
        optimizer.step()


def test_wrappers_of_pytorch_are_looked_through() -> None:
    model = make("bert")
    kill_heads(model)
    assert shapes(shrink(nn.DataParallel(model))) == shapes(shrink(model))


@pytest.mark.parametrize("shared", ["intermediate.dense", "output.dense"])
def test_biases_that_layers_share_are_refused(shared: str) -> None:
    model = tiny_bert().eval()
    first, second = model.bert.encoder.layer
    second.get_submodule(shared).bias = first.get_submodule(shared).bias
    with torch.no_grad():
        first.output.dense.weight[:, :9] = 0
    with pytest.raises(InvalidInputError, match=r"dense\.bias.* is shared with another layer"):
        shrink(model)
