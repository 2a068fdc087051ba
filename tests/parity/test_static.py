"""Files that fix their shape are checked at that shape; files that say they do not are held to their word."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bertx import api
from bertx.parity.cases import Facts, build, shortened
from bertx.parity.options import VerifyOptions
from bertx.parity.report import Report
from bertx.parity.rows import fitted
from program import Ran

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
KNOWN = Facts(vocabulary=90, longest=64, segments=2, padding=3, special=(1, 2), texts=((1, 7, 8, 2, 9, 9, 9), (1, 9)))


@pytest.mark.parametrize("static", [{"batch": 2, "sequence": 8}, {"batch": 1}, {"sequence": 8}, {"sequence": 1}])
def test_cases_are_made_for_the_shape_that_a_file_fixes(static: dict[str, int]) -> None:
    known = shortened(KNOWN, static.get("sequence", 64))
    made = fitted(build("quick", INPUTS, known), static, known.padding)
    shapes = {case.inputs["input_ids"].shape for case in made}
    for axis, name in enumerate(("batch", "sequence")):
        assert name not in static or {shape[axis] for shape in shapes} == {static[name]}
    assert len({case.name for case in made}) == len(made)
    for case in made:
        padded = case.inputs["input_ids"][:, -1] == known.padding
        assert all(array.shape == case.inputs["input_ids"].shape for array in case.inputs.values())
        assert case.name != "three-tokens" or static.get("sequence") != 8 or padded.all()
    if static.get("sequence") == 8:
        traits = {trait for case in made for trait in case.traits}
        assert {"left", "right", "holes", "segments"} <= traits


@pytest.fixture(scope="session")
def dynamic(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint's ONNX file."""
    folder = tmp_path_factory.mktemp("static") / "bundle"
    api.export(str(tiny), ["onnx"], folder, verify=None)
    return folder / "onnx" / "model.onnx"


def fixed(source: Path, path: Path, sizes: dict[str, int]) -> Path:
    """The same file with axes that it declares to be fixed."""
    model = onnx.load(source)
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]
    onnx.save(model, path)
    return path


def verify(artifact: Path, tiny: Path, **options: Any) -> Report:
    return api.verify(artifact, str(tiny), options=VerifyOptions(("onnxruntime",), device="cpu", **options)).report


# 32 is also the hidden size: the axes of the outputs must not be mixed up.
@pytest.mark.parametrize("sizes", [{"batch": 2, "sequence": 32}, {"batch": 1}])
def test_a_file_of_one_shape_is_checked_and_counts_when_it_is_allowed_to(
    sizes: dict[str, int], dynamic: Path, tiny: Path, tmp_path: Path
) -> None:
    artifact = fixed(dynamic, tmp_path / "fixed.onnx", sizes)
    found = verify(artifact, tiny)
    (result,) = found.results
    assert (found.verdict, result.verdict, result.static) == ("incomplete", "pass", sizes)
    error = found.error()
    assert error is not None
    assert (error.exit_code, error.hint) == (6, "accept it by --allow-static")
    assert "fixes batch at" in error.message
    pooled = next(row for row in result.outputs if row.name == "pooler_output")
    assert all(case.count % 32 == 0 for case in pooled.cases)
    assert verify(artifact, tiny, allow_static=True).verdict == "pass"


def test_a_wrong_file_of_one_shape_fails(dynamic: Path, tiny: Path, tmp_path: Path) -> None:
    artifact = fixed(dynamic, tmp_path / "fixed.onnx", {"batch": 2, "sequence": 16})
    model = onnx.load(artifact)
    matrix = next(i for i in model.graph.initializer if len(i.dims) == 2 and list(i.dims) == [32, 64])
    array = onnx.numpy_helper.to_array(matrix).copy()
    array[3, 4] += 1e-2
    matrix.CopyFrom(onnx.numpy_helper.from_array(array, matrix.name))
    onnx.save(model, artifact)
    assert verify(artifact, tiny, allow_static=True).verdict == "fail"


def test_a_file_of_more_tokens_than_the_model_has_is_not_compared(dynamic: Path, tiny: Path, tmp_path: Path) -> None:
    artifact = fixed(dynamic, tmp_path / "fixed.onnx", {"sequence": 41})
    found = verify(artifact, tiny, allow_static=True)
    assert found.verdict == "incomplete"
    assert found.results[0].reason == "the file takes 41 tokens and no other number, the model 40"


def test_a_file_that_refuses_a_shape_which_it_declares_fails_and_says_so(
    bertx: Callable[..., Ran], dynamic: Path, tiny: Path, tmp_path: Path
) -> None:
    model = onnx.load(dynamic)
    shape = onnx.numpy_helper.from_array(np.array([1, -1, 32]), "one_row")
    model.graph.initializer.append(shape)
    state = next(value for value in model.graph.output if value.name == "last_hidden_state")
    producer = next(node for node in model.graph.node if state.name in node.output)
    producer.output[list(producer.output).index(state.name)] = "inner"
    for node in model.graph.node:
        node.input[:] = ["inner" if name == state.name else name for name in node.input]
    narrow = onnx.helper.make_node("Gather", ["inner", "first"], [state.name], axis=0)
    kept = onnx.helper.make_node("Reshape", ["inner", "one_row"], ["flat"])
    bad = onnx.helper.make_node("Add", ["inner", "flat"], ["unused"])
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.arange(1), "first"))
    model.graph.node.extend([narrow, kept, bad])
    model.graph.output.append(onnx.helper.make_tensor_value_info("unused", onnx.TensorProto.FLOAT, None))
    onnx.save(model, tmp_path / "narrow.onnx")
    ran = bertx("verify", tmp_path / "narrow.onnx", "--against", tiny, "--runtime", "onnxruntime", "--json")
    assert ran.code == 1
    cause = ran.json["results"][0]["cause"]
    assert re.match(
        r"it refuses a batch of \d×\d+ \(case \S+\), though it declares batch and sequence dynamic: ", cause
    )
