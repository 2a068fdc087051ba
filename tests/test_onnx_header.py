"""The header of an .onnx file, read without the onnx package, is what the onnx package reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from bertx.errors import InputRefused
from bertx.onnx_header import read_onnx_header
from bertx.protobuf import MAX_TEXT
from bertx.signature import TensorSpec

KINDS = [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.INT64]
NAMES = ["float32", "float16", "bfloat16", "float64", "int64"]


def model(kind: int = TensorProto.FLOAT, shape: tuple[str | int | None, ...] = ("batch", 4, None)) -> onnx.ModelProto:
    """A product with a matrix, whose input has `shape`."""
    weight = numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(4, 3), "weight")
    made = helper.make_model(
        helper.make_graph(
            [helper.make_node("MatMul", ["x", "weight"], ["y"]), helper.make_node("Identity", ["y"], ["z"])],
            "graph",
            [helper.make_tensor_value_info("x", kind, shape)],
            [helper.make_tensor_value_info("z", kind, ["batch", 3])],
            [weight],
        ),
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)],
        producer_name="somebody",
        producer_version="1.0",
    )
    helper.set_model_props(made, {"key": "value", "long": "x" * (MAX_TEXT + 1)})
    return made


def test_it_is_what_the_onnx_package_reads(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(model(), path)
    header = read_onnx_header(path)
    assert header.signature.inputs == (TensorSpec("x", "float32", ("batch", 4, "?")),)
    assert header.signature.outputs == (TensorSpec("z", "float32", ("batch", 3)),)
    assert (header.nodes, header.producer) == (2, "somebody 1.0")
    assert header.opsets == {"ai.onnx": 18, "com.microsoft": 1}
    assert header.domains == {"ai.onnx"}
    assert header.ir_version == model().ir_version
    assert header.metadata == {"key": "value", "long": ""}
    (weight,) = header.weights
    assert (weight.name, weight.dtype, weight.shape, weight.external, weight.elements) == (
        *("weight", "float32", (4, 3), False),
        12,
    )


@pytest.mark.parametrize(("kind", "name"), list(zip(KINDS, NAMES, strict=True)))
def test_dtypes_have_the_names_of_signatures(kind: int, name: str, tmp_path: Path) -> None:
    onnx.save(model(kind), tmp_path / "model.onnx")
    assert read_onnx_header(tmp_path / "model.onnx").signature.inputs[0].dtype == name


def test_every_dtype_of_onnx_has_a_name(tmp_path: Path) -> None:
    for kind in TensorProto.DataType.values():
        onnx.save(model(kind), tmp_path / "model.onnx")
        assert "onnx dtype" not in read_onnx_header(tmp_path / "model.onnx").signature.inputs[0].dtype


def test_weights_beside_the_graph_are_told(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(model(), path, save_as_external_data=True, location="model.onnx_data", size_threshold=0)
    (weight,) = read_onnx_header(path).weights
    assert (weight.external, weight.shape) == (True, (4, 3))


def test_a_weight_that_is_listed_as_an_input_is_none(tmp_path: Path) -> None:
    old = model()
    old.graph.input.append(helper.make_tensor_value_info("weight", TensorProto.FLOAT, [4, 3]))
    onnx.save(old, tmp_path / "model.onnx")
    assert [spec.name for spec in read_onnx_header(tmp_path / "model.onnx").signature.inputs] == ["x"]


@pytest.mark.parametrize("length", [0, 1, 10, 100, -20, -1])
def test_a_file_cut_short_is_refused(length: int, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(model(), path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputRefused) as refused:
        read_onnx_header(path)
    assert refused.value.code == "E_FORMAT"


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_bytes_lead_to_any_other_error(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    whole = bytearray(model().SerializeToString()[:400])
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "mutated.onnx"
    path.write_bytes(bytes(whole))
    try:
        read_onnx_header(path)
    except InputRefused as refused:
        assert refused.code == "E_FORMAT"


def test_a_hostile_length_is_refused_in_no_time(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x3a" + b"\xff" * 8 + b"\x7f")
    with pytest.raises(InputRefused, match="cut short"):
        read_onnx_header(path)
