"""The table of families and programs says of each what was found, and hides no failure among what passed."""

from __future__ import annotations

from matrix import KNOWN, Cell, table, unexpected


def cell(family: str, program: str, verdict: str = "pass", *, form: str = "onnx", reason: str = "") -> Cell:
    return Cell(family, "feature-extraction", "float32", form, program, verdict, reason)


def lines(cells: list[Cell]) -> list[str]:
    return table(cells).splitlines()


def test_what_fared_alike_stands_together() -> None:
    found = lines([cell(family, program) for family in ("mpnet", "bert") for program in ("tract", "rten")])
    assert found == [
        "| what | onnx: `rten`, `tract` |",
        "| --- | --- |",
        "| feature-extraction: bert, mpnet | pass |",
        "",
    ]


def test_a_failure_has_a_row_a_column_and_a_reason() -> None:
    fine = [cell("bert", "tract"), cell("bert", "rten"), cell("mpnet", "rten")]
    found = lines([*fine, cell("mpnet", "tract", "fail", reason="exit 1: tract: case holes: no")])
    assert found[0] == "| what | onnx: `tract` | onnx: `rten` |"
    assert "| feature-extraction: mpnet | fail | pass |" in found
    assert found[-1] == "- fail: `tract`, feature-extraction: mpnet: exit 1: it"


def test_what_was_not_looked_at_is_no_pass() -> None:
    found = lines([cell("bert", "rten"), cell("bert", "tract"), cell("mpnet", "rten")])
    assert "| feature-extraction: mpnet |  | pass |" in found


def test_a_failure_that_nobody_knows_of_is_unexpected() -> None:
    family, form = sorted(KNOWN)[0]
    assert unexpected([cell(family, "any", "fail", form=form)]) == []
    assert len(unexpected([cell("bert", "any", "fail")])) == 1
