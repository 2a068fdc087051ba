"""bertx.json, the manifest of a bundle: where it came from, what it holds, how each artifact was judged.

Reading is strict. A manifest may come from anywhere, and every exporter writes it anew, so that a field this
version does not know would be lost in silence: it is refused instead. docs/schemas/bundle.schema.json says
the same in JSON schema.
"""

from __future__ import annotations

import json
import math
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar

from bertx.errors import Bug, InputRefused, escape, is_unicode
from bertx.signature import Signature

NAME = "bertx.json"
SCHEMA = "bertx.bundle/1"
#: The task of a plain module: whatever it computes. There is no checkpoint of it.
MODULE = "module"
#: Bytes of the largest bertx.json that is read.
MAX_BYTES = 64 * 1024 * 1024

T = TypeVar("T")


@dataclass(frozen=True)
class FileEntry:
    """One file's content: SHA-256 as 64 lower-case hex digits, and its size in bytes."""

    sha256: str
    bytes: int

    def to_json(self) -> dict[str, Any]:
        return {"sha256": self.sha256, "bytes": self.bytes}

    @staticmethod
    def from_json(document: Any, where: str = "file") -> FileEntry:
        """Reads what `to_json` wrote. Raises InputRefused where it is malformed, and says `where`."""
        fields = _fields(document, ("sha256", "bytes"), where)
        digest, size = _text(fields["sha256"], f"{where}.sha256"), fields["bytes"]
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise _refuse(f"{where}.sha256 is not 64 lower-case hex digits")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise _refuse(f"{where}.bytes is no size")
        return FileEntry(digest, size)


@dataclass(frozen=True)
class Source:
    """The checkpoint a bundle was made from.

    `checkpoint` is what the user named (Hub id or folder name), `commit` that of the Hub, `folder` the
    absolute path of a local source, `files` the hash of each source file that was used.
    """

    checkpoint: str
    commit: str | None
    folder: str | None
    files: Mapping[str, FileEntry]

    def to_json(self) -> dict[str, Any]:
        return {
            "checkpoint": self.checkpoint,
            "commit": self.commit,
            "folder": self.folder,
            "files": {path: entry.to_json() for path, entry in self.files.items()},
        }

    @staticmethod
    def from_json(document: Any) -> Source:
        """Reads what `to_json` wrote. Raises InputRefused where it is malformed."""
        fields = _fields(document, ("checkpoint", "commit", "folder", "files"), "source")
        folder = _optional_text(fields["folder"], "source.folder")
        if folder is not None and not _is_absolute(folder):
            raise _refuse("source.folder is not absolute")
        return Source(
            checkpoint=_text(fields["checkpoint"], "source.checkpoint"),
            commit=_optional_text(fields["commit"], "source.commit"),
            folder=folder,
            files=_files(fields["files"], "source.files"),
        )


@dataclass(frozen=True)
class ArtifactEntry:
    """One exported model.

    `signature` is None for pure weights; `taps` maps a hidden state's name to its tensor's in the artifact;
    `report` is the bertx.report/1 document that judged these bytes, or None where nothing did.
    """

    path: str
    format: str
    dtype: str
    task: str
    signature: Signature | None
    taps: Mapping[str, str]
    options: Mapping[str, Any]
    versions: Mapping[str, str]
    report: Mapping[str, Any] | None

    def to_json(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "format": self.format,
            "dtype": self.dtype,
            "task": self.task,
            "signature": None if self.signature is None else self.signature.to_json(),
            "taps": dict(self.taps),
            "options": dict(self.options),
            "versions": dict(self.versions),
            "report": None if self.report is None else dict(self.report),
        }

    @staticmethod
    def from_json(document: Any, where: str = "artifact") -> ArtifactEntry:
        """Reads what `to_json` wrote. Raises InputRefused where it is malformed, and says `where`."""
        names = ("path", "format", "dtype", "task", "signature", "taps", "options", "versions", "report")
        fields = _fields(document, names, where)
        report = fields["report"]
        return ArtifactEntry(
            path=check_path(fields["path"], f"{where}.path"),
            format=_text(fields["format"], f"{where}.format"),
            dtype=_text(fields["dtype"], f"{where}.dtype"),
            task=_text(fields["task"], f"{where}.task"),
            signature=_signature(fields["signature"], f"{where}.signature"),
            taps=_mapping(fields["taps"], f"{where}.taps", _text),
            options=_mapping(fields["options"], f"{where}.options", _anything),
            versions=_mapping(fields["versions"], f"{where}.versions", _text),
            report=None if report is None else _mapping(report, f"{where}.report", _anything),
        )


@dataclass(frozen=True)
class TokenizerEntry:
    """What tokenizer.json is ("taken", "built" or "japanese"), what of it and beside it was changed, and what else is
    to be known of it, a line each. `transformers` is the version that it was compared with, where it was asked."""

    kind: str
    changes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    transformers: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "changes": list(self.changes), "notes": list(self.notes)}

    @staticmethod
    def from_json(document: Any) -> TokenizerEntry:
        """Reads what `to_json` wrote. Raises InputRefused where it is malformed."""
        fields = _fields(document, ("kind", "changes", "notes", "transformers"), "tokenizer")
        return TokenizerEntry(
            kind=_text(fields["kind"], "tokenizer.kind"),
            changes=_lines(fields["changes"], "tokenizer.changes"),
            notes=_lines(fields["notes"], "tokenizer.notes"),
            transformers=_optional_text(fields["transformers"], "tokenizer.transformers"),
        )


@dataclass(frozen=True)
class Manifest:
    """What bertx.json says. `bertx` is the version that wrote it, `files` lists all others of the bundle.

    `tokenizer` is None where there is none, or where nobody noted what was made of it.

    Not listed are the folders in which git and huggingface_hub keep their own books.
    """

    bertx: str
    source: Source
    task: str
    head: str
    artifacts: tuple[ArtifactEntry, ...]
    files: Mapping[str, FileEntry]
    tokenizer: TokenizerEntry | None = None

    def parts(self, path: str) -> set[str]:
        """The listed files that make up the artifact at `path`: itself, the data beside its graph, its shards."""
        stem = re.escape(path.removesuffix(".safetensors.index.json"))
        shard = re.compile(rf"{stem}-\d+-of-\d+\.safetensors" if path.endswith(".safetensors.index.json") else "(?!)")
        return {name for name in self.files if name in (path, f"{path}_data") or shard.fullmatch(name)}

    def listed_bytes(self, path: str) -> int:
        """The bytes of the artifact at `path` as they are listed, with what lies beside it: external data, shards."""
        return sum(self.files[name].bytes for name in self.parts(path))

    def with_artifact(self, entry: ArtifactEntry) -> Manifest:
        """The same manifest with `entry` in the place of the artifact of its path, or after all others."""
        if all(known.path != entry.path for known in self.artifacts):
            return replace(self, artifacts=(*self.artifacts, entry))
        kept = tuple(entry if known.path == entry.path else known for known in self.artifacts)
        return replace(self, artifacts=kept)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "bertx": self.bertx,
            "source": self.source.to_json(),
            "task": self.task,
            "head": self.head,
            "tokenizer": None if self.tokenizer is None else self.tokenizer.to_json(),
            "artifacts": [entry.to_json() for entry in self.artifacts],
            "files": {path: entry.to_json() for path, entry in self.files.items()},
        }

    @staticmethod
    def from_json(document: Any) -> Manifest:
        """Reads what `to_json` wrote. Raises InputRefused where it is malformed."""
        if isinstance(document, dict) and document.get("schema") != SCHEMA:
            raise _refuse(f"the schema {escape(document.get('schema'))} is not {SCHEMA}")
        names = ("schema", "bertx", "source", "task", "head", "tokenizer", "artifacts", "files")
        older = {"tokenizer": None} if isinstance(document, dict) else {}  # a bundle that was made before it was noted
        fields = _fields({**older, **document} if older else document, names, "the document")
        tokenizer = fields["tokenizer"]
        if not isinstance(fields["artifacts"], list):
            raise _refuse("artifacts is no list")
        artifacts = tuple(
            ArtifactEntry.from_json(entry, f"artifacts[{index}]") for index, entry in enumerate(fields["artifacts"])
        )
        manifest = Manifest(
            bertx=_text(fields["bertx"], "bertx"),
            source=Source.from_json(fields["source"]),
            task=_text(fields["task"], "task"),
            head=_text(fields["head"], "head"),
            artifacts=artifacts,
            files=_files(fields["files"], "files"),
            tokenizer=None if tokenizer is None else TokenizerEntry.from_json(tokenizer),
        )
        _check_listed(manifest)
        return manifest


def read(folder: Path) -> Manifest:
    """The manifest of the bundle in `folder`. Raises InputRefused where there is none or it is malformed."""
    path = folder / NAME
    try:
        return decode(_content(path))
    except OSError as error:
        raise _refuse(f"{path} cannot be read ({error.strerror})") from error
    except InputRefused as error:
        raise InputRefused(error.code, f"{escape(path)}: {error.message}", error.hint) from error


def decode(content: bytes) -> Manifest:
    """The manifest in the bytes of a bertx.json. Raises InputRefused where they are malformed."""
    if len(content) > MAX_BYTES:
        raise _refuse(f"the manifest is larger than {MAX_BYTES} bytes")
    try:
        document = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_float=_finite,
            parse_constant=_finite,
        )
        # A lone surrogate passes the parser but can be neither printed nor written again.
        json.dumps(document, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise _refuse(f"the manifest is no JSON ({error})") from error
    return Manifest.from_json(document)


def encode(manifest: Manifest) -> bytes:
    """The bytes of bertx.json. Raises Bug where `manifest` holds what could not be read back."""
    try:
        text = json.dumps(manifest.to_json(), ensure_ascii=False, allow_nan=False, indent=2)
        content = text.encode("utf-8") + b"\n"
        decode(content)
    except (TypeError, ValueError, RecursionError, InputRefused) as error:
        raise Bug("E_BUG", f"a manifest cannot be written ({escape(error)})", "please report it") from error
    return content


def check_path(path: Any, where: str) -> str:
    """`path`, which is relative, has forward slashes and stays inside its folder.

    Raises InputRefused for any other; `where` names it in the message.
    """
    text = _text(path, where)
    parts = text.split("/")
    plain = not ({"", ".", ".."} & set(parts)) and not set(text) & {"\\", "\0"} and is_unicode(text)
    # On Windows "C:x" is relative to another drive.
    if not plain or _is_absolute(text) or PureWindowsPath(text).drive:
        raise _refuse(f"{where} {escape(text)} is no path inside the folder")
    return text


def _content(path: Path) -> bytes:
    """At most MAX_BYTES + 1 bytes of a regular file: a pipe would hang, a device never end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise _refuse("it is no regular file")
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _check_listed(manifest: Manifest) -> None:
    """Every artifact is there once, and is one of the bundle's files."""
    paths = [entry.path for entry in manifest.artifacts]
    if len(set(paths)) != len(paths):
        raise _refuse("artifacts names a path twice")
    if NAME in manifest.files:
        raise _refuse(f"files lists {NAME} itself")
    if not set(paths) <= set(manifest.files):
        raise _refuse("an artifact is missing among files")


def _refuse(what: str) -> InputRefused:
    return InputRefused("E_BUNDLE", escape(what), "restore the bundle's bertx.json, or export it again")


def _fields(document: Any, names: tuple[str, ...], where: str) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise _refuse(f"{where} is no object")
    for name in names:
        if name not in document:
            raise _refuse(f"{where} lacks {name}")
    for name in document:
        if name not in names:
            raise _refuse(f"{where} has an unknown field {escape(name)}")
    return document


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _refuse(f"{where} is no text")
    return value


def _optional_text(value: Any, where: str) -> str | None:
    return None if value is None else _text(value, where)


def _lines(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _refuse(f"{where} is no list")
    return tuple(_text(each, where) for each in value)


def _anything(value: Any, where: str) -> Any:
    return value


def _mapping(value: Any, where: str, read_value: Callable[[Any, str], T]) -> dict[str, T]:
    if not isinstance(value, dict):
        raise _refuse(f"{where} is no object")
    return {name: read_value(item, f"{where}[{escape(name)}]") for name, item in value.items()}


def _files(value: Any, where: str) -> dict[str, FileEntry]:
    entries = _mapping(value, where, FileEntry.from_json)
    for path in entries:
        check_path(path, where)
    return entries


def _signature(value: Any, where: str) -> Signature | None:
    if value is None:
        return None
    try:
        signature = Signature.from_json(value)
    except (InputRefused, TypeError, AttributeError) as error:
        raise _refuse(f"{where} is malformed ({error})") from error
    sizes = [size for spec in (*signature.inputs, *signature.outputs) for size in spec.shape]
    # Only what can be written back was understood whole; `true` would pass as the size 1.
    if signature.to_json() != value or any(isinstance(size, bool) for size in sizes):
        raise _refuse(f"{where} is malformed")
    return signature


def _is_absolute(path: str) -> bool:
    """On any system: a bundle made on one is read on another."""
    return PurePosixPath(path).is_absolute() or PureWindowsPath(path).is_absolute()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("an object names a field twice")
    return document


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no finite number")
    return number
