"""What make mutants keeps and prints: a record that goes on where it ended, tables, a picture."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict
from pathlib import Path

import pytest

from mutants.outcome import Outcome, Tally, case_table, fault_table, summary
from mutants.picture import picture
from mutants.run import known

RIGHT = Outcome("bert/onnx/as-written", "right", right=True, passed=True, ratio=1.1, share=0.4)
KILLED = Outcome("bert/onnx/mask-ignored", "mask ignored", right=False, ratio=1e6, share=3e5, cases=("holes",))
NAN = Outcome("bert/onnx/nan-at-padding", "overflow and NaN", right=False, cases=("holes", "left-padded"))
ALIVE = Outcome("bert/onnx/gone", "layers", right=False, passed=True, ratio=50.0, share=0.5)
HIDDEN = Outcome("bert/onnx/key-bias-dropped", "bias dropped", right=False, passed=True, ratio=1.2, share=0.4)
LEFT_OUT = Outcome("albert/onnx/heads", "heads", right=False, made=False)
ALL = Tally((RIGHT, KILLED, NAN, ALIVE, HIDDEN, LEFT_OUT), 1.0)


def test_what_lives_is_named_and_what_cannot_be_told_is_not_counted() -> None:
    lines = summary(ALL)
    assert lines[0] == "wrong artifacts: 4, observable 3, killed 2"
    assert lines[1] == "right artifacts: 1, false alarms 0"
    assert any(line.startswith("ALIVE: bert/onnx/gone, ratio 50, passes") for line in lines)
    assert any("not observable" in line and "key-bias-dropped" in line for line in lines)


def test_a_wrong_artifact_that_gives_no_number_is_observable() -> None:
    assert NAN.observable
    assert "| overflow and NaN | 1/1 | 1 | 1 |  |" in fault_table(ALL)


def test_the_table_of_cases_says_which_mutants_a_case_kills_alone() -> None:
    assert "| holes | 2 | 1 | bert/onnx/mask-ignored |" in case_table(ALL)


@pytest.fixture
def record(tmp_path: Path) -> Path:
    path = tmp_path / "record.jsonl"
    lines = [{"state": "now"}, asdict(RIGHT), asdict(KILLED)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


def test_a_record_of_the_same_state_goes_on_where_it_was_cut_short(record: Path) -> None:
    record.write_text(record.read_text("utf-8")[:-20], "utf-8")
    assert set(known(record, "now")) == {RIGHT.label}


def test_a_record_of_another_state_is_begun_anew(record: Path) -> None:
    assert known(record, "later") == {}
    assert record.read_text("utf-8") == '{"state": "later"}\n'


def test_the_picture_is_an_svg_with_a_bar_for_each_kind() -> None:
    root = ElementTree.fromstring(picture(ALL.outcomes))
    kinds = {each.get("class") for each in root.iter("{http://www.w3.org/2000/svg}rect")}
    assert kinds == {"right", "wrong", "hidden"}
    assert any("1 more wrong ones give no ratio" in (each.text or "") for each in root.iter())
    assert any("1 are found by the bytes" in (each.text or "") for each in root.iter())
