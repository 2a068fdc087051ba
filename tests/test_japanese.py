"""cl-tohoku/bert-base-japanese-v3 from the Hub through every command: renamed, `.bin` only, MeCab."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import japanese
from japanese import FromHub
from program import ROOT, Ran

#: ends every Python process, runners included, that so much as asks for an address
GUARD = """
import os, sys
FORBIDDEN = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.bind")
sys.addaudithook(lambda event, _: event in FORBIDDEN and os._exit(99))
"""


@pytest.fixture
def unconnected(tmp_path: Path, from_hub: FromHub) -> dict[str, str]:
    """The environment of a run that ends where a socket is used; the Hub could be asked."""
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD, "utf-8")
    path = [str(tmp_path / "guard"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**from_hub.environment, "PYTHONPATH": os.pathsep.join(path)}


def test_every_command_ends_well_and_says_nothing_on_stderr(from_hub: FromHub) -> None:
    assert {name: (ran.code, ran.err) for name, ran in from_hub.ended.items()} == dict.fromkeys(from_hub.ended, (0, ""))


def test_the_hub_is_asked_for_the_needed_files_once_and_for_nothing_else(from_hub: FromHub) -> None:
    asked = from_hub.requests
    assert {method for method, _ in asked} == {"GET"}
    paths = [path for _, path in asked if japanese.REPO in path]
    commit = from_hub.manifest["source"]["commit"]
    wanted = ["README.md", "config.json", "pytorch_model.bin", "tokenizer_config.json", "vocab.txt"]
    assert sorted(path for path in paths if "/resolve/" in path) == [
        f"/{japanese.REPO}/resolve/{commit}/{name}" for name in wanted
    ]
    rest = {path for _, path in asked if "/resolve/" not in path}
    assert rest == {f"/api/models/{name}" for name in (japanese.REPO, japanese.OLD_REPO)}


def test_the_bundle_names_the_checkpoint_as_the_user_did_and_its_commit(from_hub: FromHub) -> None:
    source = from_hub.manifest["source"]
    assert source["checkpoint"] == japanese.OLD_REPO
    assert len(source["commit"]) == 40
    assert {artifact["path"] for artifact in from_hub.manifest["artifacts"]} == {
        "model.safetensors", "torchscript/model.pt", "onnx/model.onnx",
    }  # fmt: skip
    assert {"tokenizer.json", "mecab_contract.json", "golden_tokens.jsonl"} <= set(from_hub.manifest["files"])


def test_the_weights_are_those_of_the_bin_bit_for_bit(from_hub: FromHub) -> None:
    import torch
    from safetensors.torch import load_file

    stated = torch.load(from_hub.served / "pytorch_model.bin", weights_only=True)
    found = load_file(from_hub.bundle / "model.safetensors")
    assert set(stated) - set(found) <= {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
    assert set(found) <= set(stated)
    for name, tensor in found.items():
        assert tensor.dtype == stated[name].dtype
        assert torch.equal(tensor, stated[name])


def test_the_case_of_real_text_is_what_mecab_makes_of_it(from_hub: FromHub) -> None:
    from safetensors.numpy import load_file
    from transformers import BertJapaneseTokenizer

    from bertx.parity.cases import TEXTS

    cases = load_file(from_hub.bundle / "parity" / "cases.safetensors")
    tokenizer = BertJapaneseTokenizer.from_pretrained(str(from_hub.served))
    rows = [
        row[mask == 1].tolist() for row, mask in zip(cases["text/input_ids"], cases["text/attention_mask"], strict=True)
    ]
    assert rows == [tokenizer(text)["input_ids"] for text in TEXTS]
    (japanese_text,) = [text for text in TEXTS if "機械学習" in text]
    ids = np.array(rows[TEXTS.index(japanese_text)])
    assert (ids != tokenizer.unk_token_id).mean() > 0.5


def test_it_verifies_offline_without_a_socket(
    bertx: Callable[..., Ran], from_hub: FromHub, unconnected: dict[str, str]
) -> None:
    ran = bertx("verify", from_hub.bundle, "--offline", "--json", **unconnected)
    assert ran.code == 0, ran.err
    assert {(row["format"], row["verdict"]) for row in ran.json["results"] if row["verdict"] != "not-run"} == {
        (name, "pass") for name in ("safetensors", "torchscript", "onnx")
    }
    assert ran.json["reference"]["origin"] == "cache"


def test_the_guard_ends_a_run_that_asks_the_hub(bertx: Callable[..., Ran], unconnected: dict[str, str]) -> None:
    assert bertx("pull", japanese.OLD_REPO, **unconnected).code == 99


@pytest.mark.parametrize("command", ["pull", "inspect"])
def test_the_old_name_is_known_offline(
    command: str, bertx: Callable[..., Ran], from_hub: FromHub, unconnected: dict[str, str]
) -> None:
    ran = bertx(command, japanese.OLD_REPO, "--offline", "--json", **unconnected)
    assert (ran.code, ran.json["commit"]) == (0, from_hub.manifest["source"]["commit"])


def test_the_commands_of_the_page_about_the_hub_work(
    bertx: Callable[..., Ran], from_hub: FromHub, tmp_path: Path
) -> None:
    lines = re.findall(r"^\$ bertx (.*)$", (ROOT / "docs" / "hub.md").read_text("utf-8"), re.MULTILINE)
    assert len(lines) >= 3
    for line in lines:
        ran = bertx(*shlex.split(line), cwd=tmp_path, **from_hub.environment)
        assert (ran.code, ran.err) == (0, "")


def test_it_answers_japanese_text(bertx: Callable[..., Ran], from_hub: FromHub) -> None:
    ran = bertx("try", from_hub.bundle, "日本語の文章です。", "日本語の文章です。", "東京で研究する。", "--json")
    assert ran.code == 0, ran.err
    cosines = np.array(ran.json["answer"]["cosines"])
    assert cosines[0, 1] > 0.999999
    assert cosines[0, 2] < 0.9999


def test_the_recipe_of_the_repository_publishes_the_three_formats(
    bertx: Callable[..., Ran], from_hub: FromHub, tmp_path: Path
) -> None:
    recipe = ROOT / "recipes" / "bert-base-japanese.toml"
    ran = bertx("run", recipe, "--json", cwd=tmp_path, **from_hub.environment)
    assert ran.code == 0, ran.err
    manifest = json.loads((tmp_path / "build" / "bert-base-japanese-v3" / "bertx.json").read_text("utf-8"))
    assert [each["path"] for each in manifest["artifacts"]] == [
        "model.safetensors", "torchscript/model.pt", "onnx/model.onnx",
    ]  # fmt: skip
