"""What tests say of the program under test: how a run of it ended, and where real models lie."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

#: the repository
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Ran:
    """How a run of the program ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def results(self) -> list[Any]:
        """The results of the report, without runtimes in other languages that are not built here."""
        return [each for each in self.json["results"] if not (each["reason"] or "").startswith("not ready: ")]


def package_folder(package: str, folder: str) -> Path:
    """A folder inside an installed package, found without importing it; skips the test where it is not installed."""
    found = importlib.util.find_spec(package)
    for place in (found.submodule_search_locations or ()) if found else ():
        if (Path(place) / folder).is_dir():
            return Path(place) / folder
    pytest.skip(f"the package {package} is not installed: pip install 'bertx[dev]'")


def ready_or_skip(runtime: Any) -> Any:
    """The runtime where it is ready; skips the test, with what it lacks, where it is not."""
    lacking = runtime.missing()
    if lacking:
        pytest.skip(f"{runtime.name} is not ready: {lacking}")
    return runtime


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    """Waits until something holds; fails the test where it does not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def gone(process: int) -> bool:
    """Whether a process has ended; one that nobody waited for may lie there dead."""
    try:
        return bool(psutil.Process(process).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
