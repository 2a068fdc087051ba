"""What is written: one file per format, found by its presence in this folder.

What all formats share stands here: options, the names of files, the registry. A format's own file holds only what
is special about it.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from bertx.checkpoint import Checkpoint
from bertx.errors import UsageError, escape
from bertx.manifest import FileEntry
from bertx.model.head import HeadOptions
from bertx.model.tasks import Task
from bertx.model.wrapper import Source
from bertx.signature import Signature

#: the operator sets of ONNX that are written
OPSETS = range(18, 24)
_SUFFIXES = {"float32": "", "float16": "_fp16", "bfloat16": "_bf16"}


@dataclass(frozen=True)
class ExportOptions:
    """How an artifact is to be written. `dtype` None leaves safetensors unchanged and is float32 elsewhere.

    `spelling` ("torch", "legacy") renames the tensors of safetensors, `shard_bytes` splits them into several files,
    `head` adds one that the checkpoint lacks.
    """

    dtype: str | None = None
    output_names: tuple[str, ...] = ()
    opset: int = 18
    external_data: bool | None = None
    spelling: str | None = None
    shard_bytes: int | None = None
    head: HeadOptions | None = None

    def __post_init__(self) -> None:
        if self.opset not in OPSETS:
            known = f"{OPSETS[0]} to {OPSETS[-1]}"
            raise UsageError("E_USAGE", f"opset {self.opset} is none of {known}", "choose one of them")


def shard_size(text: str) -> int:
    """Bytes of a number with a unit of thousands (KB, MB, GB, as transformers counts) or of 1,024 (KiB, MiB, GiB).

    Raises UsageError where the text is no size.
    """
    found = re.fullmatch(r"([0-9]{1,15})\s*(?:([KMGT])(i?)B)?", text)
    if found is None or int(found[1]) == 0:
        raise UsageError("E_USAGE", f"{escape(text)} is no size", "write one such as 500MB or 2GiB")
    unit: int = (1024 if found[3] else 1000) ** " KMGT".index(found[2] or " ")
    return int(found[1]) * unit


@dataclass(frozen=True)
class Written:
    """What a format wrote: the dtype and signature of the artifact, its taps, and what the manifest records.

    `digests` are those of files, by name, that were hashed as they were read back.
    """

    dtype: str
    signature: Signature | None
    taps: Mapping[str, str]
    options: Mapping[str, Any]
    versions: Mapping[str, str]
    head: str | None
    digests: Mapping[str, FileEntry] = field(default_factory=dict)


@dataclass(frozen=True)
class Contents:
    """What an artifact file says of itself, read from its headers without loading or running it."""

    dtype: str | None
    signature: Signature | None
    task: str | None
    facts: Mapping[str, Any]


class Format(ABC):
    """A leaf: how one kind of file is written and what its headers say."""

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]

    @abstractmethod
    def file_name(self, options: ExportOptions) -> str:
        """The artifact's place in the bundle."""

    def replaces(self, path: str) -> tuple[str, ...]:
        """Patterns of files in the bundle that an earlier artifact of this kind may have left."""
        return (f"{path}_data",)

    @abstractmethod
    def write(self, checkpoint: Checkpoint, task: Task, options: ExportOptions, path: Path) -> Written:
        """Writes the artifact to `path`. Raises InputRefused where this checkpoint cannot become one."""

    @abstractmethod
    def write_module(self, source: Source, options: ExportOptions, path: Path) -> Written:
        """Writes a plain module to `path`. Raises InputRefused where it cannot become an artifact of this format."""

    @abstractmethod
    def contents(self, path: Path) -> Contents:
        """What the file says of itself. Raises InputRefused(E_FORMAT) where it is no such file."""


@cache
def registry() -> Mapping[str, Format]:
    """Every format of this folder by name."""
    found: dict[str, Format] = {}
    for module in pkgutil.iter_modules(__path__):
        leaf = importlib.import_module(f"{__name__}.{module.name}").FORMAT
        found[leaf.name] = leaf
    return found


def format_named(name: str) -> Format:
    """A format by name. Raises UsageError where there is none."""
    if name not in registry():
        raise UsageError("E_USAGE", f"unknown format {escape(name)}", f"choose one of {', '.join(registry())}")
    return registry()[name]


def format_of(path: Path) -> Format | None:
    """The format whose files are named like `path`, None where no format is."""
    return next((leaf for leaf in registry().values() if path.name.endswith(leaf.suffixes)), None)


def artifact_name(folder: str, suffix: str, options: ExportOptions) -> str:
    """`folder`/model[_fp16][.<output>]`suffix`: the names that readers of a bundle look for."""
    names = "".join(f".{name}" for name in options.output_names)
    return f"{folder}/model{_SUFFIXES[options.dtype or 'float32']}{names}{suffix}"
