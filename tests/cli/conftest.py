"""Tiny checkpoints of every task and bundles of them, made once; a Hub on a local port."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from families import make
from hub_server import HubServer
from program import Ran

LABELS = {"text-classification": ("good", "bad", "neither"), "token-classification": ("O", "PERSON", "PLACE")}
#: modules.json and the pooling of a sentence-transformers folder
MODULES = [
    {"idx": k, "name": str(k), "path": path, "type": f"sentence_transformers.models.{kind}"}
    for k, (path, kind) in enumerate((("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")))
]
POOLING = {"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """task -> a tiny BERT with the head of that task and a tokenizer. Tests read it and do not write to it."""
    root = tmp_path_factory.mktemp("checkpoints")

    @cache
    def made(task: str) -> Path:
        folder = root / f"tiny-{task}"
        if task == "sentence-similarity":
            make("bert", folder)
            (folder / "modules.json").write_text(json.dumps(MODULES), "utf-8")
            for name, settings in (("1_Pooling", POOLING), ("2_Normalize", {})):
                (folder / name).mkdir()
                (folder / name / "config.json").write_text(json.dumps(settings), "utf-8")
            (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 40, "do_lower_case": false}', "utf-8")
            return folder
        changes = {"id2label": dict(enumerate(LABELS[task]))} if task in LABELS else {}
        return make("bert", folder, task, **changes)

    return made


@pytest.fixture(scope="session")
def unverified(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """(task, format) -> a bundle with one artifact that nothing was compared with: it costs a fifth."""
    root = tmp_path_factory.mktemp("unverified")

    @cache
    def made(task: str, *formats: str) -> Path:
        from bertx import api

        folder = root / "-".join((task, *formats))
        api.export(str(checkpoint(task)), formats, folder, verify=None)
        return folder

    return made


@pytest.fixture(scope="session")
def exports(
    bertx: Callable[..., Ran], checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Ran]]:
    """(a bundle of all three formats, how each exporter ended with --json), made by the commands themselves."""
    bundle = tmp_path_factory.mktemp("exports") / "bundle"
    ended = {
        exporter: bertx(exporter, checkpoint("feature-extraction"), "-o", bundle, "--json")
        for exporter in ("to-safetensors", "trace", "to-onnx")
    }
    for ran in ended.values():
        assert ran.code == 0, ran.err
    return bundle, ended


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `bertx ARGUMENTS` in a session of its own, as a terminal does; whatever still runs in the end is ended."""
    started: list[subprocess.Popen[str]] = []
    # A job in the background is started with interrupts ignored, and its children inherit that; a terminal's is not.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def run(*arguments: str | Path, **more: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "bertx", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**environment, **more},
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    signal.signal(signal.SIGINT, before)
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def online(hub: HubServer, tmp_path: Path) -> dict[str, str]:
    """What turns a run of bertx to the local Hub, with a cache of its own."""
    own = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
    return {**own, "HF_HOME": str(tmp_path / "hf")}


@pytest.fixture(scope="session")
def plain(environment: dict[str, str]) -> dict[str, str]:
    """The environment of tests without NO_COLOR."""
    assert "NO_COLOR" in environment
    return {name: value for name, value in {**os.environ, **environment}.items() if name != "NO_COLOR"}
