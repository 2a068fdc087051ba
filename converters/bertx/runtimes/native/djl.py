"""Runtime `djl`: TorchScript in Java, in DJL's PyTorch engine with the libtorch that its jar brings."""

from __future__ import annotations

from bertx.runtimes.native.maven import Maven


class Djl(Maven):
    name = "djl"
    reads = frozenset({"torchscript"})
    engine = ("pytorch-native-cpu", "2.7.1")
    module = "djl"
    main = "bertx.Djl"


RUNTIME = Djl()
