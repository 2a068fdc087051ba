"""What a checkpoint, a bundle or an artifact is, from its headers: nothing heavy is imported, no weight is read.

found = inspect("bert-base-japanese-v3/onnx/model.onnx")
found.to_json()  # bertx.inspect/1
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import bertx.bundle as bundle
import bertx.manifest as manifests
from bertx import exchange
from bertx.checkpoint import Checkpoint, FetchOptions, fetch
from bertx.checkpoint.config import MAX_CONFIG_BYTES, locate, parse_json, read_bounded, read_config
from bertx.checkpoint.tensors import dtypes, parameters
from bertx.checkpoint.weights import read_file
from bertx.errors import UsageError, escape
from bertx.formats import format_of
from bertx.formats.torchscript import opened
from bertx.manifest import ArtifactEntry, Manifest
from bertx.model.tasks import resolve_task
from bertx.model.wrapper import default_outputs, input_names
from bertx.onnx_header import read_onnx_header
from bertx.signature import Signature

SCHEMA = "bertx.inspect/1"

#: what a tokenizer is read from; the first of them that is there says which kind it is
_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt", "sentencepiece.bpe.model"),
    *("spiece.model", "spm.model", "tokenizer.model", "special_tokens_map.json", "added_tokens.json"),
)
_CODE = re.compile(r"(BF|F|I|U)(\d+)")
_KINDS = {"BF": "bfloat", "F": "float", "I": "int", "U": "uint"}


@dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer's class as its configuration names it, and the files it lies in."""

    name: str | None
    files: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"class": self.name, "files": list(self.files)}


@dataclass(frozen=True)
class Weights:
    """What weights hold: `dtypes` counts tensors, `parameters` floats. None is what the headers do not tell."""

    tensors: int | None
    parameters: int | None
    dtypes: Mapping[str, int] | None


@dataclass(frozen=True)
class CheckpointFacts:
    """A checkpoint. `task` is None where `task_problem` says why none follows; `bytes` are those of the weights."""

    checkpoint: str
    commit: str | None
    origin: str
    folder: Path
    model_type: str
    architectures: tuple[str, ...]
    task: str | None
    task_problem: str | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...] | None
    weights: Weights
    files: Mapping[str, int]
    tokenizer: TokenizerFiles | None
    dropped: tuple[str, ...]

    @property
    def bytes(self) -> int:
        return sum(self.files.values())

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "kind": "checkpoint",
            "checkpoint": self.checkpoint,
            "commit": self.commit,
            "origin": self.origin,
            "folder": str(self.folder),
            "model_type": self.model_type,
            "architectures": list(self.architectures),
            "task": self.task,
            "task_problem": self.task_problem,
            "inputs": list(self.inputs),
            "outputs": None if self.outputs is None else list(self.outputs),
            **asdict(self.weights),
            "bytes": self.bytes,
            "files": [{"path": path, "bytes": size} for path, size in self.files.items()],
            "tokenizer": None if self.tokenizer is None else self.tokenizer.to_json(),
            "dropped": list(self.dropped),
        }


@dataclass(frozen=True)
class ArtifactFacts:
    """An artifact as its bundle's manifest lists it. `bytes` is None where the file is gone."""

    entry: ArtifactEntry
    bytes: int | None
    listed_bytes: int

    @property
    def verdict(self) -> str:
        """pass, fail, incomplete or not-run: what the recorded report says of these bytes."""
        report = self.entry.report or {}
        results = report.get("results")
        ran = [r for r in results if isinstance(r, dict) and r.get("verdict") != "not-run"] if results else []
        known = report.get("verdict") in ("pass", "fail", "incomplete")
        return str(report["verdict"]) if ran and known and self.bytes == self.listed_bytes else "not-run"

    def to_json(self) -> dict[str, Any]:
        opset = self.entry.options.get("opset")
        return {
            "path": self.entry.path,
            "format": self.entry.format,
            "dtype": self.entry.dtype,
            "task": self.entry.task,
            "opset": opset if isinstance(opset, int) else None,
            "signature": None if self.entry.signature is None else self.entry.signature.to_json(),
            "bytes": self.bytes,
            "listed_bytes": self.listed_bytes,
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class BundleFacts:
    """A bundle, from its manifest and its config.json; `bytes` are those of all listed files."""

    folder: Path
    manifest: Manifest
    model_type: str
    architectures: tuple[str, ...]
    tokenizer: TokenizerFiles | None
    artifacts: tuple[ArtifactFacts, ...]

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in self.manifest.files.values())

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "kind": "bundle",
            "folder": str(self.folder),
            "bertx": self.manifest.bertx,
            "checkpoint": self.manifest.source.checkpoint,
            "commit": self.manifest.source.commit,
            "source_folder": self.manifest.source.folder,
            "model_type": self.model_type,
            "architectures": list(self.architectures),
            "task": self.manifest.task,
            "head": self.manifest.head,
            "tokenizer": None if self.tokenizer is None else self.tokenizer.to_json(),
            "artifacts": [artifact.to_json() for artifact in self.artifacts],
            "bytes": self.bytes,
            "files": len(self.manifest.files),
        }


@dataclass(frozen=True)
class FileFacts:
    """One artifact file, from its own headers. `bytes` counts the weights beside it, too; `facts` the format's own."""

    path: Path
    format: str
    bytes: int
    dtype: str | None
    task: str | None
    signature: Signature | None
    weights: Weights | None
    facts: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "kind": "file",
            "path": str(self.path),
            "format": self.format,
            "bytes": self.bytes,
            "dtype": self.dtype,
            "task": self.task,
            "signature": None if self.signature is None else self.signature.to_json(),
            **asdict(self.weights or Weights(None, None, None)),
            "facts": dict(self.facts),
        }


Inspection = CheckpointFacts | BundleFacts | FileFacts


def inspect(target: str, options: FetchOptions | None = None) -> Inspection:
    """What TARGET is: a bundle, an artifact file, or a checkpoint (a local folder wins over a Hub id).

    Raises UsageError, InputRefused or SourceUnavailable where it cannot be told.
    """
    path = exchange.named(target)
    local = path.is_file() or (path.is_dir() and bundle.is_bundle(path))
    if local and options is not None and options.revision is not None:
        raise UsageError("E_USAGE", f"--revision has no meaning for {escape(target)}", "leave it out")
    if path.is_file():
        return inspect_file(path)
    return inspect_bundle(path) if local else inspect_checkpoint(fetch(target, options))


def inspect_checkpoint(checkpoint: Checkpoint) -> CheckpointFacts:
    """What a checkpoint is, from its configuration and the headers of its weights."""
    task = problem = outputs = None
    try:
        chosen = resolve_task(None, checkpoint.config.architectures, checkpoint.folder)
        task, outputs = chosen.name, default_outputs(checkpoint, chosen)
    except UsageError as error:
        problem = error.message
    infos = checkpoint.weights.values()
    return CheckpointFacts(
        checkpoint.source,
        checkpoint.commit,
        checkpoint.origin,
        checkpoint.folder,
        checkpoint.config.model_type,
        checkpoint.config.architectures,
        task,
        problem,
        input_names(checkpoint),
        outputs,
        Weights(len(checkpoint.weights), parameters(infos), _named(dtypes(infos))),
        {path.relative_to(checkpoint.folder).as_posix(): path.stat().st_size for path in checkpoint.weight_files()},
        tokenizer_files(checkpoint.folder, checkpoint.config.values),
        checkpoint.config.dropped,
    )


def inspect_bundle(folder: Path) -> BundleFacts:
    """What a bundle holds, as its manifest says; sizes are compared with it, hashes are not."""
    resolved = folder.resolve()
    manifest = manifests.read(resolved)
    artifacts = tuple(
        ArtifactFacts(entry, _whole(resolved, manifest.parts(entry.path)), manifest.listed_bytes(entry.path))
        for entry in manifest.artifacts
    )
    if manifest.task == manifests.MODULE:
        return BundleFacts(resolved, manifest, manifests.MODULE, (manifest.head,), None, artifacts)
    config = read_config(resolved)
    tokenizer = tokenizer_files(resolved, config.values)
    return BundleFacts(resolved, manifest, config.model_type, config.architectures, tokenizer, artifacts)


def inspect_file(path: Path) -> FileFacts:
    """What an artifact says of itself. Raises UsageError for no artifact, InputRefused for a malformed one."""
    leaf = format_of(path)
    if leaf is None:
        hint = "name a .onnx, .pt or .safetensors file, a bundle or a checkpoint"
        raise UsageError("E_USAGE", f"{escape(path.name)} is no artifact", hint)
    resolved = path.resolve()
    if leaf.name in _READERS:
        return _READERS[leaf.name](resolved)
    found = leaf.contents(resolved)
    size = resolved.stat().st_size
    return FileFacts(resolved, leaf.name, size, found.dtype, found.task, found.signature, None, found.facts)


def tokenizer_files(folder: Path, config: Mapping[str, Any]) -> TokenizerFiles | None:
    """A folder's tokenizer, None where there is none. Raises InputRefused(E_TOKENIZER) where it is malformed."""
    files = tuple(name for name in _TOKENIZER_FILES if locate(folder, name, "E_TOKENIZER") is not None)
    if not files:
        return None
    stated: Any = None
    if "tokenizer_config.json" in files:
        path = folder / "tokenizer_config.json"
        stated = parse_json(read_bounded(path, MAX_CONFIG_BYTES, "E_TOKENIZER"), path, "E_TOKENIZER")
        stated = stated.get("tokenizer_class")
    stated = stated or config.get("tokenizer_class")
    return TokenizerFiles(stated if isinstance(stated, str) else None, files)


def _safetensors(path: Path) -> FileFacts:
    leaf = format_of(path)
    assert leaf is not None
    infos = read_file(path).values()
    weights = Weights(len(infos), parameters(infos), _named(dtypes(infos)))
    size = sum(file.stat().st_size for file in {path, *(info.file for info in infos)})
    return FileFacts(path, leaf.name, size, leaf.contents(path).dtype, None, None, weights, {})


def _onnx(path: Path) -> FileFacts:
    header = read_onnx_header(path)
    floats = [weight for weight in header.weights if "float" in weight.dtype]
    weights = Weights(
        len(header.weights),
        sum(weight.elements for weight in floats),
        dict(Counter(weight.dtype for weight in header.weights).most_common()),
    )
    dtype = next((spec.dtype for spec in header.signature.outputs if "float" in spec.dtype), None)
    beside = _size(path.with_name(f"{path.name}_data")) if any(weight.external for weight in header.weights) else 0
    facts = {
        "opset": dict(header.opsets),
        "ir_version": header.ir_version,
        "nodes": header.nodes,
        "producer": header.producer,
        "external_data": any(weight.external for weight in header.weights),
    }
    size = path.stat().st_size + (beside or 0)
    return FileFacts(path, "onnx", size, dtype, header.metadata.get("bertx.task"), header.signature, weights, facts)


def _torchscript(path: Path) -> FileFacts:
    leaf = format_of(path)
    assert leaf is not None
    found = leaf.contents(path)
    with opened(path) as archive:
        names = archive.namelist()
    stored = [name for name in names if re.search(r"/(data|constants)/\d+$", name)]
    facts = {"torchscript": any("/code/" in name for name in names), "bertx": found.facts.get("bertx")}
    weights = Weights(len(stored), None, None)
    size = path.stat().st_size
    return FileFacts(path, leaf.name, size, found.dtype, found.task, found.signature, weights, facts)


#: the formats whose headers say more than `Format.contents` asks of all
_READERS: dict[str, Callable[[Path], FileFacts]] = {
    "safetensors": _safetensors,
    "onnx": _onnx,
    "torchscript": _torchscript,
}


def _whole(folder: Path, parts: Iterable[str]) -> int | None:
    """The bytes of several files, None where one is gone."""
    sizes = [_size(folder / name) for name in parts]
    return sum(size for size in sizes if size is not None) if None not in sizes else None


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _named(codes: Mapping[str, int]) -> dict[str, int]:
    """Counts by safetensors code ("F32") as counts by the names that signatures use ("float32")."""
    return {dtype_name(code): count for code, count in codes.items()}


def dtype_name(code: str) -> str:
    """ "F32" -> "float32"; codes of other kinds in lower case."""
    match = _CODE.fullmatch(code)
    return f"{_KINDS[match[1]]}{match[2]}" if match else code.lower()


def shapes(signature: Signature) -> Iterable[tuple[str, str, str, str]]:
    """(direction, name, dtype, shape) of each tensor, for a table."""
    for direction, specs in (("input", signature.inputs), ("output", signature.outputs)):
        for spec in specs:
            yield direction, spec.name, spec.dtype, f"({', '.join(map(str, spec.shape))})"
