"""Views that are not contiguous, put in order piece by piece: memory stays flat whatever the strides are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from bertx.checkpoint.tensors import BITS, TensorInfo
from bertx.errors import InputRefused, escape

if TYPE_CHECKING:
    import numpy as np

#: Bytes of the view that are put in order at once.
BLOCK = 8 * 2**20
#: Bytes of the file that are read at once for them.
WINDOW = 4 * 2**20
#: A stretch of the file is read whole where at least one byte in this many is needed.
_DENSITY = 1024


def gathered(info: TensorInfo, size: int) -> Iterator[bytes]:
    """The bytes of a view in row-major order, in pieces of at most `size` bytes (a multiple of its element's).

    Raises InputRefused("E_FORMAT") where the file has become shorter since its header was read.
    """
    import numpy as np

    assert info.strides is not None
    width = BITS[info.dtype] // 8
    with info.file.open("rb", buffering=0) as handle:
        for shape, strides, first in _blocks(info.shape, info.strides, 0, BLOCK // width):
            block = np.empty(shape, f"V{width}")
            _fill(block, strides, first, info, handle)
            view = block.reshape(-1).view("u1")
            for at in range(0, len(view), size):
                yield view[at : at + size].tobytes()


_Shape = tuple[int, ...]


def _blocks(shape: _Shape, strides: _Shape, first: int, most: int) -> Iterator[tuple[_Shape, _Shape, int]]:
    """The view in pieces of at most `most` elements, in row-major order: (shape, strides, first element) of each."""
    if math.prod(shape) <= most:
        yield shape, strides, first
        return
    rows = most // math.prod(shape[1:])
    for at in range(0, shape[0], rows or 1):
        place = first + at * strides[0]
        if rows:
            yield (min(rows, shape[0] - at), *shape[1:]), strides, place
        else:
            yield from _blocks(shape[1:], strides[1:], place, most)


def _fill(block: np.ndarray[Any, Any], strides: _Shape, first: int, info: TensorInfo, handle: BinaryIO) -> None:
    """Reads the elements of a block, halving it where they lie too far apart to be read in one stretch."""
    import numpy as np

    width = block.dtype.itemsize
    reach = [(size - 1) * stride for size, stride in zip(block.shape, strides, strict=True)]
    span = (sum(reach) + 1) * width
    if block.size > 1 and span > min(WINDOW, max(block.nbytes * _DENSITY, 4096)):
        axis = max(range(len(reach)), key=lambda each: reach[each])
        middle = block.shape[axis] // 2
        low, high = np.split(block, [middle], axis)
        _fill(low, strides, first, info, handle)
        _fill(high, strides, first + middle * strides[axis], info, handle)
        return
    handle.seek(info.begin + first * width)
    data = handle.read(span)
    if len(data) != span:
        what = f"{escape(info.file)} ended within tensor {escape(info.name, 200)}: it changed while it was read"
        raise InputRefused("E_FORMAT", what, "download it again")
    stretch = np.frombuffer(data, block.dtype)
    steps = [stride * width for stride in strides]
    block[...] = np.lib.stride_tricks.as_strided(stretch, block.shape, steps, writeable=False)
