"""Runtime `libtorch`: TorchScript in C++, with the libtorch of the installed PyTorch."""

from __future__ import annotations

from bertx.runtimes.native.cmake import CMake


class LibTorch(CMake):
    name = "libtorch"
    reads = frozenset({"torchscript"})
    sources = ("CMakeLists.txt", "json.hpp", "safetensors.hpp", "runner.hpp", "libtorch.cpp")
    target = "libtorch"
    modules = ("torch",)
    distributions = ("torch",)
    devices = frozenset({"cpu", "cuda"})


RUNTIME = LibTorch()
