"""kill -9 at random moments of each exporter leaves the old bundle or the new one, and the next run cleans up."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bertx.bundle import verify_files
from bertx.manifest import read
from program import Ran

#: exporter -> the options with which it rebuilds its artifact otherwise than before
EXPORTERS = {
    "to-safetensors": ("--dtype", "float16"),
    "trace": ("--output-name", "pooler_output"),
    "to-onnx": ("--opset", "19"),
}
KILLS = 18  # of each exporter, 54 in all


@pytest.fixture(scope="module")
def bundle(bertx: Callable[..., Ran], tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed") / "out"
    for exporter in EXPORTERS:
        ran = bertx(exporter, tiny, "-o", folder)
        assert ran.code == 0, ran.err
    return folder


def _timed(bertx: Callable[..., Ran], *arguments: str | Path) -> float:
    started = time.monotonic()
    ran = bertx(*arguments)
    assert ran.code == 0, ran.err
    return time.monotonic() - started


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_killed_exporter_leaves_the_old_bundle_or_the_new_one(
    exporter: str, bertx: Callable[..., Ran], bundle: Path, tiny: Path, environment: dict[str, str]
) -> None:
    command = [sys.executable, "-m", "bertx", exporter, str(tiny), "-o", str(bundle)]
    draw = random.Random(exporter)
    old = read(bundle)
    other = EXPORTERS[exporter]
    seconds = {options: _timed(bertx, exporter, tiny, "-o", bundle, *options) for options in ((), other)}
    assert old.files != read(bundle).files
    ended = {"killed": 0, "done": 0}
    for k in range(KILLS):
        options = other if k % 2 else ()
        process = subprocess.Popen(
            [*command, *options], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(draw.uniform(0.1, 0.95) * seconds[options])
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        ended["killed" if process.wait() == -signal.SIGKILL else "done"] += 1
        left = read(bundle)
        assert verify_files(bundle, left) == []
        assert {a.path for a in left.artifacts} <= set(left.files)
        assert {a.path for a in old.artifacts} <= {a.path for a in left.artifacts}
    assert ended["killed"] >= KILLS // 2
    assert bertx(exporter, tiny, "-o", bundle).code == 0
    assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]
