"""The tables in docs/ are those of the measurements in benchmarks/results/, to the last digit."""

import csv
import importlib.util
import json
import statistics
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "measurements"


def benchmark(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        *(("training_overhead", "rows"), ("density_control", "runs"), ("defaults", "runs"), ("shrink", "rows")),
        *(("storage", "rows"), ("selection", "rows")),
    ],
)
def test_the_table_in_the_page_is_what_was_measured(name: str, rows: str) -> None:
    measured = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    table = benchmark(name).table(measured[rows])
    assert len(table.splitlines()) > 10
    assert table in page


@pytest.mark.parametrize(
    ("name", "rows", "page"), [("inference", 240, "inference"), ("sparse_layers", 36, "inference"), ("faults", 30, "faults")]
)
def test_the_page_and_the_csv_file_beside_it_are_what_was_measured(
    name: str, rows: int, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    measured = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))["rows"]
    module, text = benchmark(name), (PAGES / f"{page}.md").read_text(encoding="utf-8")
    assert module.table(measured) in text
    assert name != "inference" or module.leads(measured) in text
    assert len(measured) == rows
    written = (PAGES / f"{name}.csv").read_text(encoding="utf-8")
    assert written == module.every_row(measured)
    assert len({len(row) for row in csv.reader(written.splitlines())}) == 1, "every row has every column"
    assert f"]({name}.csv)" in text


def test_the_table_of_packed_models_is_what_was_measured() -> None:
    measured = json.loads((ROOT / "benchmarks" / "results" / "packed_quality.json").read_text(encoding="utf-8"))
    assert benchmark("packed_quality").table(measured["rows"]) in (PAGES / "storage.md").read_text(encoding="utf-8")


def test_the_tables_of_memory_are_what_was_measured_and_what_follows_from_it() -> None:
    measured = json.loads((ROOT / "benchmarks" / "results" / "memory.json").read_text(encoding="utf-8"))
    page, memory = (PAGES / "memory.md").read_text(encoding="utf-8"), benchmark("memory")
    assert [(row["dtype"], row["choice"]) for row in measured["rows"]] == memory.ROWS
    assert [table for table in memory.tables(measured) if table not in page] == []
    for row in measured["rows"]:
        counted = sum(row.get("held", {}).values()) + row["optimizer"] - 2 * row["weights"]  # over dense fine-tuning
        assert row.get("resident", 0.0) == pytest.approx(counted, abs=0.2)


def test_every_killed_run_ended_as_the_undisturbed_one() -> None:
    rows = json.loads((ROOT / "benchmarks" / "results" / "faults.json").read_text(encoding="utf-8"))["rows"]
    assert Counter(row["kind"] for row in rows if row["equal"]) == {"trainer": 10, "fsdp": 10, "example": 10}


def test_selection_is_exact_and_its_growth_is_what_was_measured() -> None:
    rows = json.loads((ROOT / "benchmarks" / "results" / "selection.json").read_text(encoding="utf-8"))["rows"]
    assert all(row["same"] for row in rows)
    growth = benchmark("selection").growth(rows)
    assert len(growth.splitlines()) == 7
    assert growth in (PAGES / "selection.md").read_text(encoding="utf-8")


def test_packed_files_come_close_to_the_bound() -> None:
    rows = json.loads((ROOT / "benchmarks" / "results" / "storage.json").read_text(encoding="utf-8"))["rows"]
    assert {row["values"] for row in rows} == {"int8", "fp16", "fp32"}
    assert all(row["matrices"] <= 1.05 * row["bound"] and row["file"] <= 1.05 * row["file_bound"] for row in rows)


@pytest.mark.parametrize("name", ["sst2", "qa", "groups"])
def test_the_table_of_results_is_that_of_the_trials(name: str) -> None:
    folder, results = ROOT / "docs" / "results", benchmark("results")
    rows = results.read(folder / name)
    assert min(Counter(row["variant"] for row in rows).values()) >= 2, "without seeds there is no spread"
    page = (folder / f"{name}.md").read_text(encoding="utf-8")
    assert results.table(rows) in page
    assert results.pooled(rows) in " ".join(page.split())


def test_the_table_of_accuracy_against_latency_is_that_of_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    results, module = ROOT / "docs" / "results", benchmark("quality_latency")
    assert module.table(module.rows(results / "groups", results / "sst2")) in (results / "groups.md").read_text(
        encoding="utf-8"
    )


QUOTED = {
    "`Magnitude()`": "magnitude",
    "`Movement(init=Constant(0.0))`, the paper's": "movement paper",
    "`Movement()`": "movement",
    "`SoftMovement()`": "soft movement",
    "`L0()`": "L0",
}
"""Rows of the README's table, and the variants that they are of."""


def test_the_readme_quotes_what_was_measured() -> None:
    rows = benchmark("results").read(ROOT / "docs" / "results" / "sst2")

    def stated(variant: str) -> str:
        values = [float(row["accuracy"]) for row in rows if row["variant"] == variant]
        return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"| dense | {stated('dense')} | |" in readme
    for name, variant in QUOTED.items():
        assert f"| {name} | {stated(f'{variant} 10%')} | {stated(f'{variant} 3%')} |" in readme


def test_the_readme_and_the_summary_quote_how_much_faster() -> None:
    readme, summary = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/measurements/index.md"))
    shrunken = json.loads((ROOT / "benchmarks" / "results" / "shrink.json").read_text(encoding="utf-8"))["rows"]
    latency = {(row["case"], row["form"]): row["latency"] for row in shrunken}
    half, quarter = (
        latency[case, "dense"] / latency[case, "shrunken"] for case in list(dict.fromkeys(c for c, _ in latency))[:2]
    )
    assert f"| half of its heads and neurons, shrunken | PyTorch | {half:.1f} |" in readme
    assert f"| a quarter of its heads and neurons, shrunken | PyTorch | {quarter:.1f} |" in readme
    assert f"half of its heads and neurons is {half:.1f} times faster on two cores, with a quarter {quarter:.1f}" in summary
    sparse = json.loads((ROOT / "benchmarks" / "results" / "inference.json").read_text(encoding="utf-8"))["rows"]
    for density in (10, 3):
        over = {
            row["engine"]: row["over"]["median"]
            for row in sparse
            if (row["case"], row["shape"], row["threads"]) == (f"BERT-base, {density}%", "1x128", 2)
        }
        assert f"| {density} % of single weights kept, sparse runtime | PyTorch | {over['PyTorch fp32']:.1f} |" in readme
        lines = f"| | ONNX Runtime | {over['ONNX Runtime fp32']:.1f} |\n| | DeepSparse | {over['DeepSparse fp32']:.2f} |"
        assert lines in readme


def test_settings_of_one_seed_say_nothing_of_the_spread() -> None:
    results, alone = benchmark("results"), [{"variant": "dense", "accuracy": "0.8"}, {"variant": "b", "accuracy": "0.7"}]
    assert results.pooled(alone) == "One seed of each setting says nothing about the spread."
    more = [{"variant": "b", "accuracy": accuracy} for accuracy in ("0.71", "0.72")]
    low, high = results.prediction_interval([0.70, 0.71, 0.72])
    assert f"± {(high - low) / 2:.4f} in accuracy (2 degrees" in results.pooled([*alone, *more])


def test_the_prediction_interval_is_that_of_a_table_of_students_t() -> None:
    low, high = benchmark("results").prediction_interval([0.79, 0.80, 0.81])
    assert low == pytest.approx(0.80 - 4.3027 * 0.01 * (4 / 3) ** 0.5, abs=1e-6)
    assert high == pytest.approx(0.80 + 4.3027 * 0.01 * (4 / 3) ** 0.5, abs=1e-6)
