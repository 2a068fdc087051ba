"""What the runtimes in JavaScript share: one npm package, whose modules are linked into each product."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from bertx.runtimes.native import Native, Places, Step, Tool

_SHARED = ("package.json", "program.mjs", "cases.mjs", "safetensors.mjs", "session.mjs")


class Npm(Native):
    """A leaf in JavaScript: `script` is the runner. Scripts of packages are not run: some download."""

    language = "node"
    toolchain = (Tool("npm", "npm (apt install npm)"),)
    tools: ClassVar[tuple[Tool, ...]] = (Tool("node", "Node.js 20 or newer (nodejs.org, or apt)"),)
    script: ClassVar[str]
    #: other files of its own
    parts: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        cls.sources = (*_SHARED, cls.script, *cls.parts)

    def steps(self, places: Places) -> Sequence[Step]:
        words = ("npm", "install", "--ignore-scripts", "--no-package-lock", "--no-audit", "--no-fund")
        return [Step(words, places.source)]

    def collect(self, places: Places) -> None:
        for name in self.sources:
            shutil.copy2(places.source / name, places.product / name)
        # Hundreds of megabytes: links share them among the runtimes.
        modules = "node_modules"
        shutil.copytree(places.source / modules, places.product / modules, symlinks=True, copy_function=os.link)

    def program(self, product: Path) -> list[str]:
        return ["node", str(product / self.script)]
