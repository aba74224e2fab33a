"""Accuracy against latency: a sweep's trials beside the latencies of the models that it left, as a table and a picture.

    python benchmarks/shrink.py --models runs/results/groups/*-seed42 --output docs/results/groups/latency.json
    python benchmarks/quality_latency.py docs/results/groups [--beside docs/results/sst2] [--picture FILE]

Reads trials.csv and latency.json (see shrink.py) in the folder. `times faster` is the latency of a model before shrinking, with
its zeros and the dense shapes, over that after it: the two took turns. What was not shrunken runs as the dense model does:
trials of another sweep with the same model, given with --beside, get its latency.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import results

Row = dict[str, Any]


def rows(folder: Path, beside: Path | None = None) -> list[Row]:
    """Returns a row for each variant, with its accuracy over seeds and the latency and size of the model of one seed."""
    trials, measured = results.read(folder), json.loads((folder / "latency.json").read_text(encoding="utf-8"))["rows"]
    masked = {row["case"]: row for row in measured if row["form"] == "masked"}
    shrunken = {row["case"]: row | {"before": masked[row["case"]]} for row in measured if row["form"] == "shrunken"}
    dense = next(
        shrunken[trial["folder"]] for trial in trials if trial["variant"].startswith("dense") and trial["folder"] in shrunken
    )
    models = {trial["variant"]: shrunken[trial["folder"]] for trial in trials if trial["folder"] in shrunken}
    found = [_row(name, trials, models[name]) for name in dict.fromkeys(trial["variant"] for trial in trials)]
    if beside is not None:
        others = results.read(beside)
        names = [name for name in dict.fromkeys(trial["variant"] for trial in others) if not name.startswith("dense")]
        found += [{**_row(name, others, dense), "variant": f"weights: {name}"} for name in names]
    return found


def _row(variant: str, trials: list[results.Row], model: Row) -> Row:
    accuracies = [float(trial["accuracy"]) for trial in trials if trial["variant"] == variant]
    return {
        "variant": variant,
        "accuracy": statistics.mean(accuracies),
        "spread": statistics.stdev(accuracies),
        "parameters": model["parameters"],
        "file": model["file"],
        "flops": model["flops"],
        "latency": model["latency"],
        "faster": model["before"]["latency"] / model["latency"],
    }


def table(found: list[Row]) -> str:
    """Returns the rows as a Markdown table, the fastest first."""
    lines = ["| run | accuracy | latency | times faster | GFLOPs | parameters | file |", "|---|---|---|---|---|---|---|"]
    for row in sorted(found, key=lambda row: (-round(row["faster"], 1), -row["accuracy"])):
        cells = [
            row["variant"],
            f"{row['accuracy']:.4f} ± {row['spread']:.4f}",
            f"{row['latency']:.2f} ms",
            f"{row['faster']:.2f}",
            f"{row['flops'] / 1e9:.3f}",
            f"{row['parameters'] / 1e6:.2f} M",
            f"{row['file'] / 1e6:.1f} MB",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(found: list[Row], picture: Path) -> None:
    """Draws accuracy over speed, a point for each variant with its spread."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds = {"dense": "black", "weights": "tab:grey", "hybrid": "tab:green", "magnitude": "tab:blue", "group lasso": "tab:cyan"}
    kinds |= {"soft movement": "tab:red", "movement": "tab:orange", "L0": "tab:purple"}
    figure, axes = pyplot.subplots(figsize=(9, 5.5), layout="constrained")
    for kind, colour in kinds.items():
        mine = [row for row in found if row["variant"].startswith(kind) and "columns" not in row["variant"]]
        if not mine:
            continue
        places = ([row["faster"] for row in mine], [row["accuracy"] for row in mine])
        label = {"weights": "single weights, any method"}.get(kind, kind)
        axes.errorbar(*places, yerr=[row["spread"] for row in mine], fmt="o", color=colour, capsize=3, label=label)
    axes.set_xlabel("times faster than with the zeros in it (batch 1 x 128 tokens, two cores)")
    axes.set_ylabel("accuracy, mean and standard deviation over seeds")
    axes.set_title("SST-2, MiniLM-L6 cut to two layers: accuracy against speed")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(picture, dpi=110)


def main() -> None:
    """Prints the table and draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with trials.csv and latency.json")
    parser.add_argument("--beside", type=Path, help="folder of a sweep of single weights of the same model")
    parser.add_argument("--picture", type=Path)
    chosen = parser.parse_args()
    found = rows(chosen.folder, chosen.beside)
    print(table(found))
    if chosen.picture is not None:
        draw(found, chosen.picture)


if __name__ == "__main__":
    main()
