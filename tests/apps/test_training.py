"""Recipes run: data to saved model, to the same figures when evaluated again; nothing overwritten, nothing lost."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

import fineprune
from fineprune import FileError, InvalidInputError
from fineprune.apps import report
from fineprune.apps.training import pretrained, recipe, weight_samples
from fineprune.apps.training import run as training
from fineprune.apps.training.recipe import Recipe
from fineprune.apps.training.weight_samples import WeightSamples

SETTINGS = {
    "training.num_train_epochs": "3",
    "training.per_device_train_batch_size": "8",
    "training.learning_rate": "5e-3",
    "training.use_cpu": "true",
    "training.disable_tqdm": "true",
    "pruning.method": "Movement",
    "pruning.density": "0.25",
}


def read(folder: Path, reviews: Path, output: Path, **changes: str) -> Recipe:
    """Reads a recipe from flags; a change is named with `__` for a dot."""
    settings = {
        "model": str(folder),
        "task.train": str(reviews / "train.csv"),
        "task.validation": str(reviews / "validation.csv"),
        "training.output_dir": str(output),
        **SETTINGS,
        **{name.replace("__", "."): value for name, value in changes.items()},
    }
    return recipe.read([part for name, value in settings.items() if value for part in (f"--{name}", value)])


@pytest.fixture(scope="module")
def run(model_folder: Path, reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, training.Result]:
    output = tmp_path_factory.mktemp("runs") / "movement"
    return output, training.train(read(model_folder, reviews, output))


def test_writes_a_plain_pruned_checkpoint_with_its_figures(run: tuple[Path, training.Result]) -> None:
    output, result = run
    names = {path.name for path in output.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "recipe.yaml", "result.json", "README.md"} <= names
    facts = json.loads((output / "result.json").read_text())
    model = AutoModelForSequenceClassification.from_pretrained(output)
    weights = [model.get_parameter(layer["name"]) for layer in facts["layers"]]
    assert [int(weight.count_nonzero()) for weight in weights] == [weight.numel() // 4 for weight in weights]
    assert facts["density"] == result.inspection.density == 0.25
    assert facts["whole_model_density"] < 1
    assert facts["metrics"] == result.metrics
    assert facts["steps"] == 24
    assert model.config.id2label == {0: "bad", 1: "good"}
    assert facts["headline"] == {"metric": "accuracy", "greater_is_better": True}
    assert facts["pruning"]["density"] == 0.25
    assert "25.00% of the prunable weights" in (output / "README.md").read_text()


def test_the_weight_samples_are_those_of_the_models(run: tuple[Path, training.Result], model_folder: Path) -> None:
    sample = WeightSamples.load(run[0])
    before, after = (load_file(folder / "model.safetensors") for folder in (model_folder, run[0]))
    for name, initial in sample.pretrained.items():
        assert torch.equal(initial, before[name.removeprefix("bert.")].flatten())
        assert torch.equal(sample.weights[name], after[name].flatten())
    assert sample.scores.keys() == sample.weights.keys() == sample.pretrained.keys()


def test_a_teacher_in_the_recipe_is_distilled(
    run: tuple[Path, training.Result], model_folder: Path, reviews: Path, tmp_path: Path
) -> None:
    distilled = training.train(read(model_folder, reviews, tmp_path / "student", teacher=str(run[0])))
    assert all("loss_kd" in entry for entry in distilled.history if "loss" in entry)
    assert json.loads((tmp_path / "student" / "result.json").read_text())["teacher"] == str(run[0])
    with pytest.raises(InvalidInputError, match=r"needs a teacher\. Set teacher to a trained model"):
        read(model_folder, reviews, tmp_path / "x", distillation__temperature="3")
    with pytest.raises(InvalidInputError, match="could not be loaded as a text classifier"):
        training.train(read(model_folder, reviews, tmp_path / "x", teacher=str(reviews)))


def test_learns_the_task(run: tuple[Path, training.Result]) -> None:
    assert run[1].metrics["accuracy"] == 1.0


def test_the_saved_model_evaluates_to_the_same(run: tuple[Path, training.Result], model_folder: Path, reviews: Path) -> None:
    output, result = run
    wanted = recipe.read([str(output / "recipe.yaml")])
    again = training.evaluate(str(output), wanted.task, wanted.max_length, wanted.training)
    assert again.metrics == pytest.approx(result.metrics, rel=1e-6)
    assert again.inspection.kept == result.inspection.kept


def test_the_same_recipe_gives_the_same_model(
    run: tuple[Path, training.Result], model_folder: Path, reviews: Path, tmp_path: Path
) -> None:
    training.train(read(model_folder, reviews, tmp_path / "again"))
    first, second = (load_file(folder / "model.safetensors") for folder in (run[0], tmp_path / "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_evaluating_makes_no_folder_of_the_models_name(
    run: tuple[Path, training.Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model on the Hub has a name that could be a folder's; made, it would hide the model from then on."""
    wanted = recipe.read([str(run[0] / "recipe.yaml")])
    loaded = pretrained.load_pretrained(str(run[0]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training, "load_pretrained", lambda name, head: loaded)
    assert training.evaluate("org/name", wanted.task, wanted.max_length, wanted.training).metrics == run[1].metrics
    assert list(tmp_path.iterdir()) == []


def test_longer_texts_than_the_model_has_positions_for_are_refused(
    run: tuple[Path, training.Result], model_folder: Path, reviews: Path, tmp_path: Path
) -> None:
    (tmp_path / "v.csv").write_text(f'text,label\nthe good,good\n"{"the bad " * 20}",bad\n')
    changes = {"task__validation": str(tmp_path / "v.csv"), "training__max_steps": "1"}
    for teacher in ("", str(run[0])):
        with pytest.raises(InvalidInputError, match=r"has 42 tokens, .* positions for 32 at most\. Set max_length to 32"):
            training.train(read(model_folder, reviews, tmp_path / "long", teacher=teacher, **changes))
    assert not (tmp_path / "long").exists()
    wanted = read(model_folder, reviews, tmp_path / "fits", max_length="32", **changes)
    training.train(wanted)
    with pytest.raises(InvalidInputError, match="has 42 tokens"):
        training.evaluate(str(run[0]), wanted.task, 128, wanted.training)


SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
}


@pytest.mark.parametrize(
    ("kind", "longest"),
    [("bert", 40), ("roberta", 38), ("mpnet", 38), ("gpt2", 40), ("opt", 40), ("bart", 40), ("llama", None)],
)
def test_positions_are_counted_as_the_model_counts_them(kind: str, longest: int | None) -> None:
    sizes = SIZES | ({"encoder_layers": 1, "decoder_layers": 1} if kind == "bart" else {})
    sizes |= {"word_embed_proj_dim": 32} if kind == "opt" else {}
    model = AutoModel.from_config(AutoConfig.for_model(kind, pad_token_id=1, **sizes))

    def reads(length: int) -> None:
        model(torch.full((1, length), 5), use_cache=False)

    pretrained.check_length(model, longest or 80)
    reads(longest or 80)
    if longest is not None:
        with pytest.raises((IndexError, RuntimeError)):
            reads(longest + 1)
        with pytest.raises(InvalidInputError, match=f"positions for {longest} at most"):
            pretrained.check_length(model, longest + 1)


def test_a_folder_with_a_run_is_left_alone(run: tuple[Path, training.Result], model_folder: Path, reviews: Path) -> None:
    with pytest.raises(InvalidInputError, match="already holds a run"):
        training.train(read(model_folder, reviews, run[0]))


def test_a_run_resumes_and_ends_the_same(
    run: tuple[Path, training.Result], model_folder: Path, reviews: Path, tmp_path: Path
) -> None:
    half = read(model_folder, reviews, tmp_path / "half", training__save_strategy="steps", training__save_steps="5")
    interrupt_after(half, 12)
    state = tmp_path / "half" / "checkpoint-10" / "trainer_state.json"
    facts = json.loads(state.read_text())
    assert 0 < facts["stateful_callbacks"]["Stopwatch"]["attributes"]["before"] < 1000
    facts["stateful_callbacks"]["Stopwatch"]["attributes"]["before"] = 1000.0
    state.write_text(json.dumps(facts))
    resumed = training.train(read(model_folder, reviews, tmp_path / "half", resume="true"))
    assert resumed.metrics == run[1].metrics
    assert resumed.seconds is not None
    assert resumed.seconds > 1000, "what came before the checkpoint counts"
    first, second = (load_file(folder / "model.safetensors") for folder in (run[0], tmp_path / "half"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def interrupt_after(wanted: Recipe, steps: int) -> None:
    """Runs a recipe until `steps` optimizer steps are done, and interrupts it."""
    done = 0

    def stop(optimizer: torch.optim.Optimizer, *_: object) -> None:
        nonlocal done
        done += type(optimizer) is torch.optim.AdamW  # and not the scores' own
        if done == steps:
            raise KeyboardInterrupt

    hook = register_optimizer_step_post_hook(stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            training.train(wanted)
    finally:
        hook.remove()


def test_resuming_nothing_is_refused(model_folder: Path, reviews: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no whole checkpoint to resume"):
        training.train(read(model_folder, reviews, tmp_path / "none", resume="true"))


def test_a_dense_run_and_frozen_modules(model_folder: Path, reviews: Path, tmp_path: Path) -> None:
    changes = {"pruning__method": "", "pruning__density": "", "training__max_steps": "2", "frozen_modules": '["embeddings"]'}
    result = training.train(read(model_folder, reviews, tmp_path / "dense", **changes))
    assert result.inspection.density == 1.0
    before = load_file(model_folder / "model.safetensors")
    after = load_file(tmp_path / "dense" / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[f"bert.{name}"])}
    assert not any(name.startswith("embeddings") for name in changed)
    assert any(name.startswith("encoder.layer.1") for name in changed)


WRONG = [
    ({"model": "tests"}, "could not be loaded as a text classifier"),
    ({"config": "{num_hiden_layers: 1}"}, "has no setting 'num_hiden_layers'"),
    ({"frozen_modules": '["embedings"]'}, "No module matches 'embedings'; did you mean 'embeddings'"),
    ({"pruning__target_modules": '["quary"]'}, "No module .* matches 'quary'; did you mean 'query'"),
    ({"pruning__density": "0.00001"}, "would keep nothing"),
    ({"pruning__density": "1.0"}, "would prune nothing"),
    ({"pruning__schedule.warmup": "20", "pruning__schedule.cooldown": "4"}, "must be shorter than the run, which has 24"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    model_folder: Path, reviews: Path, tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        training.train(read(model_folder, reviews, tmp_path / "wrong", **changes))
    assert not (tmp_path / "wrong").exists()


def test_a_label_that_the_model_does_not_know_is_refused(run: tuple[Path, training.Result], tmp_path: Path) -> None:
    (tmp_path / "v.csv").write_text("text,label\nthe film,ugly\n")
    wanted = recipe.read([str(run[0] / "recipe.yaml"), "--task.validation", str(tmp_path / "v.csv")])
    with pytest.raises(InvalidInputError, match="the label 'ugly', which is not one of the classes bad, good"):
        training.evaluate(str(run[0]), wanted.task, wanted.max_length, wanted.training)


def test_any_checkpoint_can_be_inspected_and_what_is_none_is_refused(model_folder: Path, tmp_path: Path) -> None:
    assert pretrained.load_any(str(model_folder)).config.num_hidden_layers == 2
    (tmp_path / "file").write_text("text")
    (tmp_path / "empty").mkdir()
    for name in ("file", "empty"):
        with pytest.raises(InvalidInputError, match="could not be loaded"):
            pretrained.load_any(str(tmp_path / name))
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in model_folder.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    tensors = load_file(broken / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InvalidInputError, match=r"lacks tensors .* encoder\.layer\.1\.output\.dense\.weight"):
        pretrained.load_any(str(broken))
    (broken / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(InvalidInputError, match="could not be loaded"):
        pretrained.load_any(str(broken))


@contextmanager
def full_disk(bytes_left: int) -> Iterator[None]:
    """Lets every file grow only so far, as on a disk that is nearly full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("bytes_left", [10_000, 100_000, 200_000])
def test_a_full_disk_is_a_clear_error(model_folder: Path, reviews: Path, tmp_path: Path, bytes_left: int) -> None:
    with full_disk(bytes_left), pytest.raises(FileError, match="could not be saved"):
        training.train(read(model_folder, reviews, tmp_path / "full", training__max_steps="10"))


def test_a_full_disk_at_the_last_save_is_a_clear_error(model_folder: Path, reviews: Path, tmp_path: Path) -> None:
    wanted = read(model_folder, reviews, tmp_path / "full", training__max_steps="10", training__save_strategy="no")
    with full_disk(10_000), pytest.raises(FileError, match="could not be saved"):
        training.train(wanted)


def test_evaluating_by_other_class_names_writes_nothing(
    run: tuple[Path, training.Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "v.csv").write_text('text,label\n"the bad, book",0\n"the good, film",1\n')
    wanted = recipe.read(["--model", "m", "--task.validation", "v.csv", "--task.classes", '["0", "1"]'])
    assert training.evaluate(str(run[0]), wanted.task, 16, wanted.training).metrics["accuracy"] == 1.0
    assert [path.name for path in tmp_path.iterdir()] == ["v.csv"]


def test_a_run_that_cannot_be_set_up_raises_a_clear_error(model_folder: Path, reviews: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    for changes, message in (
        ({"training__output_dir": str(tmp_path / "file" / "run")}, "could not be set up"),
        ({"training__metric_for_best_model": "acuracy"}, "did you mean 'accuracy'"),
        ({"config": "{num_hidden_layers: three}"}, "could not be loaded"),
        ({"config": "{num_hidden_layers: 4}"}, "lacks tensors that its config names: .*layer"),
        ({"frozen_modules": "["}, "is not a regular expression"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            training.train(read(model_folder, reviews, tmp_path / "run", **changes))


def test_a_head_of_another_size_is_replaced_and_other_sizes_within_raise_an_error(
    run: tuple[Path, training.Result], reviews: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "three.csv").write_text("text,label\nthe good,0\nthe bad,1\na film,2\n" * 4)
    changes = {"task__train": str(tmp_path / "three.csv"), "task__validation": str(tmp_path / "three.csv")}
    wanted = read(run[0], reviews, tmp_path / "new", training__max_steps="12", **changes)
    assert len(training.train(wanted).inspection.layers) == 12
    assert "The head of" in caplog.text
    with pytest.raises(InvalidInputError, match=r"holds tensors of other sizes than its config says: bert\.encoder"):
        training.train(read(run[0], reviews, tmp_path / "wide", config="{intermediate_size: 16}"))


def test_a_hybrid_is_trained_drawn_and_shrunk(
    model_folder: Path, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_samples, "MOST", 500)
    output = tmp_path / "hybrid"
    rules = "[{structure: Heads, density: 0.5}, {structure: Neurons, density: 0.5}]"
    result = training.train(read(model_folder, reviews, output, pruning__rules=rules))
    assert result.inspection.density == pytest.approx(0.5 * 0.25, abs=0.01)
    sample = WeightSamples.load(output)
    for name, initial in sample.pretrained.items():
        assert len(initial) == len(sample.weights[name]) == len(sample.scores.get(name, initial))
    report.write([str(output)], str(tmp_path / "report.html"))
    smaller = fineprune.shrink(fineprune.from_pretrained(output))
    assert smaller.bert.encoder.layer[0].intermediate.dense.weight.shape == (32, 32)
    facts = json.loads((output / "result.json").read_text())
    assert len({layer["name"] for layer in facts["layers"]}) == len(facts["layers"])
