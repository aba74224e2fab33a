"""Model cards: in the Hub's format, true to the run, and never over a user's own text."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from fineprune import Blocks, Heads, Magnitude, Movement, Neurons, PruningConfig, Rule, Together
from fineprune.apps.training import model_card

FACTS: dict[str, Any] = {
    "metrics": {"accuracy": 0.875, "loss": 0.5},
    "model": "google-bert/bert-base-uncased",
    "head": "AutoModelForSequenceClassification",
    "teacher": None,
    "task": {"class": "TextClassification", "dataset": "nyu-mll/glue", "subset": "sst2", "train": None},
    "pruning": PruningConfig(Movement(), 0.1).to_dict(),
    "density": 0.1,
    "remaining_weights": 0.10126735,
    "whole_model_density": 0.4,
    "steps": 1000,
    "seed": 92,
    "versions": {"fineprune": "0.1.0"},
}


def test_a_card_is_what_the_hub_reads(tmp_path: Path) -> None:
    folder = tmp_path / "bert-10"
    folder.mkdir()
    assert model_card.write(folder, FACTS)
    card = ModelCard.load(folder / "README.md")
    assert card.data.base_model == "google-bert/bert-base-uncased"
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "text-classification"
    assert {"fineprune", "movement-pruning"} <= set(card.data.tags)
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results == {"accuracy": 0.875, "loss": 0.5}
    for words in (
        "10.00% of the prunable weights",
        "`Movement`",
        "seed 92",
        "| accuracy | 0.8750 |",
        'from_pretrained("bert-10")',
    ):
        assert words in card.text
    assert "fineprune 0.1.0" in card.text
    assert card.data.eval_results[0].dataset_name == "nyu-mll/glue sst2"


def test_a_card_tells_what_was_not_done(tmp_path: Path) -> None:
    facts = {**FACTS, "pruning": None, "task": {"class": "TextClassification", "train": "/home/somebody/data/train.csv"}}
    text = model_card.text({**facts, "model": str(tmp_path)}, "dense")
    assert "Nothing was pruned." in text
    assert "Movement Pruning" not in text
    assert "base_model" not in text
    assert "train.csv" in text
    assert "somebody" not in text
    assert str(tmp_path) not in text
    assert "distilled" not in text
    assert "distilled" in model_card.text({**facts, "teacher": "teacher"}, "student")


def test_a_card_claims_no_more_than_was_done() -> None:
    assert "arXiv 2005.07683" in model_card.text(FACTS, "bert")
    magnitude = {**FACTS, "pruning": PruningConfig(Magnitude(), 0.1).to_dict()}
    assert "2005.07683" not in model_card.text(magnitude, "bert")
    assert "movement" not in model_card.text(magnitude, "bert").casefold()
    files = {"class": "Glue", "name": "sst2", "folder": "/home/somebody/sst", "dataset": "nyu-mll/glue"}
    text = model_card.text({**FACTS, "task": files}, "bert")
    assert "fine-tuned on sst2 from files" in text
    assert "nyu-mll" not in text


def test_a_text_of_the_user_is_left_alone(tmp_path: Path) -> None:
    assert model_card.write(tmp_path, FACTS)
    assert model_card.write(tmp_path, {**FACTS, "seed": 93})
    path = tmp_path / model_card.FILE
    assert "seed 93" in path.read_text()
    path.write_text(path.read_text().replace(model_card.MARK, "My own words."))
    mine = path.read_text()
    assert not model_card.write(tmp_path, FACTS)
    assert path.read_text() == mine


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bert-base-uncased", True),
        ("org/name", True),
        ("/tmp/model", False),
        ("../model", False),
        ("a/b/c", False),
        (".", False),
    ],
)
def test_a_folder_is_no_name_on_the_hub(name: str, expected: bool) -> None:
    assert model_card.is_hub_name(name) is expected


def test_linked_structures_and_rules_are_named() -> None:
    groups = PruningConfig(Movement(), 0.3, structure=Together([Heads(), Neurons()]))
    hybrid = PruningConfig(
        Movement(), 0.1, structure=Blocks(4, 2), rules=[Rule(structure=Heads()), Rule(["query"], density=0.5)]
    )
    stated = [model_card.text({**FACTS, "pruning": config.to_dict()}, "name") for config in (groups, hybrid)]
    assert all("`fineprune shrink FOLDER NEW_FOLDER` removes them" in text for text in stated)
    assert "fineprune shrink" not in model_card.text(FACTS, "name")
    assert "(structure `Heads + Neurons`, scope `local`)" in stated[0]
    assert "(structure `Blocks 4 x 2`, scope `local`, with rules for `Heads`)" in stated[1]
