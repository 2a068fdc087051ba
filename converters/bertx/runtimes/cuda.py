"""What the CUDA driver says of its devices: names, memory and versions, asked without importing anything heavy."""

from __future__ import annotations

import ctypes
import re
import sys
from dataclasses import dataclass
from pathlib import Path

#: where Linux's kernel module states its version
_KERNEL = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class CudaDevice:
    """A device as the driver names it; its memory in bytes."""

    name: str
    model: str
    memory_bytes: int


@dataclass(frozen=True)
class Driver:
    """The CUDA driver: its own version ("580.65"; None where it cannot be told), the CUDA version it serves."""

    version: str | None
    cuda: str
    devices: tuple[CudaDevice, ...]


def driver() -> Driver | None:
    """The driver and its devices; None where there is no driver that works."""
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None
    count, cuda = ctypes.c_int(0), ctypes.c_int(0)
    if library.cuInit(0) != 0 or library.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return None
    library.cuDriverGetVersion(ctypes.byref(cuda))
    devices = tuple(_device(library, index) for index in range(count.value))
    return Driver(_kernel_version(), f"{cuda.value // 1000}.{cuda.value % 1000 // 10}", devices)


def _device(library: ctypes.CDLL, index: int) -> CudaDevice:
    handle, name, memory = ctypes.c_int(0), ctypes.create_string_buffer(256), ctypes.c_size_t(0)
    library.cuDeviceGet(ctypes.byref(handle), index)
    library.cuDeviceGetName(name, len(name), handle)
    library.cuDeviceTotalMem_v2(ctypes.byref(memory), handle)
    return CudaDevice(f"cuda:{index}", name.value.decode("utf-8", "replace"), memory.value)


def _kernel_version() -> str | None:
    try:
        found = re.search(r"\s(\d{3,}(?:\.\d+)+)\s", _KERNEL.read_text("utf-8", "replace"))
    except OSError:
        return None
    return found[1] if found else None
