"""The tree of errors, the code that raises it and the page that lists it say the same."""

from __future__ import annotations

import ast
import inspect
import re
from collections import defaultdict
from pathlib import Path

import pytest

from bertx import errors
from bertx.errors import CODES, BertxError, InputRefused, escape
from program import ROOT

CLASSES = {name: each for name, each in vars(errors).items() if inspect.isclass(each) and issubclass(each, BertxError)}
SOURCES = sorted((ROOT / "converters" / "bertx").rglob("*.py"))
#: E_CODE -> (exit code, what it means, what to do) of docs/errors.md
DOCUMENTED = {
    code: (int(number), means, remedy)
    for code, number, means, remedy in re.findall(
        r"(?m)^\| (E_\w+) \| (\d+) \| (.+?) \| (.+?) \|$", (ROOT / "docs" / "errors.md").read_text("utf-8")
    )
}


def raised() -> dict[str, set[int]]:
    """E_CODE -> the exit codes of the classes that are called with it anywhere in bertx."""
    found: dict[str, set[int]] = defaultdict(set)
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CLASSES:
                code = node.args[0] if node.args else None
                if isinstance(code, ast.Constant):
                    found[str(code.value)].add(CLASSES[node.func.id].exit_code)
    return found


def test_the_page_lists_every_code_with_its_meaning_in_order() -> None:
    assert {code: means for code, (_, means, _) in DOCUMENTED.items()} == CODES
    assert list(DOCUMENTED) == list(CODES)
    assert all(remedy.strip() for _, _, remedy in DOCUMENTED.values())


def test_a_code_is_raised_with_the_exit_code_of_the_page() -> None:
    for code, numbers in raised().items():
        assert numbers == {DOCUMENTED[code][0]}, code


def test_no_code_is_listed_that_nothing_raises() -> None:
    others = "".join(path.read_text("utf-8") for path in SOURCES if path.name != "errors.py")
    assert [code for code in CODES if f'"{code}"' not in others] == []


def test_the_exit_codes_of_the_page_are_those_of_the_tree() -> None:
    table = (ROOT / "docs" / "errors.md").read_text("utf-8").partition("## Codes")[0]
    numbers = {int(n) for cell in re.findall(r"(?m)^\| ([\d, ]+) \|", table) for n in cell.split(", ")}
    assert numbers - {0} == {each.exit_code for each in CLASSES.values()}


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = dict(re.findall(r"[├└]── (\w+) +(\d+)", errors.__doc__ or ""))
    tree = {name: str(each.exit_code) for name, each in CLASSES.items() if each is not BertxError}
    assert drawn == tree


def test_an_error_says_what_happened_and_what_to_do() -> None:
    error = InputRefused("E_FORMAT", "it is broken", "mend it")
    assert (str(error), error.code, error.exit_code) == ("it is broken; mend it", "E_FORMAT", 3)
    with pytest.raises(KeyError):
        InputRefused("E_UNHEARD", "x", "y")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain", "plain"),
        ("two\nlines", "two\\nlines"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\u202eback", "\\u202eback"),
        ("日本語", "日本語"),
        ("lone \ud800", "lone \\ud800"),
        (Path("/a b"), "/a b"),
    ],
)
def test_text_from_outside_becomes_one_printable_line(text: object, line: str) -> None:
    assert escape(text) == line
    assert escape(text).isprintable()


def test_a_long_text_is_cut() -> None:
    assert escape("x" * 400) == "x" * 299 + "…"
    assert len(escape("\x00" * 400, 50)) == 50
