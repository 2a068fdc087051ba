"""Which TorchScript files bertx wrote on this machine: loading any other would run code of unknown origin.

Each is an empty file named by its sha256 in a folder of the cache, so that two writers never disturb each other.
"""

from __future__ import annotations

import re
from pathlib import Path

_HASH = re.compile(r"[0-9a-f]{64}")


def _folder(cache: Path) -> Path:
    return cache / "torchscript"


def remember(cache: Path, sha256: str) -> bool:
    """Records that bertx wrote a file with this hash. False where the cache cannot be written."""
    try:
        _folder(cache).mkdir(parents=True, exist_ok=True)
        (_folder(cache) / sha256).touch()
    except OSError:
        return False
    return True


def known(cache: Path, sha256: str) -> bool:
    """Whether bertx wrote a file with this hash here."""
    return bool(_HASH.fullmatch(sha256)) and (_folder(cache) / sha256).is_file()
