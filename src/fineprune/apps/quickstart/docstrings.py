"""The quickstart's data: docstrings of the Python standard library, each labelled with its module."""

import ast
import hashlib
import re
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import InvalidInputError, enumeration

SKIPPED = frozenset({"test", "tests", "idlelib", "lib2to3", "turtledemo"})
"""Folders of tests and demonstrations. Those whose names are no identifiers (site-packages) are not part of the library."""

TWINS = {"_pydecimal": "decimal", "_pyio": "io", "_pydatetime": "datetime"}
"""Python versions of modules in C, documented under the public name. Other names with an underscore are private."""

MOST_WORDS = 48
"""Length to which a text is cut."""

LEAST_WORDS = 4
"""Shorter texts do not identify their module."""

SAME_WORDS = 12
"""Number of first words by which texts count as the same."""

HIDDEN = "_"
"""Replaces the names of the modules in the texts."""

VALIDATION_EVERY = 5
"""One text in 5 is for validation."""


@dataclass(frozen=True)
class Docstrings:
    """Texts and their modules, as indices into `names`; the order of the texts is that of the files."""

    names: tuple[str, ...]
    """The modules, in alphabetical order."""
    train_texts: tuple[str, ...]
    train_labels: tuple[int, ...]
    validation_texts: tuple[str, ...]
    validation_labels: tuple[int, ...]

    def majority(self) -> float:
        """Returns the validation accuracy of always naming the module with the most training texts."""
        most = Counter(self.train_labels).most_common(1)[0][0]
        return self.validation_labels.count(most) / len(self.validation_labels)


def load(library: str | Path | None = None, *, modules: int = 20) -> Docstrings:
    """Reads the docstrings of the standard library; nothing is imported or executed.

    The names of the chosen modules are hidden in every text where they are whole words. Otherwise many texts would
    give their label away by one word (61 % of turtle's, 23 % of logging's). The names of classes and functions stay:
    they are the subject of a text.

    Texts that begin alike count as one: the first is kept, before the split, so that no text is in both splits, nor are
    two that are equal once a tokenizer cuts them (none at 24 tokens, a few at 16). A text of several modules is left
    out. The split follows a hash of the text, so the same interpreter always gives the same data.

    Args:
        library: folder of the library's .py sources. None: this interpreter's own.
        modules: number of modules to keep, 2 or more: those with the most texts. A package is one module.
    """
    if modules < 2:
        raise InvalidInputError(f"modules must be 2 or more, got {modules}.")
    folder = Path(sysconfig.get_paths()["stdlib"] if library is None else library)
    texts = _distinct((docstring, name) for name, path in _sources(folder) for docstring in _docstrings(path.read_bytes()))
    counts = Counter(module for _, module in texts)
    if len(counts) < modules:
        raise InvalidInputError(
            f"{folder} must hold docstrings of {modules} modules, got {len(counts)} ({enumeration(counts)}). Use an "
            "interpreter whose standard library is installed as .py files, neither zipped nor stripped."
        )
    names = sorted(counts, key=lambda name: (-counts[name], name))[:modules]
    return _split(_distinct(_hide(texts, names)), sorted(names))


def _sources(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yields the public modules' files in sorted order; those of a package only inside it, as site-packages may hold others."""
    for entry in sorted(folder.glob("*")):
        name = TWINS.get(entry.stem, entry.stem)
        if name in SKIPPED or not name.isidentifier() or name.startswith("_"):
            continue
        if entry.is_dir():
            inner = (path for path in sorted(entry.rglob("*.py")) if SKIPPED.isdisjoint(path.relative_to(entry).parts))
            yield from ((name, path) for path in inner)
        elif entry.suffix == ".py":
            yield name, entry


def _docstrings(source: bytes) -> Iterator[str]:
    """Yields the docstrings of a source; none if it is not valid Python (a template, or of another version)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            warnings.simplefilter("ignore", DeprecationWarning)  # an invalid escape sequence, before Python 3.12
            tree = ast.parse(source)
    except (SyntaxError, ValueError):  # ValueError: null bytes, before Python 3.11.4
        return
    for node in (tree, *_statements(tree)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=False)
            if docstring:
                yield docstring


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yields the statements inside a node, in their order; ast.walk would visit the expressions too, and take longer."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            yield child
            yield from _statements(child)


def _hide(texts: Iterable[tuple[str, str]], names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yields the texts of the named modules, with these names hidden."""
    names = set(names)
    pattern = re.compile(r"\b(?:" + "|".join(map(re.escape, sorted(names))) + r")\b", re.IGNORECASE)
    return ((pattern.sub(HIDDEN, text), module) for text, module in texts if module in names)


def _distinct(texts: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Returns the texts, cut and on one line: the first of those that begin alike, without those of several modules."""
    first: dict[tuple[str, ...], tuple[str, str]] = {}
    shared = set()
    for text, module in texts:
        line = " ".join(text.split()[:MOST_WORDS])
        beginning = tuple(re.findall(r"[^\W\d_]+", line.casefold())[:SAME_WORDS])  # without digits and punctuation
        if len(beginning) >= LEAST_WORDS and first.setdefault(beginning, (line, module))[1] != module:
            shared.add(beginning)
    return [entry for beginning, entry in first.items() if beginning not in shared]


def _split(texts: list[tuple[str, str]], names: list[str]) -> Docstrings:
    """Puts one text in VALIDATION_EVERY into validation, by its SHA-256; Python's own hash differs between processes."""
    splits: tuple[list[tuple[str, int]], list[tuple[str, int]]] = ([], [])
    for text, module in texts:
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        splits[int.from_bytes(digest[:8]) % VALIDATION_EVERY == 0].append((text, names.index(module)))
    train, validation = splits
    return Docstrings(
        names=tuple(names),
        train_texts=tuple(text for text, _ in train),
        train_labels=tuple(label for _, label in train),
        validation_texts=tuple(text for text, _ in validation),
        validation_labels=tuple(label for _, label in validation),
    )
