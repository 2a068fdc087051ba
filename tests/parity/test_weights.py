"""Weights inside artifacts: what no case touches is compared bit for bit, where its name tells what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_tensors

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


def in_onnx(tmp_path: Path, tensors: dict[str, np.ndarray], **options: Any) -> Path:
    values = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Identity", [next(iter(tensors))], ["y"])], "g", [], [output], values)
    onnx.save(helper.make_model(graph), tmp_path / "model.onnx", **options)
    return tmp_path / "model.onnx"


def look(path: Path, source: Path) -> Row | None:
    kinds = {".onnx": "onnx", ".safetensors": "safetensors", ".pt": "torchscript"}
    subject = Subject(path, path.name, kinds[path.suffix], "float32", None, ())
    return compare_weights(subject, read_header(source), 1.0).row


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


def test_a_transposed_matrix_is_known_by_its_name(source: Path, tmp_path: Path) -> None:
    name = "bert.encoder.layer.0.output.dense.weight"
    row = look(in_onnx(tmp_path, {name: WEIGHTS[name].T.copy()}), source)
    assert row is not None
    assert row.passed


def test_half_precision_is_compared_with_the_rounded_weight(source: Path, tmp_path: Path) -> None:
    halves = {name: array.astype(np.float16) for name, array in load_file(source).items()}
    save_file(halves, tmp_path / "half.safetensors")
    row = look(tmp_path / "half.safetensors", source)
    assert row is not None
    assert row.passed


def test_bfloat16_is_compared_with_the_rounded_weight(source: Path, tmp_path: Path) -> None:
    tensors = {name: torch.from_numpy(array).bfloat16() for name, array in load_file(source).items()}
    save_tensors(tensors, tmp_path / "rounded.safetensors")
    row = look(tmp_path / "rounded.safetensors", source)
    assert row is not None
    assert row.passed
    tensors["bert.embeddings.word_embeddings.weight"][27, 2] *= 1.01
    save_tensors(tensors, tmp_path / "wrong.safetensors")
    row = look(tmp_path / "wrong.safetensors", source)
    assert row is not None
    assert not row.passed


def test_a_bfloat16_checkpoint_is_compared_with_what_it_widens_to(source: Path, tmp_path: Path) -> None:
    tensors = {name: torch.from_numpy(array).bfloat16() for name, array in load_file(source).items()}
    save_tensors(tensors, tmp_path / "kept.safetensors")
    save_tensors({name: tensor.float() for name, tensor in tensors.items()}, tmp_path / "wide.safetensors")
    row = look(tmp_path / "wide.safetensors", tmp_path / "kept.safetensors")
    assert row is not None
    assert row.passed
    assert look(source, tmp_path / "kept.safetensors") != row


# without a name, by what they hold

LARGE = {
    **{f"bert.layer.0.{name}.weight": RNG.standard_normal((16, 12)).astype(np.float32) for name in ("q", "k", "v")},
    "bert.words.weight": RNG.standard_normal((90, 12)).astype(np.float32),
    "bert.norm.weight": np.ones(128, np.float32),
}


@pytest.fixture
def large(tmp_path: Path) -> Path:
    save_file(LARGE, tmp_path / "large.safetensors")
    return tmp_path / "large.safetensors"


def _fused(axis: int) -> np.ndarray:
    return np.concatenate([LARGE[f"bert.layer.0.{name}.weight"] for name in ("q", "k", "v")], axis)


@pytest.mark.parametrize(
    ("held", "count"),
    [
        (LARGE["bert.words.weight"], 1080),
        (LARGE["bert.words.weight"].T.copy(), 1080),
        (_fused(0), 576),
        (_fused(1), 576),
        (_fused(0).T.copy(), 576),
    ],
    ids=["renamed", "transposed", "fused in rows", "fused in columns", "fused and transposed"],
)
def test_a_tensor_without_a_name_is_known_by_what_it_holds(
    held: np.ndarray, count: int, large: Path, tmp_path: Path
) -> None:
    row = look(in_onnx(tmp_path, {"val_7": held}), large)
    assert row is not None
    assert row.passed
    assert row.cases[0].count == count


@pytest.mark.parametrize(
    ("held", "told"),
    [
        (LARGE["bert.words.weight"].T.copy(), "bert.words.weight (in val_7) differs in 1 of 1080 elements"),
        (_fused(0), "bert.layer.0.v.weight (in val_7) differs in 1 of 192 elements"),
    ],
    ids=["transposed", "fused"],
)
def test_one_element_of_a_tensor_without_a_name_is_found(
    held: np.ndarray, told: str, large: Path, tmp_path: Path
) -> None:
    wrong = held.copy()
    wrong[-1, -1] += 1
    row = look(in_onnx(tmp_path, {"val_7": wrong}), large)
    assert row is not None
    assert row.problem is not None
    assert row.problem.startswith(told)


@pytest.mark.parametrize(
    "held",
    [
        LARGE["bert.words.weight"] * np.float32(0.25),
        np.zeros((90, 12), np.float32),
        np.concatenate([np.ones(127, np.float32), np.zeros(1, np.float32)]),
    ],
    ids=["scaled", "zeros", "ones but for one"],
)
def test_what_is_not_half_of_a_tensor_is_left_to_the_cases(held: np.ndarray, large: Path, tmp_path: Path) -> None:
    assert look(in_onnx(tmp_path, {"val_7": held}), large) is None


def test_external_data_is_read(large: Path, tmp_path: Path) -> None:
    wrong = LARGE["bert.words.weight"].copy()
    wrong[88, 3] += 1
    options = {"save_as_external_data": True, "location": "data", "size_threshold": 0}
    row = look(in_onnx(tmp_path, {"val_7": wrong}, **options), large)
    assert row is not None
    assert row.problem is not None
    assert "first at [88, 3]" in row.problem


def test_a_constant_node_is_read(large: Path, tmp_path: Path) -> None:
    path = in_onnx(tmp_path, {"val_7": LARGE["bert.words.weight"]})
    model = onnx.load(str(path))
    (value,) = model.graph.initializer
    model.graph.node.insert(0, helper.make_node("Constant", [], [value.name], value=value))
    del model.graph.initializer[:]
    onnx.save(model, str(path))
    row = look(path, large)
    assert row is not None
    assert row.cases[0].count == 1080


def test_external_data_that_is_not_there_is_a_failure_and_no_crash(large: Path, tmp_path: Path) -> None:
    options = {"save_as_external_data": True, "location": "data", "size_threshold": 0}
    path = in_onnx(tmp_path, {"val_7": LARGE["bert.words.weight"]}, **options)
    (tmp_path / "data").unlink()
    row = look(path, large)
    assert row is not None
    assert row.problem is not None
    assert row.problem.startswith("cannot be read: ")


def looking_up(tmp_path: Path, kind: str) -> Path:
    """A graph that looks up the word embeddings by its input `ids`, one way or another."""
    table = WEIGHTS["bert.embeddings.word_embeddings.weight"]
    parts = {"one": table[:20], "other": table[20:]} if kind == "in halves" else {"table": table}
    if kind == "transposed":
        parts = {"table": np.ascontiguousarray(table.T)}
    same = helper.make_node("Equal", ["ids", "last"], ["same"])
    added = [
        helper.make_node("Cast", ["same"], ["more"], to=TensorProto.INT64),
        helper.make_node("Add", ["ids", "more"], ["mapped"]),
    ]
    made = {
        "as it is": [],
        "cast": [helper.make_node("Cast", ["ids"], ["mapped"], to=TensorProto.INT32)],
        "transposed": [helper.make_node("Transpose", ["table"], ["turned"], perm=[1, 0])],
        "compared with an id of the cases": [same],
        "compared with another id": [same],
        "in halves": [helper.make_node("Concat", ["one", "other"], ["table"], axis=0)],
        "clipped": [helper.make_node("Min", ["ids", "last"], ["mapped"])],
        "cast to few bits": [helper.make_node("Cast", ["ids"], ["few"], to=TensorProto.INT8),
                             helper.make_node("Cast", ["few"], ["mapped"], to=TensorProto.INT64)],
        "mapped, and as they are beside": [same, *added, helper.make_node("Gather", ["table", "ids"], ["no"])],
        "by another input beside": [helper.make_node("Gather", ["table", "mask"], ["no"]),
                                    helper.make_node("Min", ["ids", "last"], ["mapped"])],
        "in another table, too": [helper.make_node("Gather", ["scaled", "ids"], ["no"])],
    }[kind]  # fmt: skip
    ids = "mapped" if any("mapped" in node.output for node in made) else "ids"
    gather = helper.make_node("Gather", ["turned" if kind == "transposed" else "table", ids], ["y"])
    values = [numpy_helper.from_array(array, name) for name, array in parts.items()]
    values += [numpy_helper.from_array(np.array(28), "last"), numpy_helper.from_array(table / 3, "scaled")]
    fed = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in ("ids", "mask")]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([*made, gather], "g", fed, [output], values)
    onnx.save(helper.make_model(graph), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.mark.parametrize(
    ("kind", "seen"),
    [
        ("as it is", True),
        ("cast", True),
        ("transposed", True),
        ("compared with an id of the cases", True),
        ("compared with another id", False),
        ("in halves", False),
        ("clipped", False),
        ("cast to few bits", False),
        ("mapped, and as they are beside", False),
        ("by another input beside", False),
        ("in another table, too", False),
    ],
)
def test_a_table_is_known_where_ids_as_they_are_fed_look_it_up_and_go_nowhere_else(
    kind: str, seen: bool, source: Path, tmp_path: Path
) -> None:
    subject = Subject(looking_up(tmp_path, kind), "model.onnx", "onnx", "float32", None, ())
    held = {1, 28} if kind == "compared with an id of the cases" else {1}
    assert compare_weights(subject, read_header(source), 1.0, "ids").looks_up(30, held) is seen
