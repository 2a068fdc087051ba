"""How to verify: everything that a user may choose, in one record."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from bertx.errors import LocalProblem, UsageError, escape
from bertx.parity.budget import Budget
from bertx.runtimes import Foreign, device, process, runtime_named


@dataclass(frozen=True)
class VerifyOptions:
    """How to verify. `runtimes` empty means all that are ready; `limit` scales both limits; `timeout` in seconds.

    `cases` is the name of a set or a file of the user's own; `dtype` is what files claim to compute in;
    `allow_static` lets a file that fixes its shape count as compared at that shape; `budget` is what a quantized file
    may differ by; `latency` measures also how long each runtime takes.
    """

    runtimes: tuple[str, ...] = ()
    runners: tuple[Foreign, ...] = ()
    cases: str | Path = "quick"
    texts: tuple[str, ...] = ()
    seed: int = 0
    limit: float = 1.0
    dtype: str | None = None
    device: str = "auto"
    trust: bool = False
    allow_static: bool = False
    budget: Budget | None = None
    timeout: float = 600.0
    memory_bytes: int | None = None
    latency: bool = False
    cache: Path = field(default_factory=lambda: Path.home() / ".cache" / "bertx")

    def limits(self) -> process.Limits:
        return process.Limits(self.timeout, self.memory_bytes)


def check_options(options: VerifyOptions) -> str:
    """Refuses before any work what cannot be done; the device that will be used.

    Raises UsageError for unknown names and limits that limit nothing, LocalProblem where a named runtime or
    runner is not ready or the device is not here.
    """
    for name, value in (("limit", options.limit), ("timeout", options.timeout)):
        positive(name, value)
    named = [runtime_named(name).at(options.cache) for name in options.runtimes]
    for runtime in named:
        lacking = runtime.missing()
        if lacking:
            raise LocalProblem("E_RUNTIME", f"runtime {runtime.name} is not ready", lacking)
    for runner in options.runners:
        if shutil.which(runner.program[0]) is None:
            what = f"the runner {escape(runner.program[0])} is no program that can be started here"
            raise LocalProblem("E_RUNTIME", what, "correct its name; see docs/runners.md")
    where = device.resolve(options.device)
    for runtime in named:
        if where.partition(":")[0] not in runtime.devices:
            raise LocalProblem("E_DEVICE", f"runtime {runtime.name} cannot use {where}", "use --device cpu")
    return where


def positive(name: str, value: float) -> float:
    """The value of a limit. Raises UsageError where it would limit nothing, or let nothing through."""
    if not (math.isfinite(value) and value > 0):
        raise UsageError("E_USAGE", f"{name} is {value:g}, no finite number above 0", "correct it")
    return value
