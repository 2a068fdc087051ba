"""Runtime `tract`: tract: ONNX in Rust alone."""

from __future__ import annotations

from bertx.runtimes.native.cargo import Cargo


class Tract(Cargo):
    name = "tract"
    reads = frozenset({"onnx"})
    engine = ("tract-onnx", "0.23.9")


RUNTIME = Tract()
