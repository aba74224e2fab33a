"""PruningConfig: what it takes, what it refuses, its rules, and its way through JSON and YAML."""

import copy
import json
import logging
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from conftest import Stack, adamw, differences, everything, masks, scores, stack_batches, train
from fineprune import (
    L0,
    Blocks,
    Columns,
    Constant,
    CubicSchedule,
    FromMagnitude,
    InvalidInputError,
    KaimingUniform,
    Magnitude,
    Movement,
    NofM,
    Pruner,
    PruningConfig,
    Random,
    Rows,
    Rule,
    SoftMovement,
    Uniform,
    Unstructured,
)
from fineprune.config.serialization import kinds
from fineprune.errors import enumeration
from fineprune.methods.base import Method
from fineprune.methods.inits import ScoreInit
from fineprune.structures.base import Structure
from fineprune.version import VERSION

positive = st.floats(1e-6, 1e6)
inits = st.one_of(
    st.builds(Constant, st.floats(-10, 10)),
    st.builds(Uniform, positive),
    st.just(KaimingUniform()),
    st.builds(FromMagnitude, positive),
)
sizes = st.integers(1, 64)
structures = st.one_of(st.sampled_from([Unstructured(), Rows(), Columns()]), st.builds(Blocks, sizes, sizes))
runs = st.integers(1, 63).flatmap(lambda n: st.builds(NofM, st.just(n), st.integers(n + 1, 64)))
ranking = st.one_of(st.just(Magnitude()), st.just(Random()), st.builds(Movement, inits, positive))
densities = st.floats(0, 1, exclude_min=True)


def penalised(penalty: st.SearchStrategy[float | None]) -> st.SearchStrategy[SoftMovement | L0]:
    threshold = st.floats(0, 1, exclude_min=True, exclude_max=True)
    return st.builds(SoftMovement, penalty, threshold, inits, positive) | st.builds(L0, penalty, inits, positive)


what = st.one_of(
    st.fixed_dictionaries({"method": ranking | penalised(st.none()), "structure": structures, "density": densities}),
    st.fixed_dictionaries({"method": ranking, "structure": runs}),
    st.fixed_dictionaries({"method": penalised(st.floats(0, 1e6)), "structure": structures}),
)
"""A method, a structure and a density that go together."""
lengths = st.one_of(st.integers(0, 10**6), st.floats(0, 1, exclude_max=True))
patterns = st.text(min_size=1) | st.lists(st.text(min_size=1), min_size=1)
how = {"schedule": st.builds(CubicSchedule, lengths, lengths), "scope": st.sampled_from(["local", "global", "adaptive"])}
rules = st.builds(
    lambda patterns, *given: Rule(patterns, **{name: setting for part in given for name, setting in part.items()}),
    patterns,
    what | st.just({}),
    st.fixed_dictionaries({}, optional=how),
)


@st.composite
def configs(draw: st.DrawFn) -> PruningConfig:
    given = draw(what) | draw(st.fixed_dictionaries({}, optional=how))
    modules = {name: draw(st.none() | patterns) for name in ("target_modules", "exclude_modules")}
    return PruningConfig(**given, **modules, rules=draw(st.none() | st.lists(rules, max_size=3)))


@settings(deadline=None)
@given(configs())
def test_json_and_yaml_bring_back_the_same_config(config: PruningConfig) -> None:
    plain = config.to_dict()
    assert PruningConfig.from_dict(json.loads(json.dumps(plain, allow_nan=False))) == config
    assert PruningConfig.from_dict(yaml.safe_load(yaml.safe_dump(plain))) == config


def test_the_form_that_is_written() -> None:
    assert PruningConfig(Movement(), 0.1, target_modules=("query", "key")).to_dict() == {
        "method": {
            "class_path": "Movement",
            "init_args": {
                "init": {"class_path": "FromMagnitude", "init_args": {"scale": 0.3}},
                "score_lr": 0.01,
            },
        },
        "density": 0.1,
        "structure": {"class_path": "Unstructured", "init_args": {}},
        "schedule": {"class_path": "CubicSchedule", "init_args": {"warmup": 0.1, "cooldown": 0.3}},
        "scope": "local",
        "budget": {"class_path": "InWeights", "init_args": {}},
        "scores": {"class_path": "FullScores", "init_args": {}},
        "frozen_weights": False,
        "dense_on_cpu": False,
        "target_modules": ["query", "key"],
        "exclude_modules": None,
        "rules": None,
        "version": VERSION,
    }


def test_a_rule_is_written_as_what_it_says() -> None:
    rule = Rule(("up",), density=0.5, structure=Rows())
    (written,) = PruningConfig(Movement(), 0.1, rules=(rule,)).to_dict()["rules"]
    rows = {"class_path": "Rows", "init_args": {}}
    assert written == {"target_modules": ["up"], "density": 0.5, "structure": rows}


def test_short_names_and_left_out_settings() -> None:
    values = {"method": {"class_path": "Movement", "init_args": {"init": {"class_path": "Uniform"}}}, "density": 0.1}
    assert PruningConfig.from_dict(values) == PruningConfig(Movement(Uniform()), 0.1)
    assert PruningConfig(Movement(), 0.1) == PruningConfig(
        Movement(FromMagnitude(0.3), 1e-2), 0.1, Unstructured(), CubicSchedule(0.1, 0.3), "local", None, None
    )


@dataclass(frozen=True)
class HomeMade(ScoreInit):
    """A choice from outside the library."""

    value: int = 3

    def scores(self, magnitude: object, generator: object) -> object:
        return magnitude


def test_a_choice_from_outside_is_known_by_its_path() -> None:
    config = PruningConfig(Movement(HomeMade(5)), 0.5)
    assert config.to_dict()["method"]["init_args"]["init"]["class_path"] == f"{__name__}.HomeMade"
    assert PruningConfig.from_dict(config.to_dict()) == config


METHOD = {"class_path": "Magnitude"}


@pytest.mark.parametrize(
    "path",
    [
        "Movement",
        "fineprune.Movement",
        "fineprune.methods.Movement",
        "fineprune.methods.movement.Movement",
        "fineprune.a.b.Movement",
    ],
)
def test_own_classes_are_known_by_their_name_whatever_module_stands_before_it(path: str) -> None:
    values = {
        "method": {"class_path": path, "init_args": {"init": {"class_path": f"{path.rpartition('.')[0]}.Uniform".lstrip(".")}}}
    }
    assert PruningConfig.from_dict(values | {"density": 0.1}) == PruningConfig(Movement(Uniform()), 0.1)
    assert PruningConfig.from_dict({"method": path, "density": 0.1}) == PruningConfig(Movement(), 0.1)


@pytest.mark.parametrize(
    "path", ["finepruned.Movement", "other.Movement", "os.Movement", ".Movement", "Movement.", "fineprune.methods", ""]
)
def test_other_paths_are_not(path: str) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(f"method has no choice {path!r}; ")):
        PruningConfig.from_dict({"method": {"class_path": path}, "density": 0.1})


def test_a_class_from_outside_does_not_take_the_name_of_an_own_one() -> None:
    outside = dataclass(frozen=True)(type("Movement", (Magnitude,), {"__module__": "elsewhere"}))
    written = PruningConfig(outside(), 0.1).to_dict()
    assert written["method"]["class_path"] == "elsewhere.Movement"
    assert type(PruningConfig.from_dict(written).method) is outside
    assert type(PruningConfig.from_dict({"method": "Movement", "density": 0.1}).method) is Movement


def test_the_old_word_for_init_is_unknown() -> None:
    with pytest.raises(InvalidInputError, match=r"^Movement has no setting 'birth'; known are init, score_lr\.$"):
        PruningConfig.from_dict({"method": {"class_path": "Movement", "init_args": {"birth": "Uniform"}}, "density": 0.1})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": METHOD, "denstiy": 0.1}, "PruningConfig has no setting 'denstiy'; did you mean 'density'?"),
        ({"method": METHOD, "frobnicate": 1}, "PruningConfig has no setting 'frobnicate'; known are"),
        ({"method": {"class_path": "Movment"}, "density": 0.1}, "did you mean 'Movement'"),
        ({"method": {"class_path": "fineprune.methods.base.Movment"}, "density": 0.1}, "did you mean 'Movement'"),
        ({"method": {"class_path": 3}, "density": 0.1}, "method must be class_path, the name of a class, and init_args"),
        ({"method": {}, "density": 0.1}, "method must be class_path, the name of a class, and init_args, its settings, got {}"),
        ({"method": {**METHOD, "args": {}}, "density": 0.1}, "method must be class_path, the name of a class, and init_args"),
        ({"method": {"class_path": "Movement", "init_args": {"scor_lr": 1}}}, "Movement has no setting 'scor_lr'"),
        ({"method": {"class_path": "Movement", "init_args": [1]}}, "method must be keys and values, got [1]"),
        (
            {"method": {"class_path": "Movement", "init_args": {"init": METHOD}}},
            "method.init has no choice 'Magnitude'; did you mean 'FromMagnitude'?",
        ),
        (
            {"method": {"class_path": "Movement", "init_args": {"score_lr": {"class_path": "Uniform"}}}},
            "method.score_lr must be float",
        ),
        ({"method": "Movment", "density": 0.1}, "method has no choice 'Movment'; did you mean 'Movement'"),
        ({"method": {"class_path": "Uniform"}, "density": 0.1}, "method has no choice 'Uniform'; known are"),
        ({"method": METHOD, "density": 0.1, "structure": METHOD}, "structure has no choice 'Magnitude'; known are"),
        ({"method": METHOD, "density": 0.1, "schedule": None}, "schedule must be one of CubicSchedule"),
        ({"density": 0.1}, "method"),
        (
            {"method": METHOD, "density": 0.1, "rules": [{"target_modules": "a", "densty": 1}]},
            "Rule has no setting 'densty'; did you",
        ),
        ({"method": METHOD, "density": 0.1, "rules": [{"density": 0.1}]}, "target_modules"),
        ({"method": METHOD, "density": 0.1, "rules": [{"target_modules": None}]}, "A rule must name its target_modules"),
        (
            {"method": METHOD, "density": 0.1, "rules": [{"target_modules": []}]},
            "target_modules must be a list of module names",
        ),
        ({"method": METHOD, "density": 0.1, "rules": [METHOD]}, "Rule has no setting 'class_path'"),
        ({"method": METHOD, "density": 0.1, "rules": ["query"]}, "rules[0] must be Rule, got 'query'"),
        ({"method": METHOD, "density": 0.1, "rules": {"target_modules": "a"}}, "rules must be a list of Rule or null"),
        ({"method": METHOD, "density": 0.1, "rules": "query"}, "rules must be a list of Rule or null, got 'query'"),
        ([], "PruningConfig must be keys and values, got []"),
        (None, "PruningConfig must be keys and values, got None"),
    ],
)
def test_what_json_must_not_hold(values: object, message: str) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        PruningConfig.from_dict(values)


@pytest.mark.parametrize("density", [0, 0.0, -0.1, 1.0001, 10, math.nan, math.inf, True, "0.1"])
def test_a_density_is_above_zero_and_at_most_one(density: object) -> None:
    with pytest.raises(
        InvalidInputError, match="density must be a number above 0 and at most 1, the fraction of weights kept, got"
    ):
        PruningConfig(Magnitude(), density)


def test_no_density_is_refused_by_methods_that_rank() -> None:
    with pytest.raises(InvalidInputError, match="Movement needs a density"):
        PruningConfig(Movement())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scope": "globl"}, "did you mean 'global'"),
        ({"scope": None}, "scope must be one of 'local', 'global', 'adaptive', got None"),
        ({"scope": ["local"]}, "got ['local']"),
        ({"target_modules": []}, "one regular expression, got []."),
        (
            {"target_modules": ""},
            "target_modules must be a list of module names or endings of names, or one regular expression, got ''.",
        ),
        ({"target_modules": ["query", ""]}, "target_modules must be a list of module names"),
        ({"exclude_modules": [1]}, "one regular expression, got [1]."),
        ({"exclude_modules": {"query"}}, "exclude_modules must be a list of module names"),
        ({"structure": Unstructured}, "structure must be one of"),
        ({"method": Movement}, "method must be one of"),
    ],
)
def test_wrong_values(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        PruningConfig(**{"method": Magnitude(), "density": 0.1, **settings})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.text(max_size=3), inner, max_size=2)
        | st.fixed_dictionaries({"class_path": st.sampled_from(["Movement", "Uniform", "CubicSchedule"]), "init_args": inner})
        | st.lists(st.dictionaries(st.sampled_from([field.name for field in fields(Rule)]), inner), max_size=2)
    ),
    max_leaves=4,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from([*(field.name for field in fields(PruningConfig)), "version"]), json_values))
def test_any_other_json_raises_a_clear_error(values: dict[str, object]) -> None:
    """Whatever the file holds, it is a config or a sentence; never an exception of Python's own."""
    try:
        PruningConfig.from_dict({"method": METHOD, "density": 0.5, **values})
    except InvalidInputError as error:
        assert str(error)  # noqa: PT017


def test_a_structure_that_cannot_be_made_is_not_offered() -> None:
    with pytest.raises(InvalidInputError) as refusal:
        PruningConfig(Magnitude(), 0.1, structure=Structure)
    assert "Structure()" not in re.findall(r"\w+\(\)", str(refusal.value))


# Rules.


def test_a_rule_takes_what_it_leaves_out_from_the_config() -> None:
    config = PruningConfig(Movement(), 0.1, Blocks(4, 4), CubicSchedule(3, 5), "global", "a", ["b"], rules=[])
    assert config.under(Rule("x")) == PruningConfig(Movement(), 0.1, Blocks(4, 4), CubicSchedule(3, 5), "global", "x", ["b"])
    rule = Rule(["x"], Magnitude(), 0.5, Rows(), CubicSchedule(1, 2), "local")
    assert config.under(rule) == PruningConfig(Magnitude(), 0.5, Rows(), CubicSchedule(1, 2), "local", ["x"], ["b"])


def test_a_rule_that_settles_its_density_takes_none_from_the_config() -> None:
    config = PruningConfig(Movement(), 0.1)
    assert config.under(Rule("x", L0(penalty=2.0))).density is None
    assert config.under(Rule("x", structure=NofM(2, 4))).values() == (1.0, 0.5)
    assert config.under(Rule("x", SoftMovement())).density == 0.1


@pytest.mark.parametrize(
    ("config", "rule", "message"),
    [
        (
            (Movement(), 0.1),
            Rule(["up"], density=1.5),
            "density must be a number above 0 and at most 1, the fraction of weights kept, got 1.5",
        ),
        (
            (Movement(), 0.1),
            Rule(["up"], density=0.2, structure=NofM(2, 4)),
            "density must be left out for NofM(n=2, m=4), which keeps 0.5 of the weights, got 0.2",
        ),
        ((Movement(), 0.1), Rule(["up"], L0(penalty=2.0), 0.2), "got density=0.2 and penalty=2.0"),
        ((SoftMovement(penalty=2.0), None), Rule(["up"], density=0.2), "got density=0.2 and penalty=2.0"),
        ((SoftMovement(penalty=2.0), None), Rule(["up"], Movement()), "Movement needs a density"),
        ((SoftMovement(), 0.1), Rule(["up"], structure=NofM(2, 4)), "which SoftMovement does not do"),
        ((Movement(), 0.1), Rule(["up"], scope="globl"), "did you mean 'global'"),
        ((Movement(), 0.1), Rule(["up"], method=Movement), "method must be one of"),
    ],
)
def test_a_rule_that_contradicts_is_named(config: tuple[object, object], rule: Rule, message: str) -> None:
    with pytest.raises(InvalidInputError, match=re.escape("The rule for ['up'] cannot be used: ") + ".*" + re.escape(message)):
        PruningConfig(*config, rules=[Rule("blocks.*down", scope="global"), rule])


def test_a_class_that_is_no_choice_is_named_with_the_choices() -> None:
    """The choices are all classes there are, those of other tests too."""
    methods = sorted(kind.__name__ for kind in kinds(Method))
    assert {"GroupLasso", "L0", "Magnitude", "Movement", "Random", "SoftMovement"} <= {*methods}
    message = f"method has no choice 'os.system'; known are {enumeration(methods)}."
    with pytest.raises(InvalidInputError, match=f"^{re.escape(message)}$"):
        PruningConfig.from_dict({"method": {"class_path": "os.system"}, "density": 0.1})
    structures = ", ".join(sorted(f"{kind.__name__}()" for kind in kinds(Structure)))
    message = f"The rule for ['up'] cannot be used: structure must be one of {structures}, got 'Rows'."
    with pytest.raises(InvalidInputError, match=f"^{re.escape(message)}$"):
        PruningConfig(Movement(), 0.1, rules=[Rule("blocks.*down", scope="global"), Rule(["up"], structure="Rows")])


@pytest.mark.parametrize("value", [Rule("a"), ["a"], "a", [Rule("a"), None], 3])
def test_rules_are_a_list_of_rules(value: object) -> None:
    with pytest.raises(InvalidInputError, match=r"rules must be a list of Rule\(\.\.\.\), got"):
        PruningConfig(Movement(), 0.1, rules=value)


@pytest.mark.parametrize("patterns", [[], "", [""], [3]])
def test_a_rule_names_modules(patterns: object) -> None:
    with pytest.raises(InvalidInputError, match=r"target_modules must be a list of module names"):
        Rule(patterns)


Attach = Callable[..., Pruner]
UPS, DOWNS = (["blocks.0.up.weight", "blocks.1.up.weight"], ["blocks.0.down.weight", "blocks.1.down.weight"])


def kept(pruner: Pruner) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in masks(pruner).items()}


def test_the_first_rule_that_names_a_module_holds(attach: Attach) -> None:
    model = Stack()
    optimizer = adamw(model)
    rules = [Rule(["0.up"], density=0.5), Rule(["up"], density=0.25), Rule("head", density=0.75)]
    pruner = attach(model, optimizer, density=0.125, rules=rules)  # the head is outside what is pruned otherwise
    train(model, optimizer, stack_batches(10))
    pruner.close()
    assert kept(pruner) == {UPS[0]: 48, UPS[1]: 24, DOWNS[0]: 12, DOWNS[1]: 12, "head.weight": 18}
    assert pruner.density() == (48 + 24 + 12 + 12 + 18) / (4 * 96 + 24)
    assert pruner.summary().density == pruner.density()


def test_a_rule_for_the_rest_of_the_blocks_leaves_the_config_without_modules(attach: Attach) -> None:
    model = Stack()
    optimizer = adamw(model)
    pruner = attach(model, optimizer, density=0.125, rules=[Rule(["up", "down"], density=0.5)])
    train(model, optimizer, stack_batches(10))
    assert set(kept(pruner).values()) == {48}


def test_excluded_modules_follow_no_rule(attach: Attach) -> None:
    model = Stack()
    pruner = attach(model, adamw(model), exclude_modules=["0.up"], rules=[Rule(["up"], density=0.5)])
    assert set(pruner.names) == {UPS[1], *DOWNS}


def test_each_rule_has_a_method_a_structure_a_scope_and_a_schedule_of_its_own(attach: Attach) -> None:
    model = Stack()
    optimizer = adamw(model)
    rows = Rule(["down"], Magnitude(), 0.5, Rows(), CubicSchedule(0, 5), "global")
    pruner = attach(model, optimizer, structure=NofM(1, 4), density=None, schedule=CubicSchedule(5, 1), rules=[rows])
    assert list(scores(pruner)) == UPS
    train(model, optimizer, stack_batches(5))
    early = kept(pruner)
    assert [early[name] for name in UPS] == [96, 96], "the config's schedule has not begun"
    assert sum(early[name] for name in DOWNS) == 96, "the rule's has ended"
    assert not pruner.finished
    train(model, optimizer, stack_batches(5))
    assert pruner.finished
    held = masks(pruner)
    assert all((held[name].unflatten(1, (-1, 4)).sum(-1) == 1).all() for name in UPS)
    for name in DOWNS:
        assert torch.equal(held[name].any(1), held[name].all(1))


def test_the_modules_of_a_rule_share_a_budget_of_their_own(attach: Attach) -> None:
    model = Stack()
    optimizer = adamw(model)
    method = Movement(Uniform())
    pruner = attach(model, optimizer, scope="global", density=0.25, method=method, rules=[Rule(["up"], density=0.5)])
    for site in pruner._masked.sites:
        if site.name.startswith("blocks.0"):
            site.value().add_(1)
    train(model, optimizer, stack_batches(10))
    assert kept(pruner) == {UPS[0]: 96, UPS[1]: 0, DOWNS[0]: 48, DOWNS[1]: 0}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            [Rule(["up"]), Rule(["0.up"], density=0.5)],
            "The rule for ['0.up'] holds for nothing: earlier rules name blocks.0.up",
        ),
        ([Rule(["upp"])], "No module with a weight to prune matches 'upp'; did you mean 'up'"),
        ([Rule("blocks.(")], "'blocks.(' is not a regular expression"),
        ([Rule(["up"], schedule=CubicSchedule(9, 9))], "which has 10 optimizer steps, got 9 and 9"),
        ([Rule(["up"], density=0.005)], "density 0.005 would keep nothing of blocks.0.up.weight"),
        ([Rule(["up"], structure=Blocks(5, 5))], "Blocks(5, 5) do not fill a weight of shape 12 x 8"),
    ],
)
def test_a_rule_that_does_not_fit_the_model_is_refused_before_anything_is_changed(
    attach: Attach, rules: list[Rule], message: str
) -> None:
    model = Stack()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        attach(model, adamw(model), method=Magnitude(), schedule=CubicSchedule(0, 0.3), rules=rules)
    assert differences(before, model.state_dict()) == []


def resumed(attach: Attach, model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path, **settings: object) -> Pruner:
    """Returns a pruner of a copy of the model that has taken up the state in the folder."""
    again = Stack()
    again.load_state_dict(copy.deepcopy(model.state_dict()))
    other = adamw(again)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    pruner = attach(again, other, **settings)
    pruner.load(folder)
    return pruner


MANY_RULES = {
    "density": 0.25,
    "rules": [
        Rule(["0.up"], SoftMovement(), 0.5),
        Rule(["1.up"], Magnitude(), structure=NofM(2, 4)),
        Rule(["head"], L0(penalty=3.0)),
    ],
}


def test_a_run_with_rules_is_saved_and_resumed(attach: Attach, tmp_path: Path) -> None:
    model = Stack()
    optimizer = adamw(model)
    pruner = attach(model, optimizer, **MANY_RULES)
    train(model, optimizer, stack_batches(6))
    pruner.save(tmp_path)
    other = resumed(attach, model, optimizer, tmp_path, **MANY_RULES)
    for each in (pruner, other):
        train(each._masked.model, each._step.optimizer, stack_batches(10)[6:])
    assert differences(everything(pruner), everything(other)) == []
    assert [part.controller for part in pruner._masked.pools] == [part.controller for part in other._masked.pools]


def test_a_state_of_other_rules_is_refused(attach: Attach, tmp_path: Path) -> None:
    model = Stack()
    optimizer = adamw(model)
    attach(model, optimizer, rules=[Rule(["up"], density=0.5)]).save(tmp_path)
    for rules in (None, [Rule(["up"], density=0.25)], [Rule(["down"], density=0.5)]):
        with pytest.raises(InvalidInputError, match="saved with another config: rules"):
            resumed(attach, model, optimizer, tmp_path, rules=rules)


@pytest.mark.parametrize("version", ["0.0.1", "99.0.0", None])
def test_a_state_of_another_version_is_taken_up_when_the_rest_is_the_same(
    attach: Attach, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str | None
) -> None:
    model = Stack()
    optimizer = adamw(model)
    with monkeypatch.context() as patch:
        if version is not None:
            patch.setattr("fineprune.config.config.VERSION", version)
        pruner = attach(model, optimizer, **MANY_RULES)
        train(model, optimizer, stack_batches(3))
        pruner.save(tmp_path)
        assert pruner.config.to_dict()["version"] == (version or VERSION)
    other = resumed(attach, model, optimizer, tmp_path, **MANY_RULES)
    assert other.step == 3


# What other versions wrote.

NEWER = ["99.0.0", "0.2.1", "0.3", "0.3.0rc1", "1"]
NOT_NEWER = [VERSION, "0.1.9", "0.2", "0"]


def with_unknown_settings(version: str | None) -> dict[str, object]:
    """Plain values with an unknown setting in the config, one in its method, one in a rule, and one in its structure."""
    config = PruningConfig(Movement(), 0.1, rules=[Rule(["up"], structure=Blocks(2, 2), density=0.5)])
    values = config.to_dict() | {"version": version, "patience": 3}
    values["method"]["init_args"]["momentum"] = 0.9
    values["rules"][0]["weight"] = {"class_path": "Heavy"}
    values["rules"][0]["structure"]["init_args"]["offset"] = [1]
    if version is None:
        del values["version"]
    return values


@pytest.mark.parametrize("version", NEWER)
def test_unknown_settings_of_a_newer_version_are_left_out_with_a_warning(
    version: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "fineprune.config.serialization"):
        config = PruningConfig.from_dict(with_unknown_settings(version))
    assert config == PruningConfig(Movement(), 0.1, rules=[Rule(["up"], structure=Blocks(2, 2), density=0.5)])
    owners = {"PruningConfig": "patience", "Movement": "momentum", "Rule": "weight", "Blocks": "offset"}
    assert len(caplog.messages) == 4
    for owner, key in owners.items():
        assert any(message.startswith(f"{owner}: the setting {key!r} of a newer fineprune") for message in caplog.messages)


@pytest.mark.parametrize("version", [None, *NOT_NEWER])
@pytest.mark.parametrize(
    ("kind", "key", "path"),
    [
        ("PruningConfig", "scop", ()),
        ("Movement", "score_rl", ("method", "init_args")),
        ("Rule", "densty", ("rules", 0)),
        ("Blocks", "colls", ("rules", 0, "structure", "init_args")),
    ],
)
def test_of_this_version_or_an_older_they_are_errors(
    version: str | None, kind: str, key: str, path: tuple[str | int, ...]
) -> None:
    values = PruningConfig(Movement(), 0.1, rules=[Rule(["up"], structure=Blocks(2, 2))]).to_dict() | {"version": version}
    if version is None:
        del values["version"]
    inner = values
    for step in path:
        inner = inner[step]
    inner[key] = 1
    with pytest.raises(
        InvalidInputError, match=rf"{kind} has no setting '{key}'; did you mean '(scope|score_lr|density|cols)'"
    ):
        PruningConfig.from_dict(values)


@pytest.mark.parametrize("version", ["99.0.0", VERSION])
def test_a_newer_version_does_not_excuse_a_wrong_value(version: str) -> None:
    values = PruningConfig(Movement(), 0.1).to_dict() | {"version": version}
    with pytest.raises(InvalidInputError, match="method has no choice 'Movment'; did you mean 'Movement'"):
        PruningConfig.from_dict(values | {"method": {"class_path": "Movment"}})
    with pytest.raises(InvalidInputError, match="fraction of weights kept, got 3"):
        PruningConfig.from_dict(values | {"density": 3})


def test_version_is_a_word_of_the_config_alone() -> None:
    values = PruningConfig(Movement(), 0.1, rules=[Rule(["up"])]).to_dict()
    values["rules"][0]["version"] = VERSION
    with pytest.raises(InvalidInputError, match="Rule has no setting 'version'"):
        PruningConfig.from_dict(values)


@pytest.mark.parametrize("version", [None, 1, 0.1, "", "banana", "v1.0", [0, 1], True])
def test_a_malformed_version_is_refused(version: object) -> None:
    with pytest.raises(
        InvalidInputError, match=rf"version must be the version of fineprune that wrote it, as '{re.escape(VERSION)}', got"
    ):
        PruningConfig.from_dict(PruningConfig(Movement(), 0.1).to_dict() | {"version": version})
