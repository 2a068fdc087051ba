"""One Hub cache for bertx and the programs that fill it or read it: transformers and sentence-transformers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hub_server import HubServer
from program import Ran

LOAD = """
from transformers import AutoModel, AutoTokenizer

AutoTokenizer.from_pretrained("org/tiny")
print(AutoModel.from_pretrained("org/tiny").num_parameters())
"""
SENTENCES = "import sentence_transformers as s; print(len(s.SentenceTransformer('org/sentences')))"


def python(program: str, environment: dict[str, str], **more: str) -> str:
    """What a program prints that uses the cache of these tests."""
    env = {**os.environ, **environment, "HF_HUB_DISABLE_XET": "1", **more}
    ran = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture
def commit(checkpoint: Callable[[str], Path], hub: HubServer) -> str:
    """The commit of org/tiny and, with its modules, of org/sentences."""
    hub.add("org/sentences", checkpoint("sentence-similarity"), "5" * 40)
    return hub.add("org/tiny", checkpoint("feature-extraction"))


def test_what_transformers_downloaded_is_exported_offline(
    bertx: Callable[..., Ran],
    checkpoint: Callable[[str], Path],
    hub: HubServer,
    online: dict[str, str],
    commit: str,
    tmp_path: Path,
) -> None:
    python(LOAD, online)
    hub.requests.clear()
    for place, *revision in (("branch",), ("commit", "--revision", commit)):
        bundle = tmp_path / place
        ran = bertx("to-safetensors", "org/tiny", "--offline", *revision, "-o", bundle, **online)
        assert ran.code == 0, ran.err
        (warned,) = ran.err.splitlines()
        assert warned.startswith("bertx: warning: org/tiny at ")
        assert warned.endswith("what it did not ask for is taken as not being there: modules.json")
        assert json.loads((bundle / "bertx.json").read_text("utf-8"))["source"]["commit"] == commit
        assert (bundle / "tokenizer.json").is_file()
    assert hub.requests == []


def test_what_sentence_transformers_downloaded_is_known_to_be_whole(
    bertx: Callable[..., Ran], hub: HubServer, online: dict[str, str], commit: str
) -> None:
    assert python(SENTENCES, online) == "3\n"
    hub.requests.clear()
    ran = bertx("inspect", "org/sentences", "--offline", "--json", **online)
    assert (ran.code, ran.err, ran.json["task"]) == (0, "", "sentence-similarity")
    assert hub.requests == []


def test_what_bertx_downloaded_is_read_by_transformers_offline(
    bertx: Callable[..., Ran], hub: HubServer, online: dict[str, str], commit: str
) -> None:
    assert bertx("pull", "org/tiny", **online).code == 0
    hub.requests.clear()
    assert int(python(LOAD, online, HF_HUB_OFFLINE="1")) > 0
    assert hub.requests == []
