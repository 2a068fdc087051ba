"""What both runtimes in C++ share: one CMake project, a target each, whose binary is the runner."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from bertx.runtimes.native import Native, Places, Step, Tool


class CMake(Native):
    """A leaf in C++."""

    language = "cpp"
    toolchain = (
        Tool("cmake", "CMake 3.18 or newer (apt install cmake)"),
        Tool("c++", "a C++20 compiler (apt install g++)"),
    )
    #: the target of the project, which is also the name of its binary
    target: ClassVar[str]

    def steps(self, places: Places) -> Sequence[Step]:
        folder = str(places.scratch)
        python = f"-DPython3_EXECUTABLE={sys.executable}"
        return [
            Step(("cmake", "-S", str(places.source), "-B", folder, python), places.source),
            Step(("cmake", "--build", folder, "--target", self.target), places.source),
        ]

    def collect(self, places: Places) -> None:
        shutil.copy2(places.scratch / self.target, places.product / self.target)

    def program(self, product: Path) -> list[str]:
        return [str(product / self.target)]
