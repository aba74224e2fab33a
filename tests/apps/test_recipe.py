"""Recipes: YAML and flags become dataclasses; what is not known is refused with the nearest name."""

import dataclasses
from pathlib import Path

import pytest

from fineprune import (
    L0,
    Blocks,
    Constant,
    CubicSchedule,
    FromMagnitude,
    InvalidInputError,
    KaimingUniform,
    Movement,
    NofM,
    PruningConfig,
    Rows,
    Rule,
    SoftMovement,
    Uniform,
)
from fineprune.apps.tasks.text import TextClassification
from fineprune.apps.training import recipe
from fineprune.config.serialization import kinds
from fineprune.methods.base import Method

YAML = """
model: some/model
task:
  train: a.csv
  validation: b.csv
  text_pair: other
pruning:
  method: {class_path: Movement, init_args: {init: {class_path: FromMagnitude, init_args: {scale: 2}}}}
  density: 0.1
  schedule: {class_path: CubicSchedule, init_args: {warmup: 5}}
training:
  learning_rate: 1.0e-3
  num_train_epochs: 2
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "recipe.yaml"
    file.write_text(YAML)
    return str(file)


def test_reads_yaml(path: str) -> None:
    read = recipe.read([path])
    assert read.model == "some/model"
    assert read.task == TextClassification(train="a.csv", validation="b.csv", text_pair="other")
    assert read.pruning == PruningConfig(Movement(FromMagnitude(2.0)), 0.1, schedule=CubicSchedule(warmup=5))
    assert read.training.learning_rate == 1e-3
    assert read.training.eval_strategy == "epoch"


def test_flags_win_over_yaml(path: str) -> None:
    read = recipe.read([path, "--pruning.density", "0.03", "--pruning.method.init", "Constant", "--task.train", "c.tsv"])
    assert read.pruning == PruningConfig(Movement(Constant(0.0)), 0.03, schedule=CubicSchedule(warmup=5))
    assert read.task == TextClassification(train="c.tsv", validation="b.csv", text_pair="other")


def test_flags_alone_and_a_dense_run() -> None:
    read = recipe.read(["--model", "m", "--task.train", "a.csv"])
    assert read.pruning is None
    assert recipe.read(["--model", "m", "--pruning.method", "Magnitude", "--pruning.density", "0.5"]).pruning is not None


def test_a_dense_run_from_a_file_that_says_null(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("model: m\npruning: null\n")
    assert recipe.read([str(tmp_path / "r.yaml")]).pruning is None


def test_the_source_reads_back(path: str, tmp_path: Path) -> None:
    first = recipe.read([path, "--pruning.scope", "global", "--resume", "true"])
    (tmp_path / "again.yaml").write_text(first.source)
    second = recipe.read([str(tmp_path / "again.yaml")])
    assert (second.model, second.task, second.pruning) == (first.model, first.task, first.pruning)
    assert second.training.to_dict() == first.training.to_dict()
    assert first.resume
    assert not second.resume


CONFIGS = [
    PruningConfig(Movement(FromMagnitude(0.5)), 0.2, scope="global", target_modules=["query"]),
    PruningConfig(Movement(), structure=NofM(2, 4), rules=[]),
    PruningConfig(
        SoftMovement(penalty=3.0, threshold=0.2),
        structure=Blocks(4, 4),
        schedule=CubicSchedule(10, 0.25),
        rules=[
            Rule(["query", "key"], Movement(KaimingUniform()), 0.1, Rows(), CubicSchedule(5, 0.5), "adaptive"),
            Rule(".*value", L0(penalty=2.0)),
        ],
    ),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_a_config_as_json_is_a_recipe_block(tmp_path: Path, config: PruningConfig) -> None:
    for block in (config.to_dict(), config.to_dict() | {"version": "99.0.0"}):
        (tmp_path / "r.yaml").write_text(recipe.yaml.safe_dump({"model": "m", "pruning": block}))
        read = recipe.read([str(tmp_path / "r.yaml")])
        assert read.pruning == config
        (tmp_path / "again.yaml").write_text(read.source)
        assert recipe.read([str(tmp_path / "again.yaml")]).pruning == config


@pytest.mark.parametrize("prefix", ["", "fineprune.", "fineprune.methods.", "fineprune.some.older.place."])
def test_own_classes_are_known_by_their_name_whatever_module_stands_before_it(tmp_path: Path, prefix: str) -> None:
    choice = f"{{class_path: {prefix}Movement, init_args: {{init: {prefix}Uniform}}}}"
    (tmp_path / "r.yaml").write_text(f"model: m\npruning: {{method: {choice}, density: 0.1}}\n")
    read = recipe.read([str(tmp_path / "r.yaml")])
    assert read.pruning == PruningConfig(Movement(Uniform()), 0.1)
    assert recipe.read(["--model", "m", "--pruning.density", "0.1", f"--pruning.method={choice}"]).pruning == read.pruning
    flags = ["--pruning.method", f"{prefix}Movement", "--pruning.method.init", f"{prefix}Uniform"]
    assert recipe.read(["--model", "m", "--pruning.density", "0.1", *flags]).pruning == read.pruning
    assert recipe.yaml.safe_load(read.source)["pruning"]["method"] == {
        "class_path": "Movement",
        "init_args": {"init": {"class_path": "Uniform", "init_args": {"bound": 0.01}}, "score_lr": 0.01},
    }


def test_a_class_of_another_package_is_imported_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_inits.py").write_text(
        "from dataclasses import dataclass\nfrom fineprune import ScoreInit\n\n\n"
        "@dataclass(frozen=True)\nclass Ones(ScoreInit):\n    value: float = 1.0\n\n"
        "    def scores(self, magnitude, generator):\n        return magnitude\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    settings = [
        "--model",
        "m",
        "--pruning.density",
        "0.1",
        "--pruning.method",
        "Movement",
        "--pruning.method.init",
        "my_inits.Ones",
    ]
    read = recipe.read([*settings, "--pruning.method.init.value", "2"])
    assert read.pruning is not None
    assert repr(read.pruning.method) == "Movement(init=Ones(value=2.0), score_lr=0.01)"
    assert recipe.yaml.safe_load(read.source)["pruning"]["method"]["init_args"]["init"]["class_path"] == "my_inits.Ones"


def test_a_recipe_completes_another(path: str, tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text("pruning: {method: {init: Constant}}\ntask: {text_pair: third}\n")
    read = recipe.read([path, "--recipe", str(tmp_path / "more.yaml")])
    assert read.pruning == PruningConfig(Movement(Constant(0.0)), 0.1, schedule=CubicSchedule(warmup=5))
    assert read.task == TextClassification(train="a.csv", validation="b.csv", text_pair="third")


def test_a_setting_of_a_newer_version_is_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    block = PruningConfig(Movement(), 0.1).to_dict() | {"version": "99.0.0", "patience": 3}
    (tmp_path / "r.yaml").write_text(recipe.yaml.safe_dump({"model": "m", "pruning": block}))
    assert recipe.read([str(tmp_path / "r.yaml")]).pruning == PruningConfig(Movement(), 0.1)
    assert "the setting 'patience' of a newer fineprune" in caplog.text


def test_numbers_may_be_texts() -> None:
    read = recipe.read(["--model", "123", "--training.run_name", "7", "--training.learning_rate", "1e-3"])
    assert (read.model, read.training.run_name, read.training.learning_rate) == ("123", "7", 1e-3)


RULES = """
model: some/model
pruning:
  method: Movement
  density: 0.1
  rules:
    - target_modules: [query, key]
      structure: {class_path: Blocks, init_args: {rows: 8, cols: 4}}
      scope: global
    - target_modules: .*output.dense
      density: 0.25
      method:
        class_path: SoftMovement
        init_args: {init: {class_path: Uniform, init_args: {bound: 0.5}}}
    - target_modules: [value]
      structure: {class_path: NofM, init_args: {n: 2, m: 4}}
"""


def test_rules(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RULES)
    expected = PruningConfig(
        Movement(),
        0.1,
        rules=[
            Rule(["query", "key"], structure=Blocks(8, 4), scope="global"),
            Rule(".*output.dense", SoftMovement(init=Uniform(0.5)), 0.25),
            Rule(["value"], structure=NofM(2, 4)),
        ],
    )
    read = recipe.read([str(tmp_path / "r.yaml"), "--pruning.scope", "adaptive"])
    assert read.pruning == dataclasses.replace(expected, scope="adaptive")
    (tmp_path / "again.yaml").write_text(read.source)
    assert recipe.read([str(tmp_path / "again.yaml")]).pruning == read.pruning


def test_a_number_that_is_to_be_a_text_is_to_be_quoted() -> None:
    with pytest.raises(
        InvalidInputError, match=r"^task\.classes\[0\] must be str, got 0\. Quoted, a number is a text: \"0\"\.$"
    ):
        recipe.read(["--model", "m", "--task.classes", "[0, 1]"])
    assert recipe.read(["--model", "m", "--task.classes", '["0", "1"]']).task.classes == ["0", "1"]


def test_what_lacks_is_named() -> None:
    with pytest.raises(InvalidInputError, match=r"^The recipe lacks model\. Set it: in the recipe, or with --model\.$"):
        recipe.read(["--pruning.method", "Movement", "--pruning.density", "0.5"])
    choices = ", ".join(sorted(kind.__name__ for kind in kinds(Method)))
    with pytest.raises(InvalidInputError, match=rf"lacks pruning\.method\. Set it to one of {choices}\.$"):
        recipe.read(["--model", "m", "--pruning.density", "0.5"])


WRONG_RULES = [
    ("{target_modules: [a], densty: 0.1}", "'densty'; did you mean 'density'"),
    (
        "{target_modules: [a], density: 2.0}",
        r"The rule for \['a'\] cannot be used: density must be a number above 0 and at most 1, .*, got 2.0",
    ),
    ("{target_modules: [a], method: Movment}", "'Movment'; did you mean 'Movement'"),
    ("{target_modules: [a], structure: {class_path: Blocks, init_args: {rows: 8, colls: 4}}}", "'colls'; did you mean 'cols'"),
    ("{density: 0.5}", r"A rule must name its target_modules unless"),
    ("{target_modules: []}", r"^target_modules must be a list of module names .*, got \[\]\."),
    ("{target_modules: [a], density: much}", r"^pruning\.rules\[0\]\.density must be float or null, got 'much'\.$"),
    (
        "{target_modules: [a], method: {class_path: Movement, init_args: {score_lr: -1}}}",
        r"^score_lr of Movement must be a number above 0, got -1\.0\.",
    ),
    ("query", "'query'"),
]


@pytest.mark.parametrize(("rule", "message"), WRONG_RULES)
def test_a_wrong_rule_raises_a_clear_error(tmp_path: Path, rule: str, message: str) -> None:
    (tmp_path / "r.yaml").write_text(f"model: m\npruning: {{method: Movement, density: 0.1, rules: [{rule}]}}\n")
    with pytest.raises(InvalidInputError, match=message) as caught:
        recipe.read([str(tmp_path / "r.yaml")])
    assert "\n" not in str(caught.value)


UNKNOWN = [
    ("densty: 0.1", "pruning", "'densty'; did you mean 'density'"),
    ("lerning_rate: 0.1", "training", "'lerning_rate'; did you mean 'learning_rate'"),
    ("trian: a.csv", "task", "'trian'; did you mean 'train'"),
    ("modell: b", None, "'modell'; did you mean 'model'"),
    ("method: Movment", "pruning", "'Movment'; did you mean 'Movement'"),
    (
        "method: {class_path: Movement, init_args: {birth: Constant}}",
        "pruning",
        "Movement has no setting 'birth'; known are init, score_lr",
    ),
    ("density: much", "pruning", r"^pruning\.density must be float or null, got 'much'\.$"),
    ("learning_rate: fast", "training", r"^training\.learning_rate must be float, got 'fast'\.$"),
    ("density: 1.5", "pruning", "density must be a number above 0 and at most 1, the fraction of weights kept, got 1.5"),
    ("density: 0", "pruning", "density must be a number above 0 and at most 1, the fraction of weights kept, got 0"),
    ("scope: locale", "pruning", "scope"),
    ("warmup_steps: -1", "training", "warmup_steps"),
]


@pytest.mark.parametrize(("line", "section", "message"), UNKNOWN)
def test_a_wrong_setting_raises_a_clear_error(tmp_path: Path, line: str, section: str | None, message: str) -> None:
    content = recipe.yaml.safe_load(YAML)
    entry = recipe.yaml.safe_load(line)
    (content if section is None else content[section]).update(entry)
    (tmp_path / "r.yaml").write_text(recipe.yaml.safe_dump(content))
    with pytest.raises(InvalidInputError, match=message) as caught:
        recipe.read([str(tmp_path / "r.yaml")])
    assert "\n" not in str(caught.value)


def test_an_unknown_flag_is_refused_with_the_nearest(path: str) -> None:
    with pytest.raises(InvalidInputError, match=r"^PruningConfig has no setting 'densty'; did you mean 'density'\?$"):
        recipe.read([path, "--pruning.densty", "0.1"])


@pytest.mark.parametrize(
    ("content", "message"),
    [("[1, 2", "is not YAML"), ("- a\n", "must be keys and values, got list"), (None, "could not be read")],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "r.yaml").write_text(content)
    with pytest.raises(InvalidInputError, match=message):
        recipe.read([str(tmp_path / "r.yaml")])


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[2].glob("recipes/*.yaml")), ids=lambda path: path.name)
def test_every_recipe_of_the_repository_reads(path: Path) -> None:
    assert recipe.read([str(path), "--model", "m"]).pruning is not None


def test_the_recipe_may_be_named_as_a_flag(path: str) -> None:
    for arguments in (["--recipe", path], [f"--recipe={path}"], ["--max_length", "9", f"--recipe={path}"]):
        assert recipe.read(arguments).pruning is not None


def test_a_length_below_one_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"max_length must be 1 token or more, got -5\."):
        recipe.read(["--model", "m", "--max_length", "-5"])


def test_a_choice_in_the_wrong_place_is_said_to_be_there(tmp_path: Path) -> None:
    structure = "{class_path: Together, init_args: {structures: [Heads, Rows]}}"
    (tmp_path / "r.yaml").write_text(f"model: m\npruning: {{method: Movement, density: 0.1, structure: {structure}}}\n")
    with pytest.raises(
        InvalidInputError, match=r"^pruning\.structure\.structures\[1\] has no choice 'Rows'; known are .*Heads"
    ):
        recipe.read([str(tmp_path / "r.yaml")])
