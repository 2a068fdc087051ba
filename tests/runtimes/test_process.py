"""Running a program: its time, its memory, its last words, and everything it started is ended with it."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import psutil

from bertx.runtimes.process import Limits, run


def python(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_a_program_that_ends_well_has_no_reason() -> None:
    ended = run(python("import time; time.sleep(0.2)"), Limits())
    assert (ended.reason, ended.exit_code) == (None, 0)
    assert ended.seconds >= 0.2
    assert ended.peak_rss_bytes > 2**20


def test_the_last_line_on_standard_error_is_the_reason() -> None:
    ended = run(python("import sys; sys.exit('first\\n\\nlast')"), Limits())
    assert ended.reason == "exit 1: last"


def test_a_silent_failure_says_so() -> None:
    assert run(python("raise SystemExit(3)"), Limits()).reason == "exit 3: said nothing"


def test_a_signal_is_named() -> None:
    ended = run(python("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"), Limits())
    assert ended.reason == "was ended by SIGSEGV: said nothing"


def test_a_program_that_does_not_exist_is_a_reason() -> None:
    assert run(["./no-such-program"], Limits()).reason == "cannot be started: No such file or directory"


def test_standard_input_is_empty() -> None:
    assert run(python("import sys; sys.exit(len(sys.stdin.read()))"), Limits()).exit_code == 0


def test_what_a_hanging_program_started_is_ended_with_it(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    start = (
        f"import subprocess, time; p = subprocess.Popen(['sleep', '60']); open({str(note)!r}, 'w').write(str(p.pid))"
    )
    ended = run(python(f"{start}; time.sleep(60)"), Limits(seconds=1.5))
    assert ended.reason == "did not end within 1.5 s"
    left = int(note.read_text())
    deadline = time.monotonic() + 5
    while psutil.pid_exists(left) and psutil.Process(left).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_program_over_its_memory_is_ended() -> None:
    ended = run(python("x = bytearray(300 * 2**20); import time; time.sleep(60)"), Limits(memory_bytes=200 * 2**20))
    assert ended.reason == "used more than its 200 MiB of memory"
    assert ended.seconds < 30
