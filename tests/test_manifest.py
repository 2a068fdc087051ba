"""bertx.json: what is written is what is read, and whatever else it may hold is refused in one line."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from bertx import manifest as manifests
from bertx.errors import Bug, InputRefused
from bertx.manifest import ArtifactEntry, FileEntry, Manifest, Source, TokenizerEntry
from bertx.signature import DTYPES, Signature, TensorSpec

SCHEMA_FILE = Path(__file__).parents[1] / "docs" / "schemas" / "bundle.schema.json"
VALIDATOR = jsonschema.Draft202012Validator(json.loads(SCHEMA_FILE.read_text("utf-8")))
ENTRY = FileEntry("ab" * 32, 12)

WEIGHTS = ArtifactEntry("model.safetensors", "safetensors", "float32", "fill-mask", None, {}, {}, {}, None)
GRAPH = ArtifactEntry(
    path="onnx/model.onnx",
    format="onnx",
    dtype="float32",
    task="fill-mask",
    signature=Signature(
        (TensorSpec("input_ids", "int64", ("batch", "sequence")),),
        (TensorSpec("logits", "float32", ("batch", "sequence", 32768)),),
    ),
    taps={"hidden_states.0": "/embeddings/Add_output_0"},
    options={"opset": 18, "names": ["日本語"], "ratio": 0.5},
    versions={"torch": "2.13.0"},
    report={"schema": "bertx.report/1", "verdict": "pass"},
)
MANIFEST = Manifest(
    bertx="0.1.0",
    source=Source("cl-tohoku/bert-base-japanese-v3", "0123abcd", None, {"config.json": ENTRY}),
    task="fill-mask",
    head="BertForMaskedLM",
    artifacts=(WEIGHTS, GRAPH),
    files={"model.safetensors": ENTRY, "onnx/model.onnx": ENTRY, "東北.txt": FileEntry("0" * 64, 0)},
    tokenizer=TokenizerEntry("built", ("tokenizer.json: padding was removed",), ("日本語",), "5.23.0"),
)


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "bertx.json").write_bytes(manifests.encode(MANIFEST))
    assert manifests.read(tmp_path) == MANIFEST


def test_what_is_written_fits_the_published_schema() -> None:
    VALIDATOR.check_schema(VALIDATOR.schema)
    VALIDATOR.validate(json.loads(manifests.encode(MANIFEST)))


def test_a_bundle_without_a_tokenizer_says_so_and_an_older_one_nothing() -> None:
    document = json.loads(manifests.encode(replace(MANIFEST, tokenizer=None)))
    for each in (document, {key: value for key, value in document.items() if key != "tokenizer"}):
        VALIDATOR.validate(each)
        assert Manifest.from_json(each) == replace(MANIFEST, tokenizer=None)


def test_the_published_schema_knows_the_dtypes_of_a_signature() -> None:
    assert VALIDATOR.schema["$defs"]["tensor"]["properties"]["dtype"]["enum"] == list(DTYPES)


@pytest.mark.parametrize("folder", ["/data/bert", "C:\\data\\bert", "\\\\server\\share\\bert"])
def test_a_local_source_is_an_absolute_folder_of_any_system(folder: str) -> None:
    local = replace(MANIFEST, source=replace(MANIFEST.source, commit=None, folder=folder))
    document = json.loads(manifests.encode(local))
    VALIDATOR.validate(document)
    assert Manifest.from_json(document).source.folder == folder


def test_an_artifact_takes_the_place_of_the_one_with_its_path() -> None:
    rebuilt = replace(WEIGHTS, dtype="float16")
    assert MANIFEST.with_artifact(rebuilt).artifacts == (rebuilt, GRAPH)


def test_a_new_artifact_comes_last() -> None:
    new = replace(GRAPH, path="onnx/model_fp16.onnx")
    assert MANIFEST.with_artifact(new).artifacts == (WEIGHTS, GRAPH, new)


# -- malformed documents

Edit = Callable[[dict[str, Any]], Any]


def _set(*keys: str | int, to: Any) -> Edit:
    def edit(document: Any) -> None:
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = to

    return edit


def _without(*keys: str | int) -> Edit:
    def edit(document: Any) -> None:
        for key in keys[:-1]:
            document = document[key]
        del document[keys[-1]]

    return edit


SHAPE = ("artifacts", 1, "signature", "inputs", 0)
MALFORMED: dict[str, tuple[Edit, str]] = {
    "another schema": (_set("schema", to="bertx.bundle/2"), "schema bertx.bundle/2 is not bertx.bundle/1"),
    "no schema": (_without("schema"), "schema None is not"),
    "a missing field": (_without("head"), "the document lacks head"),
    "an unknown field": (_set("color", to="red"), "unknown field color"),
    "a version that is no text": (_set("bertx", to=1), "bertx is no text"),
    "a source that is no object": (_set("source", to=[]), "source is no object"),
    "a source without commit": (_without("source", "commit"), "source lacks commit"),
    "a commit that is no text": (_set("source", "commit", to=5), "source.commit is no text"),
    "a relative source folder": (_set("source", "folder", to="a/b"), "source.folder is not absolute"),
    "an escaping source file": (_set("source", "files", "../x", to=ENTRY.to_json()), "source.files ../x"),
    "artifacts that are no list": (_set("artifacts", to={}), "artifacts is no list"),
    "an artifact that is no object": (_set("artifacts", 0, to="x"), "artifacts[0] is no object"),
    "an artifact without taps": (_without("artifacts", 1, "taps"), "artifacts[1] lacks taps"),
    "an artifact's unknown field": (_set("artifacts", 0, "x", to=1), "artifacts[0] has an unknown field x"),
    "taps that are no text": (_set("artifacts", 1, "taps", "a", to=1), "artifacts[1].taps[a] is no text"),
    "options that are a list": (_set("artifacts", 1, "options", to=[]), "options is no object"),
    "versions that are numbers": (_set("artifacts", 1, "versions", "torch", to=2.1), "versions[torch]"),
    "a report that is text": (_set("artifacts", 1, "report", to="pass"), "report is no object"),
    "a signature that is text": (_set("artifacts", 1, "signature", to="x"), "signature is malformed"),
    "a signature's unknown field": (_set("artifacts", 1, "signature", "x", to=1), "signature is malformed"),
    "inputs that are no list": (_set("artifacts", 1, "signature", "inputs", to=3), "signature is malformed"),
    "inputs that are an object": (
        _set("artifacts", 1, "signature", "inputs", to={}),
        "signature is malformed",
    ),
    "an input that is nothing": (_set(*SHAPE, to=None), "signature is malformed"),
    "a dtype that is a list": (_set(*SHAPE, "dtype", to=[]), "signature is malformed"),
    "a dtype that is unknown": (_set(*SHAPE, "dtype", to="int3"), "signature is malformed"),
    "a size that is a truth": (_set(*SHAPE, "shape", to=[True]), "signature is malformed"),
    "a size that is a fraction": (_set(*SHAPE, "shape", to=[1.5]), "signature is malformed"),
    "files that are a list": (_set("files", to=[]), "files is no object"),
    "a file without size": (_without("files", "東北.txt", "bytes"), "lacks bytes"),
    "a hash that is short": (_set("files", "東北.txt", "sha256", to="ab" * 31), "64 lower-case hex digits"),
    "a hash in upper case": (_set("files", "東北.txt", "sha256", to="AB" * 32), "64 lower-case hex digits"),
    "a hash with a line end": (_set("files", "東北.txt", "sha256", to="ab" * 32 + "\n"), "64 lower-case"),
    "a size that is text": (_set("files", "東北.txt", "bytes", to="1"), "bytes is no size"),
    "a size that is true": (_set("files", "東北.txt", "bytes", to=True), "bytes is no size"),
    "a size below zero": (_set("files", "東北.txt", "bytes", to=-1), "bytes is no size"),
    "a tokenizer that is text": (_set("tokenizer", to="built"), "tokenizer is no object"),
    "a tokenizer without its changes": (_without("tokenizer", "changes"), "tokenizer lacks changes"),
    "a tokenizer's unknown field": (_set("tokenizer", "x", to=1), "tokenizer has an unknown field x"),
    "changes that are a text": (_set("tokenizer", "changes", to="padding"), "tokenizer.changes is no list"),
    "a note that is a number": (_set("tokenizer", "notes", to=[1]), "tokenizer.notes is no text"),
    "bertx.json among its files": (
        _set("files", "bertx.json", to=ENTRY.to_json()),
        "lists bertx.json itself",
    ),
}
#: What the schema cannot say, or says of JSON alone: the reader is stricter there.
BEYOND_SCHEMA = {"a hash with a line end"}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_manifest_is_refused_and_says_where(name: str) -> None:
    edit, message = MALFORMED[name]
    document = copy.deepcopy(json.loads(manifests.encode(MANIFEST)))
    edit(document)
    with pytest.raises(InputRefused) as refused:
        Manifest.from_json(document)
    assert refused.value.code == "E_BUNDLE"
    assert message in str(refused.value)
    if name not in BEYOND_SCHEMA:
        assert not VALIDATOR.is_valid(document)


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "..",
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a/..",
        "a//b",
        "a/",
        "./a",
        "a/./b",
        "a\\b",
        "a\0b",
        "C:/x",
        "C:x",
    ],
)
@pytest.mark.parametrize("keys", [("files",), ("source", "files"), ("artifacts", 0, "path")], ids=str)
def test_a_path_that_could_leave_the_folder_is_refused(path: str, keys: tuple[str | int, ...]) -> None:
    document = json.loads(manifests.encode(MANIFEST))
    _set(*keys, to=path if keys[-1] == "path" else {path: ENTRY.to_json()})(document)
    with pytest.raises(InputRefused, match="no path inside the folder"):
        Manifest.from_json(document)
    assert not VALIDATOR.is_valid(document)


@pytest.mark.parametrize("path", ["a", "..a", "a..b/c", ".gitattributes", "a/.b", "日本語/モデル.bin", "a b", "..."])
def test_any_other_path_is_read(path: str) -> None:
    assert manifests.check_path(path, "the path") == path
    assert VALIDATOR.evolve(schema=VALIDATOR.schema["$defs"]["path"]).is_valid(path)


def test_two_artifacts_of_one_path_are_refused() -> None:
    document = MANIFEST.to_json()
    document["artifacts"].append(document["artifacts"][0])
    with pytest.raises(InputRefused, match="names a path twice"):
        Manifest.from_json(document)


def test_an_artifact_that_is_no_file_of_the_bundle_is_refused() -> None:
    document = MANIFEST.to_json()
    del document["files"]["onnx/model.onnx"]
    with pytest.raises(InputRefused, match="missing among files"):
        Manifest.from_json(document)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"bertx.bundle/1"',
        b"\xff\xfe{}",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1e999}',
        b'{"a": 1, "a": 2}',
        b'{"a": "\\ud800"}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b"[" * 200_000,
        b'{"a":' * 200_000,
    ],
    ids=lambda content: repr(content[:16]),
)
def test_bytes_that_are_no_manifest_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bertx.json").write_bytes(content)
    with pytest.raises(InputRefused) as refused:
        manifests.read(tmp_path)
    assert refused.value.code == "E_BUNDLE"
    assert str(tmp_path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_number_beyond_floats_in_an_option_is_refused() -> None:
    content = manifests.encode(MANIFEST).replace(b"0.5", b"1e999")
    with pytest.raises(InputRefused, match="no finite number"):
        manifests.decode(content)


def test_a_missing_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="cannot be read"):
        manifests.read(tmp_path)


def test_a_manifest_beyond_the_limit_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    with (tmp_path / "bertx.json").open("wb") as file:
        file.truncate(manifests.MAX_BYTES * 1000)  # sparse: it takes no room on the disk, and would not fit memory
    with pytest.raises(InputRefused, match="larger than"):
        manifests.read(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders on this system")
def test_a_pipe_in_the_place_of_the_manifest_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "bertx.json")
    with pytest.raises(InputRefused, match="no regular file"):
        manifests.read(tmp_path)


@pytest.mark.parametrize("option", [float("nan"), float("inf"), {1, 2}, "\ud800", Path()])
def test_what_could_not_be_read_back_is_not_written(option: object) -> None:
    with pytest.raises(Bug):
        manifests.encode(MANIFEST.with_artifact(replace(GRAPH, options={"option": option})))
