"""docs/python.md is true: its blocks run, one after the other, and it names every argument of export_module."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import bertx
from program import ROOT

PAGE = (ROOT / "docs" / "python.md").read_text("utf-8")
MODEL = "sentence-transformers/all-MiniLM-L6-v2"


def test_the_blocks_run_in_their_order(tiny: Path, environment: dict[str, str], tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    code = "\n".join(blocks)
    assert code.count(MODEL) == 1
    (tmp_path / "page.py").write_text(code.replace(MODEL, str(tiny)))
    own = {**environment, "HOME": str(tmp_path / "home")}
    ran = subprocess.run(
        [sys.executable, "page.py"], cwd=tmp_path, env=own, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert ran.returncode == 0, ran.stderr
    assert "onnx/model.onnx onnxruntime pass" in ran.stdout


def test_it_has_every_argument_of_export_module() -> None:
    told = set(re.findall(r"(?m)^\| `(\w+)` \|", PAGE))
    taken = set(inspect.signature(bertx.export_module).parameters)
    assert taken - told == {"module", "output", "progress"}
    assert told <= taken
