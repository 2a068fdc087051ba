"""Which devices are here, asked of the CUDA driver itself so that nothing heavy is imported."""

from __future__ import annotations

import ctypes
import re
import sys
from functools import cache

from bertx.errors import LocalProblem, UsageError, escape

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
