"""Runtime `onnxruntime-go`: ONNX Runtime in Go (cgo), the library taken from the Python package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bertx.runtimes.native import Native, Places, Step, Tool, onnxruntime_library


class OnnxRuntimeGo(Native):
    name = "onnxruntime-go"
    reads = frozenset({"onnx"})
    language = "go"
    engine = ("onnxruntime_go", "1.27.0")
    modules = ("onnxruntime",)
    distributions = ("onnxruntime-gpu", "onnxruntime")
    toolchain = (Tool("go", "Go 1.24 or newer (go.dev, or apt)"), Tool("cc", "a C compiler"))

    def steps(self, places: Places) -> Sequence[Step]:
        words = ("go", "build", "-trimpath", "-o", str(places.product / "runner"), ".")
        return [Step(words, places.source, {"CGO_ENABLED": "1"})]

    def program(self, product: Path) -> list[str]:
        return [str(product / "runner"), "--library", str(onnxruntime_library())]


RUNTIME = OnnxRuntimeGo()
