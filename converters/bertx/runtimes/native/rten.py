"""Runtime `rten`: rten: ONNX in Rust alone."""

from __future__ import annotations

from pathlib import Path

from bertx.runtimes.native.cargo import Cargo
from bertx.runtimes.native.operators import refusal


class Rten(Cargo):
    name = "rten"
    reads = frozenset({"onnx"})
    engine = ("rten", "0.27.0")

    def refuses(self, artifact: Path, task: str) -> str | None:
        return refusal(artifact)


RUNTIME = Rten()
