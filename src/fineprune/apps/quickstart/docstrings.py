"""Which module of the Python standard library does this docstring document? Real text that is already on the machine."""

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
"""Folders whose sources test or demonstrate the library. Those that are no identifiers (site-packages) are no part of it."""

TWINS = {"_pydecimal": "decimal", "_pyio": "io", "_pydatetime": "datetime"}
"""Modules written in Python beside one in C, documented under the public name. Other names with an underscore are private."""

MOST_WORDS = 48
"""Where a text is cut."""

LEAST_WORDS = 4
"""Texts with fewer words say too little to tell their module."""

SAME_WORDS = 12
"""Texts that begin with the same words, as many as these, count as the same."""

HIDDEN = "_"
"""What stands in the texts where one of the modules is named."""

VALIDATION_PART = 5
"""One text in so many is for validation."""


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

    Where one of the chosen modules is named as a whole word, the name is hidden, in every text and whichever module
    it documents. Otherwise a share of the texts would give the label away (61 % of turtle's, 23 % of logging's), and
    that share would be learned from one word. The names of classes and functions stay: they are what a text is about.

    Texts that begin alike are one text: the first is kept, before the split, so that no text is in both parts, nor are
    two that a tokenizer's cut makes equal (none at 24 tokens, a few at 16). A text found in several modules is left out.
    The split follows a hash of the text, so the same interpreter always gives the same data.

    Args:
        library: folder of the library's .py sources. None: this interpreter's own.
        modules: how many modules to keep, 2 or more; those with the most texts. A package is one module.

    Returns:
        Four fifths of the texts for training, the rest for validation.

    Raises:
        InvalidInputError: if the folder holds no docstrings of that many modules, as when the library is zipped.
    """
    if modules < 2:
        raise InvalidInputError(f"modules was given as {modules}; telling modules apart takes 2 or more.")
    folder = Path(sysconfig.get_paths()["stdlib"] if library is None else library)
    texts = _distinct(_documented(folder))
    counts = Counter(module for _, module in texts)
    if len(counts) < modules:
        raise InvalidInputError(
            f"{folder} holds docstrings of {len(counts)} modules ({enumeration(counts)}), and {modules} are needed. Use an "
            "interpreter whose standard library is installed as .py files: a zipped or stripped one (embedded, minimal) is not."
        )
    names = sorted(counts, key=lambda name: (-counts[name], name))[:modules]
    return _split(_distinct(_hide(texts, names)), sorted(names))


def _documented(folder: Path) -> Iterator[tuple[str, str]]:
    """Yields every docstring with its module, in sorted order of the files."""
    for module, path in _sources(folder):
        for docstring in _docstrings(path.read_bytes()):
            yield docstring, module


def _sources(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yields the public modules' files; a package's own are looked for within it, as site-packages may hold many others."""
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
    """Yields the docstrings of a source; of a file that is not valid Python (a template, another version's), none."""
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
    """Yields the statements within a node, in their order; ast.walk would visit the expressions too, and take longer."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            yield child
            yield from _statements(child)


def _hide(texts: Iterable[tuple[str, str]], names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yields the texts of the named modules, the names hidden."""
    names = set(names)
    pattern = re.compile(r"\b(?:" + "|".join(map(re.escape, sorted(names))) + r")\b", re.IGNORECASE)
    return ((pattern.sub(HIDDEN, text), module) for text, module in texts if module in names)


def _distinct(texts: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Returns the texts cut and in one line, the first of those that begin alike; none that several modules share."""
    first: dict[tuple[str, ...], tuple[str, str]] = {}
    shared = set()
    for text, module in texts:
        line = " ".join(text.split()[:MOST_WORDS])
        beginning = _beginning(line)
        if len(beginning) >= LEAST_WORDS and first.setdefault(beginning, (line, module))[1] != module:
            shared.add(beginning)
    return [entry for beginning, entry in first.items() if beginning not in shared]


def _beginning(text: str) -> tuple[str, ...]:
    """What makes texts the same: their first words, without case, digits and punctuation."""
    return tuple(re.findall(r"[^\W\d_]+", text.casefold())[:SAME_WORDS])


def _split(texts: list[tuple[str, str]], names: list[str]) -> Docstrings:
    """Gives one text in VALIDATION_PART to validation, by its hash; Python's own hash differs between processes."""
    parts: tuple[list[tuple[str, int]], list[tuple[str, int]]] = ([], [])
    for text, module in texts:
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        parts[int.from_bytes(digest[:8]) % VALIDATION_PART == 0].append((text, names.index(module)))
    train, validation = parts
    return Docstrings(
        names=tuple(names),
        train_texts=tuple(text for text, _ in train),
        train_labels=tuple(label for _, label in train),
        validation_texts=tuple(text for text, _ in validation),
        validation_labels=tuple(label for _, label in validation),
    )
