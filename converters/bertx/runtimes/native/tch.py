"""Runtime `tch`: TorchScript in libtorch through tch, CModule::forward_ts with the inputs by position."""

from __future__ import annotations

from bertx.runtimes.native.cargo import Cargo


class Tch(Cargo):
    name = "tch"
    reads = frozenset({"torchscript"})
    engine = ("tch", "0.26.0")
    modules = ("torch",)
    distributions = ("torch",)
    torch = "2.13.0"


RUNTIME = Tch()
