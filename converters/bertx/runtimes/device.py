"""Which devices are here, asked of the CUDA driver itself so that nothing heavy is imported."""

from __future__ import annotations

import contextlib
import ctypes
import platform
import re
import sys
from functools import cache
from pathlib import Path

from bertx.errors import LocalProblem, UsageError, escape

#: extensions by which kernels for int8 and bfloat16 differ
_INSTRUCTIONS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm", "sve")

_ASKED = re.compile(r"auto|cpu|cuda(:\d{1,2})?")


@cache
def cuda_count() -> int:
    """How many CUDA devices the driver offers; 0 where there is no driver."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def resolve(asked: str) -> str:
    """cpu, cuda or cuda:N from what was asked for; "auto" is CUDA where there is a device.

    Raises UsageError for anything else, LocalProblem(E_DEVICE) where the device is not here.
    """
    if not _ASKED.fullmatch(asked):
        raise UsageError("E_USAGE", f"unknown device {escape(asked)}", "choose cpu, cuda, cuda:N or auto")
    if asked == "auto":
        return "cuda" if cuda_count() else "cpu"
    index = int(asked.partition(":")[2] or 0)
    if asked != "cpu" and index >= cuda_count():
        raise LocalProblem(
            "E_DEVICE", f"{asked} was asked for and {cuda_count()} CUDA devices are here", "use --device cpu"
        )
    return asked


@cache
def instructions() -> str:
    """The processor's instruction set, as far as it changes what int8 arithmetic gives: "x86_64 avx2 avx512_vnni"."""
    told = [platform.machine() or "unknown"]
    with contextlib.suppress(OSError):
        found = re.search(r"(?m)^(?:flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text("utf-8", "replace"))
        held = set(found[1].split()) if found else set()
        told += [name for name in _INSTRUCTIONS if name in held]
    return " ".join(told)
