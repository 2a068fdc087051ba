"""How a process ends that has loaded PyTorch: at once."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NoReturn


def leave(status: int) -> NoReturn:
    """Ends the process without taking the interpreter apart, for which PyTorch's libraries need half a second.

    What is still buffered is written; nothing that was registered with atexit runs.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(status)
