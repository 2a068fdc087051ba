"""Ctrl-C and SIGTERM while an exporter works: the exit code of a shell, nothing left behind, no traceback."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

#: moment -> the pattern, below the test's folder, of what is there from then on
MOMENTS = {"writing": "out/.bundle.bertx-stage-*", "verifying": "temporary/bertx-*"}
SECONDS = 60
#: exit code -> the last line
ENDED = {
    130: "bertx: error[E_INTERRUPTED]: it was interrupted; run it again\n",
    143: "bertx: error[E_TERMINATED]: it was asked to end; run it again\n",
}

#: interrupts this process when numpy is imported, and makes another error of it
HALF_IMPORTED = """
import os, signal, sys

class Interrupted:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy":
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except BaseException as error:
                raise ImportError("cannot load module more than once per process") from error

sys.meta_path.insert(0, Interrupted())
"""

#: interrupts this process in a callback of the import system, which swallows what is raised there
IN_A_CALLBACK = """
import os, signal, sys

CALLBACK = compile("os.kill(os.getpid(), signal.SIGTERM)\\nsum(range(9))", "<frozen importlib._bootstrap>", "exec")

class Interrupted:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            sys.meta_path.remove(self)
            try:
                exec(CALLBACK, {"os": os, "signal": signal})
            except BaseException:
                pass

sys.meta_path.insert(0, Interrupted())
"""

#: interrupts this process where an object is taken apart, which swallows what is raised there
IN_DEL = """
import os, signal, sys

class Dying:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        sum(range(9))

class Interrupted:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            sys.meta_path.remove(self)
            Dying()

sys.meta_path.insert(0, Interrupted())
"""


def wait_for(found: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    started = time.monotonic()
    while not found():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() - started < SECONDS
        time.sleep(0.02)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_trace_leaves_nothing_behind(
    sent: signal.Signals,
    code: int,
    moment: str,
    start: Callable[..., subprocess.Popen[str]],
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    for name in ("out", "temporary", "cache"):
        (tmp_path / name).mkdir()
    # A cache of its own, so that the reference is computed and not remembered.
    process = start(
        "trace",
        checkpoint("feature-extraction"),
        "-o",
        tmp_path / "out" / "bundle",
        TMPDIR=str(tmp_path / "temporary"),
        BERTX_CACHE=str(tmp_path / "cache"),
    )
    wait_for(lambda: any(tmp_path.glob(MOMENTS[moment])), process)
    time.sleep(0.5)
    runners = psutil.Process(process.pid).children(recursive=True)
    assert bool(runners) is (moment == "verifying")
    os.killpg(process.pid, sent)  # as a terminal sends it: to all of its foreground processes
    out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, out, err) == (code, "", ENDED[code])
    assert list((tmp_path / "out").iterdir()) == []
    assert list((tmp_path / "temporary").glob("bertx-*")) == []
    assert psutil.wait_procs(runners, timeout=5)[1] == []


def test_an_interrupt_while_numpy_is_loading_is_no_bug(
    start: Callable[..., subprocess.Popen[str]], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """A native module that is interrupted while it is loaded fails with an ImportError of its own."""
    (tmp_path / "sitecustomize.py").write_text(HALF_IMPORTED, "utf-8")
    process = start("to-onnx", checkpoint("feature-extraction"), "-o", tmp_path / "out", PYTHONPATH=str(tmp_path))
    _, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, err) == (130, "bertx: error[E_INTERRUPTED]: it was interrupted; run it again\n")


@pytest.mark.parametrize("place", [IN_A_CALLBACK, IN_DEL], ids=["import", "del"])
def test_an_interrupt_where_it_would_be_swallowed_is_put_off_until_it_can_be_told(
    place: str, start: Callable[..., subprocess.Popen[str]], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """The import system has callbacks that swallow exceptions, and locks that it then never opens again."""
    (tmp_path / "sitecustomize.py").write_text(place, "utf-8")
    command = ("trace", checkpoint("feature-extraction"), "-o", tmp_path / "out", "--no-verify")
    process = start(*command, PYTHONPATH=str(tmp_path))
    _, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, err) == (143, "bertx: error[E_TERMINATED]: it was asked to end; run it again\n")
    assert not (tmp_path / "out").exists()


def test_an_interrupted_exporter_leaves_the_old_bundle(
    start: Callable[..., subprocess.Popen[str]],
    checkpoint: Callable[[str], Path],
    unverified: Callable[..., Path],
    tmp_path: Path,
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(unverified("feature-extraction", "onnx"), bundle)
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    process = start("trace", checkpoint("feature-extraction"), "-o", bundle, "--no-verify")
    wait_for(lambda: any(tmp_path.glob(".bundle.bertx-stage-*")), process)
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=SECONDS)
    assert process.returncode == 143
    assert {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
