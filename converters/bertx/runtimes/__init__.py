"""What runs an artifact: one runner program per runtime, found by its presence in this folder.

A module here with a `RUNTIME` is a runtime; it is also the runner program (`python -m bertx.runtimes.<name>`). Those
in `native/` are programs in other languages, which `bertx build` compiles. All speak one protocol, which `protocol.py`
implements for Python and docs/runners.md describes for everybody else.
"""

from __future__ import annotations

import importlib
import pkgutil
import shlex
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

from bertx.errors import UsageError, escape

#: what stands beside the formats of somebody's runner that takes texts
TEXTS = "texts"


@dataclass(frozen=True)
class Reading:
    """What a runner makes ids of texts with: a tokenizer.json, and where a MeCab contract lies beside it, the folder of
    MeCab's dictionary and its library (None: the system's)."""

    tokenizer: Path
    dictionary: Path | None = None
    mecab: Path | None = None


@dataclass(frozen=True)
class Job:
    """One run of one artifact on one file of cases; `reading` where some of these are texts."""

    artifact: Path
    inputs: Path
    outputs: Path
    device: str
    reading: Reading | None = None

    def arguments(self) -> list[str]:
        """The protocol's command line after the program."""
        named = {name: getattr(self, name) for name in ("artifact", "inputs", "outputs", "device")}
        more = vars(self.reading) if self.reading else {}
        stated = {**named, **{name: path for name, path in more.items() if path is not None}}
        return [part for name, value in stated.items() for part in (f"--{name}", str(value))]


class Runtime(ABC):
    """A leaf: which formats a program reads, what it lacks, how it is started."""

    name: ClassVar[str]
    reads: ClassVar[frozenset[str]]
    #: distributions whose versions decide this runtime's results
    distributions: ClassVar[tuple[str, ...]] = ()
    #: dtypes of artifacts that the runtime cannot compute on the CPU
    not_on_cpu: ClassVar[frozenset[str]] = frozenset()
    #: kinds of devices that it knows
    devices: ClassVar[frozenset[str]] = frozenset({"cpu", "cuda"})
    #: dtypes of the inputs that its program can be fed and of the outputs that it can give; None is any
    takes: ClassVar[frozenset[str] | None] = None
    gives: ClassVar[frozenset[str] | None] = None
    #: its own factor on the limit of the rms ratio, where it is right and yet rounds more than eager PyTorch; the leaf
    #: says why, and docs/runtimes.md with which figures
    allowance: ClassVar[float] = 1.0
    #: whether its program gives what an artifact computes between two layer boundaries, where it is asked to
    looks_inside: ClassVar[bool] = False
    #: whether its program makes ids of texts, as docs/runners.md says, and of Japanese ones, by a MeCab contract
    takes_texts: ClassVar[bool] = False
    takes_japanese: ClassVar[bool] = False

    @abstractmethod
    def missing(self) -> str | None:
        """What the user must install or run, None when ready."""

    def at(self, cache: Path) -> Runtime:
        """This runtime with what it keeps in the cache folder `cache`."""
        return self

    def versions(self) -> dict[str, str]:
        """The versions that decide its results, by name: of its distributions, as far as they are installed."""
        return installed(self.distributions)

    def refuses(self, artifact: Path, task: str) -> str | None:
        """Why it cannot run this very artifact for this task, told before it starts; None where it can."""
        return None

    def command(self, job: Job) -> list[str]:
        """The runner program for this job. -P keeps the current folder off Python's path: nothing in it may run."""
        return [sys.executable, "-P", "-m", f"{__name__}.{self.name}", *job.arguments()]


@dataclass(frozen=True)
class Foreign:
    """Anybody's program as a runtime: `--runner "PROGRAM"`, `--runner "onnx=PROGRAM"`, or [[runner]] in a recipe.

    `--runner "onnx,texts=PROGRAM"` is one that takes texts.
    """

    name: str
    program: tuple[str, ...]
    reads: frozenset[str]
    not_on_cpu: frozenset[str] = frozenset()
    devices: frozenset[str] = frozenset({"cpu", "cuda"})
    takes: frozenset[str] | None = None
    gives: frozenset[str] | None = None
    allowance: float = 1.0
    takes_texts: bool = False

    @property
    def takes_japanese(self) -> bool:
        return self.takes_texts

    def missing(self) -> str | None:
        return None

    def refuses(self, artifact: Path, task: str) -> str | None:
        return None

    def command(self, job: Job) -> list[str]:
        return [*self.program, *job.arguments()]


def foreign(text: str, formats: frozenset[str]) -> Foreign:
    """A runner from its command line, which may begin with what it reads and whether it takes texts: `onnx=`,
    `onnx,texts=`. Raises UsageError."""
    head, separator, tail = text.partition("=")
    words = frozenset(head.split(","))
    stated = bool(separator) and words <= formats | {TEXTS}
    chosen, line = (words & formats or formats, tail) if stated else (formats, text)
    try:
        program = tuple(shlex.split(line))
    except ValueError as error:
        raise UsageError("E_USAGE", f"--runner {escape(text)}: {escape(error)}", "quote it as for a shell") from error
    if not program:
        raise UsageError("E_USAGE", "--runner names no program", 'write --runner "PROGRAM ARGUMENTS"')
    return Foreign(Path(program[0]).name, program, chosen, takes_texts=stated and TEXTS in words)


@cache
def registry() -> Mapping[str, Runtime]:
    """Every runtime of this folder by name, those of `native/` last."""
    return _leaves(__name__) | _leaves(f"{__name__}.native")


def _leaves(room: str) -> dict[str, Runtime]:
    found: dict[str, Runtime] = {}
    for module in pkgutil.iter_modules(importlib.import_module(room).__path__):
        leaf = getattr(importlib.import_module(f"{room}.{module.name}"), "RUNTIME", None)
        if leaf is not None:
            found[leaf.name] = leaf
    return found


def runtime_named(name: str) -> Runtime:
    """A runtime by name. Raises UsageError where there is none."""
    if name not in registry():
        raise UsageError("E_USAGE", f"unknown runtime {escape(name)}", f"choose one of {', '.join(registry())}")
    return registry()[name]


def absent(*modules: str) -> str | None:
    """A hint naming the first of `modules` that is not installed; nothing is imported."""
    from importlib.util import find_spec

    lacking = [module for module in modules if find_spec(module) is None]
    return f"pip install {lacking[0]}" if lacking else None


def installed(distributions: Sequence[str]) -> dict[str, str]:
    """The installed ones of some distributions with their versions, from their metadata."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
