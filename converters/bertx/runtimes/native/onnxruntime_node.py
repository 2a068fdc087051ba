"""Runtime `onnxruntime-node`: ONNX Runtime in Node.js, with the library that its package brings."""

from __future__ import annotations

from bertx.runtimes.native.npm import Npm


class OnnxRuntimeNode(Npm):
    name = "onnxruntime-node"
    reads = frozenset({"onnx"})
    engine = ("onnxruntime-node", "1.30.0")
    script = "onnxruntime.mjs"


RUNTIME = OnnxRuntimeNode()
