"""Runtimes in other languages: small programs that `bertx build` compiles on this machine, into the user's cache.

A module here with a `RUNTIME` is such a runtime: a leaf that says what it reads, which toolchain it needs and how it
is built (a `Native`; for Rust a `Cargo`, which says most of it). The sources lie in a folder per language beside the
leaves: rust, cpp, java, go, node. Adding a runtime adds a leaf and its sources, and edits nothing.

What the cache holds, below its folder `native`:

    <name>-<key>/            a built runtime; the key is a hash of its sources and of the libraries that it is built on
    <name>.log               what its compiler said last
    work/<language>/source   a copy of the language's folder, where the compiler may write
    work/<language>/scratch  what the compiler keeps from one build to the next
"""

from __future__ import annotations

import hashlib
import shutil
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from bertx.runtimes import Job, Runtime, absent, installed

#: what compilers leave beside sources: no part of them
LEFTOVERS = frozenset({"Cargo.lock", "package-lock.json", "target", "node_modules", "build", "__pycache__"})


@dataclass(frozen=True)
class Tool:
    """A command of a toolchain, and what to install where it is missing: "Rust 1.85 or newer (rustup or apt)"."""

    command: str
    install: str


@dataclass(frozen=True)
class Places:
    """Where a build works, all of them absolute.

    `source` is a copy of the language's folder and may be written to; `scratch` stays from one build to the next, for
    what is slow to make; `product` is empty, is moved into place when the build is done, and is all that stays: what
    is in it must not hold its own path.
    """

    source: Path
    scratch: Path
    product: Path


@dataclass(frozen=True)
class Step:
    """One command of a build: its words, the folder it runs in, and what is added to its environment."""

    words: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def command(self) -> list[str]:
        """The words to start, with `env` before them where the environment is added to."""
        added = [f"{name}={value}" for name, value in self.environment.items()]
        return ["env", *added, *self.words] if added else list(self.words)


class Native(Runtime):
    """A leaf in another language. What a leaf states and may override stands here, in order of use."""

    #: the folder of its sources: rust, cpp, java, go, node
    language: ClassVar[str]
    #: the paths in that folder, files or folders, whose change makes a new build necessary; "." is all of it
    sources: ClassVar[tuple[str, ...]] = (".",)
    #: the library that computes, by its own name, and the version of it that the sources pin: ("ort", "2.0.0-rc.15");
    #: None where it is one of the distributions, whichever version is installed
    engine: ClassVar[tuple[str, str] | None] = None
    #: the import packages that it is built on or loads libraries from; `distributions` are theirs
    modules: ClassVar[tuple[str, ...]] = ()
    #: what building needs, and what running needs
    toolchain: ClassVar[tuple[Tool, ...]] = ()
    tools: ClassVar[tuple[Tool, ...]] = ()
    #: float16 and bfloat16 are for those that say so
    not_on_cpu = frozenset({"float16", "bfloat16"})
    devices = frozenset({"cpu"})

    def __init__(self, cache: Path | None = None) -> None:
        self.cache = cache or Path.home() / ".cache" / "bertx"

    @abstractmethod
    def steps(self, places: Places) -> Sequence[Step]:
        """The commands that build it, in order."""

    def collect(self, places: Places) -> None:
        """Moves or copies what the steps made into `places.product`; nothing where they wrote it there."""
        return

    @abstractmethod
    def program(self, product: Path) -> list[str]:
        """The words that start the runner; the protocol's arguments follow them."""

    def unsuitable(self) -> str | None:
        """What else keeps it from being built here, a library of another version say; None where nothing does."""
        return None

    # What follows is the same for all.

    def at(self, cache: Path) -> Native:
        return type(self)(cache)

    def command(self, job: Job) -> list[str]:
        return [*self.program(self.product), *job.arguments()]

    def versions(self) -> dict[str, str]:
        return dict([self.engine] if self.engine else []) | installed(self.distributions)

    def missing(self) -> str | None:
        lacking = self._lacking(self.tools)
        if lacking or self.product.is_dir():
            return lacking
        return self.unbuildable() or f"bertx build {self.name}"

    def unbuildable(self) -> str | None:
        """What must be installed before it can be built; None where it can."""
        return self._lacking((*self.toolchain, *self.tools)) or self.unsuitable()

    def _lacking(self, tools: Sequence[Tool]) -> str | None:
        """The first package or command that is not here, as what to install."""
        lacking = (f"install {tool.install}" for tool in tools if shutil.which(tool.command) is None)
        return absent(*self.modules) or next(lacking, None)

    @property
    def folder(self) -> Path:
        """The sources of its language."""
        return Path(__file__).parent / self.language

    @property
    def room(self) -> Path:
        """The folder of the cache where native runtimes are."""
        return self.cache / "native"

    @property
    def product(self) -> Path:
        """Where it is when it is built."""
        return self.room / f"{self.name}-{self.key()}"

    def key(self) -> str:
        """A hash of the sources, and of the libraries' versions and places: what it was built from."""
        libraries = [str(location(module)) for module in self.modules]
        told = hashlib.sha256(repr((self.name, sorted(self.versions().items()), libraries)).encode())
        for path in files(self.folder, self.sources):
            told.update(repr((path.relative_to(self.folder).as_posix(), path.stat().st_size)).encode())
            told.update(path.read_bytes())
        return told.hexdigest()[:16]


def files(folder: Path, chosen: Sequence[str] = (".",)) -> Iterator[Path]:
    """The source files at or below the chosen paths of a folder, in order, without what compilers leave."""
    for start in chosen:
        root = folder / start
        found = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
        yield from (path for path in found if not LEFTOVERS & set(path.relative_to(folder).parts))


def location(module: str) -> Path | None:
    """The folder of an installed package, found without importing it."""
    from importlib.util import find_spec

    spec = find_spec(module)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def onnxruntime_library() -> Path | None:
    """ONNX Runtime's own library, as the Python package ships it; None where it is not installed."""
    folder = location("onnxruntime")
    return next(iter(sorted((folder / "capi").glob("libonnxruntime.*"))), None) if folder else None
