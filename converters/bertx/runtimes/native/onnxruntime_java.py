"""Runtime `onnxruntime-java`: ONNX Runtime in Java, with the library that its jar brings."""

from __future__ import annotations

from bertx.runtimes.native.maven import Maven


class OnnxRuntimeJava(Maven):
    name = "onnxruntime-java"
    reads = frozenset({"onnx"})
    engine = ("onnxruntime", "1.29.0")
    module = "onnxruntime"
    main = "bertx.OnnxRuntime"
    not_on_cpu = frozenset({"bfloat16"})


RUNTIME = OnnxRuntimeJava()
