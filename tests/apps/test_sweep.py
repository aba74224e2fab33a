"""Sweeps: every trial once, whatever dies on the way, and the same table in the end."""

import csv
import json
import math
import multiprocessing
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from test_training import SETTINGS

import sweep_run
from fineprune import FromMagnitude, InvalidInputError, Magnitude, Movement, SoftMovement
from fineprune.apps.sweep import command, engines, flags, grid, locks, plan, record, tables
from fineprune.apps.training import recipe
from fineprune.errors import TrainingError

BASE = """
model: some/model
task: {train: a.csv, validation: b.csv}
pruning:
  method: {class_path: Movement, init_args: {init: {class_path: FromMagnitude, init_args: {scale: 3}}, score_lr: 0.5}}
  density: 0.1
training: {learning_rate: 1e-3, seed: 7, output_dir: runs/own}
"""

VARIANTS = """
dense: {pruning: null}
initialised again: {pruning: {method: {class_path: Movement}}}
slower: {pruning: {method: {init_args: {score_lr: 0.25}}}, training: {learning_rate: 5e-4}}
soft: {pruning: {method: {class_path: SoftMovement, init_args: {penalty: 3}}, density: null}}
plain:
magnitude: {pruning: {method: Magnitude}}
"""

METHODS = "pruning.method={class_path: Movement, init_args: {init: FromMagnitude}},Magnitude"


class Bench:
    """A sweep in a folder of its own, and a control folder for what its fake trials do."""

    def __init__(self, folder: Path) -> None:
        self.recipe, self.output, self.control = folder / "recipe.yaml", folder / "out", folder / "control"
        self.control.mkdir(parents=True)
        self.recipe.write_text(BASE)

    def arguments(self, *more: str) -> list[str]:
        return [str(self.recipe), "--output", str(self.output), "--grid", "pruning.density=0.3,0.1", *more]

    def run(self, *more: str) -> command.SweepOutcome:
        return sweep_run.run(self.arguments(*more), self.control)

    def tell(self, trial: str, what: str, text: object = "") -> None:
        (self.control / f"{trial}.{what}").write_text(str(text))

    def starts(self, trial: str) -> list[int]:
        """Returns the process of each start of a trial."""
        path = self.control / f"{trial}.starts"
        return [int(line.split()[0]) for line in path.read_text().splitlines()] if path.exists() else []

    def tables(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in self.output.glob("*.csv")}

    def rows(self, name: str = "trials.csv") -> list[dict[str, str]]:
        return list(csv.DictReader((self.output / name).read_text().splitlines()))


TRIALS = ["density-0.3-seed7", "density-0.3-seed8", "density-0.1-seed7", "density-0.1-seed8"]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The tables of two values and two seeds, of a sweep that nothing disturbs."""
    undisturbed = Bench(tmp_path_factory.mktemp("undisturbed"))
    undisturbed.run("--seeds", "2").check()
    return undisturbed.tables()


def until(condition: Callable[[], Any]) -> Any:
    """Waits for something that another process does; the test's own time limit ends it."""
    while not (value := condition()):
        time.sleep(0.02)
    return value


# What is run.


@given(st.lists(st.sampled_from(["0.3", "[1, 2]", "{a: [1, {b: 2}], c: 3}", "'x,y'", '"}"', "it's", "-1", "a/b"]), min_size=1))
def test_commas_part_values_only_outside_brackets_and_quotes(values: list[str]) -> None:
    assert grid.split(",".join(values)) == values
    assert grid.split(" , ".join(values)) == values


def test_a_grid_is_read_or_raises_a_clear_error() -> None:
    assert grid.read_grids([METHODS, "a='x,y',[1,2]"]) == {
        "pruning.method": ["{class_path: Movement, init_args: {init: FromMagnitude}}", "Magnitude"],
        "a": ["x,y", "[1,2]"],
    }
    for text in ("density", "=3", "--a=3", "a=1,,2", "a=", "a=1,1", "a=[1,2", "a={1]]", "a='x"):
        with pytest.raises(InvalidInputError):
            grid.read_grids([text])
    with pytest.raises(InvalidInputError, match="--grid must be given once for a, with all its values"):
        grid.read_grids(["a=1", "a=2"])


@given(st.text(min_size=1), st.text(min_size=1))
def test_a_name_fits_any_file_system_and_no_two_texts_share_one(first: str, second: str) -> None:
    name = grid.slug(first)
    assert name
    assert name.isascii()
    assert len(name) < 50
    assert not set(name) & set(' /\\:*?"<>|\0')
    assert not name.startswith(".")
    assert first == second or name != grid.slug(second)


def made(bench: Bench, *more: str) -> plan.Sweep:
    return flags.read([str(bench.recipe), *more])


def test_trials_are_grids_times_seeds_in_order(bench: Bench) -> None:
    trials = made(bench, "--grid", "pruning.density=0.3,0.1", "--grid", METHODS, "--seeds", "2").trials
    assert [trial.name for trial in trials] == [
        f"density-{density}-method-{method}-seed{seed}"
        for density in ("0.3", "0.1")
        for method in ("Movement-init-FromMagnitude-f5de4e", "Magnitude")
        for seed in (7, 8)
    ]
    assert trials[2].setting.choices == {"pruning.density": "0.3", "pruning.method": "Magnitude"}
    assert [trial.name for trial in made(bench).trials] == ["seed7"]
    assert [trial.seed for trial in made(bench, "--seeds", "5,3").trials] == [5, 3]


def test_a_trials_recipe_is_that_of_the_same_flags(bench: Bench, tmp_path: Path) -> None:
    more = ["--training.learning_rate", "2e-5", "--task.train", "c.csv"]
    trial = made(bench, *more, "--grid", METHODS, "--grid", "pruning.density=0.3", "--seeds", "12,").trials[0]
    (tmp_path / "trial.yaml").write_text(trial.source)
    read = recipe.read([str(tmp_path / "trial.yaml")])
    same = [*more, "--pruning.method", trial.setting.choices["pruning.method"], "--pruning.density", "0.3"]
    direct = recipe.read([str(bench.recipe), *same, "--training.seed", "12", "--training.output_dir", "runs/fineprune"])
    assert (read.model, read.task, read.pruning) == (direct.model, direct.task, direct.pruning)
    assert read.training.to_dict() == direct.training.to_dict()
    assert trial.prunes


def test_a_variant_is_laid_over_the_recipe_and_replaces_what_it_names(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "variants.yaml").write_text(VARIANTS)
    trials = made(bench, "--variants", str(tmp_path / "variants.yaml")).trials
    read = {}
    for trial in trials:
        (tmp_path / "trial.yaml").write_text(trial.source)
        read[trial.setting.choices["variant"]] = recipe.read([str(tmp_path / "trial.yaml")])
    methods = {name: None if one.pruning is None else one.pruning.method for name, one in read.items()}
    assert methods == {
        "dense": None,
        "initialised again": Movement(),  # nothing is left of the recipe's own Movement
        "slower": Movement(FromMagnitude(3.0), score_lr=0.25),
        "soft": SoftMovement(penalty=3.0),
        "plain": Movement(FromMagnitude(3.0), score_lr=0.5),
        "magnitude": Magnitude(),
    }
    assert [one.training.learning_rate for one in read.values()] == [1e-3, 1e-3, 5e-4, 1e-3, 1e-3, 1e-3]
    assert [trial.prunes for trial in trials] == [False, True, True, True, True, True]
    assert [trial.name for trial in trials][:2] == ["dense-seed7", f"{grid.slug('initialised again')}-seed7"]
    assert all(one.task == read["plain"].task for one in read.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--grid", "pruning.methd=Movement"], "With pruning.methd=Movement: .*did you mean 'method'"),
        (
            ["--grid", "pruning.density=0.3,2"],
            "With pruning.density=2: density must be a number above 0 and at most 1, the fraction of weights kept, got 2",
        ),
        (["--grid", "pruning.density=0.3,0.30"], "same: pruning.density=0.3 and pruning.density=0.30"),
        (["--grid", "pruning.density=0.3", "--modl", "m"], "did you mean 'model'"),
        (["--grid", "training.seed=1,2"], "use --seeds"),
        (["--grid", "training.output_dir=a,b"], "use --output"),
        (["--grid"], "--grid"),
        (["--seeds", "0"], r"--seeds must be their number, 1 or more, or different seeds .*, got '0'\."),
        (["--seeds", "4,4"], r"--seeds must be their number, 1 or more, or different seeds .*, got '4,4'\."),
        (["--seeds", "few"], r"--seeds must be their number, 1 or more, or different seeds .*, got 'few'\."),
        (["--seeds=-1,"], r"--seeds must be their number, 1 or more, or different seeds .*, got '-1,'\."),
        (["--resume", "true"], "--resume must be left out"),
        (["--jobs", "0"], "--jobs must be 1 trial or more, got 0"),
        (["--gpus", "1"], "--gpus must be left out for --engine local"),
        (["--engine", "ray", "--jobs", "2"], "--jobs must be left out for --engine ray"),
        (["--engine", "slurm"], "invalid choice"),
        (["--variants", "nothing.yaml"], "could not be read"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_written(bench: Bench, arguments: list[str], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        sweep_run.run([str(bench.recipe), "--output", str(bench.output), *arguments], bench.control)
    assert not bench.output.exists()


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ("a: 3", "must hold variants: a name for each"),
        ("{}", "must hold variants: a name for each"),
        ("a: {training: {seed: 3}}\nb:", r"training.seed \(--seeds\)"),
        ("a: {pruning: {density: 0.1}}\nb:", "same: variant=a and variant=b"),
        ("a: {pruning: {density: 0.2}}\nA:", "Two trials have the same folder, a"),
        ("a: {pruning: {densty: 0.2}}", "With variant=a: .*'density'"),
    ],
)
def test_variants_that_cannot_be_run_are_refused(bench: Bench, tmp_path: Path, variants: str, message: str) -> None:
    (tmp_path / "variants.yaml").write_text(variants)
    with pytest.raises(InvalidInputError, match=message):
        made(bench, "--variants", str(tmp_path / "variants.yaml"))


# The tables.


def test_the_tables_hold_every_trial_and_every_setting(bench: Bench) -> None:
    outcome = bench.run("--seeds", "3")
    rows = bench.rows()
    assert [row["folder"] for row in rows] == [f"density-{density}-seed{seed}" for density in (0.3, 0.1) for seed in (7, 8, 9)]
    assert rows[1] == {
        "pruning.density": "0.3",
        "seed": "8",
        "status": "finished",
        "accuracy": str(0.3 + 0.008),
        "loss": "-0.3",
        "density": "0.3",
        "remaining_weights": "0.3",
        "whole_model_density": "0.5",
        "seconds": "2.0",
        "steps": "24",
        "folder": "density-0.3-seed8",
    }
    summary = bench.rows("summary.csv")
    accuracies = [0.1 + seed / 1000 for seed in (7, 8, 9)]
    assert [row["seeds"] for row in summary] == ["3", "3"]
    assert float(summary[1]["accuracy_mean"]) == pytest.approx(0.108, abs=1e-15)
    assert float(summary[1]["accuracy_std"]) == pytest.approx(0.001, abs=1e-12)
    assert float(summary[1]["accuracy_std"]) == statistics.stdev(accuracies)
    assert [float(summary[1][f"accuracy_{end}"]) for end in ("min", "max")] == [accuracies[0], accuracies[-1]]
    for name, table in (("trials", outcome.trials), ("summary", outcome.summary)):
        stored = pyarrow.parquet.read_table(bench.output / f"{name}.parquet")
        assert stored.equals(table)
        text = [["" if value is None else str(value) for value in row.values()] for row in stored.to_pylist()]
        assert text == [list(row.values()) for row in bench.rows(f"{name}.csv")]


def test_one_seed_has_no_deviation_and_a_choice_keeps_its_kind(bench: Bench) -> None:
    outcome = bench.run("--grid", "max_length=64,32", "--grid", "pruning.scope=local,global")
    [first, *_] = outcome.summary.to_pylist()
    assert first["accuracy_std"] is None
    assert (first["pruning.density"], first["max_length"], first["pruning.scope"]) == (0.3, 64, "local")


@given(st.lists(st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf]), min_size=1, max_size=4))
def test_the_statistics_are_those_of_numpy(values: list[float]) -> None:
    mean, deviation, least, greatest = tables._statistics("loss", values).values()
    wanted = [np.mean(values), np.min(values), np.max(values)]
    assert [mean, least, greatest] == pytest.approx(wanted, nan_ok=True, abs=1e-6)
    if len(values) == 1:
        assert deviation is None
        return
    with np.errstate(invalid="ignore"):
        assert deviation == pytest.approx(np.std(values, ddof=1), nan_ok=True, abs=1e-6)


def test_the_summary_on_a_screen(bench: Bench) -> None:
    bench.tell(TRIALS[0], "exit", 1)
    headings, rows = tables.shown(bench.run("--seeds", "2").summary)
    assert headings == ["pruning.density", "seeds", "accuracy", "loss", "density"]
    assert rows[0] == ["0.3", "1", "0.3080", "-0.3000", "0.3000"]
    assert rows[1] == ["0.1", "2", "0.1075 ± 0.0007", "-0.1000 ± 0.0000", "0.1000 ± 0.0000"]


def test_the_order_of_ending_leaves_no_trace(bench: Bench, expected: dict[str, str]) -> None:
    bench.tell(TRIALS[0], "wait", bench.output / TRIALS[1] / "result.json")
    bench.tell(TRIALS[2], "wait", bench.output / TRIALS[3] / "result.json")
    bench.run("--seeds", "2", "--jobs", "2").check()
    assert bench.tables() == expected


# What breaks.


def test_a_broken_trial_is_told_and_tried_again(bench: Bench, expected: dict[str, str]) -> None:
    bench.tell(TRIALS[0], "exit", 5)
    bench.tell(TRIALS[1], "kill")
    outcome = bench.run("--seeds", "2")
    assert list(outcome.failed) == TRIALS[:2]
    assert "ended with exit status 5" in outcome.failed[TRIALS[0]]
    assert outcome.failed[TRIALS[0]].endswith(f"{bench.output / 'logs' / TRIALS[0]}.log: this is why")
    assert "killed by SIGKILL (out of memory?)" in outcome.failed[TRIALS[1]]
    assert [row["status"] for row in bench.rows()] == ["failed", "failed", "finished", "finished"]
    assert [row["seeds"] for row in bench.rows("summary.csv")] == ["0", "2"]
    with pytest.raises(TrainingError, match=r"2 of 4 trials failed: density-0\.3-seed7, density-0\.3-seed8"):
        outcome.check()
    bench.run("--seeds", "2").check()
    assert bench.tables() == expected
    assert [len(bench.starts(trial)) for trial in TRIALS] == [2, 2, 1, 1]


def test_a_command_that_cannot_be_started_is_a_broken_trial(bench: Bench) -> None:
    outcome = command.run(bench.arguments(), lambda line: None, lambda *_: ("/nowhere/python",))
    assert all("could not be started" in problem for problem in outcome.failed.values())
    assert outcome.trials.column("status").to_pylist() == ["failed", "failed"]


def test_ctrl_c_stops_the_trials_and_says_how_to_go_on(
    bench: Bench, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.tell(TRIALS[1], "wait", bench.control / "never")
    pause = time.sleep

    def interrupted(seconds: float) -> None:  # while it waits for the trial, and again while it stops it
        pause(seconds)
        if bench.starts(TRIALS[1]):
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(engines.time, "sleep", interrupted)
        with pytest.raises(TrainingError, match="same command runs the others"):
            bench.run("--seeds", "2")
    with pytest.raises(ProcessLookupError):
        os.kill(bench.starts(TRIALS[1])[0], 0)
    assert [row["status"] for row in bench.rows()] == ["finished", "unfinished", "unfinished", "unfinished"]
    (bench.control / f"{TRIALS[1]}.wait").unlink()
    bench.run("--seeds", "2").check()
    assert bench.tables() == expected
    assert len(bench.starts(TRIALS[0])) == 1


@pytest.fixture(scope="module")
def mortal() -> Any:
    """Starts processes that can be killed, without the seconds of importing everything again."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fineprune.apps.sweep.command"])
    return context


@pytest.mark.parametrize("writes", [1, 2, 4, 6, 10, 15, 21, 25])
def test_a_sweep_killed_while_it_writes_ends_with_the_same_tables(
    bench: Bench, expected: dict[str, str], mortal: Any, writes: int
) -> None:
    process = mortal.Process(target=sweep_run.run_and_die, args=(bench.arguments("--seeds", "2"), bench.control, writes))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    before = results_of(bench)
    bench.run("--seeds", "2").check()
    assert bench.tables() == expected
    assert {name: fact for name, fact in results_of(bench).items() if name in before} == before
    assert not list(bench.output.glob(".*"))


def results_of(bench: Bench) -> dict[str, tuple[int, int]]:
    """Returns the identity of each result's file."""
    paths = bench.output.glob("*/result.json")
    return {path.parent.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


@pytest.fixture
def killed(bench: Bench, mortal: Any) -> Iterator[Bench]:
    """A sweep that was killed while its second trial ran."""
    bench.tell(TRIALS[1], "wait", bench.control / "go")
    process = mortal.Process(target=sweep_run.run, args=(bench.arguments("--seeds", "2"), bench.control))
    process.start()
    until(lambda: (bench.output / TRIALS[1] / "half").exists())
    process.kill()
    process.join()
    yield bench
    (bench.control / "go").touch()


def test_a_trial_that_outlives_its_sweep_is_awaited_and_not_repeated(
    killed: Bench, expected: dict[str, str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, pause = results_of(killed), time.sleep

    def released_when_told(seconds: float) -> None:
        if "waiting for it" in caplog.text:
            (killed.control / "go").touch()
        pause(seconds)

    monkeypatch.setattr(engines.time, "sleep", released_when_told)
    killed.run("--seeds", "2").check()
    assert killed.tables() == expected
    assert [len(killed.starts(trial)) for trial in TRIALS] == [1, 1, 1, 1]
    assert {TRIALS[0]: results_of(killed)[TRIALS[0]]} == before
    assert caplog.text.count("waiting for it") == 1


def test_a_sweep_killed_with_its_trials_ends_with_the_same_tables(killed: Bench, expected: dict[str, str]) -> None:
    os.kill(killed.starts(TRIALS[1])[0], signal.SIGKILL)
    (killed.control / "go").touch()
    killed.run("--seeds", "2").check()
    assert killed.tables() == expected
    assert [len(killed.starts(trial)) for trial in TRIALS] == [1, 2, 1, 1]


# The folder.


def test_a_sweep_grows_and_keeps_what_is_there(bench: Bench, expected: dict[str, str]) -> None:
    sweep_run.run([*bench.arguments()[:3], "--grid", "pruning.density=0.1"], bench.control).check()
    before = results_of(bench)
    assert list(before) == ["density-0.1-seed7"]
    bench.run("--seeds", "2").check()
    assert bench.tables() == expected
    assert results_of(bench)["density-0.1-seed7"] == before["density-0.1-seed7"]
    bench.run("--seeds", "2").check()
    assert [len(bench.starts(trial)) for trial in TRIALS] == [1, 1, 1, 1]
    written = json.loads((bench.output / "sweep.json").read_text())
    assert (written["grids"], written["seeds"]) == ({"pruning.density": ["0.3", "0.1"]}, [7, 8])


def test_another_sweep_in_the_same_folder_raises_a_clear_error(bench: Bench, expected: dict[str, str]) -> None:
    bench.run("--seeds", "2").check()
    for change, message in (
        (["--seeds", "1"], "holds a sweep with more trials: density-0.3-seed8, density-0.1-seed8"),
        (["--seeds", "2", "--grid", "max_length=32"], "holds a sweep with more trials"),
        (["--seeds", "2", "--max_length", "32"], "In density-0.3-seed7, max_length was not given and is 32"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            bench.run(*change)
    bench.recipe.write_text(f"# a remark{BASE}")
    bench.run("--seeds", "2").check()
    bench.recipe.write_text(BASE.replace("1e-3", "2e-3").replace("scale: 3", "scale: 4"))
    with pytest.raises(
        InvalidInputError, match=r"init.init_args.scale was 3.0 and is 4.0, training.learning_rate was 0.001 and"
    ):
        bench.run("--seeds", "2")
    assert bench.tables() == expected
    assert [len(bench.starts(trial)) for trial in TRIALS] == [1, 1, 1, 1]


def test_a_folder_of_something_else_is_left_alone(bench: Bench) -> None:
    bench.output.mkdir()
    (bench.output / "thesis.tex").write_text("all of it")
    with pytest.raises(InvalidInputError, match=r"holds other files \(thesis\.tex\)"):
        bench.run()
    assert [path.name for path in bench.output.iterdir()] == ["thesis.tex"]
    shutil.rmtree(bench.output)
    bench.output.write_text("a file")
    with pytest.raises(InvalidInputError, match="is a file"):
        bench.run()
    assert bench.output.read_text() == "a file"


def test_a_folder_that_the_sweep_did_not_make_is_left_alone(bench: Bench) -> None:
    bench.run().check()
    (bench.output / TRIALS[1]).mkdir()
    with pytest.raises(InvalidInputError, match=r"holds density-0\.3-seed8, which this sweep did not write"):
        bench.run("--seeds", "2")
    assert (bench.output / TRIALS[1]).is_dir()


def test_two_sweeps_at_once_are_refused(bench: Bench) -> None:
    bench.output.mkdir()
    with (bench.output / record.LOCK).open("ab") as other:
        assert locks.take(other)
        with pytest.raises(InvalidInputError, match="Another process runs a sweep"):
            bench.run()
    bench.run().check()


def test_a_damaged_record_or_result_raises_a_clear_error(bench: Bench) -> None:
    bench.run().check()
    (bench.output / TRIALS[0] / "result.json").write_text("{")
    with pytest.raises(InvalidInputError, match=r"result\.json could not be read"):
        bench.run()
    (bench.output / "sweep.json").write_text("[]")
    with pytest.raises(InvalidInputError, match=r"sweep\.json could not be read"):
        bench.run()


# With the real thing.


def test_real_trials_resume_and_end_as_if_nothing_had_been(model_folder: Path, reviews: Path, tmp_path: Path) -> None:
    settings = {
        "model": model_folder,
        "task.train": reviews / "train.csv",
        "task.validation": reviews / "validation.csv",
        **SETTINGS,
        "training.save_strategy": "steps",
        "training.save_steps": 5,
    }
    words = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    arguments = [*words, "--output", str(tmp_path / "out"), "--grid", "pruning.method=Movement,Magnitude", "--seeds", "92,"]
    dying = Path(__file__).parents[1].joinpath("sweep_dying.py")

    def dies_once(recipe: Path, folder: Path) -> tuple[str, ...]:
        return (sys.executable, str(dying), *command.train_command(recipe, folder)[5:])

    outcome = command.run(arguments, lambda line: None, dies_once)
    assert list(outcome.failed) == ["method-Movement-seed92"]
    note = tmp_path / "out" / "method-Movement-seed92" / "note"
    note.touch()
    outcome = command.run(arguments, lambda line: None)
    outcome.check()
    assert note.exists()  # it went on; a new start would have removed what was there
    whole = tmp_path / "whole"  # in a process of its own too: threads decide how sums are rounded
    undisturbed = command.train_command(tmp_path / "out" / record.RECIPES / "method-Movement-seed92.yaml", whole)
    subprocess.run(undisturbed, check=True, capture_output=True)
    movement, magnitude = outcome.trials.to_pylist()
    metrics = json.loads((whole / "result.json").read_text())["metrics"]
    assert metrics == {name: movement[name] for name in ("accuracy", "f1_macro", "loss")}
    assert movement["density"] == magnitude["density"] == 0.25
    assert movement["steps"] == 24
    saved = yaml.safe_load((tmp_path / "out" / "method-Magnitude-seed92" / "recipe.yaml").read_text())
    assert saved["pruning"]["method"]["class_path"] == "Magnitude"
