"""The promise of the whole: right artifacts of a real model pass, wrong ones do not, and the report says where."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from program import Ran

LAYER = "encoder.layer.3"
MATRIX = f"{LAYER}.intermediate.dense.weight"


def test_every_artifact_of_a_real_model_passes_at_every_tap(minilm_run: tuple[Path, Ran]) -> None:
    results = minilm_run[1].json["runs"][0]["report"]["results"]
    assert [(r["artifact"], r["runtime"], r["verdict"]) for r in results] == [
        ("model.safetensors", "eager", "pass"),
        ("torchscript/model.pt", "torchscript", "pass"),
        ("onnx/model.onnx", "onnxruntime", "pass"),
    ]
    for result in results:
        assert [tap["name"] for tap in result["taps"]] == [f"hidden_states.{k}" for k in range(7)]
        measured = [row for row in result["outputs"] if row["name"] not in ("weights", "tokenizer")]
        assert len(measured) == (1 if result["format"] == "torchscript" else 3 if result["runtime"] == "eager" else 2)
        for row in (*measured, *result["taps"]):
            assert 0 < row["rms_ratio"] <= 3
            assert 0 < row["max_ratio"] <= 12


def test_a_published_bundle_verifies_again_in_every_runtime(bertx: Callable[..., Ran], minilm_bundle: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in minilm_bundle.rglob("*")}
    ran = bertx("verify", minilm_bundle, "--json")
    assert (ran.code, ran.err) == (0, "")
    assert ran.json["verdict"] == "pass"
    assert ran.json["reference"]["origin"] == "local"
    assert ran.json["reference"]["pure"] is True
    assert ran.json["reference"]["torch"].startswith("2.")
    ran_in = {r["runtime"] for r in ran.json["results"] if r["verdict"] != "not-run"}
    assert ran_in == {"bytes", "torchscript", "onnxruntime"}
    (weights,) = [r for r in ran.json["results"] if r["runtime"] == "bytes"]
    assert weights["outputs"][0]["name"] == "weights"
    assert weights["outputs"][0]["compared"] == 22_713_216
    idle = {r["runtime"]: r["reason"] for r in ran.json["results"] if r["verdict"] == "not-run"}
    assert idle["rten"] == "not ready: bertx build rten"
    assert before == {p: p.stat().st_mtime_ns for p in minilm_bundle.rglob("*")}


def test_one_changed_weight_in_safetensors_fails_and_names_its_layer(
    bertx: Callable[..., Ran], minilm: Path, tmp_path: Path
) -> None:
    weights = {name: array.copy() for name, array in load_file(minilm / "model.safetensors").items()}
    weights[MATRIX][17, 5] += 1e-2
    changed = tmp_path / "changed.safetensors"
    save_file(weights, changed, metadata={"format": "pt"})
    ran = bertx("verify", changed, "--against", minilm, "--json")
    assert ran.code == 1
    assert ran.json["results"][0]["first_bad_layer"] == LAYER
    assert ran.err.startswith("bertx: error[E_PARITY]: changed.safetensors is wrong in eager, first at encoder.layer.3")
    assert ran.err.count("\n") == 1


def test_one_changed_weight_in_onnx_fails_and_names_its_layer(
    bertx: Callable[..., Ran], minilm_bundle: Path, tmp_path: Path
) -> None:
    import onnx
    from onnx import numpy_helper

    copy = tmp_path / "copy"
    shutil.copytree(minilm_bundle, copy)
    model = onnx.load(copy / "onnx" / "model.onnx")
    wanted = load_file(minilm_bundle / "model.safetensors")[MATRIX]
    for initializer in model.graph.initializer:
        array = numpy_helper.to_array(initializer)
        if array.shape in (wanted.shape, wanted.T.shape) and np.array_equal(
            array if array.shape == wanted.shape else array.T, wanted
        ):
            array = array.copy()
            array[5, 17] += 1e-2
            initializer.CopyFrom(numpy_helper.from_array(array, initializer.name))
            break
    else:
        pytest.fail("the matrix was not found in the graph")
    onnx.save(model, copy / "onnx" / "model.onnx")
    ran = bertx("verify", copy, "--runtime", "onnxruntime", "--json")
    found = {r["artifact"]: r for r in ran.json["results"]}
    assert ran.code == 1
    assert found["onnx/model.onnx"]["verdict"] == "fail"
    assert found["onnx/model.onnx"]["first_bad_layer"] == LAYER
    assert ran.err.splitlines()[0] == "bertx: warning: onnx/model.onnx is not the file that bertx.json lists"


def test_a_plain_export_by_another_program_passes(
    bertx: Callable[..., Ran], plain_and_fused: tuple[Path, Path], minilm: Path
) -> None:
    ran = bertx("verify", plain_and_fused[0], "--against", minilm, "--json")
    assert (ran.code, ran.json["verdict"]) == (0, "pass")


def test_the_file_that_onnxruntimes_optimizer_fused_fails_with_the_mask_as_cause(
    bertx: Callable[..., Ran], plain_and_fused: tuple[Path, Path], minilm: Path
) -> None:
    ran = bertx("verify", plain_and_fused[1], "--against", minilm, "--json")
    assert ran.code == 1
    assert ran.json["results"][0]["cause"].startswith("attention_mask: wrong only on rows that are padded on the left")


def test_a_torchscript_file_from_elsewhere_is_not_run_without_trust(
    bertx: Callable[..., Ran], minilm_bundle: Path, tmp_path: Path
) -> None:
    inside = bertx("verify", minilm_bundle, "--runtime", "torchscript", "--json", BERTX_CACHE=str(tmp_path))
    assert inside.code == 6
    found = next(r for r in inside.json["results"] if r["format"] == "torchscript")
    assert (found["verdict"], "--trust" in found["reason"]) == ("not-run", True)
    alone = bertx("verify", minilm_bundle / "torchscript" / "model.pt", BERTX_CACHE=str(tmp_path))
    assert alone.code == 3
    assert "error[E_UNTRUSTED]" in alone.err


def test_a_bundle_whose_source_is_gone_is_its_own_reference(
    bertx: Callable[..., Ran], minilm: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(minilm, source)
    assert bertx("to-safetensors", source, "-o", tmp_path / "out").code == 0
    shutil.rmtree(source)
    ran = bertx("verify", tmp_path / "out", "--json")
    assert (ran.code, ran.json["reference"]["origin"]) == (0, "bundle")
    (tmp_path / "out" / "config.json").write_bytes((tmp_path / "out" / "config.json").read_bytes() + b"\n")
    refused = bertx("verify", tmp_path / "out")
    assert (refused.code, "error[E_REFERENCE]" in refused.err) == (4, True)


def test_a_bundles_own_golden_cases_are_a_reference(bertx: Callable[..., Ran], minilm_bundle: Path) -> None:
    runtimes = ("--runtime", "onnxruntime", "--runtime", "torchscript")
    ran = bertx("verify", minilm_bundle, "--against", minilm_bundle / "parity", *runtimes, "--json")
    assert (ran.code, ran.json["reference"]["origin"]) == (0, "recorded"), ran.err
    found = {r["artifact"]: [row["name"] for row in r["outputs"]] for r in ran.json["results"] if r["outputs"]}
    assert found == {
        "onnx/model.onnx": ["last_hidden_state", "sentence_embedding"],
        "torchscript/model.pt": ["sentence_embedding"],
    }


def test_golden_cases_hold_for_a_checker_without_pytorch(minilm_bundle: Path) -> None:
    import onnxruntime
    from safetensors import safe_open

    cases = load_file(minilm_bundle / "parity" / "cases.safetensors")
    expected = load_file(minilm_bundle / "parity" / "expected.safetensors")
    with safe_open(minilm_bundle / "parity" / "expected.safetensors", "np") as opened:
        noise = json.loads(opened.metadata()["noise"])
    session = onnxruntime.InferenceSession(minilm_bundle / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    checked = 0
    for case in {name.split("/")[0] for name in cases}:
        fed = {name.split("/")[1]: array for name, array in cases.items() if name.startswith(f"{case}/")}
        for name, made in zip(names, session.run(None, fed), strict=True):
            valid = fed["attention_mask"] == 1 if made.ndim == 3 else ...
            error = np.abs(made - expected[f"{case}/{name}"])[valid]
            assert error.max() <= 12 * noise[name]["max"]
            checked += 1
    assert checked >= 20
    sizes = sum(
        (minilm_bundle / "parity" / name).stat().st_size for name in ("cases.safetensors", "expected.safetensors")
    )
    assert sizes <= 16 * 2**20
