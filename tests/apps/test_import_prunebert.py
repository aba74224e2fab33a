"""Checkpoints of the paper's released code: what its models computed, the plain ones compute."""

import json
import math
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForQuestionAnswering,
    BertModel,
)

from conftest import tiny_bert
from fineprune import FileError, InvalidInputError, files
from fineprune.apps import cli
from fineprune.apps.convert import import_prunebert

SETTINGS = [("magnitude", 0.1), ("topK", 0.15), ("threshold", 0.3), ("sigmoied_threshold", 0.1), ("l0", None)]

QUERY = "bert.encoder.layer.0.attention.self.query"


def highest(values: list[float], count: int) -> list[float]:
    """Ones at the highest values, lower index first among equals: a full sort."""
    ranked = sorted(range(len(values)), key=lambda index: (-values[index], index))[:count]
    return [float(index in ranked) for index in range(len(values))]


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value > -700 else 0.0


def reference(method: str, threshold: float, weight: Tensor, scores: Tensor | None) -> Tensor:
    """What that code multiplied one weight by in evaluation, number by number."""
    values = (weight if scores is None else scores).flatten().tolist()
    least = int(0.005 * len(values)) + 1
    if method == "magnitude":
        gate = highest([abs(value) for value in values], int(threshold * len(values)))
    elif method == "topK":
        gate = highest(values, int(threshold * len(values)))
    elif method == "l0":
        gate = [min(1.0, max(0.0, sigmoid(value) * 1.2 - 0.1)) for value in values]
    else:
        compared = [sigmoid(value) for value in values] if method == "sigmoied_threshold" else values
        gate = [float(value > threshold) for value in compared]
        if sum(gate) < least:
            gate = highest(values, least)
    return torch.tensor(gate).view(weight.shape)


def old_weights(model: nn.Module, method: str) -> dict[str, Tensor]:
    """Returns a model's state dict as that code would have saved it."""
    weights = dict(model.state_dict())
    if method != "magnitude":
        for name in [name for name in weights if name in matrices(model)]:
            spread = 3 if method == "l0" else 1
            weights[name.removesuffix("weight") + "mask_scores"] = spread * torch.randn(weights[name].shape) - spread
    return weights


def matrices(model: nn.Module) -> set[str]:
    """Returns the names of the weights that MaskedLinear had: those of each linear layer of the encoder."""
    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    return {name for name in linear if ".encoder." in name}


def old_config(model: nn.Module, method: str) -> dict[str, Any]:
    return {
        **{
            key: getattr(model.config, key) for key in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
        },
        **{key: getattr(model.config, key) for key in ("intermediate_size", "max_position_embeddings", "layer_norm_eps")},
        "architectures": [f"Masked{type(model).__name__}"],
        "model_type": "masked_bert",
        "pruning_method": method,
        "mask_init": "constant",
        "mask_scale": 0.0,
        "finetuning_task": "sst-2",
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "pad_token_id": 0,
    }


def question_answering() -> BertForQuestionAnswering:
    """Returns a tiny model with a pooler, which that code's class had."""
    model = BertForQuestionAnswering(tiny_bert().config)
    model.bert = BertModel(model.config)
    return model


Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Saves an old checkpoint, by default of a tiny text classifier, and returns its folder."""

    def to(method: str = "topK", model: nn.Module | None = None, weights: Any = None, **config: Any) -> Path:
        model = model or tiny_bert()
        folder = tmp_path / "old"
        folder.mkdir()
        torch.save(old_weights(model, method) if weights is None else weights, folder / "pytorch_model.bin")
        settings = {key: value for key, value in {**old_config(model, method), **config}.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(settings))
        return folder

    return to


def masked(model: nn.Module, weights: dict[str, Tensor], method: str, threshold: float | None) -> nn.Module:
    """Gives a model the weights that the old model used in evaluation."""
    effective = {name: tensor for name, tensor in weights.items() if not name.endswith("mask_scores")}
    for name in matrices(model):
        scores = weights.get(name.removesuffix("weight") + "mask_scores")
        effective[name] = weights[name] * reference(method, threshold or 0.0, weights[name], scores)
    model.load_state_dict(effective)
    return model.eval()


@pytest.mark.parametrize("make", [tiny_bert, question_answering])
@pytest.mark.parametrize(("method", "threshold"), SETTINGS)
def test_the_plain_model_computes_what_the_old_one_did(
    method: str, threshold: float | None, make: Callable[[], nn.Module], save: Save, tmp_path: Path
) -> None:
    model = make()
    weights = old_weights(model, method)
    folder = save(method, model, weights)
    import_prunebert.convert(folder, tmp_path / "plain", threshold=threshold)
    auto = AutoModelForSequenceClassification if make is tiny_bert else AutoModelForQuestionAnswering
    loaded, report = auto.from_pretrained(tmp_path / "plain", output_loading_info=True)
    assert not report["missing_keys"]
    assert {name.split(".")[1] for name in report["unexpected_keys"]} <= {"pooler"}
    assert type(loaded).__name__ == type(model).__name__
    expected, found = masked(model, weights, method, threshold), dict(loaded.named_parameters())
    for name in matrices(model):
        pruned = expected.get_parameter(name) == 0
        assert 0 < int(pruned.sum()) < pruned.numel()
        assert torch.equal(found[name] == 0, pruned)
        assert not found[name][pruned].signbit().any(), "a pruned weight is +0.0"
    tokens = torch.randint(0, 100, (4, 8))
    with torch.no_grad():
        for old, new in zip(expected(tokens).to_tuple(), loaded.eval()(tokens).to_tuple(), strict=True):
            torch.testing.assert_close(new, old, rtol=0, atol=1e-6 if method == "l0" else 0)


def test_the_masks_by_hand() -> None:
    W, S = torch.tensor([[1.0, -5.0, 2.0, -0.5]]), torch.tensor([[0.5, -9.0, 3.0, 0.5]])

    def kept(method: str, threshold: float | None) -> list[list[float]]:
        weights = {"encoder.layer.0.x.weight": W} | ({} if method == "magnitude" else {"encoder.layer.0.x.mask_scores": S})
        return import_prunebert.apply_masks(weights, method, threshold)["encoder.layer.0.x.weight"].tolist()

    assert kept("magnitude", 0.5) == [[0, -5, 2, 0]]
    assert kept("topK", 0.25) == [[0, 0, 2, 0]]
    assert kept("topK", 0.74) == [[1, 0, 2, 0]], "floor(2.96), and the lower index of two equal scores"
    assert kept("topK", 1) == W.tolist()
    assert kept("threshold", 0.5) == [[0, 0, 2, 0]], "above, not equal"
    assert kept("threshold", -1) == [[1, 0, 2, -0.5]]
    assert kept("threshold", 100) == [[0, 0, 2, 0]], "half a percent and one more"
    assert kept("sigmoied_threshold", 0.6) == [[1, 0, 2, -0.5]], "sigmoid(0.5) = 0.622"
    assert kept("sigmoied_threshold", 0.0) == W.tolist()
    gate = 1.2 / (1 + math.exp(-0.5)) - 0.1
    assert kept("l0", None)[0] == pytest.approx([gate, 0, 2, -0.5 * gate])


def test_the_fewest_that_are_kept_are_ranked_by_score_where_their_sigmoids_are_all_zero() -> None:
    S = torch.full((20, 20), -300.0)
    S[3, 4], S[7, 7], S[0, 1] = -200.0, -250.0, -299.0
    weights = {"x.weight": torch.ones(20, 20), "x.mask_scores": S}
    plain = import_prunebert.apply_masks(weights, "sigmoied_threshold", 0.1)["x.weight"]
    assert plain.nonzero().tolist() == [[0, 1], [3, 4], [7, 7]], "floor(0.005 * 400) + 1"


@st.composite
def a_matrix(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Returns a weight and its scores, with many equal numbers."""
    rows, columns = draw(st.integers(1, 12)), draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    numbers = torch.randint(-4, 5, (2, rows, columns), generator=generator) * draw(st.sampled_from([0.0, 0.25, 1.0, 15.0]))
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
    return (torch.rand(rows, columns, generator=generator) + 0.5).to(dtype) * (1 - 2 * (numbers[0] < 0)), numbers[1].to(dtype)


@given(a_matrix(), st.sampled_from(["magnitude", "topK", "threshold", "sigmoied_threshold"]), st.floats(0.0, 0.999))
def test_counts_and_choices_are_those_of_the_slow_reference(
    matrix: tuple[Tensor, Tensor], method: str, threshold: float
) -> None:
    W, S = matrix
    if method in ("threshold", "sigmoied_threshold"):
        threshold = math.floor(threshold * 128) / 128  # as exact in bfloat16 as in float64
    scores = {} if method == "magnitude" else {"encoder.layer.3.y.mask_scores": S}
    weights = {"encoder.layer.3.y.weight": W, **scores}
    if method in ("magnitude", "topK") and math.floor(threshold * W.numel()) == 0:
        with pytest.raises(InvalidInputError, match=r"keeps none|above 0"):
            import_prunebert.apply_masks(weights, method, threshold)
        return
    plain = import_prunebert.apply_masks(weights, method, threshold)["encoder.layer.3.y.weight"]
    if method in ("magnitude", "topK"):
        assert int(plain.count_nonzero()) == math.floor(threshold * W.numel())
    else:
        assert int(plain.count_nonzero()) >= math.floor(0.005 * W.numel()) + 1
    if not (method == "sigmoied_threshold" and W.dtype == torch.bfloat16):  # its sigmoid is rounded to bfloat16, there as here
        assert torch.equal(plain, W * reference(method, threshold, W, None if method == "magnitude" else S).to(W.dtype))


def test_new_tensors_that_share_nothing_and_the_old_ones_unchanged() -> None:
    shared = torch.randn(6, 4)
    scored = {"a.weight": nn.Parameter(shared), "a.mask_scores": nn.Parameter(torch.randn(6, 4))}
    weights = scored | {"b": shared, "c": shared, "d": shared.t(), "number": torch.tensor(3)}
    before = {name: tensor.detach().clone() for name, tensor in weights.items()}
    plain = import_prunebert.apply_masks(weights, "topK", 0.5)
    assert plain.keys() == {"a.weight", "b", "c", "d", "number"}
    assert all(torch.equal(weights[name], before[name]) for name in weights)
    assert all(torch.equal(plain[name], before[name]) for name in ("b", "c", "d", "number"))
    everything = [tensor.untyped_storage().data_ptr() for tensor in (*plain.values(), *weights.values())]
    assert len(set(everything[:5]) - set(everything[5:])) == 5
    assert all(tensor.is_contiguous() and not tensor.requires_grad for tensor in plain.values())


def test_old_names_become_present_ones(save: Save, tmp_path: Path) -> None:
    model = tiny_bert()
    weights = old_weights(model, "topK")
    today = dict(weights)
    for name in [name for name in weights if ".LayerNorm." in name]:
        old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        weights[old] = weights.pop(name)
    weights["bert.embeddings.position_ids"] = torch.arange(32).expand((1, -1))
    weights["classifier.weight"] = nn.Parameter(weights["classifier.weight"])
    import_prunebert.convert(save(weights=weights), tmp_path / "plain", threshold=0.5)
    written = safetensors.torch.load_file(tmp_path / "plain" / "model.safetensors")
    assert written.keys() == model.state_dict().keys()
    assert all(torch.equal(written[name], today[name]) for name in written.keys() - matrices(model))


def test_the_config_is_a_berts(save: Save, tmp_path: Path) -> None:
    folder = save("l0")
    import_prunebert.convert(folder, tmp_path / "plain")
    old, new = (json.loads((path / "config.json").read_text()) for path in (folder, tmp_path / "plain"))
    for key in ("pruning_method", "mask_init", "mask_scale"):
        del old[key]
    assert new == {**old, "model_type": "bert", "architectures": ["BertForSequenceClassification"]}


def test_the_tokenizer_comes_along(save: Save, tmp_path: Path) -> None:
    folder = save()
    (folder / "vocab.txt").write_text("\n".join(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "film")))
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true, "model_max_length": 512}')
    (folder / "training_args.bin").write_bytes(b"left behind")
    import_prunebert.convert(folder, tmp_path / "plain", threshold=0.5)
    expected = ["README.md", "config.json", "model.safetensors", "tokenizer_config.json", "vocab.txt"]
    assert sorted(os.listdir(tmp_path / "plain")) == expected
    assert "An imported checkpoint of the paper's released code: method `" in (tmp_path / "plain" / "README.md").read_text()
    assert AutoTokenizer.from_pretrained(tmp_path / "plain")("Good film").input_ids == [2, 5, 6, 3]


def test_every_form_of_the_file_gives_the_same(save: Save, tmp_path: Path) -> None:
    weights = old_weights(tiny_bert(), "topK")
    folder = save(weights=weights)
    import_prunebert.convert(folder, tmp_path / "zip", threshold=0.5)
    torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)  # as PyTorch wrote it until 1.6
    import_prunebert.convert(folder, tmp_path / "before", threshold=0.5)
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"not read")
    import_prunebert.convert(folder, tmp_path / "safe", threshold=0.5)
    assert len({(tmp_path / name / "model.safetensors").read_bytes() for name in ("zip", "before", "safe")}) == 1


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def with_torch(content: Any, path: Path) -> None:
    torch.save({"a.weight": torch.ones(2), "code": content}, path)


def with_torch_of_old(content: Any, path: Path) -> None:
    torch.save({"a.weight": torch.ones(2), "code": content}, path, _use_new_zipfile_serialization=False)


def with_pickle(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize("write", [with_torch, with_torch_of_old, with_pickle])
def test_code_in_a_checkpoint_is_never_run(write: Callable[[Any, Path], None], save: Save, tmp_path: Path) -> None:
    folder, marker = save(), tmp_path / "marker"
    file = folder / "pytorch_model.bin"
    write(Malicious(marker), file)
    with pytest.raises(InvalidInputError, match="code, which is never run") as raised:
        import_prunebert.convert(folder, tmp_path / "plain", threshold=0.5)
    assert "weights_only" not in str(raised.value), "PyTorch's advice to trust the file is not passed on"
    assert sorted(os.listdir(tmp_path)) == ["old"]
    if write is with_pickle:
        pickle.loads(file.read_bytes())
    else:
        torch.load(file, weights_only=False)
    assert marker.exists(), "the file does hold code that would have run"


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Returns what changes the weights of a checkpoint."""

    def edit(folder: Path) -> None:
        weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
        change(weights)
        torch.save(weights, folder / "pytorch_model.bin")

    return edit


def cut(name: str, share: float = 0.5) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(share * len(content))])

    return edit


def configured(**settings: Any) -> Callable[[Path], None]:
    """Returns what changes the config of a checkpoint; None removes a key."""

    def edit(folder: Path) -> None:
        config = {**json.loads((folder / "config.json").read_text()), **settings}
        (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))

    return edit


def sharded(folder: Path) -> None:
    (folder / "pytorch_model.bin").rename(folder / "pytorch_model-00001-of-00002.bin")
    (folder / "pytorch_model.bin.index.json").write_text("{}")


def truncated_safetensors(folder: Path) -> None:
    safetensors.torch.save_file(torch.load(folder / "pytorch_model.bin", weights_only=True), folder / "model.safetensors")
    cut("model.safetensors", 0.9)(folder)


def with_nan(name: str) -> Callable[[Path], None]:
    return edited(lambda weights: weights[name].view(-1)[5].fill_(math.nan))


SCORES, WEIGHT = f"{QUERY}.mask_scores", f"{QUERY}.weight"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "config.json could not be read"),
        (lambda folder: (folder / "config.json").write_text("[" * 100_000), "config.json could not be read"),
        (lambda folder: (folder / "config.json").write_text("[]"), "must have the model_type 'masked_bert' .*, got None"),
        (configured(model_type="bert"), "must have the model_type 'masked_bert' of the paper's code, got 'bert'"),
        (configured(architectures="MaskedBertModel"), "list of class names"),
        (configured(architectures=[3]), "list of class names"),
        (configured(pruning_method=["topK"]), r"pruning_method \['topK'\]"),
        (configured(pruning_method=None), "pruning_method None, which is no method. Give one: magnitude, topK, threshold, "),
        (configured(pruning_method="sigmoid_threshold"), "did you mean 'sigmoied_threshold'"),
        (configured(pruning_method="l0"), "l0 has no threshold, got 0.5"),
        (configured(pruning_method="magnitude"), "magnitude has no scores, and the checkpoint holds bert.*mask_scores"),
        (lambda folder: (folder / "pytorch_model.bin").unlink(), "holds neither model.safetensors nor pytorch_model.bin"),
        (sharded, r"Save its shards \(.*index\.json\) as one file"),
        (cut("pytorch_model.bin"), "is damaged"),
        (cut("pytorch_model.bin", 0.0), "is damaged"),
        (truncated_safetensors, "is damaged"),
        (lambda folder: (folder / "pytorch_model.bin").write_text("hello"), "is damaged"),
        (
            lambda folder: torch.save(torch.ones(2), folder / "pytorch_model.bin"),
            "must hold a state dict, name -> tensor, got a Tensor",
        ),
        (lambda folder: torch.save([1], folder / "pytorch_model.bin"), "must hold a state dict, .* got a list"),
        (lambda folder: torch.save({}, folder / "pytorch_model.bin"), "holds no X.mask_scores"),
        (edited(lambda weights: weights.update(step=3)), "got a int under 'step'"),
        (edited(lambda weights: weights.update({3: torch.ones(1)})), "got a Tensor under 3"),
        (
            edited(lambda weights: weights.update({WEIGHT: torch.ones(32, 32).to_sparse()})),
            f"plain tensor with all its numbers, got a Tensor under '{WEIGHT}'",
        ),
        (
            edited(lambda weights: weights.update({WEIGHT: torch.empty(32, 32, device="meta")})),
            f"plain tensor with all its numbers, got a Tensor under '{WEIGHT}'",
        ),
        (
            edited(lambda weights: weights.update({WEIGHT: torch.ones(1).expand(10**6, 10**6)})),
            f"plain tensor with all its numbers, got a Tensor under '{WEIGHT}'",
        ),
        (edited(lambda weights: weights.update({SCORES: torch.ones(32, 1)})), r"shape \(32, 1\) and bert.*weight \(32, 32\)"),
        (edited(lambda weights: weights.update({SCORES: torch.ones(32, 32).int()})), "1024 numbers of type int32"),
        (
            edited(lambda weights: weights.update({"x.weight": torch.ones(0, 2), "x.mask_scores": torch.ones(0, 2)})),
            "0 numbers",
        ),
        (
            edited(lambda weights: weights.update({"x.weight": torch.ones(1), "x.mask_scores": torch.ones(1)})),
            "keeps none of the 1",
        ),
        (edited(lambda weights: weights.pop(WEIGHT)), f"without a weight beside them: {SCORES}"),
        (edited(lambda weights: weights.pop(SCORES)), f"Matrices of the blocks without scores: {WEIGHT}"),
        (edited(lambda weights: [weights.pop(name) for name in list(weights) if "mask_scores" in name]), "topK needs scores"),
        (with_nan(SCORES), f"{SCORES} holds NaN"),
        (with_nan(WEIGHT), f"{WEIGHT} holds NaN"),
        (
            edited(lambda weights: weights.update({"bert.embeddings.LayerNorm.gamma": torch.ones(32)})),
            "holds bert.embeddings.LayerNorm.weight twice",
        ),
    ],
)
def test_a_damaged_checkpoint_raises_and_nothing_is_written(
    damage: Callable[[Path], Any], message: str, save: Save, tmp_path: Path
) -> None:
    folder = save()
    damage(folder)
    with pytest.raises(InvalidInputError, match=message):
        import_prunebert.convert(folder, tmp_path / "plain", threshold=0.5)
    assert set(os.listdir(tmp_path)) <= {"old"}


@pytest.mark.parametrize(
    ("method", "threshold", "message"),
    [
        ("topk", 0.5, "There is no old method 'topk'; did you mean 'topK'?"),
        ("movement", 0.5, "There is no old method 'movement'; known are l0, magnitude, sigmoied_threshold, threshold, topK"),
        ("topK", None, "topK needs a threshold: the fraction of the weights kept, above 0 and at most 1, so 0.15 for 15 %"),
        ("magnitude", None, "magnitude needs a threshold: the fraction of the weights kept"),
        ("threshold", None, "threshold needs a threshold: the cut above which a score is kept"),
        ("sigmoied_threshold", None, r"sigmoied_threshold needs a threshold: the cut tau above which sigmoid\(score\)"),
        ("topK", 0, "threshold must be, for topK, the fraction .*, got 0"),
        ("topK", 15.0, "for topK, .*, got 15.0"),
        ("topK", math.nan, "for topK, .*, got nan"),
        ("topK", True, "for topK, .*, got True"),
        ("topK", 1e-6, "keeps none of the 1024 weights of bert.encoder.layer.0.attention.self.query.weight"),
        ("threshold", math.inf, "for threshold, .*, got inf"),
        ("sigmoied_threshold", 1.0, "threshold must be, for sigmoied_threshold, the cut .*, got 1.0"),
        ("sigmoied_threshold", -0.1, "for sigmoied_threshold, .*, got -0.1"),
        ("l0", 1.0, "l0 has no threshold, got 1.0. Leave it out"),
        ("magnitude", 0.5, "magnitude has no scores"),
    ],
)
def test_a_method_and_a_threshold_that_do_not_fit_raise(method: str, threshold: float | None, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        import_prunebert.apply_masks(old_weights(tiny_bert(), "topK"), method, threshold)


def test_magnitude_needs_an_encoder() -> None:
    with pytest.raises(InvalidInputError, match=r"holds no matrix encoder\.layer\.N\.X\.weight"):
        import_prunebert.apply_masks({"classifier.weight": torch.ones(2, 2)}, "magnitude", 0.5)


def test_the_method_may_be_given_where_the_config_is_silent_and_may_not_contradict_it(save: Save, tmp_path: Path) -> None:
    folder = save()
    with pytest.raises(InvalidInputError, match=r"must be 'topK', as .*config\.json says, got 'l0'"):
        import_prunebert.convert(folder, tmp_path / "plain", "l0")
    with pytest.raises(InvalidInputError, match="did you mean 'topK'"):
        import_prunebert.convert(folder, tmp_path / "plain", "topk", 0.5)
    import_prunebert.convert(folder, tmp_path / "same", "topK", 0.5)
    configured(pruning_method=None)(folder)
    import_prunebert.convert(folder, tmp_path / "given", "topK", 0.5)
    same, given_ = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("same", "given"))
    assert same == given_


def test_nothing_is_overwritten_and_an_empty_folder_is_new(save: Save, tmp_path: Path) -> None:
    folder = save()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for occupied in (folder, folder / "config.json"):
        with pytest.raises(InvalidInputError, match="exists already"):
            import_prunebert.convert(folder, occupied, threshold=0.5)
    (tmp_path / "empty").mkdir()
    import_prunebert.convert(folder, tmp_path / "empty", threshold=0.5)
    import_prunebert.convert(folder, tmp_path / "deep" / "down", threshold=0.5)
    assert sorted(os.listdir(tmp_path)) == ["deep", "empty", "old"]
    assert os.listdir(tmp_path / "deep") == ["down"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    "step",
    [
        "safetensors.torch.save_file",
        "fineprune.apps.convert.import_prunebert.shutil.copyfile",
        "fineprune.files.os.replace",
    ],
)
def test_a_full_disk_leaves_nothing_behind(step: str, save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save()
    (folder / "vocab.txt").write_text("[PAD]")

    def full(*_: Any, **__: Any) -> None:
        raise safetensors.SafetensorError("no space") if "save_file" in step else OSError(28, "no space")

    monkeypatch.setattr(step, full)
    with pytest.raises(FileError, match=r"plain could not be written: .*no space"):
        import_prunebert.convert(folder, tmp_path / "plain", threshold=0.5)
    assert os.listdir(tmp_path) == ["old"]


def test_everything_is_on_the_disk_before_it_gets_its_name(save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    flush, replace = files.flush, os.replace
    monkeypatch.setattr(files, "flush", lambda path: (flush(path), events.append(path.suffix)))
    monkeypatch.setattr("fineprune.files.os.replace", lambda old, new: (replace(old, new), events.append("renamed")))
    import_prunebert.convert(save(), tmp_path / "plain", threshold=0.5)
    assert sorted(events[:4]) == [".json", ".md", ".safetensors", ".tmp"]
    assert events[4:] == ["renamed", ""]


def test_the_command(save: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, plain = save(), tmp_path / "plain"
    assert cli.main(["import", str(folder), str(plain)]) == 2
    assert "topK needs a threshold: the fraction of the weights kept" in capsys.readouterr().err
    assert cli.main(["import", str(folder), str(plain), "--threshold", "0.25"]) == 0
    out = capsys.readouterr().out
    assert out.count("0.2500 ") == 12, "a line a matrix"
    assert "0.250000 (4,096 of 16,384)" in out
    assert cli.main(["import", str(folder), str(plain), "--threshold", "0.25"]) == 2
    assert "exists already" in capsys.readouterr().err
