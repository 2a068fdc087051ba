"""Runtime `djl`: TorchScript in Java, in DJL's PyTorch engine with the libtorch that its jar brings."""

from __future__ import annotations

from pathlib import Path

from bertx.runtimes.native.maven import Maven


class Djl(Maven):
    name = "djl"
    reads = frozenset({"torchscript"})
    engine = ("pytorch-native-cpu", "2.7.1")
    module = "djl"
    main = "bertx.Djl"

    def program(self, product: Path) -> list[str]:
        java, *words = super().program(product)
        # DJL unpacks libtorch out of its jar before the first run, into a folder of our choosing, and asks nobody.
        return [java, "-Dai.djl.offline=true", f"-DDJL_CACHE_DIR={self.room / 'djl'}", *words]


RUNTIME = Djl()
