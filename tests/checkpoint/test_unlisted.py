"""A Hub cache that another program filled, with huggingface_hub itself, against a Hub on a local port."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_hub import REPO, SHARDS, WEIGHTS, model, refusal

from bertx.checkpoint.hub import HubOptions, snapshot
from hub_server import HubServer

TEXT = ["config.json", "tokenizer_config.json", "vocab.txt", WEIGHTS]
#: what transformers asks for in vain where a repository has nothing but `TEXT`, and sentence-transformers besides
VAIN = ["tokenizer.json", "special_tokens_map.json", "added_tokens.json"]
SENTENCES = ["1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"]
MODULES = [
    {"path": path, "type": f"sentence_transformers.models.{kind}"}
    for path, kind in (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"), ("3_N", "Normalize"))
]

Fill = Callable[..., Path]


@pytest.fixture
def fill(hub: HubServer, options: HubOptions, tmp_path: Path) -> Fill:
    """(files, asked in vain, without) -> the snapshot after huggingface_hub downloaded a repository of these files."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    def filled(names: Sequence[str] = TEXT, vain: Sequence[str] = VAIN, without: Sequence[str] = ()) -> Path:
        served = model(tmp_path / "model", list(names))
        write(served / "config.json", {"model_type": "bert", "vocab_size": 50})
        if "modules.json" in names:
            write(served / "modules.json", MODULES)
        if SHARDS[0] in names:
            write(served / SHARDS[0], {"weight_map": {"a": SHARDS[1], "b": SHARDS[2]}})
        hub.add(REPO, served, "c" * 40, {"main": "c" * 40, "v1": "c" * 40})
        asked: dict[str, Any] = {"cache_dir": options.cache, "endpoint": options.endpoint}
        for name in (each for each in names if each not in without):
            hf_hub_download(REPO, name, **asked)
        for name in vain:
            with pytest.raises(EntryNotFoundError):
                hf_hub_download(REPO, name, **asked)
        hub.requests.clear()
        return (options.cache or tmp_path) / "models--org--tiny-bert/snapshots" / ("c" * 40)

    return filled


def write(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document), "utf-8")


def told(options: HubOptions, revision: str | None = None) -> list[str]:
    """What a snapshot that is taken tells."""
    lines: list[str] = []
    snapshot(REPO, revision, replace(options, tell=lines.append))
    return lines


def test_a_whole_checkpoint_is_taken(hub: HubServer, offline: HubOptions, fill: Fill) -> None:
    folder = fill(vain=[*VAIN, "modules.json"])
    for revision in (None, "main", "c" * 40):
        found = snapshot(REPO, revision, offline)
        assert (found.commit, found.folder, found.origin) == ("c" * 40, folder, "cache")
        assert told(offline, revision) == []
    assert hub.requests == []


def test_a_branch_that_nobody_asked_for_is_not_known(offline: HubOptions, fill: Fill) -> None:
    fill()
    refusal(offline, "E_OFFLINE", revision="v1")


def test_files_that_nobody_asked_for_are_told(offline: HubOptions, fill: Fill) -> None:
    fill()
    (line,) = told(offline)
    assert line.startswith(f"{REPO} at main was put into the cache by another program")
    assert line.endswith("not being there: modules.json")


def test_whoever_calls_without_a_way_to_be_told_is_warned_as_python_does(offline: HubOptions, fill: Fill) -> None:
    fill()
    with pytest.warns(UserWarning, match=r"modules\.json"):
        snapshot(REPO, None, offline)


def test_what_decides_a_sentence_embedding_is_asked_after(offline: HubOptions, fill: Fill) -> None:
    fill([*TEXT, "modules.json", *SENTENCES])
    assert [line.rpartition(": ")[2] for line in told(offline)] == ["sentence_bert_config.json"]


def test_a_model_of_images_needs_no_tokenizer(offline: HubOptions, fill: Fill) -> None:
    folder = fill(["config.json", "preprocessor_config.json", WEIGHTS], ["modules.json"])
    blob = (folder / "config.json").resolve()
    assert "it lacks tokenizer.json" in refusal(offline, "E_OFFLINE").message
    relink(folder / "config.json", blob, json.dumps({"model_type": "vit"}).encode())
    assert told(offline) == []


def test_a_repository_that_is_known_to_have_no_tokenizer_needs_none(offline: HubOptions, fill: Fill) -> None:
    fill(["config.json", WEIGHTS], [*VAIN, "tokenizer_config.json", "vocab.txt", "modules.json"])
    assert told(offline) == []


MERGES = ["vocab.json", "merges.txt"]
LACKING = [
    (TEXT, "config.json", "config.json"),
    (TEXT, WEIGHTS, WEIGHTS),
    (TEXT, "vocab.txt", "tokenizer.json"),
    (["config.json", WEIGHTS, *MERGES], "merges.txt", "merges.txt"),
    (["config.json", "vocab.txt", *SHARDS], SHARDS[1], SHARDS[1]),
    (["config.json", "vocab.txt", *SHARDS], SHARDS[2], SHARDS[2]),
    *(([*TEXT, "modules.json", *SENTENCES], name, name) for name in SENTENCES),
]


@pytest.mark.parametrize(("names", "without", "named"), LACKING)
def test_a_file_that_is_missing_is_named(
    offline: HubOptions, fill: Fill, names: list[str], without: str, named: str
) -> None:
    """Each is there after a run that may ask the Hub."""
    folder = fill(names, vain=[], without=[without])
    error = refusal(offline, "E_OFFLINE")
    assert f"it lacks {named}" in error.message
    assert str(folder) in (error.hint or "")
    assert snapshot(REPO, None, replace(offline, offline=False)).origin == "hub"
    assert told(offline) == []


def test_a_vocabulary_is_missing_where_there_is_known_to_be_no_tokenizer_json(offline: HubOptions, fill: Fill) -> None:
    fill(without=["vocab.txt"])
    assert "it lacks the vocabulary (vocab.txt, " in refusal(offline, "E_OFFLINE").message


def test_a_blob_that_is_gone_is_a_file_that_is_missing(offline: HubOptions, fill: Fill) -> None:
    (fill() / WEIGHTS).resolve().unlink()
    assert f"it lacks {WEIGHTS}" in refusal(offline, "E_OFFLINE").message


@pytest.mark.parametrize("name", [WEIGHTS, "vocab.txt"])
@pytest.mark.parametrize("spoil", [lambda data: data[:-7], lambda data: bytes(len(data))], ids=["cut", "changed"])
def test_bytes_that_are_not_what_the_name_of_their_blob_says_are_refused(
    offline: HubOptions, fill: Fill, name: str, spoil: Callable[[bytes], bytes]
) -> None:
    """sha256 for the weights, which are in LFS, git's own hash for the vocabulary."""
    blob = (fill() / name).resolve()
    assert len(blob.name) == (64 if name == WEIGHTS else 40)
    blob.write_bytes(spoil(blob.read_bytes()))
    error = refusal(offline, "E_HASH")
    assert name in error.message
    assert not blob.exists()
    assert snapshot(REPO, None, replace(offline, offline=False)).origin == "hub"


def test_whoever_reads_headers_alone_hashes_nothing(offline: HubOptions, fill: Fill) -> None:
    blob = (fill() / WEIGHTS).resolve()
    blob.write_bytes(blob.read_bytes()[:-7])
    assert len(told(replace(offline, recheck=False))) == 1


def relink(link: Path, blob: Path, data: bytes) -> None:
    """Puts other bytes under a name, in a blob whose name is right."""
    import hashlib

    other = blob.with_name(hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest())
    other.write_bytes(data)
    link.unlink()
    link.symlink_to(other)


@pytest.mark.parametrize("stated", ["abc-12", "F" * 64, "0" * 39])
def test_a_blob_whose_name_is_no_hash_cannot_be_checked(offline: HubOptions, fill: Fill, stated: str) -> None:
    link = fill() / WEIGHTS
    blob = link.resolve()
    link.unlink()
    link.symlink_to(blob.rename(blob.with_name(stated)))
    assert f"{WEIGHTS} is no link to a blob that its hash names" in refusal(offline, "E_OFFLINE").message


def test_a_file_in_place_of_a_link_cannot_be_checked(offline: HubOptions, fill: Fill) -> None:
    link = fill() / "vocab.txt"
    data = link.read_bytes()
    link.unlink()
    link.write_bytes(data)
    assert "vocab.txt is no link to a blob" in refusal(offline, "E_OFFLINE").message


def test_a_link_to_another_file_of_the_folder_cannot_be_checked(offline: HubOptions, fill: Fill) -> None:
    folder = fill()
    (folder / "vocab.txt").unlink()
    (folder / "vocab.txt").symlink_to("tokenizer_config.json")
    assert "vocab.txt is no link to a blob" in refusal(offline, "E_OFFLINE").message


@pytest.mark.parametrize("through", [False, True])
def test_a_link_that_leaves_the_repository_is_refused(
    offline: HubOptions, fill: Fill, tmp_path: Path, through: bool
) -> None:
    """Also where a blob is that link."""
    link = fill() / "vocab.txt"
    blob = link.resolve()
    outside = tmp_path / "outside"
    outside.write_bytes(blob.read_bytes())
    link = blob if through else link
    link.unlink()
    link.symlink_to(outside)
    assert "leaves its folder" in refusal(offline, "E_FORMAT").message
    assert outside.exists()


@pytest.mark.parametrize("document", [{}, [1], [{"type": 1}], "x", [{"type": "Dense", "path": 1}]])
def test_odd_modules_are_left_to_whoever_reads_them(offline: HubOptions, fill: Fill, document: Any) -> None:
    """Reading the embedding refuses them: here nothing but a missing file is looked for."""
    link = fill([*TEXT, "modules.json"]) / "modules.json"
    relink(link, link.resolve(), json.dumps(document).encode())
    with warnings.catch_warnings(action="ignore"):
        if document and isinstance(document, list) and "path" in str(document):
            assert "it lacks 1/config.json" in refusal(offline, "E_OFFLINE").message
        else:
            snapshot(REPO, None, offline)
