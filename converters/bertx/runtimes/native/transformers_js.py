"""Runtime `transformers-js`: ONNX in transformers.js on Node.js, from a folder laid out as the Hub's."""

from __future__ import annotations

from bertx.runtimes.native.npm import Npm


class TransformersJs(Npm):
    name = "transformers-js"
    reads = frozenset({"onnx"})
    engine = ("@huggingface/transformers", "4.3.1")
    script = "transformers.mjs"


RUNTIME = TransformersJs()
