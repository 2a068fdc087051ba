"""What all runtimes in Rust share: one workspace, a package `run-<name>` each, whose binary is the runner."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from bertx.runtimes.native import Native, Places, Step, Tool, location


class Cargo(Native):
    """A leaf in Rust: the package's folder in the workspace bears the runtime's name."""

    language = "rust"
    toolchain = (Tool("cargo", "Rust 1.88 or newer (rustup, or apt install cargo)"), Tool("cc", "a C compiler"))
    takes = frozenset({"int64", "int32", "float32"})
    gives = frozenset({"float32"})
    #: the shared crate makes ids of texts for all of them
    takes_texts = True
    takes_japanese = True
    #: the version of PyTorch that it is made for, where it is linked with PyTorch's libraries
    torch: ClassVar[str | None] = None

    def __init_subclass__(cls) -> None:
        linked = ("libtorch.rs",) if cls.torch else ()
        cls.sources = ("Cargo.toml", "mecab", "protocol", *linked, cls.name)

    def steps(self, places: Places) -> Sequence[Step]:
        # One program of the whole workspace: then all of them share the crates that they have in common.
        chosen = ("--workspace", "--bin", self._package)
        words = ("cargo", "build", "--release", *chosen, "--target-dir", str(places.scratch))
        libtorch = location("torch") if self.torch else None
        return [Step(words, places.source, {"LIBTORCH": str(libtorch)} if libtorch else {})]

    def collect(self, places: Places) -> None:
        shutil.copy2(places.scratch / "release" / self._package, places.product / self._package)

    def program(self, product: Path) -> list[str]:
        return [str(product / self._package)]

    def unsuitable(self) -> str | None:
        here = self.versions().get("torch", "").partition("+")[0]
        if self.torch is None or here == self.torch:
            return None
        return f"pip install torch=={self.torch}"

    @property
    def _package(self) -> str:
        return f"run-{self.name}"
