"""Running a program: its time, its memory, its last words, and everything it started is ended with it."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from bertx.runtimes.process import Limits, run
from program import gone, wait_until


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


def test_what_it_leaves_in_the_temp_folder_goes_with_it(tmp_path: Path) -> None:
    note = tmp_path / "place"
    leave = f"import os, tempfile; _, left = tempfile.mkstemp(); open({str(note)!r}, 'w').write(left); os.abort()"
    ended = run(python(leave), Limits())
    assert ended.reason == "was ended by SIGABRT: said nothing"
    left = Path(note.read_text())
    assert left.parent != Path(tempfile.gettempdir())
    assert not left.parent.exists()


def test_what_a_hanging_program_started_is_ended_with_it(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    start = (
        f"import subprocess, time; p = subprocess.Popen(['sleep', '60']); open({str(note)!r}, 'w').write(str(p.pid))"
    )
    ended = run(python(f"{start}; time.sleep(60)"), Limits(seconds=1.5))
    assert ended.reason == "did not end within 1.5 s"
    wait_until(lambda: gone(int(note.read_text())))


def test_a_program_over_its_memory_is_ended() -> None:
    ended = run(python("x = bytearray(300 * 2**20); import time; time.sleep(60)"), Limits(memory_bytes=200 * 2**20))
    assert ended.reason == "used more than its 200 MiB of memory"
    assert ended.seconds < 30


#: bertx, with a runner that starts a program: process ids go to the file that is named
KILLED = """
import sys
from bertx.runtimes.process import Limits, run
run(["sh", "-c", "sleep 600 & echo $$ $! $PPID > $0.new; mv $0.new $0; wait", sys.argv[1]], Limits())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no groups of processes")
def test_a_program_in_any_language_and_what_it_started_end_when_bertx_is_killed(tmp_path: Path) -> None:
    note = tmp_path / "pids"
    bertx = subprocess.Popen([sys.executable, "-c", KILLED, note])
    wait_until(note.exists)
    *runner, parent = map(int, note.read_text().split())
    assert (parent, list(map(gone, runner))) == (bertx.pid, [False, False])
    bertx.send_signal(signal.SIGKILL)
    bertx.wait()
    wait_until(lambda: all(map(gone, runner)))


def test_nothing_is_left_of_what_watches_over_a_program() -> None:
    run(python("pass"), Limits())
    assert psutil.Process().children() == []
