"""Tables as columns: files in CSV, TSV, JSONL and Parquet, and data sets on the Hub."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import InvalidInputError, require

require("hub", "datasets", "pyarrow")

import datasets  # noqa: E402
import pyarrow.parquet  # noqa: E402

Columns = dict[str, list[Any]]
"""Column name -> one value a row."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns errors of reading a file, and of decoding it as UTF-8, into InvalidInputError with its name."""
    try:
        yield
    except OSError as error:
        raise InvalidInputError(f"{path} could not be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path} is not text in UTF-8: {error}. Convert it first.") from error


def read_table(path: str | Path) -> Columns:
    """Reads a file of rows into columns.

    Args:
        path: .csv or .tsv with a header, .jsonl with an object a line, or .parquet. In .tsv nothing is quoted.

    Raises:
        InvalidInputError: if the file is missing, of another kind, or damaged; with the row.
    """
    path = Path(path)
    readers: dict[str, Callable[[Path], Columns]] = {
        ".csv": lambda path: by_column(read_lines(path), path),
        ".tsv": lambda path: by_column(read_lines(path, **TSV), path),
        ".jsonl": _read_jsonl,
        ".parquet": _read_parquet,
    }
    if path.suffix not in readers:
        raise InvalidInputError(f"A data file must end in {', '.join(readers)}, got {path}. Convert it.")
    with reading(path):
        return readers[path.suffix](path)


TSV: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
"""Arguments of csv.reader for a .tsv file."""

LONGEST_FIELD = 2**31 - 1
"""In characters, the largest limit that csv.field_size_limit accepts on every machine. Its default is 131,072."""


class TableLine(NamedTuple):
    """The fields of a line of a table, and the line's number in its file."""

    number: int
    fields: list[str]


def read_lines(path: Path, **dialect: Any) -> list[TableLine]:
    """Reads a .csv file, or one in another dialect of the module csv: the header, and the lines below that are not blank.

    Raises:
        InvalidInputError: if the first line is blank, or a line is not in this format.
    """
    limit = csv.field_size_limit(LONGEST_FIELD)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True, **dialect)
            lines = [TableLine(reader.line_num, fields) for fields in reader if fields or reader.line_num == 1]
    except csv.Error as error:
        raise InvalidInputError(f"Line {reader.line_num} of {path} is not in this format: {error}.") from error
    finally:
        csv.field_size_limit(limit)
    if not lines or not lines[0].fields:
        raise InvalidInputError(f"{path} has nothing in its first line, which must hold the names of the columns. Add them.")
    return lines


def by_column(lines: Sequence[TableLine], path: Path) -> Columns:
    """Returns columns by the names in the header. Raises InvalidInputError for a line with more or fewer fields than it."""
    header, *rows = lines
    names = header.fields
    _check_unique(names, path)
    for number, fields in rows:
        if len(fields) != len(names):
            raise InvalidInputError(
                f"Line {number} of {path} has {len(fields)} fields; the header has {len(names)}: {', '.join(names)}. "
                "Correct the line; in .csv, quote a field that holds the separator."
            )
    return {name: [fields[index] for _, fields in rows] for index, name in enumerate(names)}


def _check_unique(names: Sequence[str], path: Path) -> None:
    for name in repeated(names):
        which = f"of the name {name!r}; give each its own" if name else "without a name; remove them, or give each its own"
        raise InvalidInputError(f"{path} has {names.count(name)} columns {which}.")


def repeated(names: Iterable[str]) -> list[str]:
    """Returns the names that occur more than once."""
    return [name for name, count in Counter(names).items() if count > 1]


def _read_jsonl(path: Path) -> Columns:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InvalidInputError(f"Line {number} of {path} is not JSON: {error}.") from error
        if not isinstance(row, dict):
            raise InvalidInputError(f"Line {number} of {path} is not a JSON object. Give one with a key for each column.")
        rows.append(row)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [row.get(name) for row in rows] for name in names}


def _read_parquet(path: Path) -> Columns:
    try:
        file = pyarrow.parquet.ParquetDataset(path)
        _check_unique(file.schema.names, path)
        columns: Columns = file.read().to_pydict()
    except pyarrow.ArrowException as error:
        raise InvalidInputError(f"{path} is not a whole Parquet file: {' '.join(str(error).split())}.") from error
    return columns


def read_hub(name: str, subset: str | None, split: str) -> Columns:
    """Reads a split of a data set on the Hub (or a local folder of one). Classes come by their names, -1 as None.

    Raises:
        InvalidInputError: if it cannot be found or reached.
    """
    try:
        dataset = datasets.load_dataset(name, subset, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise InvalidInputError(
            f"The split {split!r} of the data set {name!r} could not be loaded: {reason}. Check the name, the subset and the "
            "split, or give files instead."
        ) from error
    columns: Columns = {column: list(dataset[column]) for column in dataset.column_names}
    for column, feature in dataset.features.items():
        if isinstance(feature, datasets.ClassLabel):
            names = dict(enumerate(feature.names))
            columns[column] = [names.get(label) for label in columns[column]]  # -1 means that there is no label
    return columns
