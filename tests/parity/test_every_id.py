"""An artifact whose embeddings cannot be read as they lie is asked about every token id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

import bertx
from bertx.parity import every_id as asking
from bertx.parity.cases import Facts, every_id
from bertx.parity.options import VerifyOptions
from bertx.parity.report import Result
from families import make

SIZE = 1500


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("bert", tmp_path_factory.mktemp("every-id") / "model", vocab_size=SIZE)


@pytest.fixture(scope="module")
def right(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("every-id-bundle") / "bundle"
    bertx.export(bertx.fetch(str(checkpoint)), ["onnx", "torchscript"], output, verify=None)
    return output / "onnx" / "model.onnx"


def in_halves(source: Path, target: Path, swapped: tuple[int, int] | None = None) -> Path:
    """The same file with its word embeddings in two parts, two of their rows swapped where that is wanted."""
    model = onnx.load(str(source))
    (table,) = [each for each in model.graph.initializer if each.dims[:1] == [SIZE]]
    rows = numpy_helper.to_array(table).copy()
    if swapped is not None:
        rows[list(swapped)] = rows[list(reversed(swapped))]
    model.graph.initializer.remove(table)
    halves = [numpy_helper.from_array(half, f"half.{k}") for k, half in enumerate(np.array_split(rows, 2))]
    model.graph.initializer.extend(halves)
    model.graph.node.insert(0, helper.make_node("Concat", [half.name for half in halves], [table.name], axis=0))
    onnx.save(model, str(target))
    return target


def judged(path: Path, checkpoint: Path, cases: str = "quick") -> Result:
    runtime = {".onnx": "onnxruntime", ".pt": "torchscript"}[path.suffix]
    options = VerifyOptions(runtimes=(runtime,), cases=cases, trust=True)
    (result,) = bertx.verify(path, str(checkpoint), options=options).report.results
    return result


def test_a_table_that_lies_as_it_is_is_compared_by_its_bytes_alone(right: Path, checkpoint: Path) -> None:
    result = judged(right, checkpoint)
    assert result.verdict == "pass"
    assert [row.name for row in result.outputs if "every id" in row.name] == []


def traced(right: Path, target: Path, *, mapped: bool = False, frozen: bool = False) -> Path:
    """The TorchScript file of the same bundle as somebody else might write it: within another, or folded."""
    inner = torch.jit.load(str(right.parents[1] / "torchscript" / "model.pt"))

    class Other(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            ids = torch.where(input_ids == 701, 1303, input_ids) if mapped else input_ids
            return self.inner(ids, attention_mask, token_type_ids)

    sample = (torch.ones(2, 7, dtype=torch.long),) * 3
    made = torch.jit.trace(Other(), sample, check_trace=False)
    torch.jit.save(torch.jit.freeze(made.eval()) if frozen else made, str(target))
    return target


@pytest.mark.parametrize("frozen", [False, True])
def test_a_torchscript_file_whose_graph_only_looks_ids_up_is_not_asked_about_each(
    frozen: bool, right: Path, checkpoint: Path, tmp_path: Path
) -> None:
    result = judged(traced(right, tmp_path / "model.pt", frozen=frozen), checkpoint)
    assert result.verdict == "pass"
    assert [row.name for row in result.outputs if "every id" in row.name] == []


def test_a_torchscript_file_that_maps_an_id_before_it_looks_it_up_fails(
    right: Path, checkpoint: Path, tmp_path: Path
) -> None:
    result = judged(traced(right, tmp_path / "model.pt", mapped=True), checkpoint)
    assert result.verdict == "fail"
    assert "asked about every id" in str(result.cause)
    assert "in case every-id-from-0" in str(result.cause)


def test_full_runs_every_id_whatever_the_table_looks_like(right: Path, checkpoint: Path) -> None:
    result = judged(right, checkpoint, "full")
    assert result.verdict == "pass"
    (row,) = [row for row in result.outputs if row.name == "last_hidden_state of every id"]
    assert sum(case.count for case in row.cases) >= SIZE * 32


def test_rows_that_no_case_reads_are_asked_for_where_the_table_is_put_together(
    right: Path, checkpoint: Path, tmp_path: Path
) -> None:
    result = judged(in_halves(right, tmp_path / "model.onnx", (701, 1303)), checkpoint)
    assert result.verdict == "fail"
    assert "asked about every id" in str(result.cause)
    assert "wrong wherever the token is 701, 1303 and nowhere else" in str(result.cause)


@pytest.mark.parametrize("room", [asking.ANSWERS, 500_000], ids=["at-once", "in-parts"])
def test_a_right_table_in_parts_passes_and_every_id_is_in_the_report(
    room: int, right: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "ANSWERS", room)
    result = judged(in_halves(right, tmp_path / "model.onnx"), checkpoint)
    assert result.verdict == "pass"
    (row,) = [row for row in result.outputs if row.name == "last_hidden_state of every id"]
    assert row.passed
    assert sum(case.count for case in row.cases) >= SIZE * 32
    assert len({case.case for case in row.cases}) == len(row.cases)


def test_the_cases_hold_every_id_once_and_name_themselves_by_it() -> None:
    known = Facts(1000, 64, 2, 0, (), ())
    parts = [every_id(("input_ids",), known, ids) for ids in (range(600), range(600, 1000))]
    read = [np.unique(np.concatenate([case.inputs["input_ids"].ravel() for case in part])) for part in parts]
    assert [each.tolist() for each in read] == [list(range(600)), list(range(600, 1000))]
