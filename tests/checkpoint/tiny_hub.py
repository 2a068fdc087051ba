"""A tiny repository on a local Hub, and what tests ask of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bertx.checkpoint.hub import HubOptions, Snapshot, snapshot
from bertx.errors import BertxError
from hub_server import HubServer

REPO = "org/tiny-bert"
TOKEN = "hf_never_to_be_printed"
WEIGHTS = "model.safetensors"
WANTED = ["README.md", "config.json", "tokenizer_config.json", "vocab.txt", WEIGHTS]
UNWANTED = ["pytorch_model.bin", "modeling_tiny.py", "onnx/model.onnx", "tf_model.h5", ".gitattributes"]
SHARDS = ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def model(folder: Path, names: list[str], *, value: float = 1.0, elements: int = 512) -> Path:
    """A repository of a few KB: real safetensors, and a line of text in every other file."""
    import numpy as np
    from safetensors.numpy import save_file

    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".safetensors"):
            save_file({"embeddings.weight": np.full(elements, value, dtype=np.float32)}, path)
        else:
            path.write_text(json.dumps({"model_type": "bert", "file": name}), encoding="utf-8")
    return folder


def files(found: Snapshot) -> list[str]:
    return sorted(path.relative_to(found.folder).as_posix() for path in found.folder.rglob("*") if path.is_file())


def same_weights(found: Snapshot, source: Path) -> bool:
    return (found.folder / WEIGHTS).read_bytes() == (source / WEIGHTS).read_bytes()


def paths(hub: HubServer) -> list[str]:
    return [path for _, path in hub.requests]


def refusal(options: HubOptions, code: str, *, repo: str = REPO, revision: str | None = None) -> BertxError:
    """The error with which a snapshot ends: it has the code's exit code, is one line, and says what to do."""
    with pytest.raises(BertxError) as caught:
        snapshot(repo, revision, options)
    error = caught.value
    assert (error.code, error.exit_code) == (
        code,
        {"E_USAGE": 2, "E_CONFIG": 3, "E_FORMAT": 3, "E_DISK": 5, "E_LOCKED": 5}.get(code, 4),
    )
    assert len(str(error).splitlines()) == 1
    assert error.hint
    assert TOKEN not in str(error)
    return error


def python(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a program that has the room's names and Path, as the environment says."""
    return subprocess.run(
        [sys.executable, "-c", f"from pathlib import Path\nfrom bertx.checkpoint.hub import *\n{program}"],
        env={**os.environ, "HF_HUB_OFFLINE": "0", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
