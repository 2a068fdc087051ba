"""The whole way, verified: dtypes, other outputs, sentence embeddings, answers, opsets and external data."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bertx.api import Export, export
from bertx.errors import NotCompared
from bertx.formats import ExportOptions
from bertx.parity.report import Result
from bertx.parity.verify import VerifyOptions
from families import add_modules, make


def results(made: Export) -> dict[str, Result]:
    """What ran, by artifact; a runtime that is not built here is listed and does not count."""
    assert made.report.verdict == "pass"
    assert {result.verdict for result in made.report.results} <= {"pass", "not-run"}
    return {result.artifact: result for result in made.report.results if result.verdict == "pass"}


def outputs(made: Export) -> dict[str, list[str]]:
    """What each artifact is signed to put out; all of it was compared."""
    found: dict[str, list[str]] = {}
    for artifact in made.manifest.artifacts:
        assert artifact.signature is not None
        found[artifact.path] = [spec.name for spec in artifact.signature.outputs]
    for result in results(made).values():
        compared = {row.name for row in result.outputs}
        stacked = {"hidden_states"} if "hidden_states.0" in compared else set()
        assert set(found[result.artifact]) <= compared | stacked
    return found


@pytest.fixture(scope="module")
def halves(bert: Path, options: VerifyOptions, tmp_path_factory: pytest.TempPathFactory) -> Export:
    half, brain = ExportOptions(dtype="float16"), ExportOptions(dtype="bfloat16")
    wanted = [("torchscript", half), ("torchscript", brain), ("onnx", half)]
    return export(str(bert), wanted, tmp_path_factory.mktemp("halves") / "bundle", verify=options)


def test_half_precision_is_judged_against_eager_at_that_dtype(halves: Export) -> None:
    found = results(halves)
    assert {name: result.dtype for name, result in found.items()} == {
        "torchscript/model_fp16.pt": "float16",
        "torchscript/model_bf16.pt": "bfloat16",
        "onnx/model_fp16.onnx": "float16",
    }


def test_half_precision_is_compared_at_every_layer_boundary(halves: Export) -> None:
    assert {len(result.taps) for result in results(halves).values()} == {3}


def test_bfloat16_onnx_is_not_published_where_nothing_here_computes_it(
    bert: Path, options: VerifyOptions, tmp_path: Path
) -> None:
    with pytest.raises(NotCompared) as caught:
        export(str(bert), [("onnx", ExportOptions(dtype="bfloat16"))], tmp_path / "bundle", verify=options)
    assert caught.value.report.results[0].reason == "onnxruntime does not run bfloat16 on the CPU"
    assert not (tmp_path / "bundle").exists()


def test_hidden_states_are_one_tensor_in_torchscript_and_one_output_each_in_onnx(
    bert: Path, options: VerifyOptions, tmp_path: Path
) -> None:
    states = ExportOptions(output_names=("hidden_states",))
    assert outputs(export(str(bert), ["torchscript", "onnx"], tmp_path / "b", options=states, verify=options)) == {
        "torchscript/model.hidden_states.pt": ["hidden_states"],
        "onnx/model.hidden_states.onnx": ["hidden_states.0", "hidden_states.1", "hidden_states.2"],
    }


def test_opset_20_with_external_data_verifies(bert: Path, options: VerifyOptions, tmp_path: Path) -> None:
    chosen = ExportOptions(opset=20, external_data=True)
    made = export(str(bert), [("onnx", chosen)], tmp_path / "bundle", verify=options)
    assert outputs(made) == {"onnx/model.onnx": ["last_hidden_state", "pooler_output"]}
    assert "onnx/model.onnx_data" in made.manifest.files
    assert (made.folder / "onnx" / "model.onnx_data").is_file()


def test_sentence_embeddings_come_after_the_tokens_in_onnx_and_alone_in_torchscript(
    bert: Path, options: VerifyOptions, tmp_path: Path
) -> None:
    folder = tmp_path / "sentences"
    shutil.copytree(bert, folder)
    add_modules(folder, ("cls", "weightedmean"), dense=24, normalize=True)
    assert outputs(export(str(folder), ["torchscript", "onnx"], tmp_path / "bundle", verify=options)) == {
        "torchscript/model.pt": ["sentence_embedding"],
        "onnx/model.onnx": ["last_hidden_state", "sentence_embedding"],
    }


def test_answers_are_two_outputs_in_onnx_and_one_in_torchscript(options: VerifyOptions, tmp_path: Path) -> None:
    folder = make("bert", tmp_path / "answers", "question-answering")
    made = export(str(folder), ["torchscript", "onnx"], tmp_path / "bundle", verify=options)
    assert outputs(made) == {"torchscript/model.pt": ["logits"], "onnx/model.onnx": ["start_logits", "end_logits"]}
    signature = next(a.signature for a in made.manifest.artifacts if a.format == "torchscript")
    assert signature is not None
    assert signature.outputs[0].shape == ("batch", "sequence", 2)
