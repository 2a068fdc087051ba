"""Each class of failure: its exit code, one line on standard error that says what to do, valid JSON on request."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from documents import checked
from safetensors.numpy import load_file, save_file

from bertx.runtimes.device import cuda_count
from program import Ran


@dataclass(frozen=True)
class Failing:
    """A command line, made from a copy of a tiny checkpoint, and how it must end."""

    line: Callable[[Path], tuple[str | Path, ...]]
    code: str
    exit: int
    says: str


def edited(folder: Path, **changes: object) -> Path:
    """The folder with values of its config.json changed."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")
    return folder


def without_a_tensor(folder: Path) -> Path:
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def with_nan(folder: Path) -> Path:
    weights = {name: array.copy() for name, array in load_file(folder / "model.safetensors").items()}
    weights["embeddings.LayerNorm.weight"][3] = np.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-10])
    return path


def written(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def filled(folder: Path) -> Path:
    folder.mkdir()
    return written(folder / "notes.txt", "mine").parent


FAILURES: dict[str, Failing] = {
    "an unknown Hub id": Failing(lambda f: ("inspect", "no/such-model"), "E_OFFLINE", 4, "is not in the cache"),
    "no folder and no Hub id": Failing(lambda f: ("to-onnx", "./no/such/folder"), "E_USAGE", 2, "is no folder"),
    "a name that is too long": Failing(lambda f: ("pull", "a" * 5000), "E_USAGE", 2, "File name too long"),
    "a folder of nobody": Failing(lambda f: ("to-onnx", "~nobody-of-this-name/m"), "E_USAGE", 2, "home directory"),
    "no name at all": Failing(lambda f: ("trace", ""), "E_USAGE", 2, "is empty"),
    "no target at all": Failing(lambda f: ("verify", ""), "E_USAGE", 2, "is empty"),
    "a file as checkpoint": Failing(lambda f: ("trace", f / "config.json"), "E_USAGE", 2, "is a file"),
    "a file as checkpoint to pull": Failing(lambda f: ("pull", f / "config.json"), "E_USAGE", 2, "is a file"),
    "a folder without config.json": Failing(lambda f: ("inspect", f.parent), "E_CONFIG", 3, "holds no config.json"),
    "a malformed config.json": Failing(
        lambda f: ("pull", written(f / "config.json", "{").parent), "E_CONFIG", 3, "config.json is malformed"
    ),
    "a model type that nobody knows": Failing(
        lambda f: ("to-safetensors", edited(f, model_type="frobnicator")), "E_CONFIG", 3, "frobnicator"
    ),
    "a quantized checkpoint": Failing(
        lambda f: ("inspect", edited(f, quantization_config={"bits": 4})), "E_CONFIG", 3, "quantization_config"
    ),
    "a size that no model has": Failing(
        lambda f: ("to-onnx", edited(f, hidden_size=0)), "E_WEIGHTS", 3, "transformers cannot load model"
    ),
    "a runner that is not there": Failing(
        lambda f: ("verify", f, "--runner", "onnx=./no-such-check"), "E_RUNTIME", 5, "./no-such-check is no program"
    ),
    "a missing tensor": Failing(
        lambda f: ("to-safetensors", without_a_tensor(f)), "E_WEIGHTS", 3, "encoder.layer.1.output.dense.weight"
    ),
    "a weight that is not a number": Failing(
        lambda f: ("to-safetensors", with_nan(f)), "E_WEIGHTS", 3, "embeddings.LayerNorm.weight"
    ),
    "weights cut short": Failing(
        lambda f: ("inspect", cut(f / "model.safetensors").parent), "E_FORMAT", 3, "truncated"
    ),
    "an artifact cut short": Failing(lambda f: ("inspect", cut(f / "model.safetensors")), "E_FORMAT", 3, "truncated"),
    "a file that is no artifact": Failing(lambda f: ("inspect", f / "config.json"), "E_USAGE", 2, "is no artifact"),
    "text called .onnx": Failing(
        lambda f: ("inspect", written(f / "model.onnx", "hello")), "E_FORMAT", 3, "is no ONNX file"
    ),
    "text called .pt": Failing(
        lambda f: ("inspect", written(f / "model.pt", "hello")), "E_FORMAT", 3, "is no TorchScript file"
    ),
    "a task that nobody knows": Failing(lambda f: ("to-onnx", f, "--task", "poetry"), "E_TASK", 2, "poetry"),
    "a task that must be named": Failing(
        lambda f: ("to-onnx", edited(f, architectures=["BertForNextSentencePrediction"])), "E_TASK", 2, "add --task"
    ),
    "a task without its weights": Failing(
        lambda f: ("to-safetensors", f, "--task", "text-classification"), "E_WEIGHTS", 3, "classifier"
    ),
    "an unknown device": Failing(lambda f: ("to-onnx", f, "--device", "tpu"), "E_USAGE", 2, "unknown device tpu"),
    "an unknown runtime": Failing(
        lambda f: ("verify", f, "--runtime", "abacus"), "E_USAGE", 2, "unknown runtime abacus"
    ),
    "a limit that limits nothing": Failing(lambda f: ("verify", f, "--limit", "inf"), "E_USAGE", 2, "no finite number"),
    "a limit that is no number": Failing(lambda f: ("verify", f, "--limit", "nan"), "E_USAGE", 2, "no finite number"),
    "a time without end": Failing(lambda f: ("record", f, "--timeout", "inf"), "E_USAGE", 2, "no finite number"),
    "a report in what is verified": Failing(
        lambda f: ("verify", f, "--junit", f / "parity.xml"), "E_USAGE", 2, "a verification changes nothing"
    ),
    "a report over what is verified": Failing(
        lambda f: ("verify", f / "model.safetensors", "--html", f / "model.safetensors"),
        "E_USAGE",
        2,
        "changes nothing",
    ),
    "no reference": Failing(lambda f: ("verify", f / "model.safetensors"), "E_REFERENCE", 4, "add --against"),
    "a target that is not there": Failing(lambda f: ("verify", f / "nothing"), "E_USAGE", 2, "does not exist"),
    "an empty revision": Failing(
        lambda f: ("pull", "no/such-model", "--revision", ""), "E_USAGE", 2, "the revision is empty"
    ),
    "a revision of a local folder": Failing(
        lambda f: ("inspect", f, "--revision", "main"), "E_USAGE", 2, "--revision has no meaning"
    ),
    "a recipe that is not there": Failing(lambda f: ("run", f / "none.toml"), "E_RECIPE", 2, "cannot be read"),
    "a misspelt key in a recipe": Failing(
        lambda f: ("run", written(f / "r.toml", 'checkpoint="x"\nartefacts=["onnx"]')), "E_RECIPE", 2, "artefacts"
    ),
    "a folder whose name is not UTF-8": Failing(
        lambda f: ("to-safetensors", shutil.copytree(f, f.parent / os.fsdecode(b"m\xff"))), "E_USAGE", 2, "is not UTF-8"
    ),
    "an output with a name that is too long": Failing(
        lambda f: ("to-safetensors", f, "-o", "o" * 300), "E_OUTPUT", 2, "a name of 300 bytes"
    ),
    "an output in a folder with a name that is too long": Failing(
        lambda f: ("record", f, "-o", f"{'o' * 300}/out"), "E_OUTPUT", 2, "a name of 300 bytes"
    ),
    "an output in a folder of nobody": Failing(
        lambda f: ("trace", f, "-o", "~nobody-of-this-name/out"), "E_OUTPUT", 2, "is of no user here"
    ),
    "a file where the output should be": Failing(
        lambda f: ("to-safetensors", f, "-o", written(f.parent / "out", "")), "E_OUTPUT", 2, "is a file"
    ),
    "an output folder of somebody else": Failing(
        lambda f: ("to-safetensors", f, "-o", filled(f.parent / "theirs")),
        "E_OUTPUT",
        2,
        "holds files but no bertx.json",
    ),
}


@pytest.mark.parametrize("failing", FAILURES.values(), ids=FAILURES)
def test_a_failure_is_one_line_with_its_code(
    failing: Failing, bertx: Callable[..., Ran], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "somewhere" / "model"
    shutil.copytree(checkpoint("feature-extraction"), folder)
    line = failing.line(folder)
    before = sorted(tmp_path.rglob("*"))
    ran = bertx(*line, "--json", cwd=tmp_path)
    document = checked(ran.json)
    assert (ran.code, document["code"], document["exit"]) == (failing.exit, failing.code, failing.exit)
    assert failing.says in f"{document['message']}; {document['hint']}"
    assert ran.err == f"bertx: error[{failing.code}]: {document['message']}; {document['hint']}\n"
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(cuda_count() > 0, reason="this machine has a CUDA device")
@pytest.mark.parametrize("command", ["to-onnx", "to-onnx --no-verify", "verify", "try"])
def test_cuda_without_a_device_is_exit_5(
    command: str, bertx: Callable[..., Ran], checkpoint: Callable[[str], Path], unverified: Callable[..., Path]
) -> None:
    source, bundle = checkpoint("feature-extraction"), unverified("feature-extraction", "onnx")
    name, *options = command.split()
    line = {"to-onnx": (source,), "verify": (bundle,), "try": (bundle, "text")}[name]
    ran = bertx(name, *line, *options, "--device", "cuda")
    assert (ran.code, ran.out) == (5, "")
    assert ran.err == ("bertx: error[E_DEVICE]: cuda was asked for and 0 CUDA devices are here; use --device cpu\n")


def test_bytes_from_outside_are_escaped(bertx: Callable[..., Ran], tmp_path: Path) -> None:
    folder = tmp_path / "red\x1b[31m\nname"
    folder.mkdir()
    ran = bertx("inspect", folder)
    assert ran.code == 3
    assert "red\\x1b[31m\\nname" in ran.err
    assert ran.err.count("\n") == 1
    assert "\x1b" not in ran.err


def test_debug_shows_where_it_happened(bertx: Callable[..., Ran], tmp_path: Path) -> None:
    ran = bertx("inspect", tmp_path, "--debug")
    assert ran.code == 3
    assert ran.err.startswith("Traceback (most recent call last):")
    assert ran.err.splitlines()[-1].startswith("bertx: error[E_CONFIG]: ")


def test_keys_that_would_run_code_are_dropped_with_a_warning(
    bertx: Callable[..., Ran], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint("feature-extraction"), folder)
    edited(folder, auto_map={"AutoModel": "evil.Model"}, _attn_implementation="org/kernel")
    shown = bertx("inspect", folder, "--json")
    assert set(checked(shown.json)["dropped"]) == {"auto_map", "_attn_implementation"}
    ran = bertx("to-safetensors", folder, "-o", tmp_path / "out", "--no-verify")
    assert ran.code == 0
    assert ran.err.splitlines() == [
        "bertx: warning: config.json: auto_map was dropped, it would run code",
        "bertx: warning: config.json: _attn_implementation was dropped, it would run code",
        "bertx: warning: nothing was compared: --no-verify",
    ]
    assert "auto_map" not in json.loads((tmp_path / "out" / "config.json").read_text("utf-8"))
