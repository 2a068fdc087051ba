"""Runtime `tch-varstore`: libtorch through tch, a whole BERT over a VarStore, loaded strictly from safetensors."""

from __future__ import annotations

from pathlib import Path

from bertx.runtimes.native.bert import refusal
from bertx.runtimes.native.cargo import Cargo


class TchVarStore(Cargo):
    name = "tch-varstore"
    reads = frozenset({"safetensors"})
    engine = ("tch", "0.26.0")
    modules = ("torch",)
    distributions = ("torch",)
    torch = "2.13.0"

    def refuses(self, artifact: Path, task: str) -> str | None:
        return refusal(artifact, task)


RUNTIME = TchVarStore()
