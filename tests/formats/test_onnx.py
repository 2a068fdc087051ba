"""An ONNX file: dynamic, valid, at the opset asked for, with its signature inside and nothing of this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from bertx.checkpoint import open_folder
from bertx.errors import InputRefused, UsageError
from bertx.formats import Contents, ExportOptions, Written, format_named
from bertx.model.loading import load
from bertx.model.stock import run_stock
from bertx.model.tasks import TASKS
from bertx.signature import Signature
from program import ROOT

FEATURES = TASKS["feature-extraction"]
NAMES = ("input_ids", "attention_mask", "token_type_ids")


def write(folder: Path, path: Path, options: ExportOptions | None = None) -> Written:
    path.parent.mkdir(parents=True, exist_ok=True)
    return format_named("onnx").write(open_folder(folder), FEATURES, options or ExportOptions(), path)


@pytest.fixture(scope="module")
def plain(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Written]:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    return path, write(bert, path)


def feed(batch: int, length: int) -> dict[str, torch.Tensor]:
    ids = torch.arange(batch * length).reshape(batch, length) % 150 + 5
    mask = torch.ones_like(ids)
    mask[-1, : length // 2] = 0
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": (ids % 2)}


def run(path: Path, given: dict[str, torch.Tensor]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return list(session.run(None, {name: value.numpy() for name, value in given.items()}))


def test_the_checker_accepts_it(plain: tuple[Path, Written]) -> None:
    onnx.checker.check_model(str(plain[0]), full_check=True)


def test_batch_and_sequence_are_dynamic_axes(plain: tuple[Path, Written]) -> None:
    graph = onnx.load(str(plain[0])).graph
    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.input}
    assert shapes == {name: ["batch", "sequence"] for name in NAMES}
    outputs = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.output}
    assert outputs == {"last_hidden_state": ["batch", "sequence", 32], "pooler_output": ["batch", 32]}


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 64), (5, 2), (3, 17)])
def test_it_computes_at_every_size(plain: tuple[Path, Written], bert: Path, batch: int, length: int) -> None:
    given = feed(batch, length)
    expected, _ = run_stock(load(open_folder(bert), FEATURES), given)
    keep = given["attention_mask"].bool().numpy()
    tokens, pooled = run(plain[0], given)
    assert np.allclose(tokens[keep], expected["last_hidden_state"].numpy()[keep], atol=1e-5)
    if keep[:, 0].all():
        assert np.allclose(pooled, expected["pooler_output"].numpy(), atol=1e-5)


def test_a_row_without_a_valid_token_is_finite(plain: tuple[Path, Written]) -> None:
    given = feed(2, 6)
    given["attention_mask"][0] = 0
    assert all(np.isfinite(output).all() for output in run(plain[0], given))


def test_the_signature_lies_inside(plain: tuple[Path, Written]) -> None:
    path, written = plain
    metadata = {entry.key: entry.value for entry in onnx.load(str(path)).metadata_props}
    assert Signature.from_json(json.loads(metadata["bertx.signature"])) == written.signature
    assert metadata["bertx.task"] == "feature-extraction"


def test_taps_are_values_inside_the_graph_not_outputs(plain: tuple[Path, Written]) -> None:
    path, written = plain
    graph = onnx.load(str(path)).graph
    values = {name for node in graph.node for name in node.output}
    assert list(written.taps) == ["hidden_states.0", "hidden_states.1", "hidden_states.2"]
    assert set(written.taps.values()) <= values
    assert [output.name for output in graph.output] == ["last_hidden_state", "pooler_output"]


def test_its_headers_say_what_it_is(plain: tuple[Path, Written]) -> None:
    contents: Contents = format_named("onnx").contents(plain[0])
    assert contents.signature is not None
    assert (contents.dtype, contents.task) == ("float32", "feature-extraction")
    assert [spec.name for spec in contents.signature.inputs] == list(NAMES)


def test_no_folder_of_this_machine_lies_in_it(plain: tuple[Path, Written], bert: Path) -> None:
    data = plain[0].read_bytes()
    for place in (ROOT, sys.prefix, bert, bert.parent, "site-packages"):
        assert str(place).encode() not in data


def test_the_default_opset_is_18_and_weights_are_embedded(plain: tuple[Path, Written]) -> None:
    assert {entry.domain: entry.version for entry in onnx.load(str(plain[0])).opset_import}[""] == 18
    assert plain[1].options == {"opset": 18, "external_data": False}
    assert [path.name for path in plain[0].parent.iterdir()] == ["model.onnx"]


def test_another_opset_is_the_one_asked_for(bert: Path, tmp_path: Path) -> None:
    write(bert, tmp_path / "model.onnx", ExportOptions(opset=20))
    assert {entry.domain: entry.version for entry in onnx.load(str(tmp_path / "model.onnx")).opset_import}[""] == 20
    onnx.checker.check_model(str(tmp_path / "model.onnx"), full_check=True)


def test_an_opset_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(UsageError, match="opset 9 is none of"):
        ExportOptions(opset=9)


def test_external_data_lies_beside_it_under_the_name_that_readers_look_for(bert: Path, tmp_path: Path) -> None:
    written = write(bert, tmp_path / "onnx" / "model.onnx", ExportOptions(external_data=True))
    assert sorted(path.name for path in (tmp_path / "onnx").iterdir()) == ["model.onnx", "model.onnx_data"]
    assert written.options["external_data"] is True
    given = feed(2, 5)
    expected, _ = run_stock(load(open_folder(bert), FEATURES), given)
    keep = given["attention_mask"].bool().numpy()
    tokens, _ = run(tmp_path / "onnx" / "model.onnx", given)
    assert np.allclose(tokens[keep], expected["last_hidden_state"].numpy()[keep], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (ExportOptions(), "onnx/model.onnx"),
        (ExportOptions(dtype="float16"), "onnx/model_fp16.onnx"),
        (ExportOptions(dtype="bfloat16"), "onnx/model_bf16.onnx"),
        (ExportOptions(output_names=("hidden_states",)), "onnx/model.hidden_states.onnx"),
    ],
)
def test_its_name_says_dtype_and_output(options: ExportOptions, name: str) -> None:
    assert format_named("onnx").file_name(options) == name


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07not a graph")
    with pytest.raises(InputRefused) as caught:
        format_named("onnx").contents(tmp_path / "model.onnx")
    assert caught.value.code == "E_FORMAT"
