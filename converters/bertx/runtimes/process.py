"""Starting, timing, limiting and reading back a runner: stands once, serves every runtime.

A crash, an out-of-memory kill or a hang is that artifact's verdict, never the tool's end; and the tool's end, a kill
included, is the runner's.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from bertx.errors import CODES, BertxError, InputRefused, LocalProblem, NotCompared, SourceUnavailable, escape
from bertx.runtimes.group import group

_INTERVAL = 0.05  # seconds between looks at a runner's memory
_STDERR = 1 << 16  # bytes of a runner's last words that are read


@dataclass(frozen=True)
class Limits:
    """What a runner may use: seconds of wall clock, bytes of resident memory (None: most of what is free).

    `stop`, once set, ends it.
    """

    seconds: float = 600.0
    memory_bytes: int | None = None
    stop: threading.Event | None = None


@dataclass(frozen=True)
class Ended:
    """How a program ended. `reason` is None when it exited with 0."""

    seconds: float
    peak_rss_bytes: int
    reason: str | None
    exit_code: int | None


def threads() -> int:
    """How many threads a runner should compute with: two run side by side, and threads that wait for a processor
    spin, so that two runners with a thread for each processor take several times as long as with half of them."""
    return max(1, (os.cpu_count() or 1) // 2)


def run(command: Sequence[str], limits: Limits) -> Ended:
    """Runs a program to its end or to a limit. Its standard output is thrown away; its last words become the reason."""
    import psutil

    most = limits.memory_bytes or int(psutil.virtual_memory().available * 0.95)
    started = time.monotonic()
    with tempfile.TemporaryFile() as errors, _room() as room:
        peak, reason = 0, None
        with group() as start:
            try:
                silent = subprocess.DEVNULL
                process = start(command, stdin=silent, stdout=silent, stderr=errors, env=_environment(room))
            except OSError as error:
                return Ended(0.0, 0, f"cannot be started: {escape(error.strerror)}", None)
            with contextlib.suppress(psutil.NoSuchProcess):
                watched = psutil.Process(process.pid)
                while reason is None and _alive(process):
                    with contextlib.suppress(psutil.Error):
                        peak = max(peak, watched.memory_info().rss)
                    if limits.stop is not None and limits.stop.is_set():
                        reason = "was stopped"
                    elif peak > most:
                        reason = f"used more than its {most // 2**20} MiB of memory"
                    elif time.monotonic() - started > limits.seconds:
                        reason = f"did not end within {limits.seconds:g} s"
        code = process.returncode
        return Ended(time.monotonic() - started, peak, reason or _reason(code, errors), code)


def _room() -> tempfile.TemporaryDirectory[str]:
    """A folder for what a runner leaves in the temp folder: it goes with it, however it ends."""
    return tempfile.TemporaryDirectory(prefix="bertx-", ignore_cleanup_errors=True)


def _environment(room: str) -> dict[str, str]:
    """A runner's environment: that of bertx, its own temp folder, and no telemetry.

    ONNX Runtime from 1.31 on collects what it runs in a database in the user's home, to send it.
    """
    return {**os.environ, "ORT_DISABLE_TELEMETRY": "1", **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), room)}


def _alive(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(_INTERVAL)
    except subprocess.TimeoutExpired:
        return True
    return False


def _reason(code: int, stream: IO[bytes]) -> str | None:
    if code == 0:
        return None
    stream.seek(0, os.SEEK_END)
    stream.seek(max(0, stream.tell() - _STDERR))
    lines = [line for line in stream.read().decode("utf-8", "replace").splitlines() if line.strip()]
    last = escape(lines[-1], 900) if lines else "said nothing"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}: {last}"
    return f"exit {code}: {last}"


def refusal(ended: Ended) -> BertxError | None:
    """What a Python runner refused, as the exception it was there: its last line names the code, its exit the class."""
    told = re.fullmatch(r"exit \d+: (E_[A-Z_]+): (.*); (.*)", ended.reason or "")
    kinds = {kind.exit_code: kind for kind in (InputRefused, LocalProblem, SourceUnavailable)}
    if told is None or told[1] not in CODES or ended.exit_code not in kinds:
        return None
    return kinds[ended.exit_code](told[1], told[2], told[3])


def unsupported(ended: Ended) -> str | None:
    """What a runtime's library lacks for an artifact, in the words of its runner; None where it ended otherwise."""
    told = re.fullmatch(r"exit \d+: E_UNSUPPORTED: (.+)", ended.reason or "")
    return told[1] if told and ended.exit_code == NotCompared.exit_code else None
