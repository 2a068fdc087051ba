"""Runtime `transformers-js`: ONNX in transformers.js on Node.js, from a folder laid out as the Hub's."""

from __future__ import annotations

from pathlib import Path

from bertx.manifest import MODULE
from bertx.runtimes.native.npm import Npm


class TransformersJs(Npm):
    name = "transformers-js"
    reads = frozenset({"onnx"})
    engine = ("@huggingface/transformers", "4.3.1")
    takes_texts = True
    script = "transformers.mjs"

    def refuses(self, artifact: Path, task: str) -> str | None:
        return "transformers.js runs models of transformers" if task == MODULE else None


RUNTIME = TransformersJs()
