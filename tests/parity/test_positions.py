"""Positions beyond those that quick asks for are told, and full asks for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import bertx
from bertx.parity.cases import LONGEST, Facts, build, room
from bertx.parity.options import VerifyOptions
from bertx.parity.report import Result
from families import make

POSITIONS = LONGEST + 40


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("positions") / "model"
    return make("bert", folder, max_position_embeddings=POSITIONS, num_hidden_layers=1)


@pytest.fixture(scope="module")
def right(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("positions-bundle") / "bundle"
    bertx.export(bertx.fetch(str(checkpoint)), ["onnx"], output, verify=None)
    return output / "onnx" / "model.onnx"


@pytest.fixture(scope="module")
def clipped(right: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same file, in which positions end where quick does: its table has all its rows."""
    model = onnx.load(str(right))
    (table,) = [each.name for each in model.graph.initializer if each.dims[:1] == [POSITIONS]]
    place, look = next((k, n) for k, n in enumerate(model.graph.node) if n.op_type == "Gather" and table in n.input)
    model.graph.initializer.append(numpy_helper.from_array(np.array(LONGEST - 1), "last"))
    model.graph.node.insert(place, helper.make_node("Min", [look.input[1], "last"], ["clipped"]))
    look.input[1] = "clipped"
    path = tmp_path_factory.mktemp("positions-clipped") / "model.onnx"
    onnx.save(model, str(path))
    return path


def judged(path: Path, checkpoint: Path, cases: str) -> Result:
    options = VerifyOptions(runtimes=("onnxruntime",), cases=cases)
    (result,) = bertx.verify(path, str(checkpoint), options=options).report.results
    return result


def test_quick_says_which_positions_it_did_not_ask_for(clipped: Path, checkpoint: Path) -> None:
    result = judged(clipped, checkpoint, "quick")
    assert result.verdict == "pass"
    assert "tokens beyond 2,048 of 2,088 (--cases full asks more)" in result.unjudged


def test_full_asks_for_the_last_position(right: Path, clipped: Path, checkpoint: Path) -> None:
    result = judged(clipped, checkpoint, "full")
    assert result.verdict == "fail"
    assert "positions: wrong only at the longest sequence (longest-of-all)" in (result.cause or "")
    told = judged(right, checkpoint, "full")
    assert told.verdict == "pass"
    assert not [each for each in told.unjudged if "tokens beyond" in each]


def test_the_longest_case_of_full_is_as_long_as_memory_allows() -> None:
    known = Facts(90, 8192, 2, 0, (), ())
    most = max(case.inputs["input_ids"].shape[1] for case in build("full", ("input_ids",), known, ids=False, most=3000))
    assert most == 3000
    assert room({"num_attention_heads": 12}, 12 * 32 * 4096**2) == 4096
    assert room({"n_heads": 12}, 12 * 32 * 4096**2) == 4096
    assert room({}, 16 * 32 * 1000**2) == 1000
