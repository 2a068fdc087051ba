"""A bundle survives what comes at any moment: kill -9, and a disk that is full."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bertx import manifest
from bertx.bundle import disk_errors, is_bundle, stage, verify_files
from bertx.errors import LocalProblem
from bertx.manifest import Manifest, Source

EMPTY = Manifest("0.1.0", Source("bert", None, None, {}), "fill-mask", "BertForMaskedLM", (), {})
linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux")
posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks, and limits the size of files")

#: Publishes bundle A, then B, then A … until it is killed. All files but one name their bundle.
WRITER = """
import os, sys, time
from pathlib import Path
from bertx import exchange
from bertx.bundle import stage
from bertx.manifest import Manifest, Source

FILES = ("config.json", "onnx/model.onnx", "torchscript/model.pt", "{name}/only")

def write(output, name):
    source = Source(name, None, None, {})
    with stage(output) as staged:
        for file in FILES:
            staged.remove(file.format(name="B" if name == "A" else "A"))
            staged.path(file.format(name=name)).write_text(name * 5000)
        if staged.old is None:
            staged.path("vocab.txt").write_text("kept")
        staged.publish(Manifest("0", source, "fill-mask", "Bert", (), {}))
        return name

output = Path(sys.argv[1])
if sys.argv[2] == "pair":
    exchange.exchange_folders = lambda first, second: False
write(output, "A")
begun = time.monotonic()
write(output, "B")
write(output, "A")
print(time.monotonic() - begun, flush=True)
# Each line asks for a writer of its own: a fork costs a millisecond, an interpreter fifty.
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        print(os.getpid(), flush=True)
        while True:
            write(output, "B")
            write(output, "A")
    _, status = os.waitpid(child, 0)
    print(os.WTERMSIG(status), flush=True)
"""


class Writers:
    """A process that starts a writer on each line it gets, and says how that ended."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._ask, self._answers = process.stdin, process.stdout
        #: Seconds that two publications take on this disk.
        self.round = float(self._answers.readline())

    def kill_one(self, after: float) -> None:
        """Starts a writer and kills it after so many seconds."""
        print(file=self._ask, flush=True)
        writer = int(self._answers.readline())
        time.sleep(after)
        os.kill(writer, signal.SIGKILL)
        assert int(self._answers.readline()) == signal.SIGKILL


@contextmanager
def writers(output: Path, way: str) -> Iterator[Writers]:
    command = [sys.executable, "-c", WRITER, str(output), way]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Writers(process)


def held(output: Path) -> str:
    """The name of the bundle that is there, after a look at every byte of it."""
    found = manifest.read(output)
    name = found.source.checkpoint
    assert verify_files(output, found) == []
    files = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    assert files == {*found.files, manifest.NAME}
    assert files >= {"vocab.txt", f"{name}/only"}
    changing = files - {"vocab.txt", manifest.NAME}
    assert {(output / path).read_text() for path in changing} == {name * 5000}
    return name


def beside(output: Path) -> list[str]:
    return sorted(path.name for path in output.parent.iterdir() if path != output)


@posix
@pytest.mark.parametrize(("way", "kills"), [("exchange", 250), ("pair", 150)])
def test_a_killed_writer_leaves_one_whole_bundle(tmp_path: Path, way: str, kills: int) -> None:
    output, moments = tmp_path / "room" / "out", random.Random(0)
    seen, interrupted = set(), 0
    with writers(output, way) as killed:
        for _ in range(kills):
            killed.kill_one(after=moments.uniform(0, 2 * killed.round))
            interrupted += any("bertx-" in name for name in beside(output))
            if way == "pair" and not is_bundle(output):  # between its two renames
                with stage(output):
                    pass
            seen.add(held(output))
    assert seen == {"A", "B"}
    assert interrupted > kills / 10, "the kills came at moments when nothing was under way"
    with stage(output) as staged:
        assert staged.old == manifest.read(output)
    held(output)
    assert beside(output) == []


# -- the disk


@posix
def test_a_full_disk_keeps_the_old_bundle(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: making one takes rights."""
    program = textwrap.dedent("""
        import resource, sys
        from pathlib import Path
        from bertx.bundle import stage
        from bertx.errors import LocalProblem
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        try:
            with stage(Path(sys.argv[1])) as staged:
                staged.path("a").write_bytes(bytes(2 << 20))
        except LocalProblem as error:
            print(error.code, error.exit_code, error.hint)
    """)
    output = tmp_path / "room" / "out"
    with stage(output) as staged:
        staged.path("a").write_text("old")
        staged.publish(EMPTY)
    command = [sys.executable, "-c", program, str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "E_DISK 5 free some space, or name an output elsewhere\n"
    assert (output / "a").read_text() == "old"
    assert verify_files(output, manifest.read(output)) == []
    assert beside(output) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_a_local_problem() -> None:
    with (
        pytest.raises(LocalProblem) as refused,
        disk_errors(),
        Path("/dev/full").open("wb", buffering=0) as disk,
    ):
        disk.write(b"x")
    assert (refused.value.code, refused.value.exit_code) == ("E_DISK", 5)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_a_local_problem(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(LocalProblem) as refused, stage(tmp_path / "out"):
        pass
    assert refused.value.code == "E_DISK"


@linux
def test_a_folder_that_cannot_be_made_is_a_local_problem() -> None:
    for output in ("/proc/new/out", "/proc/out"):
        with pytest.raises(LocalProblem) as refused, stage(Path(output)):
            pass
        assert refused.value.code == "E_DISK"


def test_other_errors_of_the_system_are_not_the_disks() -> None:
    with pytest.raises(FileNotFoundError), disk_errors():
        Path("/nothing/here").read_bytes()
