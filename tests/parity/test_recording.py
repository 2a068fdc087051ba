"""Golden cases as the reference: judged by the recorded noise, without PyTorch; refused where they are not whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from bertx import api
from bertx.errors import InputRefused, UsageError
from bertx.parity.golden import CASES, EXPECTED
from bertx.parity.options import VerifyOptions
from bertx.parity.report import Report
from bertx.parity.verify import bench_of
from parity.drawn import batches, draw, record
from program import Ran

ON_CPU = VerifyOptions(device="cpu")


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("recording") / "golden")


def verify(artifact: Path, recording: Path, **options: Any) -> Report:
    return api.verify(artifact, recording, options=VerifyOptions(("onnxruntime",), device="cpu", **options)).report


def test_a_right_file_passes_and_the_report_says_that_the_reference_was_recorded(
    recording: Path, tmp_path: Path
) -> None:
    found = verify(draw(tmp_path / "model.onnx"), recording)
    assert (found.verdict, found.reference["origin"], found.cases) == (
        "pass",
        "recorded",
        {"set": "recorded", "count": 4, "seed": None},
    )
    assert [row.name for row in found.results[0].outputs] == ["last_hidden_state", "pooler_output"]


def test_rows_are_not_regrouped_where_the_recording_does_not_show_that_they_are_independent(
    recording: Path, tmp_path: Path
) -> None:
    (result,) = verify(draw(tmp_path / "model.onnx", shape=(5, "sequence")), recording, allow_static=True).results
    assert (result.verdict, result.reason) == ("not-run", "no recorded case fits what it takes")


def test_a_wrong_file_fails_by_the_recorded_noise(tmp_path: Path) -> None:
    stated = {name: {"rms": 2e-6, "max": 5e-6} for name in ("last_hidden_state", "pooler_output")}
    (result,) = verify(draw(tmp_path / "model.onnx", nudge=1e-3), record(tmp_path / "golden", noise=stated)).results
    assert result.verdict == "fail"
    row = result.outputs[0]
    assert (row.rms_noise, row.max_noise) == (pytest.approx(2e-6), pytest.approx(5e-6))


def test_the_noise_of_a_case_is_its_own_where_it_was_recorded(tmp_path: Path) -> None:
    noise = json.loads(safe_open(record(tmp_path / "plain") / EXPECTED, "np").metadata()["noise"])
    own = {name: {case: {"rms": 0.1, "max": 0.1} for case in batches()} for name in noise}
    found = verify(draw(tmp_path / "model.onnx", nudge=1e-2), record(tmp_path / "own", case_noise=own))
    assert found.results[0].outputs[0].rms_noise == pytest.approx(0.1)


def test_a_file_without_segments_is_judged_on_the_cases_that_have_none(recording: Path, tmp_path: Path) -> None:
    names = {name: name for name in ("input_ids", "attention_mask")}
    artifact = draw(tmp_path / "model.onnx", inputs=names)
    (result,) = verify(artifact, recording).results
    assert result.verdict == "fail"  # without the segments' own vector it is another model
    assert {case.case for case in result.outputs[0].cases} == {"whole", "right-padded", "alone"}


@pytest.mark.parametrize("missing", ["noise", "signature"])
def test_a_recording_that_states_no_noise_or_signature_is_refused(
    missing: str, recording: Path, tmp_path: Path
) -> None:
    for name in (CASES, EXPECTED):
        metadata = safe_open(recording / name, "np").metadata()
        save_file(load_file(recording / name), tmp_path / name, {k: v for k, v in metadata.items() if k != missing})
    with pytest.raises(InputRefused, match=f"the recording states no {missing}") as raised:
        verify(draw(tmp_path / "model.onnx"), tmp_path)
    assert raised.value.code == "E_CASES"


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        ({"last_hidden_state": {"rms": 1e-7, "max": 1e-6}}, "states no noise of pooler_output"),
        ({n: {"rms": float("nan"), "max": 1e-6} for n in ("last_hidden_state", "pooler_output")}, "is no number"),
        ({n: {"rms": float("inf"), "max": 1e-6} for n in ("last_hidden_state", "pooler_output")}, "is no number"),
        ({n: {"rms": -1, "max": 1e-6} for n in ("last_hidden_state", "pooler_output")}, "is no number"),
        (dict.fromkeys(("last_hidden_state", "pooler_output"), 1e-06), "is no number"),
        ([1], "noise is malformed"),
        ({n: {"rms": 0.5, "max": 0.5} for n in ("last_hidden_state", "pooler_output")}, "is as large as its answers"),
        ({n: {"rms": 1e-7, "max": 1e6} for n in ("last_hidden_state", "pooler_output")}, "is as large as its answers"),
    ],
)
def test_noise_that_is_missing_or_no_number_is_refused(noise: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match=message):
        verify(draw(tmp_path / "model.onnx"), record(tmp_path / "golden", noise=noise))


def changed(recording: Path, folder: Path, file: str, change: Callable[[dict[str, np.ndarray]], None]) -> Path:
    folder.mkdir()
    for name in (CASES, EXPECTED):
        tensors = load_file(recording / name)
        if name == file:
            change(tensors)
        save_file(tensors, folder / name, safe_open(recording / name, "np").metadata())
    return folder


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (EXPECTED, lambda t: t.pop("whole/pooler_output"), "has no pooler_output in case whole"),
        (CASES, lambda t: t.pop("whole/input_ids"), "has no input_ids in case whole"),
        (EXPECTED, lambda t: t.update({"more/pooler_output": np.ones((1, 8), "f4")}), "answers case more"),
        (EXPECTED, lambda t: t.update({"alone/pooler_output": np.ones((1, 9), "f4")}), r"has shape \(1, 9\)"),
        (EXPECTED, lambda t: t.update({"alone/pooler_output": np.full((1, 8), np.nan, "f4")}), "holds NaN or Inf"),
        (CASES, lambda t: t.update({"alone/attention_mask": np.zeros((1, 5), "i8")}), "has no valid token"),
        (CASES, lambda t: t.update({"loose": np.zeros((1, 5), "i8")}), "loose"),
    ],
)
def test_a_recording_that_is_not_whole_is_refused(
    file: str, change: Any, message: str, recording: Path, tmp_path: Path
) -> None:
    folder = changed(recording, tmp_path / "golden", file, change)
    with pytest.raises(InputRefused, match=message) as raised:
        verify(draw(tmp_path / "model.onnx"), folder)
    assert raised.value.code == "E_CASES"


def test_another_dtype_than_the_recorded_one_is_not_compared(recording: Path, tmp_path: Path) -> None:
    found = verify(draw(tmp_path / "model.onnx"), recording, dtype="float16")
    assert found.verdict == "incomplete"
    assert found.results[0].reason == "the recording holds the noise of float32, not of float16"


def test_an_output_that_was_not_recorded_is_not_compared(tiny: Path, tmp_path: Path) -> None:
    from bertx.checkpoint import open_folder
    from bertx.model.tasks import TASKS
    from bertx.parity import golden
    from bertx.parity.origin import Asked, Stock

    made = api.export(str(tiny), ["onnx"], tmp_path / "bundle", verify=None)
    origin = Stock(open_folder(tiny), TASKS["feature-extraction"])
    bench = bench_of(origin, Asked("float32", tuple(spec.name for spec in origin.inputs)), "cpu", ON_CPU)
    (tmp_path / "golden").mkdir()
    golden.write(bench, ("last_hidden_state",), lambda name: tmp_path / "golden" / name)
    (result,) = verify(made.folder, tmp_path / "golden").results
    assert (result.verdict, result.reason) == ("not-run", "the recording has no pooler_output")
    assert [row.passed for row in result.outputs] == [True]


def test_a_recording_brings_its_own_cases(recording: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="brings its own cases"):
        verify(draw(tmp_path / "model.onnx"), recording, cases="full")


def test_no_pytorch_is_needed(recording: Path, bertx: Callable[..., Ran], tmp_path: Path) -> None:
    (tmp_path / "blocked").mkdir()
    for name in ("torch", "transformers"):
        (tmp_path / "blocked" / f"{name}.py").write_text("raise ImportError('this test has none')")
    import bertx as package

    path = f"{tmp_path / 'blocked'}:{Path(package.__file__).parent.parent}"
    artifact = draw(tmp_path / "model.onnx")
    ran = bertx("verify", artifact, "--against", recording, "--device", "cpu", "--json", PYTHONPATH=path)
    assert (ran.code, ran.json["reference"]["origin"]) == (0, "recorded"), ran.err
