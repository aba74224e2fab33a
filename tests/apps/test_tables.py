"""Tables read as they were written, and broken ones raise a clear error."""

import csv
import json
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fineprune import InvalidInputError
from fineprune.apps.tasks.tables import read_hub, read_table


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_reads_csv_with_quotes_and_keeps_words_that_look_like_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", '\ufefftext,label\n"a, ""b""\nc",1\nnull,0\nNA,0\n')
    assert read_table(path) == {"text": ['a, "b"\nc', "null", "NA"], "label": ["1", "0", "0"]}


def test_reads_tsv_without_quoting(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 'sentence\tlabel\n"a lone quote\t1\nit\'s "fine"\t0\n')
    assert read_table(path) == {"sentence": ['"a lone quote', 'it\'s "fine"'], "label": ["1", "0"]}


def test_reads_jsonl_and_parquet(tmp_path: Path) -> None:
    rows = [{"text": "a\u2028b", "label": 1}, {"text": "c", "label": 0}]
    path = write(tmp_path / "a.jsonl", "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n")
    assert read_table(path) == {"text": ["a\u2028b", "c"], "label": [1, 0]}
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet") == {"text": ["a\u2028b", "c"], "label": [1, 0]}


def test_reads_a_field_of_any_length(tmp_path: Path) -> None:
    limit, long = csv.field_size_limit(), "word " * 30_000
    assert read_table(write(tmp_path / "a.csv", f"text,label\n{long},1\n")) == {"text": [long], "label": ["1"]}
    with pytest.raises(InvalidInputError, match="not in this format"):
        read_table(write(tmp_path / "b.csv", 'text,label\n"a,1\n'))
    assert csv.field_size_limit() == limit


def test_one_column_may_have_no_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ",text,label\n0,a,1\n")  # as pandas writes its index
    assert read_table(path) == {"": ["0"], "text": ["a"], "label": ["1"]}


text = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\r\0"), max_size=20)


@settings(max_examples=50)
@given(st.lists(st.tuples(text, text), min_size=1, max_size=5))
def test_csv_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    def quoted(value: str) -> str:
        return '"' + value.replace('"', '""') + '"'

    lines = ["text,label", *(f"{quoted(first)},{quoted(second)}" for first, second in rows)]
    path = write(tmp_path_factory.mktemp("csv") / "a.csv", "\n".join(lines) + "\n")
    assert read_table(path) == {"text": [first for first, _ in rows], "label": [second for _, second in rows]}


BROKEN = {
    "a.csv": [
        ("text,label\na,b,1\n", "Line 2 of .* has 3 fields; the header has 2"),
        ("text,text\na,1\n", "a.csv has 2 columns of the name 'text'; give each its own"),
        ("text,label,,\na,1,,\n", "a.csv has 2 columns without a name; remove them, or give each its own"),
        ("\ntext,label\na,1\n", "a.csv has nothing in its first line, which must hold the names of the columns"),
        ("", "a.csv has nothing in its first line"),
        ('text,label\n"a,1\n', "Line 2 of .* is not in this format"),
        (b"text,label\n\xff\xfe,1\n", "not text in UTF-8"),
    ],
    "a.jsonl": [('{"text": 1\n', "Line 1 of .* is not JSON"), ('{"text": 1}\n[1]\n', "Line 2 of .* is not a JSON object")],
    "a.parquet": [("text", "not a whole Parquet file")],
    "a.txt": [("text", "A data file must end in .csv, .tsv, .jsonl, .parquet, got .*a.txt")],
}


@pytest.mark.parametrize(("name", "content", "message"), [(name, *case) for name, cases in BROKEN.items() for case in cases])
def test_a_broken_file_raises(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        read_table(write(tmp_path / name, content))


def test_parquet_columns_of_the_same_name_raise(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table([["a"], ["b"]], names=["text", "text"]), tmp_path / "a.parquet")
    with pytest.raises(InvalidInputError, match=r"a\.parquet has 2 columns of the name 'text'; give each its own"):
        read_table(tmp_path / "a.parquet")


def test_a_missing_file_raises(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="could not be read: No such file"):
        read_table(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("error", "words"), [(ValueError(), "ValueError"), (OSError("\nno net.\nmore"), "no net"), (ValueError("odd"), "odd")]
)
def test_a_data_set_that_does_not_load_raises_in_one_line(
    error: Exception, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(InvalidInputError, match=f"'train' of the data set 'a' could not be loaded: {words}. Check the name"):
        read_hub("a", None, "train")
