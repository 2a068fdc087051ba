"""Runtime `tract`: tract: ONNX in Rust alone."""

from __future__ import annotations

from pathlib import Path

from bertx.runtimes.native.cargo import Cargo
from bertx.runtimes.native.operators import refusal


class Tract(Cargo):
    name = "tract"
    reads = frozenset({"onnx"})
    engine = ("tract-onnx", "0.23.9")
    # Each sum of a matrix product is one running float32, from the first product to the last. Eager PyTorch adds up
    # blocks of products (of 192 in the processors seen) and then their sums: of K products, its rounding is
    # √(K / 192) times less. So 2 is enough for sums of 6,900 products; BERT's longest have 3,072 (base), 4,096 (large).
    allowance = 2.0

    def refuses(self, artifact: Path, task: str) -> str | None:
        return refusal(artifact)


RUNTIME = Tract()
