"""A process ends at once, and loses nothing that it said."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import atexit, sys
from bertx.ending import leave

atexit.register(lambda: sys.stderr.write("taken apart"))
sys.stdout.write("said")
sys.stderr.write("told")
leave(3)
"""


def test_what_was_said_is_written_and_nothing_is_taken_apart() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "said", "told")


def test_a_closed_standard_output_does_not_change_the_exit_code() -> None:
    program = PROGRAM.replace("leave(3)", "__import__('os').close(1)\nleave(3)")
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, timeout=60)
    assert ended.returncode == 3
