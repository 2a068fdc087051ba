"""Runtime `ort`: ONNX Runtime through ort, the library taken from the Python package."""

from __future__ import annotations

from pathlib import Path

from bertx.runtimes.native import onnxruntime_library
from bertx.runtimes.native.cargo import Cargo


class Ort(Cargo):
    name = "ort"
    reads = frozenset({"onnx"})
    engine = ("ort", "2.0.0-rc.15")
    modules = ("onnxruntime",)
    distributions = ("onnxruntime-gpu", "onnxruntime")

    def program(self, product: Path) -> list[str]:
        return [*super().program(product), "--library", str(onnxruntime_library())]


RUNTIME = Ort()
