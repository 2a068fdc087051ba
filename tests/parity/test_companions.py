"""Files of a bundle beside its artifacts: readers obey them, so that a changed one is a wrong answer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

import bertx
import bertx.bundle as bundle
import bertx.manifest as manifests
from bertx.checkpoint import Checkpoint, open_folder
from bertx.manifest import FileEntry
from bertx.parity.companions import compare_companions
from families import add_modules, make, write_json


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = add_modules(make("bert", tmp_path_factory.mktemp("companions") / "model"), ("mean",), dense=16)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 40, "do_lower_case": False})
    write_json(folder / "config_sentence_transformers.json", {"prompts": {"query": "query: "}})
    return open_folder(folder)


@pytest.fixture(scope="module")
def made(source: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("companions-bundle") / "bundle"
    bertx.export(source, ["safetensors"], output, verify=None)
    return output


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "bundle"))


def stated(name: str, **values: Any) -> Callable[[Path], None]:
    def change(home: Path) -> None:
        document = json.loads((home / name).read_text("utf-8"))
        write_json(home / name, {**document, **values})

    return change


def dense(home: Path) -> None:
    path = home / "2_Dense" / "model.safetensors"
    tensors = {name: array.copy() for name, array in load_file(path).items()}
    tensors["linear.weight"][0, 0] += 1
    save_file(tensors, path)


def modules(home: Path) -> None:
    listed = json.loads((home / "modules.json").read_text("utf-8"))
    write_json(home / "modules.json", listed[:-1])


def cut(home: Path) -> None:
    (home / "modules.json").write_text("{", "utf-8")


WRONG: dict[str, tuple[Callable[[Path], None], str]] = {
    "pooling": (
        stated("1_Pooling/config.json", pooling_mode=["cls"]),
        "1_Pooling/config.json: pooling_mode is ['cls']",
    ),
    "a module": (modules, "modules.json does not say what the checkpoint's says"),
    "weights of a module": (dense, "2_Dense/model.safetensors is not the checkpoint's"),
    "where texts are cut": (stated("sentence_bert_config.json", max_seq_length=8), "max_seq_length is 8, in the chec"),
    "lower-casing": (stated("sentence_bert_config.json", do_lower_case=True), "do_lower_case is True"),
    "prompts": (stated("config_sentence_transformers.json", prompts={}), "prompts is {}"),
    "epsilon": (stated("config.json", layer_norm_eps=1e-3), "layer_norm_eps is 0.001, in the checkpoint 1e-12"),
    "padding": (stated("config.json", pad_token_id=3), "pad_token_id is 3, in the checkpoint 0"),
    "kind of labels": (stated("config.json", problem_type="regression"), "problem_type is regression"),
    "special tokens": (stated("special_tokens_map.json", cls_token="[MASK]"), "is not the file that bertx.json lists"),
    "side of padding": (stated("tokenizer_config.json", padding_side="left"), "tokenizer_config.json"),
    "a rare token": (stated("tokenizer.json", added_tokens=[]), "tokenizer.json is not the file that bertx.json lists"),
    "golden tokens": (
        lambda home: (home / "golden_tokens.jsonl").write_text("") and None,
        "golden_tokens.jsonl is not",
    ),
    "a file that is gone": (lambda home: (home / "modules.json").unlink(), "modules.json is missing"),
    "no JSON": (cut, "cannot be read"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_readers_obey_fails_where_it_was_changed(name: str, home: Path, source: Checkpoint) -> None:
    change, words = WRONG[name]
    change(home)
    row = compare_companions(home, source, 1.0)
    assert row is not None
    assert not row.passed
    assert words in str(row.problem)


def test_what_was_taken_over_is_compared_with_the_checkpoint_whatever_the_manifest_lists(
    home: Path, source: Checkpoint
) -> None:
    name = "sentence_bert_config.json"
    stated(name, max_seq_length=8)(home)
    manifest = manifests.read(home)
    entry = FileEntry(bundle.sha256(home / name), (home / name).stat().st_size)
    told = replace(manifest, files={**manifest.files, name: entry})
    (home / manifests.NAME).write_bytes(manifests.encode(told))
    row = compare_companions(home, source, 1.0)
    assert row is not None
    assert "max_seq_length is 8" in str(row.problem)


def same(home: Path) -> None:
    """Nothing that a program reads is another."""
    for name in ("config.json", "1_Pooling/config.json", "modules.json"):
        document = json.loads((home / name).read_text("utf-8"))
        (home / name).write_text(json.dumps(document, indent=7), "utf-8")
    (home / "README.md").write_text("my own words", "utf-8")
    (home / "more.txt").write_text("a file that no bundle knows", "utf-8")


@pytest.mark.parametrize("change", [lambda home: None, same], ids=["as it is", "written otherwise"])
def test_the_same_files_pass_and_are_counted(change: Callable[[Path], None], home: Path, source: Checkpoint) -> None:
    change(home)
    row = compare_companions(home, source, 1.0)
    assert row is not None
    assert row.passed
    assert row.cases[0].count == len([name for name in manifests.read(home).files if name != "model.safetensors"])


def test_a_folder_of_somebody_else_has_no_such_row(source: Checkpoint, tmp_path: Path) -> None:
    assert compare_companions(source.folder, source, 1.0) is None
    assert compare_companions(None, source, 1.0) is None
