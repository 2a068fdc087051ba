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
    # blocks of products and then their sums. Of products of either sign (BERT's longest sums have 3,072 in base, 4,096
    # in large) its rounding is some √(K / 192) times less; of K products of one sign, as behind a ReLU, it is less than
    # one unit in the last place, and that of a running sum some 0.2·√K of them: 9 at 2,048, past 12 at 4,096.
    allowance = 4.0

    def refuses(self, artifact: Path, task: str) -> str | None:
        return refusal(artifact)


RUNTIME = Tract()
