"""The command line as a user meets it: every command, its help, its exit code, and one sentence for what went wrong."""

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training import SETTINGS
from transformers import BertForSequenceClassification

from fineprune import errors
from fineprune.apps import cli


def code_of(arguments: list[str]) -> Any:
    """Returns the exit code, of a command or of the parser itself."""
    try:
        return cli.main(arguments)
    except SystemExit as exit_:
        return exit_.code


def flags(model_folder: Path, reviews: Path, output: Path) -> list[str]:
    settings = {
        "model": model_folder,
        "task.train": reviews / "train.csv",
        "task.validation": reviews / "validation.csv",
        "training.output_dir": output,
        **SETTINGS,
    }
    return [part for name, value in settings.items() for part in (f"--{name}", str(value))]


def test_trains_inspects_and_evaluates(
    model_folder: Path, reviews: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    assert cli.main(["train", *flags(model_folder, reviews, output)]) == 0
    trained = capsys.readouterr().out
    for line in (
        "accuracy",
        "density of the prunable weights",
        "as the paper counts",
        "density of the whole model",
        "training time",
    ):
        assert line in trained
    assert "0.250000 (4,096 of 16,384)" in trained

    assert cli.main(["inspect", str(output)]) == 0
    inspected = capsys.readouterr().out
    assert inspected.count("0.2500 ") == 12  # a line a matrix
    assert "0.250000 (4,096 of 16,384)" in inspected

    assert cli.main(["evaluate", str(output)]) == 0
    evaluated = capsys.readouterr().out
    assert "1.0000" in evaluated
    assert "training time" not in evaluated
    assert cli.main(["evaluate", str(output), "--task.validation", str(reviews / "train.csv")]) == 0

    assert cli.main(["train", *flags(model_folder, reviews, output)]) == 2
    assert "already holds a run" in capsys.readouterr().err


def test_sweeps_and_reports(model_folder: Path, reviews: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, output = tmp_path / "recipe.yaml", tmp_path / "sweep"
    recipe.write_text(f"model: {model_folder}\n")
    variants = tmp_path / "variants.yaml"
    variants.write_text("dense: {}\n'movement [bold]': {pruning: {method: {class_path: Movement}, density: 0.25}}\n")
    given = flags(model_folder, reviews, output)[2:]
    given = [part for pair in zip(given[::2], given[1::2], strict=True) if "pruning" not in pair[0] for part in pair]
    assert cli.main(["sweep", str(recipe), "--variants", str(variants), *given]) == 0
    swept = capsys.readouterr().out
    assert "2 of 2: movement-bold" in swept
    assert "movement [bold]" in swept, "a name is no markup"
    assert "1.0000" in swept

    page = tmp_path / "page.html"
    assert cli.main(["report", str(output), "--output", str(page)]) == 0
    assert str(page) in capsys.readouterr().out.replace("\n", "")
    assert page.read_text(encoding="utf-8").count("<figure") >= 4

    assert cli.main(["sweep", str(recipe), "--variants", str(variants), *given]) == 0
    assert "2 trials, 2 of them finished before" in capsys.readouterr().out


def test_inspects_a_checkpoint_not_made_here(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(model_folder)]) == 0
    assert "1.000000 (16,384 of 16,384)" in capsys.readouterr().out


def zeroed(model_folder: Path, folder: Path) -> Path:
    """Saves a model with a head, of which the first block is empty and the second has half of its neurons, as a run would."""
    shutil.copytree(model_folder, folder)
    model = BertForSequenceClassification.from_pretrained(folder, id2label={0: "bad", 1: "good"})
    with torch.no_grad():
        for block, neurons in zip(model.bert.encoder.layer, (64, 32), strict=True):
            block.output.dense.weight[:, :neurons] = 0
        model.bert.encoder.layer[0].attention.output.dense.weight.zero_()
    model.save_pretrained(folder)
    return folder


def test_shrinks_inspects_and_evaluates(
    model_folder: Path, reviews: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = zeroed(model_folder, tmp_path / "zeroed"), tmp_path / "smaller"
    assert cli.main(["shrink", str(source), str(target)]) == 0
    shown = capsys.readouterr().out
    for words in ("before", "after", "parameters", "bytes of the weights", "heads", "neurons", str(target)):
        assert words in shown.replace("\n", "")
    rows = {
        line.split("│")[1].strip(): [cell.strip() for cell in line.split("│")[2:5]]
        for line in shown.splitlines()
        if "│" in line
    }
    assert rows["heads"] == ["4", "2", "0.5000"]
    assert rows["neurons"] == ["128", "32", "0.2500"]

    assert cli.main(["inspect", str(target)]) == 0
    assert "64 x 32" not in (inspected := capsys.readouterr().out)
    assert "32 x 32" in inspected

    measured = []
    for folder in (source, target):
        assert cli.main(["evaluate", str(folder), "--task.validation", str(reviews / "train.csv")]) == 0
        measured.append([line for line in capsys.readouterr().out.splitlines() if "│ accuracy" in line])
    assert measured[0] == measured[1] != []

    assert cli.main(["shrink", str(source), str(target)]) == 2
    assert "exists already, and nothing is overwritten" in capsys.readouterr().err
    assert cli.main(["shrink", str(target), str(tmp_path / "again")]) == 2
    assert "Nothing can be removed" in capsys.readouterr().err
    assert cli.main(["shrink", str(source), str(tmp_path / "rounded"), "--multiple", "48"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"zeroed", "smaller", "rounded"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["train", "evaluate", "inspect", "shrink", "pack", "bench", "import", "quickstart"]),
        (["--help"], ["train", "evaluate", "inspect", "shrink", "pack", "bench", "import", "quickstart"]),
        (["train", "--help"], ["--pruning.density", "--training.learning_rate", "--frozen_modules", "--resume", "Magnitude"]),
        (["evaluate", "--help"], ["--task.help"]),
        (["inspect", "--help"], ["checkpoint"]),
        (["shrink", "--help"], ["folder", "new_folder", "--multiple", "kernels of a GPU"]),
        (["import", "--help"], ["source", "target", "--method", "--threshold", "sigmoied_threshold"]),
        (["quickstart", "--help"], ["--seed", "--density", "--output"]),
        (["sweep", "--help"], ["--grid", "--variants", "--seeds", "--engine"]),
        (["report", "--help"], ["runs [runs ...]", "folders of runs", "--output", "--title"]),
        (["score", "--help"], ["data", "predictions", "SQuAD"]),
        (["pack", "--help"], ["folder", "new_folder", "--values", "fp16"]),
        (["bench", "--help"], ["folder", "--output", "--shapes", "--rounds"]),
        (["train", "--task.help", "TextClassification"], ["text_pair", "max_train_samples"]),
        (["train", "--pruning.method.help", "Movement"], ["score_lr", "init"]),
    ],
)
def test_help_is_complete(arguments: list[str], expected: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(arguments) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in expected), out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["tran"], 2, "There is no command 'tran'; did you mean 'train'?"),
        (["train", "nothing.yaml"], 2, "The recipe nothing.yaml could not be read"),
        (["train", "--model", "m", "--task.train", "nothing.csv", "--task.validation", "nothing.csv"], 2, "could not be read"),
        (["train", "--modl", "m"], 2, "'modl'; did you mean 'model'"),
        (["train"], 2, "model"),
        (["evaluate"], 2, "evaluate needs a model"),
        (["evaluate", "tests"], 2, "could not be loaded"),
        (["inspect", "README.md"], 2, "could not be loaded as a model"),
        (["inspect"], 2, "checkpoint"),
        (["import", "nothing", "new"], 2, "config.json could not be read"),
        (["import", "nothing"], 2, "target"),
        (["shrink", "nothing", "new"], 2, "nothing could not be loaded"),
        (["shrink", "nothing"], 2, "new_folder"),
        (["shrink", "README.md", "tests"], 2, "tests exists already"),
        (["quickstart", "--density", "2"], 2, "density must be above 0 and below 1, got 2.0. Give the fraction"),
        (["quickstart", "--sed", "2"], 2, "sed"),
    ],
)
def test_a_users_error_is_one_sentence_and_no_traceback(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code_of(arguments) == code
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_failure_while_running_exits_with_one(
    model_folder: Path, reviews: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*flags(model_folder, reviews, tmp_path / "run"), "--training.learning_rate", "1e30"]
    assert cli.main(["train", *arguments]) == 1
    assert "the gradient is NaN or infinite" in capsys.readouterr().err

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fineprune.apps.training.run.train", interrupted)
    assert cli.main(["train", *arguments]) == 1
    assert "--resume true" in capsys.readouterr().err


def test_a_fault_of_the_library_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fineprune.apps.training.recipe.read", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["train"])


def test_a_missing_extra_is_one_sentence_with_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(errors.importlib.util, "find_spec", lambda name: None if name == "jsonargparse" else found(name))
    assert cli.main(["train"]) == 2
    assert "jsonargparse" in (error := capsys.readouterr().err)
    assert "pip install 'fineprune[hub]'" in error
