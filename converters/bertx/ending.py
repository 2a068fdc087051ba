"""How a process ends: at once."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NoReturn


def leave(status: int) -> NoReturn:
    """Ends the process without taking the interpreter apart: 0.01 s, and half a second with PyTorch's libraries.

    What is still buffered is written; nothing that was registered with atexit runs.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(status)
