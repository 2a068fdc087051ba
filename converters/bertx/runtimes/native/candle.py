"""Runtime `candle`: candle: its own BERT on model.safetensors and config.json."""

from __future__ import annotations

from pathlib import Path

from bertx.runtimes.native.bert import refusal
from bertx.runtimes.native.cargo import Cargo


class Candle(Cargo):
    name = "candle"
    reads = frozenset({"safetensors"})
    engine = ("candle-core", "0.11.1")

    def refuses(self, artifact: Path, task: str) -> str | None:
        return refusal(artifact, task)


RUNTIME = Candle()
