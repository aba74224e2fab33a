"""The model card: README.md beside a saved model, in the Hub's format. A user's own text is never overwritten."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from ...config.serialization import class_name, in_short, kinds
from ...structures.linked import Linked
from ...version import VERSION

FILE = "README.md"

MARK = "<!-- Written by fineprune, and rewritten with the model. Remove this line to keep a text of your own. -->"

PAPER = "The method is that of Movement Pruning: Adaptive Sparsity by Fine-Tuning (Sanh, Wolf, Rush 2020, arXiv 2005.07683)."

PIPELINES = {
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForQuestionAnswering": "question-answering",
    "AutoModelForCausalLM": "text-generation",
}
"""The Hub's name for the task of a head."""


def write(folder: str | Path, facts: Mapping[str, Any]) -> bool:
    """Writes the card of a run, as in `result.json`, unless the folder has a user's own README.md; returns whether it did."""
    path = Path(folder) / FILE
    if path.exists() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        return False
    path.write_text(text(facts, Path(folder).resolve().name), encoding="utf-8")
    return True


def text(facts: Mapping[str, Any], name: str) -> str:
    """Returns the card of a run: the Hub's metadata, how the model was made, its figures, and how to load it."""
    pruned = facts.get("pruning") is not None
    structures = _structures(facts["pruning"]) if pruned else []
    done = _pruning(facts, structures) if pruned else "Nothing was pruned."
    rows = [("density of the prunable weights", facts["density"]), ("density of the whole model", facts["whole_model_density"])]
    if facts.get("remaining_weights") is not None:
        rows.append(("remaining weights of the blocks, as the paper counts", facts["remaining_weights"]))
    by = f"{'Pruned while it was fine-tuned' if pruned else 'Fine-tuned'} with fineprune {facts['versions']['fineprune']}."
    story = [f"{_origin(facts)} {done}", _table([*rows, *facts["metrics"].items()])]
    if {class_name(structure) for structure in structures} & {kind.__name__ for kind in kinds(Linked)}:
        story.append("Whole groups are zero in it: `fineprune shrink FOLDER NEW_FOLDER` removes them, with the same output.")
    return _card(_metadata(facts, name), name, story, facts["head"], f"{by} {PAPER}" if _moves(facts) else by)


def imported(name: str, head: str, method: str, threshold: float | None, density: float) -> str:
    """Returns the card of an imported checkpoint of the paper's released code, with that code's name of the method.

    The threshold is None for a method without one; the density is that of the whole model.
    """
    at = "" if threshold is None else f", final threshold {threshold}"
    story = f"An imported checkpoint of the paper's released code: method `{method}`{at}."
    data = ModelCardData(library_name="transformers", tags=["fineprune", "pruning", "movement-pruning"])
    table = _table([("density of the whole model", density)])
    return _card(data, name, [story, table], head, f"Imported with fineprune {VERSION}. {PAPER}")


def _card(data: ModelCardData, name: str, story: list[str], head: str, by: str) -> str:
    load = f"""from transformers import AutoTokenizer, {head}

model = {head}.from_pretrained("{name}")  # this folder, or its name on the Hub
tokenizer = AutoTokenizer.from_pretrained("{name}")"""
    plain = "It is a plain Transformers checkpoint; the pruned weights are zeros in it."
    metadata = f"---\n{data.to_yaml().strip()}\n---"
    sections = [metadata, MARK, f"# {name}", *story, "## How to load it", plain, f"```python\n{load}\n```", by]
    return "\n\n".join(sections) + "\n"


def _metadata(facts: Mapping[str, Any], name: str) -> ModelCardData:
    task, base = task_name(facts["task"]), facts.get("model")
    pipeline = PIPELINES.get(facts["head"])
    dataset = (pipeline or "other", task.lower().replace(" ", "-"), task)
    results = [EvalResult(*dataset, metric, value) for metric, value in facts["metrics"].items()]
    return ModelCardData(
        base_model=base if base and is_hub_name(base) else None,
        library_name="transformers",
        pipeline_tag=pipeline,
        tags=["fineprune", "pruning", *(["movement-pruning"] if _moves(facts) else [])],
        model_name=name,
        eval_results=results or None,
    )


def is_hub_name(name: str) -> bool:
    """Whether a model's name can be one on the Hub, and is no folder here."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not Path(name).exists()


def _method(facts: Mapping[str, Any]) -> str:
    pruning = facts.get("pruning")
    return class_name(pruning["method"]) if pruning else ""


def _moves(facts: Mapping[str, Any]) -> bool:
    return "Movement" in _method(facts)


def task_name(task: Mapping[str, Any]) -> str:
    """Names the data of a run, given its task's settings: the data set on the Hub, or the files without their folders."""
    files = task.get("train")
    if files and not task.get("dataset"):
        return ", ".join(Path(path).name for path in ([files] if isinstance(files, str) else files))
    if task.get("folder"):
        return f"{task['name']} from files"
    given = [task.get(key) for key in ("dataset", "subset", "name")]
    return " ".join(part for part in given if isinstance(part, str)) or str(task.get("class", "unnamed task"))


def _origin(facts: Mapping[str, Any]) -> str:
    base = facts.get("model")
    source = "A model" if not base else f"`{base if is_hub_name(base) else Path(base).name}`"
    taught = " It was distilled from a teacher." if facts.get("teacher") else ""
    return f"{source}, fine-tuned on {task_name(facts['task'])} for {facts['steps']:,} steps (seed {facts['seed']}).{taught}"


def _structures(pruning: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Returns the structure of a config, and those of its rules."""
    return [pruning["structure"], *(rule["structure"] for rule in pruning.get("rules") or () if rule.get("structure"))]


def _pruning(facts: Mapping[str, Any], structures: Sequence[Mapping[str, Any]]) -> str:
    structure, *rules = [f"`{in_short(structure)}`" for structure in structures]
    ruled = f", with rules for {', '.join(rules)}" if rules else ""
    return (
        f"Meanwhile it was pruned by `{_method(facts)}` (structure {structure}, scope `{facts['pruning']['scope']}`{ruled}): "
        f"{facts['density']:.2%} of the prunable weights are nonzero, {facts['whole_model_density']:.2%} of the whole model."
    )


def _table(rows: Sequence[tuple[str, float]]) -> str:
    return "\n".join(["| measure | value |", "|---|---|", *(f"| {name} | {value:.4f} |" for name, value in rows)])
