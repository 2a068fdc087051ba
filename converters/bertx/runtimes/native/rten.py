"""Runtime `rten`: rten: ONNX in Rust alone."""

from __future__ import annotations

from bertx.runtimes.native.cargo import Cargo


class Rten(Cargo):
    name = "rten"
    reads = frozenset({"onnx"})
    engine = ("rten", "0.27.0")


RUNTIME = Rten()
