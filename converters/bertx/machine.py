"""What of this machine bertx can use: runtimes with their versions, devices, dictionaries; nothing heavy is imported.

found = examine(cache, hub_cache)
found.to_json()  # bertx.doctor/1
"""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bertx
from bertx.errors import LocalProblem
from bertx.formats import registry as formats
from bertx.runtimes import Runtime, absent, installed
from bertx.runtimes import registry as runtimes
from bertx.runtimes.cuda import Driver, driver
from bertx.runtimes.native import Native

SCHEMA = "bertx.doctor/1"

#: distribution -> (its import package, what it is for)
DICTIONARIES = {
    "fugashi": ("fugashi", "MeCab, which splits Japanese text into words"),
    "unidic-lite": ("unidic_lite", "dictionary of bert-base-japanese-v2 and v3"),
    "ipadic": ("ipadic", "dictionary of bert-base-japanese v1"),
}


@dataclass(frozen=True)
class RuntimeState:
    """A runtime: `missing` is what to install or run, None when it is ready; `versions` by name.

    `native` says that it is one of the programs in other languages that `bertx build` compiles; the `state` "not
    built" is that of one for which nothing else is missing.
    """

    name: str
    native: bool
    state: str
    reads: tuple[str, ...]
    missing: str | None
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "native": self.native,
            "state": self.state,
            "reads": list(self.reads),
            "versions": self.versions,
            "missing": self.missing,
        }


@dataclass(frozen=True)
class Dictionary:
    """A package that Japanese tokenizers need; `version` is None where it is not installed."""

    name: str
    purpose: str
    version: str | None

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "purpose": self.purpose, "version": self.version}


@dataclass(frozen=True)
class Folder:
    """A cache folder, whether it can be written, and the free bytes of its disk."""

    path: Path
    writable: bool
    free_bytes: int

    def to_json(self) -> dict[str, Any]:
        return {"path": str(self.path), "writable": self.writable, "free_bytes": self.free_bytes}


@dataclass(frozen=True)
class Machine:
    """What was found. Memory in bytes, `cores` those that this process may use."""

    python: str
    platform: str
    processor: str
    cores: int
    memory_bytes: int
    free_memory_bytes: int
    driver: Driver | None
    runtimes: tuple[RuntimeState, ...]
    dictionaries: tuple[Dictionary, ...]
    cache: Folder
    hub_cache: Folder

    def unread(self) -> dict[str, tuple[str, ...]]:
        """Format -> what to install, any of it, for each format that no runtime here reads."""
        lacking: dict[str, tuple[str, ...]] = {}
        for name in formats():
            readers = [runtime for runtime in self.runtimes if name in runtime.reads]
            if all(runtime.missing for runtime in readers):
                shortest = [runtime.missing for runtime in readers if runtime.missing and not runtime.native]
                lacking[name] = tuple(dict.fromkeys(shortest))
        return lacking

    def problem(self) -> LocalProblem | None:
        """What keeps bertx from verifying some format here; None where each has a runtime."""
        lacking = self.unread()
        if not lacking:
            return None
        install = "; ".join(dict.fromkeys(" or ".join(hints) or "install one" for hints in lacking.values()))
        return LocalProblem("E_RUNTIME", f"no runtime here reads {', '.join(lacking)}", install)

    def to_json(self) -> dict[str, Any]:
        devices = [{"name": "cpu", "model": self.processor, "memory_bytes": self.memory_bytes}]
        for device in self.driver.devices if self.driver else ():
            devices.append({"name": device.name, "model": device.model, "memory_bytes": device.memory_bytes})
        return {
            "schema": SCHEMA,
            "bertx": bertx.__version__,
            "python": self.python,
            "platform": self.platform,
            "cores": self.cores,
            "memory_bytes": self.memory_bytes,
            "free_memory_bytes": self.free_memory_bytes,
            "driver": None if self.driver is None else {"version": self.driver.version, "cuda": self.driver.cuda},
            "devices": devices,
            "runtimes": [runtime.to_json() for runtime in self.runtimes],
            "dictionaries": [dictionary.to_json() for dictionary in self.dictionaries],
            "cache": self.cache.to_json(),
            "hub_cache": self.hub_cache.to_json(),
            "unread_formats": list(self.unread()),
        }


def examine(cache: Path, hub_cache: Path) -> Machine:
    """Looks at this machine. `cache` is where bertx remembers what it wrote, `hub_cache` where downloads lie."""
    import psutil

    memory = psutil.virtual_memory()
    return Machine(
        f"{platform.python_implementation()} {platform.python_version()}",
        platform.platform(terse=True),
        _processor(),
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        int(memory.total),
        int(memory.available),
        driver(),
        tuple(_state(each.at(cache)) for each in runtimes().values()),
        tuple(
            Dictionary(name, purpose, installed((name,)).get(name) if absent(module) is None else None)
            for name, (module, purpose) in DICTIONARIES.items()
        ),
        folder(cache),
        folder(hub_cache),
    )


def _state(runtime: Runtime) -> RuntimeState:
    lacking = runtime.missing()
    native = isinstance(runtime, Native)
    unbuilt = isinstance(runtime, Native) and runtime.unbuildable() is None
    state = "ready" if lacking is None else "not built" if unbuilt else "missing"
    return RuntimeState(runtime.name, native, state, tuple(sorted(runtime.reads)), lacking, runtime.versions())


def folder(path: Path) -> Folder:
    """Whether a folder, or the nearest one above it that exists, can be written, and the space there."""
    place = next((each for each in (path, *path.parents) if each.exists()), Path("/"))
    return Folder(path, place.is_dir() and os.access(place, os.W_OK | os.X_OK), shutil.disk_usage(place).free)


def _processor() -> str:
    """The processor's name, as Linux tells it; elsewhere what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
