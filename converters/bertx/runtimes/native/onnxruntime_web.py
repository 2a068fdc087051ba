"""Runtime `onnxruntime-web`: ONNX in WebAssembly on a page in headless Chromium, served on loopback."""

from __future__ import annotations

import shutil
from pathlib import Path

from bertx.runtimes.native import Tool
from bertx.runtimes.native.npm import Npm

_BROWSER = "chromium"


class OnnxRuntimeWeb(Npm):
    name = "onnxruntime-web"
    reads = frozenset({"onnx"})
    engine = ("onnxruntime-web", "1.30.0")
    tools = (*Npm.tools, Tool(_BROWSER, "Chromium (apt install chromium)"))
    script = "browser.mjs"
    parts = ("browser.html",)

    def program(self, product: Path) -> list[str]:
        return [*super().program(product), "--browser", str(shutil.which(_BROWSER))]


RUNTIME = OnnxRuntimeWeb()
