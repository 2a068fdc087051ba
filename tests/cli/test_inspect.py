"""bertx inspect: what headers say, told at once and without PyTorch."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from documents import checked

from families import make
from hub_server import HubServer
from program import Ran

INPUTS = ["input_ids", "attention_mask", "token_type_ids"]


def test_a_checkpoint_is_described_from_its_headers(bertx: Callable[..., Ran], minilm: Path) -> None:
    ran = bertx("inspect", minilm, "--json")
    found = checked(ran.json)
    assert (ran.code, ran.err) == (0, "")
    assert (found["architectures"], found["model_type"]) == (["BertModel"], "bert")
    assert (found["task"], found["outputs"]) == ("sentence-similarity", ["last_hidden_state", "sentence_embedding"])
    assert (found["parameters"], found["tensors"]) == (22_713_216, 104)
    assert found["dtypes"] == {"float32": 103, "int64": 1}
    assert found["inputs"] == INPUTS
    assert found["tokenizer"]["class"] == "BertTokenizer"
    assert found["files"] == [{"path": "model.safetensors", "bytes": (minilm / "model.safetensors").stat().st_size}]
    assert (found["commit"], found["origin"], found["folder"]) == (None, "local", str(minilm.resolve()))


def test_the_parameters_are_those_that_pytorch_counts(
    bertx: Callable[..., Ran], checkpoint: Callable[[str], Path]
) -> None:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(checkpoint("feature-extraction"))
    found = bertx("inspect", checkpoint("feature-extraction"), "--json").json
    assert found["parameters"] == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    "kind", ["checkpoint", "modernbert", "bundle", "onnx/model.onnx", "torchscript/model.pt", "model.safetensors"]
)
def test_nothing_heavy_is_imported(
    kind: str,
    checkpoint: Callable[[str], Path],
    exports: tuple[Path, dict[str, Ran]],
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    bundle = exports[0]
    target = {"checkpoint": checkpoint("feature-extraction"), "bundle": bundle}.get(kind, bundle / kind)
    if kind == "modernbert":  # whose config.json says nothing of segments
        target = make(kind, tmp_path / kind)
    program = (
        "import sys; from bertx.inspection import inspect; inspect(sys.argv[1]).to_json();"
        "print(sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    command = [sys.executable, "-c", program, str(target)]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=True)
    heavy = ("torch", "transformers", "numpy", "onnx", "onnxruntime", "safetensors", "huggingface_hub", "psutil")
    assert [name for name in heavy if f"'{name}'" in ended.stdout] == []


def test_a_task_that_must_be_named_says_why(
    bertx: Callable[..., Ran], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint("feature-extraction"), folder)
    config = folder / "config.json"
    config.write_text(config.read_text("utf-8").replace('"BertModel"', '"BertForNextSentencePrediction"'), "utf-8")
    found = checked(bertx("inspect", folder, "--json").json)
    assert (found["task"], found["outputs"]) == (None, None)
    assert found["task_problem"] == "config.json states BertForNextSentencePrediction, from which no task follows"
    assert "use --task" in bertx("inspect", folder).out


def test_a_bundle_tells_its_artifacts_and_verdicts(
    bertx: Callable[..., Ran], exports: tuple[Path, dict[str, Ran]], checkpoint: Callable[[str], Path]
) -> None:
    bundle = exports[0]
    found = checked(bertx("inspect", bundle, "--json").json)
    assert (found["task"], found["head"], found["commit"]) == ("feature-extraction", "AutoModel", None)
    assert found["source_folder"] == str(checkpoint("feature-extraction"))
    assert [(a["path"], a["opset"], a["verdict"]) for a in found["artifacts"]] == [
        ("model.safetensors", None, "pass"),
        ("torchscript/model.pt", None, "pass"),
        ("onnx/model.onnx", 18, "pass"),
    ]
    for artifact in found["artifacts"]:
        assert artifact["bytes"] == artifact["listed_bytes"] == (bundle / artifact["path"]).stat().st_size
    assert [spec["name"] for spec in found["artifacts"][2]["signature"]["inputs"]] == INPUTS
    text = bertx("inspect", bundle).out
    assert "feature-extraction" in text
    assert "(batch, sequence, 32)" in text


def test_a_changed_or_missing_artifact_has_no_verdict(
    bertx: Callable[..., Ran], exports: tuple[Path, dict[str, Ran]], tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(exports[0], bundle)
    (bundle / "model.safetensors").unlink()
    with (bundle / "onnx" / "model.onnx").open("ab") as file:
        file.write(b"more")
    found = {a["path"]: a for a in checked(bertx("inspect", bundle, "--json").json)["artifacts"]}
    assert {path: a["verdict"] for path, a in found.items()} == {
        "model.safetensors": "not-run",
        "torchscript/model.pt": "pass",
        "onnx/model.onnx": "not-run",
    }
    assert found["model.safetensors"]["bytes"] is None
    text = bertx("inspect", bundle).out
    assert "missing" in text
    assert "not as listed" in text


def test_a_file_tells_its_own_headers(bertx: Callable[..., Ran], exports: tuple[Path, dict[str, Ran]]) -> None:
    found = {
        name: checked(bertx("inspect", exports[0] / name, "--json").json)
        for name in ("onnx/model.onnx", "torchscript/model.pt", "model.safetensors")
    }
    onnx = found["onnx/model.onnx"]
    assert (onnx["format"], onnx["dtype"], onnx["task"]) == ("onnx", "float32", "feature-extraction")
    assert onnx["facts"]["opset"] == {"ai.onnx": 18}
    assert onnx["facts"]["producer"].startswith("bertx ")
    assert [spec["name"] for spec in onnx["signature"]["inputs"]] == INPUTS
    torchscript = found["torchscript/model.pt"]
    assert (torchscript["dtype"], torchscript["facts"]["torchscript"]) == ("float32", True)
    assert [spec["shape"] for spec in torchscript["signature"]["outputs"]] == [["batch", "sequence", 32]]
    assert found["model.safetensors"]["signature"] is None
    assert found["model.safetensors"]["parameters"] > 10_000


def test_a_hub_id_tells_its_commit(
    bertx: Callable[..., Ran], checkpoint: Callable[[str], Path], hub: HubServer, online: dict[str, str]
) -> None:
    commit = hub.add("org/tiny", checkpoint("fill-mask"))
    first = checked(bertx("inspect", "org/tiny", "--json", **online).json)
    assert (first["checkpoint"], first["commit"], first["origin"]) == ("org/tiny", commit, "hub")
    asked = len(hub.requests)
    again = checked(bertx("inspect", "org/tiny", "--json", "--offline", **online).json)
    assert (again["commit"], again["origin"], len(hub.requests)) == (commit, "cache", asked)
