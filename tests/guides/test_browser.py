"""docs/guides/browser: the page embeds sentences in headless Chromium as sentence-transformers does in Python."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertx.cli.options import cache_folder
from bertx.runtimes import runtime_named
from bertx.runtimes.native import Native
from program import ROOT

GUIDE = ROOT / "docs" / "guides" / "browser"
TEXTS = [
    "How do I reset my password?",
    "I forgot my login and cannot get in.",
    "The bakery opens at seven.",
    "Wie setze ich mein Paßwort zurück? Über das Menü!",
    "ΟΔΥΣΣΕΥΣ",  # of the last letter JavaScript makes another one than Python
    "Never mind, I found the reset link in the mail. " * 60,  # beyond the 256 tokens that count
]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def packages() -> Path:
    """The folder whose node_modules has transformers.js and Playwright: that of the runtime in the browser."""
    runtime = runtime_named("onnxruntime-web").at(cache_folder())
    assert isinstance(runtime, Native)
    lacking = runtime.missing()
    if lacking:
        pytest.skip(f"{runtime.name} is not ready: {lacking}")
    return runtime.product


@pytest.fixture(scope="module")
def site(packages: Path, minilm_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the site that the guide lays out, served on loopback."""
    folder = tmp_path_factory.mktemp("site")
    library = packages / "node_modules" / "@huggingface" / "transformers"
    runtime = next(p for p in (library / "node_modules", packages / "node_modules") if (p / "onnxruntime-web").is_dir())
    (folder / "ort").mkdir()
    shutil.copy(GUIDE / "index.html", folder)
    shutil.copy(library / "dist" / "transformers.min.js", folder)
    for file in (runtime / "onnxruntime-web" / "dist").glob("ort-wasm-simd-threaded.asyncify.*"):
        shutil.copy(file, folder / "ort")
    (folder / "bundle").symlink_to(minilm_bundle)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_the_page_shows_what_python_computes(site: str, packages: Path, minilm: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    (tmp_path / "texts.json").write_text(json.dumps(TEXTS), "utf-8")
    arguments = [packages, site, tmp_path / "page.png", tmp_path / "texts.json"]
    ended = subprocess.run(
        ["node", str(Path(__file__).parent / "visit.mjs"), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "CHROMIUM": str(shutil.which("chromium"))},
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    page = json.loads(ended.stdout)
    assert (page["errors"], page["elsewhere"]) == ([], [])
    expected = np.asarray(SentenceTransformer(str(minilm), device="cpu").encode(TEXTS))
    assert np.abs(np.asarray(page["embeddings"]) - expected).max() < 1e-6
    shown = [
        [f"{similarity:.3f}", text] for similarity, text in zip(expected[1:] @ expected[0], TEXTS[1:], strict=True)
    ]
    assert page["shown"] == shown
    assert (tmp_path / "page.png").stat().st_size > 1000
