"""The quickstart's data: docstrings of the standard library."""

import hashlib
import re
import sys
from pathlib import Path

import pytest

from fineprune.apps.quickstart import docstrings
from fineprune.errors import InvalidInputError


def write(folder: Path, name: str, *texts: str) -> None:
    """Writes a source with one function a text."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(f"def f{number}():\n    {text!r}\n" for number, text in enumerate(texts)), encoding="utf-8")


def numbered(what: str, count: int) -> list[str]:
    """Returns texts that differ in a word (digits do not count)."""
    return [f"Do the {what} thing called {'abcdefghijklmnopqrstuvwxyz'[number] * 3} now." for number in range(count)]


@pytest.fixture
def library(tmp_path: Path) -> Path:
    write(tmp_path, "bread.py", *numbered("baking", 20))
    write(tmp_path, "water/__init__.py", *numbered("wet", 10))
    write(tmp_path, "water/deep/sea.py", *numbered("salty", 6))
    write(tmp_path, "stone.py", *numbered("hard", 3))
    return tmp_path


def everything(data: docstrings.Docstrings) -> dict[str, str]:
    """Returns text -> module of both parts."""
    texts, labels = data.train_texts + data.validation_texts, data.train_labels + data.validation_labels
    return {text: data.names[label] for text, label in zip(texts, labels, strict=True)}


def test_the_modules_with_the_most_texts_are_kept_and_named_in_order(library: Path) -> None:
    data = docstrings.load(library, modules=2)
    assert data.names == ("bread", "water")
    expected = dict.fromkeys(numbered("baking", 20), "bread") | dict.fromkeys(
        numbered("wet", 10) + numbered("salty", 6), "water"
    )
    # Alike up to the names: "bread" and "water" occur in none of these texts.
    assert everything(data) == expected


def test_modules_with_as_many_texts_are_chosen_by_name(tmp_path: Path) -> None:
    for name in ("cherry", "apple", "banana"):
        write(tmp_path, f"{name}.py", *numbered(f"{name} like", 8))
    assert docstrings.load(tmp_path, modules=2).names == ("apple", "banana")


def test_docstrings_of_modules_classes_methods_and_coroutines_are_read_at_any_depth(tmp_path: Path) -> None:
    (tmp_path / "forms.py").write_text(
        '"""The module as a whole."""\n'
        "import sys\n"
        "class Thing:\n"
        '    """A thing to be tested."""\n'
        "    async def wait(self):\n"
        '        """Wait for the\n        other thing."""\n'
        "if sys:\n"
        "    try:\n"
        "        pass\n"
        "    except Exception:\n"
        "        match sys:\n"
        "            case None:\n"
        "                def deep():\n"
        '                    """Found however deep down."""\n'
        'x = """A string is no docstring."""\n'
    )
    write(tmp_path, "more.py", *numbered("other", 9))
    texts = everything(docstrings.load(tmp_path, modules=2))
    assert {text for text, module in texts.items() if module == "forms"} == {
        "The module as a whole.",
        "A thing to be tested.",
        "Wait for the other thing.",
        "Found however deep down.",
    }


def test_nothing_is_executed_or_imported(library: Path) -> None:
    (library / "bomb.py").write_text('"""This would raise if run."""\nraise RuntimeError("run")\n')
    before = set(sys.modules)
    docstrings.load(library, modules=2)
    assert {"bread", "water", "bomb"}.isdisjoint(set(sys.modules) - before)


@pytest.mark.parametrize(
    "name",
    [
        "site-packages/other.py",
        "dist-packages/other/__init__.py",
        "test/test_bread.py",
        "bread/tests/test_crumb.py",
        "idlelib/window.py",
        "lib2to3/parser.py",
        "_private.py",
        "__pycache__/bread.py",
        "config-3.11-x86_64/config.py",
        "bread.txt",
    ],
)
def test_what_is_no_part_of_the_library_is_skipped(library: Path, name: str) -> None:
    before = docstrings.load(library, modules=3)
    write(library, name, *numbered("foreign", 26))
    assert docstrings.load(library, modules=3) == before


def test_python_twins_of_modules_in_c_go_under_the_public_name(library: Path) -> None:
    write(library, "_pydecimal.py", *numbered("exact", 26))
    assert docstrings.load(library, modules=2).names == ("bread", "decimal")


def test_sources_that_do_not_parse_are_left_out(library: Path) -> None:
    before = docstrings.load(library, modules=3)
    (library / "template.py").write_text("def $name():\n    'This is not Python at all.'\n")
    (library / "binary.py").write_bytes(b"\x00\xff\x00")
    assert docstrings.load(library, modules=3) == before


def test_an_invalid_escape_sequence_neither_warns_nor_loses_the_file(library: Path) -> None:
    before = everything(docstrings.load(library, modules=3))
    with (library / "stone.py").open("a") as file:
        file.write("def escape():\n    '''One \\d escape which is invalid.'''\n")
    assert everything(docstrings.load(library, modules=3)) == before | {r"One \d escape which is invalid.": "stone"}


def test_texts_that_begin_alike_are_one_even_with_other_digits_case_and_punctuation(library: Path) -> None:
    beginning = "one two three four five six seven eight nine ten eleven twelve"
    write(library, "zebra.py", f"{beginning} first.", f"{beginning.upper()}, 2: second!", *numbered("striped", 25))
    found = [text for text in everything(docstrings.load(library, modules=2)) if text.lower().startswith("one two")]
    assert found == [f"{beginning} first."]


def test_a_text_of_several_modules_is_left_out(library: Path) -> None:
    for name in ("bread.py", "water/__init__.py"):
        with (library / name).open("a") as file:
            file.write("def shared():\n    'Return what all modules return.'\n")
    texts = everything(docstrings.load(library, modules=2))
    assert len(texts) == 36
    assert "Return what all modules return." not in texts


def test_short_texts_are_left_out_and_long_ones_cut(library: Path) -> None:
    write(library, "stone.py", "Only three words.", "With 4 or 5 6 7", "word " * 100, *numbered("hard", 26))
    texts = everything(docstrings.load(library, modules=2))
    assert not [text for text in texts if text.startswith(("Only", "With"))]
    assert "word " * 47 + "word" in texts


def test_names_of_the_chosen_modules_are_hidden_in_every_text_and_only_as_words(library: Path) -> None:
    write(library, "bread.py", "Bread needs water, bread.crumb and Breadth of sourbread.", *numbered("baking", 20))
    texts = everything(docstrings.load(library, modules=2))
    assert texts["_ needs _, _.crumb and Breadth of sourbread."] == "bread"


def test_texts_that_hiding_makes_alike_do_not_stay_in_both_modules(library: Path) -> None:
    write(library, "bread.py", "Return the bread header of this.", *numbered("baking", 20))
    write(library, "water/more.py", "Return the water header of this.")
    assert len(everything(docstrings.load(library, modules=2))) == 36


def test_the_split_is_a_function_of_the_text(library: Path) -> None:
    data = docstrings.load(library, modules=2)
    for part, expected in ((data.train_texts, False), (data.validation_texts, True)):
        assert part
        for text in part:
            assert (int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) % 5 == 0) is expected
    (library / "bread.py").rename(library / "zebra.py")
    assert set(docstrings.load(library, modules=2).validation_texts) == set(data.validation_texts)


def test_majority_is_the_accuracy_of_the_most_frequent_training_module() -> None:
    data = docstrings.Docstrings(("a", "b"), ("t", "u", "v"), (1, 1, 0), ("w", "x", "y", "z"), (0, 0, 0, 1))
    assert data.majority() == 0.25


def test_a_library_without_sources_raises(tmp_path: Path) -> None:
    (tmp_path / "python311.zip").touch()
    with pytest.raises(InvalidInputError, match=r"must hold docstrings of 20 modules, got 0 \(none\).*zipped"):
        docstrings.load(tmp_path)
    with pytest.raises(InvalidInputError, match="docstrings of 20 modules, got 0"):
        docstrings.load(tmp_path / "nowhere")


def test_too_few_modules_raise(library: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"must hold docstrings of 4 modules, got 3 \(bread, stone, water\)"):
        docstrings.load(library, modules=4)


def test_one_module_is_nothing_to_tell_apart(library: Path) -> None:
    with pytest.raises(InvalidInputError, match="modules must be 2 or more, got 1"):
        docstrings.load(library, modules=1)


def test_this_machines_standard_library() -> None:
    data = docstrings.load()
    texts = everything(data)
    assert len(data.names) == len(set(data.names)) == 20
    assert {"asyncio", "email", "logging", "unittest", "xml"} <= set(data.names)
    assert len(data.train_texts) == len(data.train_labels) > 2000
    assert 0.15 < len(data.validation_texts) / len(texts) < 0.25
    assert len(texts) == len(data.train_texts) + len(data.validation_texts)
    assert set(data.train_labels) == set(data.validation_labels) == set(range(20))
    assert data.majority() < 0.4

    beginnings = [" ".join(re.findall(r"[^\W\d_]+", text.casefold())[:12]) for text in texts]
    assert len(set(beginnings)) == len(beginnings)
    names = re.compile(r"\b(" + "|".join(data.names) + r")\b", re.IGNORECASE)
    assert not [text for text in texts if names.search(text) or len(text.split()) > 48]
