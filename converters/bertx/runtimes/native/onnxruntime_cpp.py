"""Runtime `onnxruntime-cpp`: ONNX Runtime in C++ through its C API, the library taken from the Python package."""

from __future__ import annotations

from pathlib import Path

from bertx.runtimes.native import onnxruntime_library
from bertx.runtimes.native.cmake import CMake


class OnnxRuntimeCpp(CMake):
    name = "onnxruntime-cpp"
    reads = frozenset({"onnx"})
    sources = (
        "CMakeLists.txt",
        "json.hpp",
        "safetensors.hpp",
        "runner.hpp",
        "onnxruntime_api.h",
        "onnxruntime.cpp",
    )
    target = "onnxruntime"
    modules = ("onnxruntime",)
    distributions = ("onnxruntime-gpu", "onnxruntime")
    not_on_cpu = frozenset({"bfloat16"})

    def program(self, product: Path) -> list[str]:
        return [*super().program(product), "--library", str(onnxruntime_library())]


RUNTIME = OnnxRuntimeCpp()
