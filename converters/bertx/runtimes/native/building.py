"""Building native runtimes: one at a time per language, beside what is there, moved into place when it is whole.

built = build(runtime_named("tch").at(cache), progress)
built.state  # "ready" (it was built before), "built", "failed" or "missing" (its toolchain is)
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bertx.errors import LocalProblem, UsageError, escape
from bertx.exchange import locked
from bertx.runtimes import registry
from bertx.runtimes.group import group
from bertx.runtimes.native import LEFTOVERS, Native, Places, Step, files

Progress = Callable[[str], None]

SCHEMA = "bertx.build/1"

_TAIL = 40  # lines of a compiler's output that are shown
_KEPT = 3  # builds of a runtime that stay, for environments that share the cache


@dataclass(frozen=True)
class Built:
    """How the build of one runtime ended; `tail` is the end of the compiler's output where it failed."""

    runtime: Native
    state: str  # ready, built, failed or missing
    seconds: float = 0.0
    missing: str | None = None
    tail: tuple[str, ...] = ()

    @property
    def log(self) -> Path:
        return _log(self.runtime)

    @property
    def usable(self) -> bool:
        return self.state in ("ready", "built")

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.runtime.name,
            "state": self.state,
            "reads": sorted(self.runtime.reads),
            "versions": self.runtime.versions(),
            "seconds": round(self.seconds, 1),
            "folder": str(self.runtime.product) if self.usable else None,
            "log": str(self.log) if self.state in ("built", "failed") else None,
            "missing": self.missing,
            "tail": list(self.tail),
        }


@dataclass(frozen=True)
class Building:
    """What came of every runtime that was to be built."""

    built: tuple[Built, ...]
    everything: bool

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, "runtimes": [each.to_json() for each in self.built]}

    def problem(self) -> LocalProblem | None:
        """Why not all that was asked for is ready.

        Where everything was asked for, a runtime whose toolchain is missing is left out, as long as another is ready.
        """
        failed = next((each for each in self.built if each.state == "failed"), None)
        if failed is not None:
            last = next((line for line in reversed(failed.tail) if line.strip()), "its compiler said nothing")
            return LocalProblem("E_BUILD", f"{failed.runtime.name} was not built: {last}", f"see {failed.log}")
        lacking = next((each for each in self.built if each.state == "missing"), None)
        if lacking is not None and not (self.everything and any(each.usable for each in self.built)):
            return LocalProblem("E_RUNTIME", f"{lacking.runtime.name} cannot be built here", f"{lacking.missing}")
        return None


def chosen(names: Sequence[str], cache: Path) -> tuple[Native, ...]:
    """The native runtimes of these names, each once; "all" is all of them. Raises UsageError for another name."""
    known = {name: leaf for name, leaf in registry().items() if isinstance(leaf, Native)}
    wanted = list(known) if "all" in names else list(dict.fromkeys(names))
    for name in wanted:
        if name not in known:
            what = "is not built: it runs as it is" if name in registry() else "is unknown"
            raise UsageError("E_USAGE", f"runtime {escape(name)} {what}", f"choose of {', '.join(known)}, or all")
    return tuple(known[name].at(cache) for name in wanted)


def build_all(names: Sequence[str], cache: Path, progress: Progress, *, again: bool = False) -> Building:
    """Builds the runtimes of these names; one that fails keeps none of the others from being built."""
    found = []
    for runtime in chosen(names, cache):
        found.append(build(runtime, progress, again=again))
    return Building(tuple(found), "all" in names)


def build(runtime: Native, progress: Progress = lambda line: None, *, again: bool = False) -> Built:
    """Builds a runtime unless it is there (`again`: even then).

    Raises LocalProblem where another process builds in the same language, or the cache cannot be written.
    """
    if runtime.product.is_dir() and not again:
        return Built(runtime, "ready", missing=runtime.missing())
    lacking = runtime.unbuildable()
    if lacking:
        return Built(runtime, "missing", missing=lacking)
    work = runtime.room / "work" / runtime.language
    started = time.monotonic()
    try:
        with locked(work):
            places = _prepare(runtime, work)
            tail = _make(runtime, places, progress)
            seconds = time.monotonic() - started
            if tail is not None:
                shutil.rmtree(places.product)
                return Built(runtime, "failed", seconds, tail=tail)
            shutil.rmtree(runtime.product, ignore_errors=True)
            places.product.rename(runtime.product)
            _forget(runtime)
    except OSError as error:
        what = f"{runtime.name} cannot be built in {escape(runtime.room)} ({escape(error.strerror)})"
        raise LocalProblem("E_DISK", what, "free some space there, or set BERTX_CACHE") from error
    return Built(runtime, "built", seconds)


def _log(runtime: Native) -> Path:
    return runtime.room / f"{runtime.name}.log"


def _prepare(runtime: Native, work: Path) -> Places:
    product = runtime.room / f"{runtime.product.name}.partial"
    shutil.rmtree(product, ignore_errors=True)
    places = Places((work / "source").absolute(), (work / "scratch").absolute(), product.absolute())
    for folder in (places.source, places.scratch, places.product):
        folder.mkdir(parents=True, exist_ok=True)
    copy_sources(runtime.folder, places.source)
    return places


def copy_sources(source: Path, target: Path) -> None:
    """Makes `target` hold the sources; a file that did not change keeps its time, so that compilers skip it."""
    wanted = {path.relative_to(source): path for path in files(source)}
    for path in [*target.rglob("*")]:
        relative = path.relative_to(target)
        if path.is_file() and relative not in wanted and not LEFTOVERS & set(relative.parts):
            path.unlink()
    for relative, path in wanted.items():
        copy = target / relative
        contents = path.read_bytes()
        if not copy.is_file() or copy.read_bytes() != contents:
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(contents)
            shutil.copymode(path, copy)


def _make(runtime: Native, places: Places, progress: Progress) -> tuple[str, ...] | None:
    """Runs the steps; None where all of them went well, else the end of what was said."""
    with _log(runtime).open("wb") as log:
        for step in runtime.steps(places):
            tail = _run(runtime, step, log, progress)
            if tail is not None:
                return tail
    try:
        runtime.collect(places)
    except OSError as error:
        return (f"the build did not make {error.filename}: {error.strerror}",)
    return None


def _run(runtime: Native, step: Step, log: IO[bytes], progress: Progress) -> tuple[str, ...] | None:
    said: deque[str] = deque(maxlen=_TAIL)
    piped = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with group() as start:
        try:
            process = start(step.command(), cwd=step.folder, **piped)
        except OSError as error:
            return (f"{step.words[0]} cannot be started: {error.strerror}",)
        assert process.stdout is not None
        for raw in process.stdout:
            log.write(raw)
            line = raw.decode("utf-8", "replace").rstrip()
            said.append(line)
            progress(f"{runtime.name}: {line.strip()}")
        code = process.wait()
    if code == 0:
        return None
    return (*said, f"{step.words[0]} ended with exit code {code}")


def _forget(runtime: Native) -> None:
    """Removes builds of a runtime that newer ones have replaced."""
    pattern = f"{runtime.name}-{'[0-9a-f]' * 16}"
    found = sorted(runtime.room.glob(pattern), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in found[_KEPT:]:
        if old != runtime.product:
            shutil.rmtree(old, ignore_errors=True)
