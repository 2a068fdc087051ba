"""Programs that end together: with the block that starts them, and with bertx, however that ends.

Nothing that is killed can end what it started. So the programs share a process group with a guard, which waits for its
standard input to end, as it does when bertx is killed, and then kills the group. A program joins the group before it
lets go of its copy of that pipe, so that none is started too late to be killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

_GUARD = ("/bin/sh", "-c", "read -r _; kill -KILL 0")


@contextmanager
def group() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Gives what starts programs, by their words and Popen's options; they and what they start end with the block.

    Starting raises OSError where it cannot be done. (Windows has no such groups: there the programs alone end.)
    """
    guard: subprocess.Popen[bytes] | None = None
    started: list[subprocess.Popen[bytes]] = []

    def start(words: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        nonlocal guard
        if guard is None and os.name == "posix":
            guard = _guard()
        started.append(subprocess.Popen(list(words), process_group=guard.pid if guard else None, **options))
        return started[-1]

    try:
        yield start
    finally:
        if guard is not None:
            with suppress(ProcessLookupError, PermissionError), guard:
                os.killpg(guard.pid, signal.SIGKILL)
        for process in started:
            process.kill()
            process.wait()


def _guard() -> subprocess.Popen[bytes]:
    silent = subprocess.DEVNULL
    return subprocess.Popen(_GUARD, stdin=subprocess.PIPE, stdout=silent, stderr=silent, process_group=0)
