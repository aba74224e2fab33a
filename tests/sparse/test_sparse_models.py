"""Whole models made sparse: the same outputs as dense, back bit for bit, and usable as any model."""

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    BertTokenizer,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MPNetConfig,
    MPNetForSequenceClassification,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)
from transformers.pytorch_utils import Conv1D

import fineprune
from fineprune import BFloat16, Int8, InvalidInputError
from fineprune.models.architectures import class_names
from fineprune.models.layouts import EncoderLayout
from fineprune.sparse import autotune
from fineprune.sparse.encoders import FusedEncoder, activation_of, seen_tokens
from fineprune.sparse.linear import SparseLinear
from fineprune.sparse.reference import Activation

SMALL: dict[str, Any] = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 100}
WORDS = {"vocab_size": 120}


def prune(model: PreTrainedModel, density: float = 0.3) -> PreTrainedModel:
    """Makes every parameter random, and most weights of the linear layers 0."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        for module in model.modules():
            if isinstance(module, nn.Linear | Conv1D):
                module.weight.masked_fill_(torch.rand_like(module.weight) >= density, 0.0)
    model.tie_weights()
    return model.eval()


FUSED: dict[str, Callable[..., PreTrainedModel]] = {
    "bert": lambda **more: BertForSequenceClassification(BertConfig(**SMALL, **WORDS, **more)),
    "roberta": lambda **more: RobertaForSequenceClassification(RobertaConfig(**SMALL, **WORDS, **more)),
    "xlm-roberta": lambda **more: XLMRobertaForSequenceClassification(XLMRobertaConfig(**SMALL, **WORDS, **more)),
    "electra": lambda **more: ElectraForSequenceClassification(ElectraConfig(**SMALL, **WORDS, embedding_size=32, **more)),
    "mpnet": lambda **more: MPNetForSequenceClassification(MPNetConfig(**SMALL, **WORDS, **more)),
    "distilbert": lambda **more: DistilBertForSequenceClassification(
        DistilBertConfig(dim=48, n_layers=2, n_heads=4, hidden_dim=100, **WORDS, **more)
    ),
}
OTHERS: dict[str, Callable[[], PreTrainedModel]] = {
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0, **WORDS)
    ),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=1, **WORDS)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, **WORDS)),
}


def texts(lengths: list[int], left: bool = False) -> dict[str, Tensor]:
    """Returns a batch of random texts, padded on the right or on the left."""
    longest = max(lengths)
    places = torch.arange(longest).expand(len(lengths), longest)
    if left:
        places = places.flip(1)
    mask = (places < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": torch.randint(5, 120, mask.shape).where(mask == 1, torch.tensor(1)), "attention_mask": mask}


BATCHES = {
    "one short text": texts([5]),
    "one of a whole tile": texts([128]),
    "one longer than a tile": texts([150]),
    "padded": texts([37, 4, 1, 20, 36]),
    "padded on the left": texts([37, 4, 1, 20], left=True),
    "many short ones": texts([3] * 40),
}


@torch.inference_mode()
def error(dense: nn.Module, sparse: nn.Module, batch: dict[str, Tensor]) -> float:
    """Returns the largest difference of the outputs, padded positions and all, in units of the largest output."""
    wanted, got = dense(**batch)[0], sparse(**batch)[0]
    assert wanted.shape == got.shape
    return float((wanted - got).abs().max() / wanted.abs().max())


def inner(model: nn.Module) -> nn.Module:
    """Returns the model without its head, whose output has every position."""
    assert isinstance(model, PreTrainedModel)
    base: nn.Module = model.base_model
    return base


def fused(model: nn.Module) -> list[FusedEncoder]:
    return [module for module in model.modules() if isinstance(module, FusedEncoder)]


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES.keys())
@pytest.mark.parametrize("name", FUSED)
def test_fused_encoders_give_what_the_dense_model_gives(name: str, batch: dict[str, Tensor]) -> None:
    model = prune(FUSED[name]())
    sparse = fineprune.to_sparse(model, 0.5)
    assert len(fused(sparse)) == 1
    assert not fused(model), "the model given stays as it is"
    assert error(inner(model), inner(sparse), batch) < 1e-5
    assert error(model, sparse, batch) < 1e-4


def test_it_runs_where_gradients_are_recorded_and_refuses_to_give_one() -> None:
    model = prune(FUSED["bert"]())
    sparse = fineprune.to_sparse(model, 0.5)
    batch = BATCHES["padded"]
    logits = sparse(**batch).logits
    assert torch.allclose(logits, model(**batch).logits, rtol=1e-4, atol=1e-4)
    with pytest.raises(InvalidInputError, match="gives none"):
        logits.sum().backward()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["bert", "distilbert", "roberta"])
def test_it_takes_the_masks_of_each_attention(name: str, attention: str) -> None:
    model = prune(FUSED[name](attn_implementation=attention))
    sparse = fineprune.to_sparse(model, 0.5)
    called = watch(fused(sparse)[0])
    assert error(inner(model), inner(sparse), BATCHES["padded"]) < 1e-5
    assert called == [1]


def watch(encoder: FusedEncoder) -> list[int]:
    """Counts how often an encoder runs fused."""
    calls, run = [0], encoder.fused

    def counting(*arguments: Any) -> Tensor:
        calls[0] += 1
        return run(*arguments)

    encoder.fused = counting  # type: ignore[assignment]
    return calls


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("heads", [(48, 1), (48, 12), (42, 7), (36, 2)])
@pytest.mark.parametrize("act", ["gelu", "gelu_new", "relu", "silu"])
def test_odd_sizes_and_activations(heads: tuple[int, int], act: str, threads: int) -> None:
    size, number = heads
    small = SMALL | {"hidden_size": size, "num_attention_heads": number, "intermediate_size": 51, "num_hidden_layers": 1}
    model = prune(BertModel(BertConfig(**small, **WORDS, hidden_act=act)))
    sparse = fineprune.to_sparse(model, 0.5)
    assert len(fused(sparse)) == 1
    torch.set_num_threads(threads)
    assert error(model, sparse, texts([45, 16, 2])) < 1e-5
    torch.set_num_threads(1)


def test_smaller_values_and_activations_are_close() -> None:
    model = prune(FUSED["bert"]())
    batch = texts([150, 37, 4])
    for more, limit in (({"activations": BFloat16()}, 0.02), ({"values": BFloat16()}, 0.02), ({"values": Int8()}, 0.05)):
        sparse = fineprune.to_sparse(model, 0.5, **more)  # type: ignore[arg-type]
        assert len(fused(sparse)) == 1
        assert 0 < error(inner(model), inner(sparse), batch) < limit
        rounded = fineprune.to_dense(sparse)
        assert error(inner(rounded), inner(sparse), batch) < (0.02 if "activations" in more else 1e-5)


def test_a_model_pruned_in_blocks_runs_by_groups_of_rows() -> None:
    model = prune(BertModel(BertConfig(**SMALL, **WORDS)))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                rows, cols = module.weight.shape
                blocks = torch.rand(-(-rows // 4), cols) < 0.3
                module.weight.copy_(torch.randn_like(module.weight) * blocks.repeat_interleave(4, dim=0)[:rows])
    sparse = fineprune.to_sparse(model, 0.6)
    layers = [module for module in sparse.modules() if isinstance(module, SparseLinear)]
    assert {layer.weight.together for layer in layers} == {4}
    assert error(model, sparse, BATCHES["padded"]) < 1e-5


def test_dense_layers_of_a_fused_encoder_run_by_groups_of_rows_too() -> None:
    model = prune(BertModel(BertConfig(**SMALL, **WORDS)), 0.1)
    full = model.encoder.layer[0].output.dense
    nn.init.normal_(full.weight, std=0.1)
    sparse = fineprune.to_sparse(model, 0.5)
    assert len(fused(sparse)) == 1
    assert error(model, sparse, BATCHES["padded"]) < 1e-5
    assert torch.equal(fineprune.to_dense(sparse).encoder.layer[0].output.dense.weight, full.weight)


@pytest.mark.parametrize("name", OTHERS)
def test_other_models_become_sparse_layer_by_layer(name: str) -> None:
    model = prune(OTHERS[name]())
    sparse = fineprune.to_sparse(model, 0.5)
    batch = texts([30, 4])
    if name == "t5":
        batch["decoder_input_ids"] = batch["input_ids"][:, :7]
    assert sum(isinstance(module, SparseLinear) for module in sparse.modules()) >= 8
    assert error(model, sparse, batch) < 1e-5
    with torch.inference_mode():
        options: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
        prompt = {key: value[:1] for key, value in texts([9]).items()}
        assert torch.equal(sparse.generate(**prompt, **options), model.generate(**prompt, **options))


def test_images() -> None:
    config = ViTConfig(**SMALL, image_size=32, patch_size=8)
    model = prune(ViTForImageClassification(config))
    sparse = fineprune.to_sparse(model, 0.5)
    assert any(isinstance(module, SparseLinear) for module in sparse.modules())
    assert error(model, sparse, {"pixel_values": torch.randn(3, 3, 32, 32)}) < 1e-5


@pytest.mark.parametrize("name", [*FUSED, *OTHERS])
def test_to_dense_gives_the_model_back_bit_for_bit(name: str) -> None:
    model = prune((FUSED | OTHERS)[name]())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    sparse = fineprune.to_sparse(model, 0.5)
    dense = fineprune.to_dense(sparse)
    assert [type(module) for module in dense.modules()] == [type(module) for module in model.modules()]
    for state in (dense.state_dict(), sparse.state_dict(), model.state_dict()):
        assert state.keys() == before.keys()
        assert all(
            torch.equal(state[key].view(torch.int32), before[key].view(torch.int32)) for key in before if before[key].ndim
        )
    assert [p.requires_grad for p in dense.parameters()] == [p.requires_grad for p in model.parameters()]
    assert {key for key, _ in dense.named_parameters()} == {key for key, _ in model.named_parameters()}
    assert fused(sparse) or name in OTHERS, "the sparse model stays sparse"


def test_a_sparse_model_saves_a_plain_checkpoint(tmp_path: Any) -> None:
    model = prune(FUSED["bert"]())
    sparse = fineprune.to_sparse(model, 0.5)
    assert isinstance(sparse, PreTrainedModel)
    sparse.save_pretrained(tmp_path)
    loaded = BertForSequenceClassification.from_pretrained(tmp_path)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.state_dict().items())


def test_it_works_in_a_pipeline_with_batches_and_padding(tmp_path: Any) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *["a", "good", "bad", "film", "was", "it", "the", "very"]]
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    model = prune(FUSED["bert"]())
    given = ["a good film", "it was the very very bad film", "good", "the film was bad " * 30]
    options: dict[str, Any] = {"tokenizer": tokenizer, "device": "cpu"}
    wanted = transformers.pipeline("text-classification", model=model, **options)(given, batch_size=4)
    sparse = fineprune.to_sparse(model, 0.5)
    assert isinstance(sparse, PreTrainedModel)
    got = transformers.pipeline("text-classification", model=sparse, **options)(given, batch_size=4)
    assert [one["label"] for one in got] == [one["label"] for one in wanted]
    assert [one["score"] for one in got] == pytest.approx([one["score"] for one in wanted], rel=1e-5)


@pytest.mark.parametrize("name", FUSED)
def test_what_the_fused_pass_cannot_give_goes_layer_by_layer(name: str) -> None:
    model = prune(FUSED[name](attn_implementation="eager"))
    sparse = fineprune.to_sparse(model, 0.5)
    calls = watch(fused(sparse)[0])
    batch = BATCHES["padded"]
    with torch.inference_mode():
        wanted, got = (one(**batch, output_hidden_states=True, output_attentions=True) for one in (model, sparse))
        assert calls == [0]
        assert len(got.hidden_states) == len(wanted.hidden_states) == 3
        for some, others in ((got.hidden_states, wanted.hidden_states), (got.attentions, wanted.attentions)):
            assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(some, others, strict=True))
        sparse(**batch)
        assert calls == [1]
        sparse.config.output_hidden_states = True
        assert len(sparse(**batch).hidden_states) == 3
        assert calls == [1]
        sparse.config.output_hidden_states = False
        assert isinstance(sparse(**batch, return_dict=False), tuple)
    assert calls == [2]


def test_masks_that_differ_between_queries_go_layer_by_layer() -> None:
    model = prune(BertModel(BertConfig(**SMALL, **WORDS)))
    sparse = fineprune.to_sparse(model, 0.5)
    calls = watch(fused(sparse)[0])
    ids = torch.randint(5, 120, (2, 9))
    causal = torch.ones(2, 9, 9).tril()
    none = torch.ones(2, 9, dtype=torch.long)
    none[1] = 0
    hidden = torch.zeros(2, 9, 3)
    assert seen_tokens(causal[:, None].bool(), hidden) is None
    assert seen_tokens(none, hidden) is None
    assert seen_tokens(torch.full((2, 1, 9, 9), -0.5), hidden) is None, "a bias is no mask"
    assert error(model, sparse, {"input_ids": ids, "attention_mask": causal[:, None].bool()}) < 1e-5
    assert calls == [0]


def test_holes_in_a_mask() -> None:
    model = prune(BertModel(BertConfig(**SMALL, **WORDS)))
    sparse = fineprune.to_sparse(model, 0.5)
    mask = (torch.rand(4, 50) < 0.3).long()
    mask[:, 7] = 1
    assert error(model, sparse, {"input_ids": torch.randint(5, 120, (4, 50)), "attention_mask": mask}) < 1e-5


def test_several_threads_may_run_one_model_at_once() -> None:
    model = prune(FUSED["bert"]())
    sparse = fineprune.to_sparse(model, 0.5)
    batches = list(BATCHES.values())
    with torch.inference_mode():
        wanted = [sparse(**batch).logits for batch in batches]
    got: list[list[Tensor]] = [[] for _ in batches]

    def call(number: int) -> None:
        torch.set_num_threads(2)
        with torch.inference_mode():
            got[number] = [sparse(**batches[number]).logits for _ in range(5)]

    callers = [threading.Thread(target=call, args=(number,)) for number in range(len(batches))]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    torch.set_num_threads(1)
    assert all(len(results) == 5 for results in got)
    assert all(torch.equal(one, result) for results, one in zip(got, wanted, strict=True) for result in results)


def test_a_deep_copy_stands_by_itself() -> None:
    model = prune(FUSED["bert"]())
    sparse = fineprune.to_sparse(model, 0.5)
    other = copy.deepcopy(sparse)
    with torch.inference_mode():
        wanted = sparse(**BATCHES["padded"]).logits
        assert fused(other)[0].fused.records["matrices"][0] != fused(sparse)[0].fused.records["matrices"][0]
        del sparse
        assert torch.equal(other(**BATCHES["padded"]).logits, wanted)


def test_layers_are_sparse_where_that_was_measured_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.Linear(32, 8))
    with torch.no_grad():
        for number, share in ((0, 0.1), (2, 0.1), (3, 1.0)):
            model[number].weight.mul_(torch.rand_like(model[number].weight) < share)
    asked = []

    def wide(matrix: Any, activations: Any) -> bool:
        asked.append((matrix.rows, matrix.cols))
        return bool(matrix.rows == 64)

    monkeypatch.setattr(autotune, "is_faster", wide)
    sparse = fineprune.to_sparse(model)
    assert asked == [(64, 64), (32, 64)], "one that keeps more than half is not asked about"
    assert [type(layer).__name__ for layer in sparse] == ["SparseLinear", "ReLU", "Linear", "Linear"]
    assert sparse[2].weight.data_ptr() == model[2].weight.data_ptr(), "what stays dense is shared"
    assert error(model, sparse, {"input": torch.randn(3, 64)}) < 1e-5


def test_the_measurement_takes_turns_and_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    autotune._is_faster.cache_clear()
    ticks = iter(range(10_000))
    monkeypatch.setattr(autotune.time, "perf_counter", lambda: next(ticks))
    autotune._times(lambda: order.append("a"), lambda: order.append("b"))  # type: ignore[arg-type, func-returns-value]
    assert order == ["a", "b"] * (autotune.ROUNDS + 1)
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    with torch.no_grad():
        for layer in model:
            layer.weight.copy_(torch.eye(16))
    fineprune.to_sparse(model)
    assert autotune._is_faster.cache_info().misses == 1
    assert autotune._is_faster.cache_info().hits == 1


def test_a_dense_model_stays_as_it_is() -> None:
    sparse = fineprune.to_sparse(BertModel(BertConfig(**SMALL, **WORDS)))
    assert not any(isinstance(module, SparseLinear) for module in sparse.modules())
    assert not fused(sparse)


def test_what_shares_its_weight_or_is_read_by_others_stays_dense() -> None:
    tied = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    tied[1].weight = tied[0].weight
    attention = nn.MultiheadAttention(8, 2)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    for model in (tied, attention, layer):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.masked_fill_(torch.rand_like(parameter) < 0.8, 0.0)
        assert not any(isinstance(module, SparseLinear) for module in fineprune.to_sparse(model, 1.0).modules())


def test_one_layer_alone() -> None:
    layer = nn.Linear(9, 5)
    sparse = fineprune.to_sparse(layer, 1.0)
    assert isinstance(sparse, SparseLinear)
    back = fineprune.to_dense(sparse)
    assert type(back) is nn.Linear
    assert torch.equal(back.weight, layer.weight)
    assert torch.equal(back.bias, layer.bias)
    assert "in_features=9, out_features=5" in repr(sparse)


def test_wrong_input_raises() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    for threshold in (-0.1, 1.5, "0.5", True, float("nan")):
        with pytest.raises(InvalidInputError, match="threshold_density must be from 0 to 1, got"):
            fineprune.to_sparse(model, threshold)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match=r"model\.float\(\)"):
        fineprune.to_sparse(nn.Linear(4, 4).half(), 1.0)
    with pytest.raises(InvalidInputError, match="on meta"):
        fineprune.to_sparse(nn.Linear(4, 4, device="meta"), 1.0)
    with pytest.raises(InvalidInputError, match="sparse already"):
        fineprune.to_sparse(fineprune.to_sparse(model, 1.0))
    with pytest.raises(InvalidInputError, match="values must be Float32"):
        fineprune.to_sparse(model, values="int8")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="activations must be Float32"):
        fineprune.to_sparse(model, activations=Int8())  # type: ignore[arg-type]


def test_activations_are_known_by_what_they_compute() -> None:
    known = {
        name: activation_of(transformers.activations.ACT2FN[name]) for name in ("gelu", "gelu_new", "relu", "silu", "tanh")
    }
    assert known == {
        "gelu": Activation.GELU,
        "gelu_new": Activation.GELU_TANH,
        "relu": Activation.RELU,
        "silu": Activation.SILU,
        "tanh": None,
    }


def test_an_encoder_of_another_build_is_not_fused() -> None:
    small = {"hidden_act": "tanh"}
    model = prune(BertModel(BertConfig(**SMALL, **WORDS, **small)))
    sparse = fineprune.to_sparse(model, 0.5)
    assert not fused(sparse)
    assert error(model, sparse, BATCHES["padded"]) < 1e-5
    decoder = prune(BertModel(BertConfig(**SMALL, **WORDS, is_decoder=True)))
    assert not fused(fineprune.to_sparse(decoder, 0.5))


def test_a_shrunken_model_can_become_sparse() -> None:
    model = prune(BertModel(BertConfig(**SMALL, **WORDS)))
    with torch.no_grad():
        attention = model.encoder.layer[0].attention
        for linear in (attention.self.query, attention.self.key, attention.self.value):
            linear.weight[:12] = 0
            linear.bias[:12] = 0
        attention.output.dense.weight[:, :12] = 0
    smaller = fineprune.shrink(model)
    assert smaller.encoder.layer[0].attention.self.query.out_features == 36
    sparse = fineprune.to_sparse(smaller, 0.5)
    assert len(fused(sparse)) == 1
    assert error(model, sparse, BATCHES["padded"]) < 1e-4


def test_every_family_is_tried_here() -> None:
    kinds = {type(child).__name__ for make in FUSED.values() for child in make().modules()}
    assert set(class_names(EncoderLayout)) <= kinds


@pytest.mark.parametrize("default", [torch.bfloat16, torch.float64])
def test_the_default_type_of_pytorch_has_no_say(default: torch.dtype) -> None:
    model = prune(FUSED["mpnet"]())
    torch.set_default_dtype(default)
    try:
        sparse = fineprune.to_sparse(model, 0.5)
        with torch.inference_mode():
            outputs = inner(sparse)(**BATCHES["padded"])[0]
            alone = fineprune.to_sparse(prune_linear(nn.Linear(40, 300, dtype=torch.float32)), 1.0)(torch.ones(50, 40).float())
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.inference_mode():
        wanted = inner(model)(**BATCHES["padded"])[0]
    assert torch.allclose(outputs, wanted, rtol=1e-4, atol=1e-4)
    assert bool(alone.isfinite().all())


def prune_linear(layer: nn.Linear) -> nn.Linear:
    """Sets most of its weights to 0."""
    with torch.no_grad():
        layer.weight.masked_fill_(torch.rand(layer.weight.shape, dtype=torch.float32) < 0.9, 0.0)
    return layer


def layer_of(model: nn.Module) -> Any:
    return inner(model).encoder.layer[0]  # type: ignore[union-attr]


MISFITS: dict[str, Callable[[Any], None]] = {
    "values": lambda layer: setattr(layer.attention.self, "value", nn.Linear(48, 480)),
    "output": lambda layer: setattr(layer.attention.output, "dense", nn.Linear(500, 48)),
    "norm": lambda layer: setattr(layer.output, "LayerNorm", nn.LayerNorm(3)),
    "head size": lambda layer: setattr(layer.attention.self, "attention_head_size", 7),
    "neurons": lambda layer: setattr(layer.output, "dense", nn.Linear(30, 48)),
    "activation": lambda layer: setattr(layer.intermediate, "intermediate_act_fn", transformers.activations.ACT2FN["gelu_10"]),
}


@pytest.mark.parametrize("misfit", MISFITS.values(), ids=MISFITS.keys())
def test_an_encoder_whose_sizes_do_not_fit_is_not_fused(misfit: Callable[[Any], None]) -> None:
    model = prune(FUSED["bert"]())
    misfit(layer_of(model))
    assert not fused(fineprune.to_sparse(model, 0.5))


def test_what_stays_dense_stays_so_where_the_encoder_cannot_be_fused() -> None:
    model = prune(BertModel(BertConfig(**SMALL, **WORDS, hidden_act="tanh")), 0.1)
    nn.init.normal_(model.encoder.layer[0].output.dense.weight)
    sparse = fineprune.to_sparse(model, 0.5)
    assert isinstance(sparse.encoder.layer[0].output.dense, nn.Linear)


def test_heads_follow_from_their_size_where_rows_were_sliced_by_hand() -> None:
    model = prune(BertModel(BertConfig(**SMALL, **WORDS)))
    for layer in model.encoder.layer:
        for name in ("query", "key", "value"):
            old = getattr(layer.attention.self, name)
            new = nn.Linear(48, 36)
            new.load_state_dict({"weight": old.weight[:36], "bias": old.bias[:36]})
            setattr(layer.attention.self, name, new)
        layer.attention.output.dense = prune_linear(nn.Linear(36, 48))
    sparse = fineprune.to_sparse(model, 0.5)
    assert len(fused(sparse)) == 1
    assert error(model, sparse, BATCHES["padded"]) < 1e-5


def test_moving_one_model_leaves_the_other_as_it_is() -> None:
    model = prune(FUSED["bert"]())
    sparse = fineprune.to_sparse(model, 0.5)
    before = sparse(**BATCHES["padded"]).logits
    with pytest.raises(InvalidInputError, match="cannot be moved"):
        fineprune.to_sparse(model, 0.5).half()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    model.double()
    assert torch.equal(sparse(**BATCHES["padded"]).logits, before)


def test_modules_of_ones_own() -> None:
    class Own(nn.Module):
        """Holds an encoder, has no config, and names one layer twice."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder = prune(BertModel(BertConfig(**SMALL, **WORDS))).encoder
            self.first = self.second = prune_linear(nn.Linear(48, 48))

        def forward(self, inputs: Tensor) -> tuple[Tensor]:
            return (self.second(self.first(self.encoder(inputs).last_hidden_state)),)

    model = Own()
    sparse = fineprune.to_sparse(model.eval(), 0.5)
    assert sparse.first is sparse.second
    assert error(model, sparse, {"inputs": torch.randn(2, 5, 48)}) < 1e-5


def test_layers_with_hooks_stay_dense() -> None:
    model = nn.Sequential(prune_linear(nn.Linear(20, 20)), prune_linear(nn.Linear(20, 20)))
    model[0].register_forward_hook(lambda module, given, result: result + 1)
    sparse = fineprune.to_sparse(model, 1.0)
    assert [type(layer).__name__ for layer in sparse] == ["Linear", "SparseLinear"]


def test_it_compiles_around_the_kernels() -> None:
    model = prune(FUSED["bert"]())
    sparse = fineprune.to_sparse(model, 0.5)
    compiled = torch.compile(sparse, backend="eager")
    with torch.inference_mode():
        assert torch.allclose(compiled(**BATCHES["padded"]).logits, sparse(**BATCHES["padded"]).logits)


def test_a_packed_model_with_a_layer_that_stays_dense_runs_fused(tmp_path: Any) -> None:
    from fineprune.apps.convert.pack import pack_folder

    model = prune(FUSED["bert"](), 0.1)
    nn.init.normal_(layer_of(model).output.dense.weight)
    model.save_pretrained(tmp_path / "saved")
    pack_folder(str(tmp_path / "saved"), str(tmp_path / "packed"))
    autotune._is_faster.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autotune, "is_faster", lambda matrix, activations: True)
        sparse = fineprune.load(tmp_path / "packed", sparse=True)
    assert len(fused(sparse)) == 1
    dense = fineprune.load(tmp_path / "packed")
    assert error(inner(dense), inner(sparse), BATCHES["padded"]) < 0.02


def test_a_wrong_layer_is_named() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    nn.init.constant_(model[0].weight, float("nan"))
    with pytest.raises(InvalidInputError, match=r"0\.weight: .*NaN"):
        fineprune.to_sparse(model, 1.0)
    with pytest.raises(InvalidInputError, match="a loaded model"):
        fineprune.to_sparse("model")  # type: ignore[arg-type]
