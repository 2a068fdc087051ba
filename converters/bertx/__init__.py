"""bertx exports encoder checkpoints and proves that each file computes what eager PyTorch computes.

Importing this package loads nothing heavy: the names below are resolved on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "BertxError",
    "Checkpoint",
    "Export",
    "Verification",
    "export",
    "export_module",
    "fetch",
    "record",
    "verify",
]

if TYPE_CHECKING:
    from bertx.api import Export, Verification, export, fetch, verify
    from bertx.checkpoint import Checkpoint
    from bertx.errors import BertxError
    from bertx.plain import export_module
    from bertx.recorder import record

_HOMES = {
    "BertxError": "bertx.errors",
    "Checkpoint": "bertx.checkpoint",
    "export_module": "bertx.plain",
    "record": "bertx.recorder",
}


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module(_HOMES.get(name, "bertx.api")), name)
    raise AttributeError(f"module 'bertx' has no attribute {name!r}")
