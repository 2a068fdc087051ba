"""Where each tensor of a file lies, and its bytes in pieces; safetensors headers, read strictly and without the data.

A safetensors file is eight bytes of header length (little endian), a JSON header, and the data of the tensors
without gaps (https://github.com/huggingface/safetensors#format). Nothing here allocates more than a header needs.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from bertx.checkpoint.archive import Entry
from bertx.checkpoint.config import parse_json
from bertx.errors import InputRefused, escape

#: The largest header, in bytes; the format's own limit.
MAX_HEADER_BYTES = 100_000_000
MAX_TENSORS = 100_000
#: How much of a tensor is in memory at once, in bytes; a multiple of every element size.
CHUNK = 262_144

#: safetensors code -> bits of one element, in the order in which the format's own writer lays tensors out.
BITS: dict[str, int] = {
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    **dict.fromkeys(("F32", "U32", "I32"), 32),
    **dict.fromkeys(("BF16", "F16", "U16", "I16"), 16),
    **dict.fromkeys(("F8_E5M2FNUZ", "F8_E4M3FNUZ", "F8_E8M0", "F8_E4M3", "F8_E5M2", "I8", "U8"), 8),
    **dict.fromkeys(("F6_E3M2", "F6_E2M3"), 6),
    "F4": 4,
    "BOOL": 8,
}
FLOATING = frozenset(code for code in BITS if code.startswith(("F", "BF")))

_DOWNLOAD = "download it again"
_FIELDS = {"dtype", "shape", "data_offsets"}
_LARGEST = 2**64


Buffer = bytes | memoryview


@dataclass(frozen=True)
class TensorInfo:
    """One tensor in a file: `dtype` is a safetensors code ("F32"); its bytes are file[begin:end].

    Where `strides` are not None, it is a view with gaps, repetitions or another order: its element at index i is the
    one sum(i * strides) elements after `begin`, and `end` is where the last of them ends. `entry` is the archive's
    entry that the bytes are part of, whose checksum `chunks` checks.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    begin: int
    end: int
    strides: tuple[int, ...] | None = None
    entry: Entry | None = None

    @property
    def nbytes(self) -> int:
        return self.elements * BITS[self.dtype] // 8

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def place(self) -> tuple[object, ...]:
        """What tensors have in common that are one tensor under several names."""
        return (self.file, self.begin, self.end, self.dtype, self.shape, self.strides)


def is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether the elements of a view with these strides lie one after another, as in PyTorch."""
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True


def read_header(file: Path) -> dict[str, TensorInfo]:
    """The tensors of one safetensors file, by name, in the order of their data.

    Raises InputRefused("E_FORMAT"), naming the file and the tensor, where anything is not as the format
    demands: the header, a duplicate name, a dtype, a shape, a gap, an overlap, a missing or surplus byte.
    """
    header, base, size = _header_bytes(file)
    document = parse_json(header, file, "E_FORMAT")
    _check_metadata(file, document.pop("__metadata__", {}))
    if len(document) > MAX_TENSORS:
        _refuse(file, f"has more than {MAX_TENSORS:,} tensors")
    infos = [_info(file, name, entry, base) for name, entry in document.items()]
    infos.sort(key=lambda info: (info.begin, info.end))
    end = base
    for info in infos:
        if info.begin != end:
            _refuse(file, f"has a gap or an overlap before tensor {_shown(info.name)}")
        end = info.end
    if end > size:
        _refuse(file, f"is truncated: {end - size:,} bytes are missing")
    if end < size:
        _refuse(file, f"has {size - end:,} bytes that belong to no tensor")
    return {info.name: info for info in infos}


def chunks(
    info: TensorInfo, size: int = CHUNK, *, checksum: bool = True, into: bytearray | None = None
) -> Iterator[Buffer]:
    """The bytes of a tensor in row-major order, in pieces of `size` bytes, of which some may be shorter.

    With `into`, which has `size` bytes, a piece may be a view of it, and is only good until the next: memory that is
    touched for the first time costs as much as the copy. The checksum of the archive's entry that they lie in is
    checked once, and not without `checksum`. Raises InputRefused("E_FORMAT") where it is wrong, or where the file has
    become shorter since its header was read.
    """
    entry = info.entry
    if checksum and entry is not None and not entry.checked:
        if (info.begin, info.end, info.strides) == (entry.begin, entry.end, None):
            yield from _checked(info, entry, size, into)
            return
        for _ in _checked(info, entry, size, into):
            pass
    if info.strides is not None:
        from bertx.checkpoint.views import gathered

        yield from gathered(info, size)
        return
    yield from _span(info, info.begin, info.end, size, into)


def _checked(info: TensorInfo, entry: Entry, size: int, into: bytearray | None) -> Iterator[Buffer]:
    """The bytes of a whole entry. Raises InputRefused after them where they do not have its checksum."""
    import zlib

    crc = 0
    for piece in _span(info, entry.begin, entry.end, size, into):
        crc = zlib.crc32(piece, crc)
        yield piece
    if crc != entry.crc:
        _refuse(info.file, f"is damaged: the data of tensor {_shown(info.name)} does not have its checksum")
    entry.checked = True


def _span(info: TensorInfo, begin: int, end: int, size: int, into: bytearray | None) -> Iterator[Buffer]:
    view = memoryview(into) if into is not None else None
    with info.file.open("rb", buffering=0) as handle:
        handle.seek(begin)
        while begin < end:
            length = min(size, end - begin)
            piece = handle.read(length) if view is None else view[: handle.readinto(view[:length])]
            if not piece:
                _refuse(info.file, f"ended within tensor {_shown(info.name)}: it changed while it was read")
            begin += len(piece)
            yield piece


def parameters(infos: Iterable[TensorInfo]) -> int:
    """How many floating-point numbers the tensors hold; buffers of integers are no parameters."""
    return sum(info.elements for info in infos if info.dtype in FLOATING)


def dtypes(infos: Iterable[TensorInfo]) -> dict[str, int]:
    """safetensors code -> number of tensors that have it, the most frequent first."""
    return dict(Counter(info.dtype for info in infos).most_common())


def _header_bytes(file: Path) -> tuple[bytes, int, int]:
    """The JSON of a header, where the data begins, and the size of the file."""
    try:
        if not file.is_file():  # opening a pipe would wait for ever
            _refuse(file, "is no regular file" if file.exists() else "does not exist")
        with file.open("rb") as handle:
            size = os.fstat(handle.fileno()).st_size
            prefix = handle.read(8)
            length = int.from_bytes(prefix, "little")
            _check_length(file, prefix, length, size)
            header = handle.read(length)
    except OSError as error:
        raise InputRefused(
            "E_FORMAT",
            f"{escape(file)} cannot be read ({error.strerror})",
            "check the file and its permissions",
        ) from error
    if len(header) != length:
        _refuse(file, "changed while it was read")
    if header[:1] != b"{":
        _refuse(file, "has a header that does not begin with {")
    return header, 8 + length, size


def _check_length(file: Path, prefix: bytes, length: int, size: int) -> None:
    if len(prefix) < 8:
        _refuse(file, f"is too short for a safetensors file ({size} bytes)")
    if prefix == b"version ":
        _refuse(file, "is a Git LFS pointer, not the file itself", "run git lfs pull")
    if length > MAX_HEADER_BYTES:
        _refuse(file, f"is no safetensors file: it claims a header of {length:,} bytes")
    if 8 + length > size:
        _refuse(file, f"is truncated within its header ({size:,} of at least {8 + length:,} bytes)")


def _check_metadata(file: Path, metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        _refuse(file, "has metadata other than strings", "save it again with string metadata")


def _info(file: Path, name: str, entry: Any, base: int) -> TensorInfo:
    if not isinstance(entry, dict) or entry.keys() != _FIELDS:
        _refuse(file, f"describes tensor {_shown(name)} by other fields than dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        _refuse(file, f"has tensor {_shown(name)} of an unknown dtype", "save it as float32")
    if not _whole_numbers(shape) or not _whole_numbers(offsets) or len(offsets) != 2:
        _refuse(file, f"has a malformed shape or malformed offsets for tensor {_shown(name)}")
    begin, end = offsets
    if begin > end or _bits(shape, BITS[dtype]) != 8 * (end - begin):
        _refuse(file, f"gives tensor {_shown(name)} another number of bytes than its shape and dtype need")
    return TensorInfo(name, dtype, tuple(shape), file, base + begin, base + end)


def _whole_numbers(value: Any) -> bool:
    # bool would pass isinstance(…, int).
    return isinstance(value, list) and all(type(number) is int and 0 <= number < _LARGEST for number in value)


def _bits(shape: list[int], bits: int) -> int:
    """The size of a tensor in bits, -1 where it overflows 64 bits on the way, as readers count in these."""
    total = 1
    for number in (*shape, bits):
        total *= number
        if total >= _LARGEST:
            return -1
    return total


def _shown(name: str) -> str:
    return escape(name[:200], 200)


def listed(names: list[str], most: int = 5) -> str:
    """Names for a message: the first few, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(_shown(name) for name in names[:most]) + more


def _refuse(file: Path, what: str, hint: str = _DOWNLOAD) -> NoReturn:
    raise InputRefused("E_FORMAT", f"{escape(file)} {what}", hint)
