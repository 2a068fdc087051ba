"""docs/python.md is true: its blocks run, one after the other, and it names every argument of export_module."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import bertx
from program import ROOT

PAGE = (ROOT / "docs" / "python.md").read_text("utf-8")
MODEL = "sentence-transformers/all-MiniLM-L6-v2"


def test_the_blocks_run_in_their_order(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    code = "\n".join(blocks)
    assert code.count(MODEL) == 1
    exec(compile(code.replace(MODEL, str(tiny)), "docs/python.md", "exec"), {"__name__": "page"})
    assert "onnx/model.onnx onnxruntime pass" in capsys.readouterr().out


def test_it_has_every_argument_of_export_module() -> None:
    told = set(re.findall(r"(?m)^\| `(\w+)` \|", PAGE))
    taken = set(inspect.signature(bertx.export_module).parameters)
    assert taken - told == {"module", "output", "progress"}
    assert told <= taken
