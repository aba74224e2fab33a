"""The report: runs are read or raise a clear error, seeds are grouped, figures are explained, and the page stands alone."""

import base64
import io
import itertools
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

from fineprune import InvalidInputError
from fineprune.apps import report
from fineprune.apps.report import (
    drawing,
    grouping,
    layer_figures,
    metric_figures,
    page,
    provenance,
    result_files,
    results,
    setting_runs,
    weight_figures,
)
from fineprune.apps.report.formats import percent
from fineprune.apps.report.result_files import Run
from fineprune.apps.training.weight_samples import WeightSamples
from fineprune.config.config import PruningConfig
from fineprune.methods.base import Method
from fineprune.methods.inits import Constant, FromMagnitude
from fineprune.methods.l0 import L0
from fineprune.methods.magnitude import Magnitude
from fineprune.methods.movement import Movement
from fineprune.models.inspection import Count
from fineprune.structures.within_matrix import NofM

LAYERS = [f"encoder.layer.{number}.{kind}.weight" for number in (0, 1) for kind in ("attention.self.query", "output.dense")]


def write_run(
    folder: Path,
    method: Method | None = None,
    density: float | None = 0.1,
    seed: int = 0,
    accuracy: float = 0.8,
    kept: float | None = None,
    weight_samples: bool = True,
    scope: str = "local",
    learning_rate: float = 1e-3,
    **changes: Any,
) -> Path:
    """Writes what a run leaves behind, without training: a density of `kept`, or else the one asked for."""
    config = None if method is None else PruningConfig(method, density, scope=scope).to_dict()
    left = (1.0 if config is None else density) if kept is None else kept
    shares = [left, left] if scope == "local" else [0.5 * left, 1.5 * left]
    facts = {
        "metrics": {"accuracy": accuracy, "loss": 1 - accuracy},
        "headline": {"metric": "accuracy", "greater_is_better": True},
        "model": "someone/bert-tiny",
        "teacher": None,
        "task": {"class": "TextClassification", "train": "data/reviews.csv", "label": "label"},
        "pruning": config,
        "density": left,
        "remaining_weights": left,
        "whole_model_density": 0.5 + left / 2,
        "layers": [
            {"name": name, "shape": [100, 100], "weights": 10_000, "kept": round(10_000 * shares[place // 2])}
            for place, name in enumerate(LAYERS)
        ],
        "seconds": 12.5,
        "steps": 40,
        "seed": seed,
        "machine": {"processor": "x86_64", "threads": 1, "device": "cpu"},
        "versions": {"fineprune": "0.1.0"},
        "date": "2026-01-31",
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(facts))
    training = {"learning_rate": learning_rate, "seed": seed, "output_dir": str(folder)}
    (folder / "recipe.yaml").write_text(json.dumps({"model": "someone/bert-tiny", "training": training}))
    if weight_samples:
        draw_weights(method, left).save(folder)
    return folder


def draw_weights(method: Method | None, left: float, count: int = 500) -> WeightSamples:
    """Returns weights of which the right share is kept: the largest by magnitude, otherwise the first."""
    generator = torch.Generator().manual_seed(1)
    before = {name: torch.randn(count, generator=generator) / 10 for name in LAYERS}
    scores = {name: torch.linspace(1, -1, count) for name in LAYERS} if isinstance(method, Movement | L0) else {}
    after = {}
    for name, weight in before.items():
        rank = scores.get(name, weight.abs())
        cut = rank.sort(descending=True).values[max(1, round(left * count)) - 1]
        after[name] = torch.where(rank >= cut, 1.1 * weight, 0.0)
    return WeightSamples(before, after, scores)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs as a sweep leaves it: three lines, two densities, two seeds, and dense runs."""
    folder = tmp_path_factory.mktemp("sweep")
    for seed in (0, 1):
        write_run(folder / f"dense/{seed}", seed=seed, accuracy=0.90 + seed / 100)
        for density, loss in ((0.3, 0.02), (0.1, 0.2)):
            end = f"{density}/{seed}"
            write_run(folder / f"magnitude/{end}", Magnitude(), density, seed, 0.9 - 2 * loss)
            write_run(folder / f"movement/{end}", Movement(init=Constant(0.0)), density, seed, 0.9 - loss)
            write_run(folder / f"global/{end}", Movement(init=Constant(0.0)), density, seed, 0.91 - loss, scope="global")
    return folder


# Reading.


def test_runs_are_found_by_their_folder_or_one_above_and_each_once(sweep: Path) -> None:
    found = result_files.find_runs([str(sweep), str(sweep / "dense" / "0")])
    assert len(found) == 14
    assert found[0].name == "dense/0"
    assert [run.name for run in result_files.find_runs([str(sweep / "dense" / "1")])] == ["1"]
    assert found[0].layers[0] == Count(LAYERS[0], (100, 100), 10_000, 10_000)


def test_a_folder_without_a_run_raises(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="No run was given"):
        result_files.find_runs([])
    with pytest.raises(InvalidInputError, match=r"holds no result\.json.*--resume true"):
        result_files.find_runs([str(tmp_path)])
    with pytest.raises(InvalidInputError, match="is not a folder"):
        result_files.find_runs([str(tmp_path / "nothing")])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": {"accuracy": "high"}}, "'high' must be a number"),
        ({"metrics": {"loss": 0.1}}, "lacks 'accuracy'"),
        ({"whole_model_density": 1.5}, "a density must be from 0 to 1, got 1.5"),
        ({"layers": [{"name": "a", "shape": [1], "weights": 1, "kept": 2}]}, "a cannot keep 2 of 1 weights"),
        ({"layers": [{"name": "a"}]}, "lacks 'shape'"),
        ({"pruning": {"method": "Movement"}}, "not a whole result"),
        ({"pruning": {}}, "lacks 'method'"),
    ],
)
def test_a_damaged_result_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write_run(tmp_path / "run", **change)
    with pytest.raises(InvalidInputError, match=message) as error:
        report.write([str(tmp_path / "run")], str(tmp_path / "report.html"))
    assert "run/result.json is not a whole result" in str(error.value)
    assert "leave its folder out" in str(error.value)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"{}"])
def test_a_result_that_is_none_is_named(tmp_path: Path, content: bytes) -> None:
    (write_run(tmp_path / "run") / "result.json").write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"result\.json is not a whole result"):
        result_files.find_runs([str(tmp_path)])


def test_damaged_weight_samples_are_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", Movement())
    short = draw_weights(Movement(), 0.1)
    WeightSamples({**short.pretrained, LAYERS[0]: torch.zeros(3)}, short.weights, short.scores).save(folder)
    with pytest.raises(InvalidInputError, match=r"weight_samples\.safetensors is damaged: the samples of encoder\.layer\.0"):
        report.write([str(folder)], str(tmp_path / "report.html"))
    WeightSamples(short.pretrained, short.weights, {"other.weight": torch.zeros(3)}).save(folder)
    with pytest.raises(InvalidInputError, match=r"is damaged: the samples of other\.weight do not fit"):
        report.write([str(folder)], str(tmp_path / "report.html"))
    (folder / "weight_samples.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(InvalidInputError, match=r"weight_samples\.safetensors could not be read"):
        report.write([str(folder)], str(tmp_path / "report.html"))


# Grouping.


METHODS: list[Method | None] = [
    None,
    Magnitude(),
    *(Movement(init=init) for init in (Constant(0.0), Constant(0.5), FromMagnitude())),
    Movement(init=Constant(0.0), score_lr=0.1),
]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(METHODS),
            st.sampled_from([0.1, 0.3]),
            st.sampled_from(["local", "global"]),
            st.sampled_from([None, "teacher"]),
            st.sampled_from(["a.csv", "b.csv"]),
            st.integers(0, 3),
        ),
        min_size=1,
        max_size=12,
        unique=True,
    )
)
def test_runs_are_together_if_nothing_but_the_seed_differs(chosen: list[tuple[Any, ...]]) -> None:
    made = [run_of(*choice) for choice in chosen]
    found = grouping.group(made)
    assert sorted(id(run) for setting in found for run in setting.runs) == sorted(map(id, made))
    alone = [json.dumps([run.pruning, run.teacher, run.task], sort_keys=True) for run in made]
    assert len(found) == len(set(alone))
    for setting in found:
        assert [run.seed for run in setting.runs] == sorted(run.seed for run in setting.runs)
        assert len({json.dumps([run.pruning, run.teacher, run.task], sort_keys=True) for run in setting.runs}) == 1
    names = [(setting.first.comparison, setting.name) for setting in found]
    assert len(set(names)) == len(names), "two settings have one name"
    for line in drawing.line_styles(found).values():
        assert line.colour
    for inside in setting_runs.by_comparison(found):
        styles = [drawing.line_styles(inside)[line] for line in setting_runs.by_line(inside)]
        assert len(set(styles)) == len(styles), "two lines look the same"


def run_of(method: Method | None, density: float, scope: str, teacher: str | None, file: str, seed: int, **changes: Any) -> Run:
    pruning = None if method is None else PruningConfig(method, density, scope=scope).to_dict()
    facts = {
        "name": f"{seed}",
        "folder": Path(),
        "metrics": {"accuracy": 0.5},
        "metric": "accuracy",
        "greater_is_better": True,
        "model": "m",
        "base": "m",
        "teacher": teacher,
        "task": {"train": file},
        "pruning": pruning,
        "density": 1.0 if method is None else density,
        "remaining_weights": None,
        "whole_model_density": 1.0,
        "layers": (),
        "seconds": None,
        "steps": 1,
        "seed": seed,
        "machine": {},
        "versions": {},
        "date": "",
        "recipe": {},
    }
    return Run(**{**facts, **changes})


def made(method: Method | None, density: float = 0.1, seed: int = 0, **changes: Any) -> Run:
    return run_of(method, density, changes.pop("scope", "local"), changes.pop("teacher", None), "a.csv", seed, **changes)


def test_settings_that_differ_in_the_recipe_alone_are_apart_and_say_so(tmp_path: Path) -> None:
    for rate in (1e-3, 1e-2):
        write_run(tmp_path / str(rate), Movement(), learning_rate=rate)
    found = grouping.group(result_files.find_runs([str(tmp_path)]))
    assert [setting.line for setting in found] == ["movement, learning rate 0.001", "movement, learning rate 0.01"]


def test_lines_are_named_by_what_differs() -> None:
    constant, magnitude = made(Movement(init=Constant(0.0))), made(Movement(init=FromMagnitude()))
    assert [one.line for one in grouping.group([constant, magnitude])] == [
        "movement, init Constant",
        "movement, init FromMagnitude",
    ]
    half = made(Movement(init=Constant(0.5)))
    assert [one.line for one in grouping.group([constant, half])] == [
        "movement, init value 0.0",
        "movement, init value 0.5",
    ]
    assert [one.line for one in grouping.group([constant, half, magnitude])] == [
        "movement, init Constant, init value 0.0",
        "movement, init Constant, init value 0.5",
        "movement, init FromMagnitude, init scale 0.3",
    ]
    assert grouping.group([constant])[0].line == "movement"
    assert grouping.group([made(Movement(), scope="global", teacher="t")])[0].line == "movement, global scope, distilled"


def test_a_density_that_was_missed_is_listed_at_the_one_reached() -> None:
    missed, near = (grouping.group([replace(made(L0(), 0.1), density=left)])[0] for left in (0.62, 0.101))
    assert (missed.level, near.level) == (0.62, 0.1)
    assert missed.name == "L0, 62\N{NO-BREAK SPACE}% (10\N{NO-BREAK SPACE}% asked for)"
    assert missed.first.scope is None, "the scope has no say in L0"


def test_seeds_are_averaged_and_their_spread_is_the_standard_deviation() -> None:
    found = grouping.group([made(Movement(), seed=seed, metrics={"accuracy": 0.8 + seed / 10}) for seed in (1, 0)])[0]
    assert found.value == pytest.approx(0.85)
    assert found.deviation("accuracy") == pytest.approx(0.1 / 2**0.5)
    assert found.stated("accuracy").replace("\N{NO-BREAK SPACE}", " ") == "0.8500 ± 0.0707"
    large = grouping.group([made(Movement(), seed=seed, metrics={"accuracy": 80.0 + seed}) for seed in (1, 0)])[0]
    assert large.stated("accuracy").replace("\N{NO-BREAK SPACE}", " ") == "80.50 ± 0.71"
    alone = grouping.group([made(Movement())])[0]
    assert alone.deviation("accuracy") is None
    broken = grouping.group([made(Movement(), seed=seed, metrics={"accuracy": float("inf")}) for seed in (0, 1)])[0]
    assert broken.deviation("accuracy") is None


def test_a_figure_that_is_no_finite_number_is_never_the_best() -> None:
    figures = (0.8, math.inf, 0.9, math.nan, -math.inf)
    one_each = [grouping.group([made(Movement(), metrics={"accuracy": value})])[0] for value in figures]
    assert [one.value for one in setting_runs.ranked(one_each)][:2] == [0.9, 0.8]


def test_the_share_of_dense_is_turned_round_where_smaller_is_better() -> None:
    def setting(method: Method | None, value: float, greater: bool) -> setting_runs.SettingRuns:
        return grouping.group([made(method, metrics={"accuracy": value}, greater_is_better=greater)])[0]

    for greater, pruned in ((True, 9.0), (False, 10 / 0.9)):
        dense = setting(None, 10.0, greater)
        assert setting_runs.share_of_dense(setting(Movement(), pruned, greater), dense) == pytest.approx(0.9)
        best, worst = (20.0, 5.0) if greater else (5.0, 20.0)
        ranked = setting_runs.ranked([setting(Movement(), value, greater) for value in (worst, float("nan"), best)])
        assert [one.value for one in ranked[:2]] == [best, worst]
    assert setting_runs.share_of_dense(dense, None) is None
    assert setting_runs.share_of_dense(setting(Movement(), -0.1, True), setting(None, 0.5, True)) is None


def test_settings_stand_side_by_side_at_the_density_that_most_have() -> None:
    movement = [made(Movement(), density) for density in (0.5, 0.3, 0.03)]
    magnitude = [made(Magnitude(), density) for density in (0.3, 0.03)]
    found = grouping.group([*movement, *magnitude, made(L0(), 0.25), made(None)])
    chosen = {setting.line: setting.level for setting in setting_runs.side_by_side(found)}
    assert chosen == {"dense": 1.0, "magnitude": 0.3, "movement": 0.3, "L0": 0.25}


# Names of weights.


@pytest.mark.parametrize(
    ("name", "stack", "number", "kind"),
    [
        ("bert.encoder.layer.3.attention.self.query.weight", "bert.encoder.layer", 3, "attention.self.query"),
        ("encoder.block.0.layer.1.DenseReluDense.wi.weight", "encoder.block", 0, "layer.1.DenseReluDense.wi"),
        ("transformer.h.11.attn.c_attn.weight", "transformer.h", 11, "attn.c_attn"),
        ("0.up.weight", "", 0, "up"),
        ("classifier.weight", "", None, "classifier"),
        ("model.layers.7.mlp.experts.gate_up_proj", "model.layers", 7, "mlp.experts.gate_up_proj"),
    ],
)
def test_a_name_tells_the_layer_and_the_kind(name: str, stack: str, number: int | None, kind: str) -> None:
    assert layer_figures.position(name) == layer_figures.MatrixPosition((stack, number), kind)


WORDS = st.lists(st.from_regex(r"[a-z_]{1,4}", fullmatch=True), min_size=1, max_size=3).map(".".join)


@given(WORDS, st.integers(0, 99), WORDS)
def test_any_layer_number_is_read(stack: str, number: int, kind: str) -> None:
    assert layer_figures.position(f"{stack}.{number}.{kind}.weight") == layer_figures.MatrixPosition(
        (stack, number), kind.removesuffix(".weight")
    )


@given(st.lists(WORDS, min_size=1, max_size=6, unique=True))
def test_endings_are_short_and_tell_kinds_apart(kinds: list[str]) -> None:
    short = layer_figures.endings(kinds)
    assert len(set(short)) == len(kinds)
    assert all(f".{kind}".endswith(f".{end}") for kind, end in zip(kinds, short, strict=True))


def test_a_grid_holds_each_density_once_and_names_its_stacks() -> None:
    names = [f"{stack}.block.{number}.{kind}.weight" for stack in ("encoder", "decoder") for number in (10, 2) for kind in "qk"]
    layers = [Count(name, (10, 10), 100, place) for place, name in enumerate(names)]
    laid = layer_figures.density_grid([*layers, Count("head.weight", (10,), 10, 10)])
    assert laid.rows == ["encoder 2", "encoder 10", "decoder 2", "decoder 10", "–"]
    assert laid.columns == ["q", "k", "head"]
    assert laid.densities[0].tolist()[:2] == [0.02, 0.03]
    assert laid.densities[3].tolist()[:2] == [0.04, 0.05]
    assert laid.densities[4, 2] == 1.0


# What figures say.


def test_figures_state_measured_values(sweep: Path) -> None:
    found = grouping.group(result_files.find_runs([str(sweep)]))
    with drawing.plot_style():
        shown = setting_runs.shown_settings(found)
        scatter, histogram, scored = weight_figures.figures(shown, drawing.line_styles(found))
        heat = layer_figures.layer_densities(shown)
    magnitude = draw_weights(Magnitude(), 0.1)
    smallest = min(float(weight[weight != 0].abs().min()) for weight in magnitude.weights.values())
    said = histogram.observations[0].text.replace("\N{NO-BREAK SPACE}", " ")
    assert f"In the sample of its weights, magnitude, 10 % keeps none closer to 0 than {smallest:.3g}." in said
    shares = dict(histogram.observations[0].values)
    assert shares["magnitude, 10\N{NO-BREAK SPACE}%"] == "0\N{NO-BREAK SPACE}%"
    kept = torch.cat(list(draw_weights(Movement(), 0.1).weights.values()))
    closer = (kept[kept != 0].abs() < smallest).float().mean().item()
    assert shares["movement, 10\N{NO-BREAK SPACE}%"] == percent(closer)
    assert {value for _, value in scatter.observations[0].values} == {"100\N{NO-BREAK SPACE}%"}, "every weight grew by a tenth"
    assert [panel.title for panel in scored.panels] == ["movement, 10\N{NO-BREAK SPACE}%"]
    assert [panel.title for panel in heat.panels] == ["movement, global scope, 10\N{NO-BREAK SPACE}%"]
    assert "5\N{NO-BREAK SPACE}% (query, layer 0) to 15\N{NO-BREAK SPACE}%" in heat.observations[0].values[0][1]


def page_of(folder: Path) -> str:
    """Returns what a page of the runs in a folder says."""
    written = report.write([str(folder)], str(folder.parent / "report.html"))
    return Reader(written.read_text(encoding="utf-8")).text


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("part", ["weights", "scores"])
def test_a_diverged_run_is_left_out_of_the_figures_of_weights(tmp_path: Path, part: str, broken: float) -> None:
    folder, drawn = write_run(tmp_path / "runs/movement", Movement()), draw_weights(Movement(), 0.1)
    getattr(drawn, part)[LAYERS[-1]][3] = broken
    drawn.save(folder)
    left_out = "whose weights or scores are no longer finite: movement, 10 % (run movement)."
    text = page_of(tmp_path / "runs")
    for title in ("Where the weights went", "Which weights remain", "How the weights were scored"):
        assert f"{title}: no run has a sample of its weights (weight_samples.safetensors), apart from runs {left_out}" in text
    write_run(tmp_path / "runs/magnitude", Magnitude())
    text = page_of(tmp_path / "runs")
    assert text.count(f"Left out are runs {left_out}") == 2
    assert f"How the weights were scored: no method here has scores of its own, apart from runs {left_out}" in text


def test_runs_without_a_common_matrix_have_no_scatter(tmp_path: Path) -> None:
    whole = draw_weights(Movement(), 0.1)
    for name, of in zip(("constant", "magnitude"), LAYERS[:2], strict=True):
        init = Constant(0.0) if name == "constant" else FromMagnitude()
        folder = write_run(tmp_path / f"runs/{name}", Movement(init=init))
        WeightSamples(*({of: kind[of]} for kind in (whole.pretrained, whole.weights, whole.scores))).save(folder)
    text = page_of(tmp_path / "runs")
    assert "Where the weights went: the runs share no pruned matrix." in text
    assert "How the weights were scored: the runs with scores share no pruned matrix." in text
    assert "Figure 2. Which weights remain" in text


def test_scores_are_drawn_where_a_run_without_any_pruned_other_matrices(tmp_path: Path) -> None:
    for name, method, of in (("movement", Movement(), LAYERS[:2]), ("magnitude", Magnitude(), LAYERS[2:])):
        whole = draw_weights(method, 0.1)
        kinds = (whole.pretrained, whole.weights, whole.scores)
        sample = WeightSamples(*({layer: kind[layer] for layer in of if layer in kind} for kind in kinds))
        sample.save(write_run(tmp_path / "runs" / name, method))
    assert f"Each dot is a weight of {LAYERS[1]}: its score at the end" in page_of(tmp_path / "runs")


@given(st.lists(st.floats(1e-4, 1.0), min_size=1, max_size=6))
def test_a_density_axis_has_numbers_that_do_not_collide(densities: list[float]) -> None:
    low, high = min(densities) / 1.5, max(densities) * 1.5
    ticks = metric_figures.density_ticks(densities)
    assert ticks
    assert all(low <= tick <= high for tick in ticks)
    gaps = [math.log(after / before) for before, after in itertools.pairwise(ticks)]
    assert all(gap >= math.log(high / low) / 8 for gap in gaps)


@pytest.mark.parametrize(
    ("densities", "ticks"),
    [([0.5], [0.5]), ([0.2], [0.2]), ([0.05, 0.0502], [0.05]), ([0.4, 0.6], [0.4, 0.6]), ([0.03, 0.1], [0.03, 0.1])],
)
def test_a_density_axis_names_the_densities_where_round_ones_are_too_few(densities: list[float], ticks: list[float]) -> None:
    assert metric_figures.density_ticks(densities) == pytest.approx(ticks)
    found = grouping.group([made(Movement(), density) for density in densities])
    with drawing.plot_style():
        (drawn,) = metric_figures.against_density(found, drawing.line_styles(found)).panels
    assert all(f">{percent(tick)}<" in drawn.svg for tick in ticks)


def layers_of(*densities: float, weights: int = 10_000) -> tuple[Count, ...]:
    shape = (weights,)
    return tuple(Count(f"layer.{n}.up.weight", shape, weights, round(left * weights)) for n, left in enumerate(densities))


@pytest.mark.parametrize(
    ("layers", "even"),
    [
        (layers_of(0.008, 0.010, 0.012), False),
        (layers_of(0.5, 0.52), True),
        (layers_of(0.5, 0.56), False),
        ((*layers_of(0.15), *layers_of(0.1, weights=10)), True),
        ((*layers_of(0.35), *layers_of(0.2, weights=10)), False),
        ((), True),
    ],
)
def test_even_are_densities_that_differ_by_little_or_by_the_floor(layers: tuple[Count, ...], even: bool) -> None:
    assert layer_figures.is_even(made(Movement(), layers=layers)) is even


def test_one_shade_means_one_density_in_all_heat_maps() -> None:
    kept = {"global": (0.1, 0.2), "adaptive": (0.2, 0.8)}
    found = grouping.group([made(Movement(), scope=scope, layers=layers_of(*left)) for scope, left in kept.items()])
    with drawing.plot_style():
        panels = {panel.title.split(" scope")[0]: panel.svg for panel in layer_figures.layer_densities(found).panels}
    first, second = (pixels(panels[f"movement, {scope}"]) for scope in kept)
    assert np.array_equal(first[-2, 1], second[1, 1]), "20 %"
    assert first[1, 1, 0] > second[1, 1, 0] > second[-2, 1, 0], "the darker, the more is left"


def pixels(drawn: str) -> np.ndarray[Any, Any]:
    """Returns the picture inside an SVG, its first row on top."""
    found = re.search(r"data:image/png;base64,([^\"]+)", drawn)
    assert found is not None
    picture: np.ndarray[Any, Any] = imread(io.BytesIO(base64.b64decode(found[1])))
    return picture if "scale(1 -1)" not in drawn else picture[::-1]


def test_the_density_asked_for_is_listed() -> None:
    of_few = made(Movement(), pruning=PruningConfig(Movement(), structure=NofM(2, 4)).to_dict())
    penalised = made(L0(), pruning=PruningConfig(L0(penalty=1.0)).to_dict())
    asked = [provenance.shared_and_differing([run])[0].get("density") for run in (of_few, penalised, made(Movement()))]
    assert asked == [None, None, "0.1"]
    assert provenance.run_cells(penalised, ["density", "seed"])[:2] == ["–", "0"]


@pytest.mark.parametrize(("value", "stated"), [(0.0, "0.0000"), (-0.02, "-0.0200"), (math.nan, "nan"), (math.inf, "inf")])
@pytest.mark.parametrize("greater", [True, False])
def test_of_a_dense_figure_that_is_no_measure_no_share_is_taken(value: float, stated: str, greater: bool) -> None:
    dense = made(None, metrics={"accuracy": value}, greater_is_better=greater)
    pruned = [made(Movement(), density, metrics={"accuracy": density}, greater_is_better=greater) for density in (0.1, 0.3)]
    found = grouping.group([dense, *pruned])
    best = "movement, 30 %, with accuracy 0.3000" if greater else "movement, 10 %, with accuracy 0.1000"
    assert results.verdict(found).replace("\N{NO-BREAK SPACE}", " ") == (
        f"The dense accuracy is {stated}, so that no share of it can be taken. The best pruned setting is {best}."
    )
    with drawing.plot_style():
        (drawn,) = metric_figures.against_density(found, drawing.line_styles(found)).panels
    assert ">dense<" in drawn.svg or not math.isfinite(value)
    assert ">95 % of dense<" not in drawn.svg
    assert ">dense / 0.95<" not in drawn.svg


def test_the_verdict_is_the_sparsest_that_keeps_nearly_all(sweep: Path) -> None:
    found = grouping.group(result_files.find_runs([str(sweep)]))
    said = results.verdict(found).replace("\N{NO-BREAK SPACE}", " ")
    assert said == (
        "The sparsest setting within 95 % of the dense accuracy is movement, global scope, 30 %. Its accuracy is "
        "0.8900 ± 0.0000, 98.3 % of dense."
    )
    runs_by_density = {0.5: 0.9, 0.3: 0.88, 0.1: 0.5}
    movement = [made(Movement(), density, metrics={"accuracy": value}) for density, value in runs_by_density.items()]
    alone = grouping.group([made(None, metrics={"accuracy": 0.9}), *movement])
    assert "is movement, 30\N{NO-BREAK SPACE}%. Its accuracy is 0.8800" in results.verdict(alone)
    assert "no dense run" in results.verdict([one for one in found if not one.dense])
    assert "No pruned setting comes within 95 %" in results.verdict([one for one in found if one.dense or one.level == 0.1])
    assert "Only dense runs: accuracy 0.9050" in results.verdict([one for one in found if one.dense])


# The page.


class Reader(HTMLParser):
    """Reads a page: its tags and texts; fails on a tag that is closed wrongly or twice named."""

    VOID = ("meta", "link", "br", "hr", "img", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.figures: list[list[str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).replace("\N{NO-BREAK SPACE}", " ").split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def written(sweep: Path) -> str:
    return report.write([str(sweep)], str(sweep / "report.html"), title="A sweep").read_text(encoding="utf-8")


def test_the_page_stands_alone(written: str) -> None:
    reader = Reader(written)
    assert not re.search(r"https?://|url\((?!#)|@import|<script|<iframe|<img", written)
    links = [attributes.get(key) or "" for _, attributes in reader.tags for key in ("src", "href", "xlink:href")]
    assert all(link.startswith(("#", "data:")) for link in links if link)
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"(?:url\(|href=\")#([\w.-]+)", written))
    assert used <= set(ids)
    assert len(written) < 1_000_000


def test_every_figure_has_a_number_a_caption_and_a_text_for_who_cannot_see_it(written: str) -> None:
    reader = Reader(written)
    assert len(reader.all("figure")) == len(reader.all("figcaption")) == 6
    for number in range(1, 7):
        assert f"Figure {number}." in reader.text
    images = [attributes for attributes in reader.all("div") if attributes.get("role") == "img"]
    assert len(images) == written.count('class="panel"') >= 10
    assert all(len(image["aria-label"] or "") > 20 for image in images)


def test_the_page_shows_the_results_of_the_runs(written: str) -> None:
    text = Reader(written).text
    assert "A sweep" in text
    for figure in ("0.9050 ± 0.0071", "0.8900 ± 0.0000", "98.3 %", "55 %", "12 s", "0, 1"):
        assert figure in text
    assert "someone/bert-tiny" in text
    assert "Movement(init=Constant(value=0.0), score_lr=0.01)" in text
    assert "training learning rate 0.001" in text, "the settings of the recipe are shown"
    assert "global/0.3/1" in text


def test_the_same_runs_give_the_same_page(sweep: Path, tmp_path: Path, written: str) -> None:
    with drawing.mpl.rc_context({"axes.grid": True, "font.size": 30}):
        again = report.write([str(sweep)], str(tmp_path / "report.html"), title="A sweep").read_text(encoding="utf-8")
    assert again == written


HOSTILE = "<script>alert(1)</script>"


def test_names_are_text_and_nothing_else(tmp_path: Path) -> None:
    task = {"class": HOSTILE, "label": '"><img src=x onerror=alert(1)>'}
    metrics = {HOSTILE: 0.5, "$\\frac{": 0.1, "精度": 0.2}
    layers = [{"name": f"layer.{n}.<b>.weight", "shape": [2, 5], "weights": 10, "kept": n + 1} for n in (0, 1)]
    changes = {"metrics": metrics, "headline": {"metric": HOSTILE, "greater_is_better": True}, "task": task, "layers": layers}
    for name, method in (("<b>", Movement()), ("b", None)):
        write_run(tmp_path / "runs" / name, method, **changes)
    html = report.write([str(tmp_path / "runs")], str(tmp_path / "r.html"), title=HOSTILE).read_text(encoding="utf-8")
    reader = Reader(html)
    assert not {"script", "img", "b"} & {tag for tag, attributes in reader.tags if tag != "b" or attributes}
    assert "<script" not in html
    assert "<img" not in html
    assert HOSTILE in reader.text
    assert not any(key.startswith("on") for _, attributes in reader.tags for key in attributes)


@pytest.mark.parametrize(
    ("changes", "sentences"),
    [
        ([{"method": None}], ["no run pruned anything", "no run that pruned", "no method here has scores"]),
        (
            [{"method": Movement(), "weight_samples": False}],
            ["no run has a sample of its weights (weight_samples.safetensors)"],
        ),
        (
            [{"method": Movement()}],
            ["no two settings differ in their scope alone", "Every matrix kept the same share: movement"],
        ),
        ([{"method": Magnitude()}], ["no method here has scores of its own"]),
    ],
)
def test_missing_data_is_named(tmp_path: Path, changes: list[dict[str, Any]], sentences: list[str]) -> None:
    for number, change in enumerate(changes):
        write_run(tmp_path / f"runs/{number}", **change)
    text = Reader(report.write([str(tmp_path / "runs")], str(tmp_path / "r.html")).read_text(encoding="utf-8")).text
    for sentence in sentences:
        assert sentence in text


def test_trials_without_a_result_are_named(tmp_path: Path) -> None:
    for name, trials in (("sst2", ["a", "b", "c"]), ("mrpc", ["d", "<e>"]), ("whole", ["f"])):
        write_run(tmp_path / "runs" / name / trials[0], Movement())
        (tmp_path / "runs" / name / "sweep.json").write_text(json.dumps({"trials": dict.fromkeys(trials, "model: m")}))
    write_run(tmp_path / "runs/odd/run", Movement())
    for content in ("{", "[]", '{"trials": 3}', "{}"):
        (tmp_path / "runs/odd/sweep.json").write_text(content)
        text = page_of(tmp_path / "runs")
        assert "2 of 3 trials of sst2 have no result: b, c." in text
        assert "1 of 2 trials of mrpc has no result: <e>." in text
        assert text.count("no result:") == 2
    written = report.write([str(tmp_path / "runs/sst2"), str(tmp_path / "runs/sst2/a")], str(tmp_path / "report.html"))
    assert Reader(written.read_text(encoding="utf-8")).text.count("no result:") == 1


def test_tasks_and_models_are_kept_apart(tmp_path: Path) -> None:
    for name, greater in (("a.csv", True), ("b.csv", False)):
        changes = {"task": {"train": name}, "headline": {"metric": "loss", "greater_is_better": greater}}
        write_run(tmp_path / f"runs/{name}/dense", accuracy=0.5, **changes)
        write_run(tmp_path / f"runs/{name}/pruned", Movement(), accuracy=0.4, **changes)
    text = Reader(report.write([str(tmp_path / "runs")], str(tmp_path / "r.html")).read_text(encoding="utf-8")).text
    assert "120.0 %" in text
    assert "83.3 %" in text
    assert "95 % of dense" in text
    assert "dense / 0.95" in text
    assert "a.csv: loss" in text
    assert "b.csv: loss" in text


@pytest.mark.parametrize("given", ["runs/dense", "{folder}/runs/dense"])
def test_runs_that_go_on_from_another_are_compared_with_it(tmp_path: Path, given: str) -> None:
    write_run(tmp_path / "runs/dense", accuracy=0.5)
    model = given.format(folder=tmp_path)
    write_run(tmp_path / "runs/pruned", Movement(), accuracy=0.4, model=model)
    write_run(tmp_path / "runs/again", Movement(), 0.03, accuracy=0.3, model="pruned")
    write_run(tmp_path / "runs/circle", Magnitude(), model="circle")
    write_run(tmp_path / "runs/other", Magnitude(), model="someone/else")
    found = {run.name: run for run in result_files.find_runs([str(tmp_path / "runs")])}
    assert {name: run.base for name, run in found.items()} == {
        **dict.fromkeys(("dense", "pruned", "again"), "someone/bert-tiny"),
        "circle": "circle",
        "other": "someone/else",
    }
    assert found["pruned"].model == model
    assert (
        setting_runs.share_of_dense(
            *reversed([one for one in grouping.group(found.values()) if one.first.name in ("dense", "pruned")])
        )
        == 0.8
    )


def test_figures_that_are_no_numbers_do_not_stop_the_page(tmp_path: Path) -> None:
    for name, value in (("dense", float("inf")), ("pruned", float("nan"))):
        write_run(tmp_path / "runs" / name, None if name == "dense" else Movement(), accuracy=value)
    assert "nan" in Reader(report.write([str(tmp_path / "runs")], str(tmp_path / "r.html")).read_text(encoding="utf-8")).text


# Where it is written.


def test_only_its_own_page_is_replaced(tmp_path: Path) -> None:
    folder, target = str(write_run(tmp_path / "run", Movement())), tmp_path / "report.html"
    target.write_text("<!doctype html><p>mine")
    with pytest.raises(InvalidInputError, match=r"was not written by this command\. Give another --output"):
        report.write([folder], str(target))
    assert target.read_text() == "<!doctype html><p>mine"
    target.unlink()
    assert report.write([folder], str(target)) == target
    target.write_text(target.read_text(encoding="utf-8").replace("</html>", "<!-- old --></html>"), encoding="utf-8")
    report.write([folder], str(target))
    assert "<!-- old -->" not in target.read_text(encoding="utf-8")
    target.write_text(target.read_text(encoding="utf-8").replace(page.MARK, ""), encoding="utf-8")
    with pytest.raises(InvalidInputError, match="was not written by this command"):
        report.write([folder], str(target))


def test_an_unwritable_output_is_an_error_before_anything_else(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"is a folder\. Give --output the name of a file"):
        report.write(["nothing"], str(tmp_path))
    with pytest.raises(InvalidInputError, match=r"There is no folder .*none"):
        report.write(["nothing"], str(tmp_path / "none" / "report.html"))
