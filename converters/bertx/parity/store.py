"""References that were computed before, kept in the cache folder: the same question is not asked of PyTorch twice.

An entry is a folder named by the hash of everything that decides the answer. It is used only if its own hashes hold;
whatever is wrong with it, the reference is computed anew. The oldest entries go when all of them exceed a limit.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bertx
import bertx.bundle as bundle
from bertx.checkpoint import Checkpoint
from bertx.runtimes.protocol import read_tensors

#: bytes that all entries may have together
MOST = 4 * 2**30
_FILES = ("exact.safetensors", "rounded.safetensors")
_FACTS = "facts.json"


def key(checkpoint: Checkpoint, cases: Path, dtype: str, device: str) -> str:
    """A hash of the weights, the files beside them, the cases (task and signature are in them), dtype, device,
    versions and processor count."""
    from importlib.metadata import version

    files = [*checkpoint.weight_files(), *(checkpoint.folder / name for name in checkpoint.companions())]
    decided = {
        "files": {path.relative_to(checkpoint.folder).as_posix(): bundle.sha256(path) for path in files},
        "cases": _content(cases),
        "dtype": dtype,
        "device": device,
        "processors": os.cpu_count(),
        "bertx": bertx.__version__,
        "versions": {name: version(name) for name in ("torch", "transformers", "numpy", "safetensors")},
    }
    return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()


def _content(cases: Path) -> str:
    """A hash of the tensors and metadata of a file of cases; the order in which the file has them varies."""
    tensors = read_tensors(cases)
    digest = hashlib.sha256(json.dumps(sorted(tensors.metadata.items())).encode())
    for case, inputs in sorted(tensors.arrays.items()):
        for name, array in sorted(inputs.items()):
            digest.update(f"{case}/{name} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def load(cache: Path, name: str) -> tuple[Path, Path] | None:
    """(exact, rounded) of an entry whose hashes hold, None where there is none."""
    folder = cache / "references" / name
    try:
        facts = json.loads((folder / _FACTS).read_text("utf-8"))
        if all(bundle.sha256(folder / file) == facts[file] for file in _FILES):
            os.utime(folder)
            return folder / _FILES[0], folder / _FILES[1]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def save(cache: Path, name: str, exact: Path, rounded: Path) -> None:
    """Moves a computed reference into the cache, whole or not at all; a cache that cannot be written is no error."""
    home = cache / "references"
    with contextlib.suppress(OSError):
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=home) as temporary:
            entry = Path(temporary) / "entry"
            entry.mkdir()
            facts: Mapping[str, Any] = {
                file: bundle.sha256(path) for file, path in zip(_FILES, (exact, rounded), strict=True)
            }
            for file, path in zip(_FILES, (exact, rounded), strict=True):
                shutil.move(path, entry / file)
            (entry / _FACTS).write_text(json.dumps(facts), "utf-8")
            entry.rename(home / name)
        _prune(home)


def _prune(home: Path) -> None:
    """Removes the entries used longest ago until the rest fit."""
    entries = sorted(
        (path for path in home.iterdir() if not path.name.startswith(".")), key=lambda p: p.stat().st_mtime
    )
    sizes = {entry: sum(file.stat().st_size for file in entry.iterdir()) for entry in entries}
    total = sum(sizes.values())
    for entry in entries[:-1]:
        if total <= MOST:
            return
        total -= sizes[entry]
        shutil.rmtree(entry, ignore_errors=True)
