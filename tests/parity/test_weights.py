"""Weights inside artifacts: what no case touches is compared bit for bit, where its name tells what it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file

from bertx.checkpoint.tensors import read_header
from bertx.parity.compare import Row
from bertx.parity.judge import Subject
from bertx.parity.weights import compare_weights

RNG = np.random.default_rng(5)
WEIGHTS = {
    "bert.embeddings.word_embeddings.weight": RNG.standard_normal((30, 4)).astype(np.float32),
    "bert.embeddings.LayerNorm.gamma": RNG.standard_normal(4).astype(np.float32),
    "bert.encoder.layer.0.output.dense.weight": RNG.standard_normal((4, 6)).astype(np.float32),
    "bert.encoder.layer.1.output.dense.weight": RNG.standard_normal((4, 6)).astype(np.float32),
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    save_file(WEIGHTS, tmp_path / "source.safetensors")
    return tmp_path / "source.safetensors"


def in_onnx(tmp_path: Path, tensors: dict[str, np.ndarray]) -> Path:
    values = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Identity", [next(iter(tensors))], ["y"])], "g", [], [output], values)
    onnx.save(helper.make_model(graph), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def look(path: Path, source: Path) -> Row | None:
    subject = Subject(path, path.name, "onnx" if path.suffix == ".onnx" else "safetensors", "float32", None, ())
    return compare_weights(subject, read_header(source), 1.0)


def test_the_same_weights_pass_and_are_counted(source: Path) -> None:
    row = look(source, source)
    assert row is not None
    assert row.passed
    assert row.cases[0].count == sum(array.size for array in WEIGHTS.values())


@pytest.mark.parametrize("prefix", ["", "model.", "bert.", "encoder_model.bert."])
def test_a_tensor_is_known_whatever_stands_before_its_name(prefix: str, source: Path, tmp_path: Path) -> None:
    name = "embeddings.word_embeddings.weight"
    row = look(in_onnx(tmp_path, {prefix + name: WEIGHTS[f"bert.{name}"]}), source)
    assert row is not None
    assert row.passed


def test_gamma_and_weight_are_one_name(source: Path, tmp_path: Path) -> None:
    row = look(in_onnx(tmp_path, {"embeddings.LayerNorm.weight": WEIGHTS["bert.embeddings.LayerNorm.gamma"]}), source)
    assert row is not None
    assert row.passed


def test_one_element_of_a_row_that_no_case_touches_is_found_and_named(source: Path, tmp_path: Path) -> None:
    wrong = WEIGHTS["bert.embeddings.word_embeddings.weight"].copy()
    wrong[27, 2] = np.nextafter(wrong[27, 2], np.float32(9))
    row = look(in_onnx(tmp_path, {"embeddings.word_embeddings.weight": wrong}), source)
    assert row is not None
    assert not row.passed
    assert row.problem == "bert.embeddings.word_embeddings.weight differs in 1 of 120 elements, first at [27, 2]"


def test_a_layer_is_not_taken_for_another(source: Path, tmp_path: Path) -> None:
    layer = "encoder.layer.1.output.dense.weight"
    row = look(in_onnx(tmp_path, {layer: WEIGHTS["bert.encoder.layer.0.output.dense.weight"]}), source)
    assert row is not None
    assert row.problem is not None
    assert row.problem.startswith("bert.encoder.layer.1.output.dense.weight differs")


@pytest.mark.parametrize(
    "name", ["val_12", "weight", "onnx::MatMul_7", "dense.weight", "other.layer.7.output.dense.weight"]
)
def test_a_name_that_does_not_tell_is_left_to_the_cases(name: str, source: Path, tmp_path: Path) -> None:
    assert look(in_onnx(tmp_path, {name: np.zeros((4, 6), np.float32)}), source) is None


def test_a_transposed_matrix_is_left_to_the_cases(source: Path, tmp_path: Path) -> None:
    name = "bert.encoder.layer.0.output.dense.weight"
    assert look(in_onnx(tmp_path, {name: WEIGHTS[name].T.copy()}), source) is None


def test_half_precision_is_compared_with_the_rounded_weight(source: Path, tmp_path: Path) -> None:
    halves = {name: array.astype(np.float16) for name, array in load_file(source).items()}
    save_file(halves, tmp_path / "half.safetensors")
    row = look(tmp_path / "half.safetensors", source)
    assert row is not None
    assert row.passed
