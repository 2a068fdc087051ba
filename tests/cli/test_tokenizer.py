"""bertx tokenizer, and the tokenizer files that every exporter brings."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from documents import checked, validator

from bertx.manifest import read
from hub_server import HubServer
from program import ROOT, Ran

FILES = {"tokenizer.json", "golden_tokens.jsonl", "tokenizer_config.json"}


def japanese(folder: Path, checkpoint: Path, **settings: Any) -> Path:
    """The tiny BERT of `checkpoint` with the tokenizer of bert-base-japanese-v3, whose ids it does not reach."""
    data = Path(os.environ.get("BERTX_TEST_DATA", "/nowhere")) / "bert-base-japanese-v3"
    if not (data / "vocab.txt").is_file():
        pytest.skip("BERTX_TEST_DATA does not lead to the Japanese vocabularies")
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(checkpoint / name, folder / name)
    shutil.copyfile(data / "vocab.txt", folder / "vocab.txt")
    stated = {**json.loads((data / "tokenizer_config.json").read_text("utf-8")), **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(stated), "utf-8")
    return folder


def test_the_document_lists_what_was_written(
    bertx: Callable[..., Ran], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    ran = bertx("tokenizer", checkpoint("fill-mask"), "-o", tmp_path / "out", "--json")
    document = checked(ran.json)
    assert (ran.code, ran.err, document["kind"], document["limit"]) == (0, "", "taken", 48)
    listed = read(tmp_path / "out").files
    for file in document["files"]:
        content = (tmp_path / "out" / file["path"]).read_bytes()
        assert file["sha256"] == hashlib.sha256(content).hexdigest() == listed[file["path"]].sha256


def test_the_page_of_tokenizers_does_what_it_shows(
    bertx: Callable[..., Ran], hub: HubServer, online: dict[str, str], minilm: Path, tiny: Path, tmp_path: Path
) -> None:
    """Its two commands, and its reader of golden tokens."""
    page = (ROOT / "docs" / "tokenizers.md").read_text("utf-8")
    first, second = (shlex.split(line) for line in re.findall(r"(?m)^\$ bertx (.*)$", page))
    hub.add(first[1], minilm)
    assert bertx(*first, cwd=tmp_path, **online).code == 0
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    japanese(tmp_path / second[1], tiny, mecab_kwargs=None)
    assert bertx(*second, cwd=tmp_path).code == 0
    assert (tmp_path / second[3] / "mecab_contract.json").is_file()


def test_a_person_is_told_what_was_changed(bertx: Callable[..., Ran], minilm: Path, tmp_path: Path) -> None:
    ran = bertx("tokenizer", minilm, "-o", tmp_path / "out")
    assert (ran.code, ran.err) == (0, "")
    first, *changes = ran.out.splitlines()
    assert first == "BertTokenizer: tokenizer.json is the checkpoint's own; texts are cut at 256 tokens"
    assert changes[:2] == [
        "tokenizer.json: padding was removed",
        "tokenizer.json: texts are cut at 256 tokens, not at 128",
    ]


def test_a_checkpoint_without_a_tokenizer_is_refused(bertx: Callable[..., Ran], tiny: Path, tmp_path: Path) -> None:
    ran = bertx("tokenizer", tiny, "-o", tmp_path / "out")
    assert (ran.code, ran.out) == (3, "")
    assert ran.err.startswith("bertx: error[E_TOKENIZER]: ")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_without_a_tokenizer_is_exported_all_the_same(
    bertx: Callable[..., Ran], tiny: Path, tmp_path: Path
) -> None:
    ran = bertx("to-safetensors", tiny, "-o", tmp_path / "out", "--no-verify")
    assert ran.code == 0
    assert not {name for name in read(tmp_path / "out").files if "token" in name}


def test_every_exporter_brings_the_tokenizer(exports: tuple[Path, dict[str, Ran]], minilm_bundle: Path) -> None:
    for bundle in (exports[0], minilm_bundle):
        assert set(read(bundle).files) >= FILES
        lines = (bundle / "golden_tokens.jsonl").read_text("utf-8").split("\n")[:-1]
        assert len(lines) > 40
        assert json.loads((bundle / "tokenizer.json").read_text("utf-8"))["padding"] is None


def test_the_manifest_says_what_was_changed(
    bertx: Callable[..., Ran], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """Also after another export into the bundle, and of a bundle whose checkpoint is gone."""
    source, bundle, copy = tmp_path / "source", tmp_path / "bundle", tmp_path / "copy"
    shutil.copytree(checkpoint("fill-mask"), source)
    document = json.loads((source / "tokenizer.json").read_text("utf-8"))
    padding = {"strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": None}
    document["padding"] = {**padding, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
    (source / "tokenizer.json").write_text(json.dumps(document), "utf-8")
    told = checked(bertx("tokenizer", source, "-o", bundle, "--json").json)
    assert "tokenizer.json: padding was removed" in told["changes"]
    expected = {key: told[key] for key in ("kind", "changes", "notes")}
    expected["transformers"] = told["compared"]["transformers"]
    assert bertx("to-safetensors", source, "-o", bundle).code == 0
    assert noted(bundle) == expected
    shutil.rmtree(source)
    for output in (bundle, copy):
        assert bertx("to-safetensors", bundle, "-o", output, "--no-verify").code == 0
        assert noted(output) == expected


def noted(bundle: Path) -> Any:
    """What a bundle's manifest says of its tokenizer."""
    document = json.loads((bundle / "bertx.json").read_text("utf-8"))
    validator("bundle").validate(document)
    return document["tokenizer"]


def test_verify_shows_the_tokenizer_and_fails_a_wrong_one(
    bertx: Callable[..., Ran], exports: tuple[Path, dict[str, Ran]], tmp_path: Path
) -> None:
    right = bertx("verify", exports[0], "--runtime", "onnxruntime", "--json")
    rows = [row for result in checked(right.json)["results"] for row in result["outputs"] if row["name"] == "tokenizer"]
    assert (right.code, [row["problem"] for row in rows]) == (0, [None])
    spoilt = tmp_path / "bundle"
    shutil.copytree(exports[0], spoilt)
    document = json.loads((spoilt / "tokenizer.json").read_text("utf-8"))
    document["normalizer"]["lowercase"] = False
    (spoilt / "tokenizer.json").write_text(json.dumps(document), "utf-8")
    wrong = bertx("verify", spoilt, "--runtime", "onnxruntime")
    assert wrong.code == 1
    assert "tokenizer: “The quick brown fox jumps over the lazy dog, twice.” gives [UNK] (1) as token 1" in wrong.err


def test_a_japanese_tokenizer_brings_its_contract(
    bertx: Callable[..., Ran], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    source = japanese(tmp_path / "source", checkpoint("feature-extraction"))
    bundle = tmp_path / "out"
    ran = bertx("tokenizer", source, "-o", bundle, "--json")
    document = checked(ran.json)
    assert (ran.code, document["kind"], document["dictionary"]) == (0, "japanese", "unidic_lite")
    validator("mecab").validate(json.loads((bundle / "mecab_contract.json").read_text("utf-8")))
    line = json.loads((bundle / "golden_tokens.jsonl").read_text("utf-8").split("\n")[10])
    assert {"text", "words", "ids", "type_ids"} <= set(line)


def test_a_missing_dictionary_is_exit_5(
    bertx: Callable[..., Ran], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """Its package is hidden by one that is not there."""
    source = japanese(tmp_path / "source", checkpoint("feature-extraction"))
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "unidic_lite.py").write_text("raise ModuleNotFoundError(name='unidic_lite')\n", "utf-8")
    path = os.pathsep.join([str(tmp_path / "hidden"), os.environ.get("PYTHONPATH", "")])
    for command in ("tokenizer", "to-safetensors"):
        ran = bertx(command, source, "-o", tmp_path / "out", PYTHONPATH=path)
        assert (ran.code, ran.out) == (5, "")
        assert ran.err == (
            "bertx: error[E_DICTIONARY]: the tokenizer needs unidic_lite, which is not installed; "
            "pip install unidic-lite\n"
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["tokenizer", "to-safetensors"])
def test_a_dictionary_is_asked_for_once(
    bertx: Callable[..., Ran], checkpoint: Callable[[str], Path], tmp_path: Path, command: str
) -> None:
    """By whichever command comes first; an exporter into the same bundle keeps to the answer."""
    source = japanese(tmp_path / "source", checkpoint("feature-extraction"), mecab_kwargs=None)
    bundle = tmp_path / "out"
    quick = () if command == "tokenizer" else ("--no-verify",)
    refused = bertx(command, source, "-o", bundle, *quick)
    assert (refused.code, "names no MeCab dictionary" in refused.err) == (3, True)
    assert "say which one it was trained with: --mecab-dictionary ipadic|unidic_lite|unidic" in refused.err
    assert bertx(command, source, "-o", bundle, *quick, "--mecab-dictionary", "ipadic").code == 0
    assert bertx("to-safetensors", source, "-o", bundle, "--no-verify").code == 0
    contract = json.loads((bundle / "mecab_contract.json").read_text("utf-8"))
    assert contract["mecab"]["dictionary"]["named_by"] == "--mecab-dictionary"
    config = json.loads((bundle / "tokenizer_config.json").read_text("utf-8"))
    assert config["mecab_kwargs"] == {"mecab_dic": "ipadic"}


def test_a_recipe_names_the_dictionary(
    bertx: Callable[..., Ran], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """And what it exports is compared with the tokenizer over that dictionary."""
    source = japanese(tmp_path / "source", checkpoint("feature-extraction"), mecab_kwargs=None)
    recipe = tmp_path / "recipe.toml"
    lines = [f"checkpoint = {json.dumps(str(source))}", 'artifacts = ["onnx"]', 'runtimes = ["onnxruntime"]']
    recipe.write_text("\n".join([*lines, 'mecab_dictionary = "ipadic"', ""]), "utf-8")
    ran = bertx("run", recipe, "-o", tmp_path / "out", "--json")
    assert ran.code == 0, ran.err
    (row,) = [row for row in ran.json["runs"][0]["report"]["results"][0]["outputs"] if row["name"] == "tokenizer"]
    assert row["problem"] is None
    contract = json.loads((tmp_path / "out" / "mecab_contract.json").read_text("utf-8"))
    assert contract["mecab"]["dictionary"]["name"] == "ipadic"


@pytest.mark.parametrize("command", ["tokenizer", "to-safetensors"])
def test_a_dictionary_that_says_nothing_is_refused(
    bertx: Callable[..., Ran], checkpoint: Callable[[str], Path], tmp_path: Path, command: str
) -> None:
    """Where the tokenizer is not Japanese, and where a bundle has been made with another one."""
    plain = bertx(command, checkpoint("fill-mask"), "-o", tmp_path / "plain", "--mecab-dictionary", "ipadic")
    assert (plain.code, "takes no MeCab dictionary" in plain.err) == (2, True)
    source = japanese(tmp_path / "source", checkpoint("feature-extraction"))
    other = bertx(command, source, "-o", tmp_path / "other", "--mecab-dictionary", "ipadic")
    assert (other.code, "names the MeCab dictionary unidic_lite, not ipadic" in other.err) == (3, True)
    assert not (tmp_path / "plain").exists()
    assert not (tmp_path / "other").exists()
