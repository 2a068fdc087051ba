"""Re-contains tensors as safetensors files: streamed, hashed, checked and read back, in flat memory.

Without a dtype every byte stays as it is. With one, floating tensors are converted piece by piece, rounding
to nearest even through float32, as `torch.Tensor.to` does.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bertx.checkpoint.readback import ReadBack, differs
from bertx.checkpoint.tensors import (
    BITS,
    CHUNK,
    FLOATING,
    MAX_HEADER_BYTES,
    MAX_TENSORS,
    Buffer,
    TensorInfo,
    chunks,
    listed,
    read_header,
)
from bertx.errors import InputRefused, UsageError, escape

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Ends of the names of integer tensors that old checkpoints save although they are no weights.
KNOWN_BUFFERS = ("position_ids", "token_type_ids", "num_batches_tracked")

#: What transformers looks for: without it, it takes the file for one of another framework.
PYTORCH: Mapping[str, str] = MappingProxyType({"format": "pt"})

#: Bytes after which Linux is asked to begin writing, and its SYNC_FILE_RANGE_WRITE.
_FLUSH, _WRITE = 16 * 2**20, 2

_TARGETS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_NAMES = {code: name for name, code in _TARGETS.items()}
_CONVERTIBLE = frozenset({"F64", "F32", "F16", "BF16"})
_LAYOUT = {code: place for place, code in enumerate(BITS)}

#: code -> (mask of all bits but the sign, smallest magnitude that is not finite).
_MAGNITUDE = {
    "F64": (0x7FFF_FFFF_FFFF_FFFF, 0x7FF0_0000_0000_0000),
    "F32": (0x7FFF_FFFF, 0x7F80_0000),
    "F16": (0x7FFF, 0x7C00),
    "BF16": (0x7FFF, 0x7F80),
}
#: code -> the last bytes of numbers among which those that are not finite are. A trained weight has none of them.
_LARGE = {**dict.fromkeys(("F64", "F32", "BF16"), b"\x7f\xff"), "F16": b"\x7c\x7d\x7e\x7f\xfc\xfd\xfe\xff"}
#: One-byte code -> its bytes that are NaN or infinite. The smaller formats (F6, F4) have none.
_NOT_FINITE = {
    "F8_E5M2": b"\x7c\x7d\x7e\x7f\xfc\xfd\xfe\xff",
    "F8_E4M3": b"\x7f\xff",
    "F8_E8M0": b"\xff",
    "F8_E5M2FNUZ": b"\x80",
    "F8_E4M3FNUZ": b"\x80",
}


@dataclass(frozen=True)
class Written:
    """What was published: the file's sha256 in hex, its size in bytes, how many tensors it holds."""

    sha256: str
    bytes: int
    tensors: int


@dataclass(frozen=True)
class _Copy:
    """One tensor to write: `name` and `dtype` (a safetensors code) as they will be in the file."""

    name: str
    source: TensorInfo
    dtype: str

    @property
    def nbytes(self) -> int:
        return self.source.nbytes * BITS[self.dtype] // BITS[self.source.dtype]


def write_safetensors(
    tensors: Mapping[str, TensorInfo],
    target: Path,
    *,
    dtype: str | None = None,
    metadata: Mapping[str, str] = PYTORCH,
    progress: Callable[[int], None] | None = None,
) -> Written:
    """Writes `tensors` under their keys to `target`, which must not exist, and compares what it reads back.

    `dtype` float32, float16 or bfloat16 converts the floating tensors; None leaves all bytes as they are.
    `progress` is called with the number of source bytes copied since its last call.

    Raises InputRefused("E_WEIGHTS"), naming tensors that are not floating point (but for `KNOWN_BUFFERS`),
    hold NaN or infinity, or do not fit the dtype; Bug where the file read back differs; OSError where the
    disk is full or `target` exists. After any of them there is no new file.
    """
    copies = _plan(tensors, dtype)
    header = _header(copies, metadata)
    handle = target.open("xb", buffering=0)
    try:
        with handle, ReadBack(target, _expected(header, copies)) as back:
            _write(handle, header, copies, progress, back.written)
            os.fsync(handle.fileno())
            digest = back.sha256()
        _check_header(target)
        return Written(digest, target.stat().st_size, len(copies))
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def write_shards(
    tensors: Mapping[str, TensorInfo],
    index: Path,
    most: int,
    *,
    dtype: str | None = None,
    metadata: Mapping[str, str] = PYTORCH,
) -> dict[str, Written]:
    """Writes `tensors` to files of at most `most` bytes of data beside `index`, which says where each of them lies.

    A tensor that is larger has a file of its own. Gives the files by name, the index not among them. The names are
    those that transformers looks for. Raises what `write_safetensors` raises.
    """
    shards: list[list[str]] = [[]]
    filled = 0
    sizes = {copy.name: copy.nbytes for copy in _plan(tensors, dtype)}
    for name in tensors:
        if shards[-1] and filled + sizes[name] > most:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += sizes[name]
    stem = index.name.removesuffix(".safetensors.index.json")
    written: dict[str, Written] = {}
    places: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"{stem}-{number:05}-of-{len(shards):05}.safetensors"
        part = {name: tensors[name] for name in names}
        written[file] = write_safetensors(part, index.with_name(file), dtype=dtype, metadata=metadata)
        places |= dict.fromkeys(names, file)
    document = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": dict(sorted(places.items()))}
    index.write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n", "utf-8")
    return written


def _plan(tensors: Mapping[str, TensorInfo], dtype: str | None) -> list[_Copy]:
    """What to write, in the order of the file. Refuses what can be refused without reading data."""
    if dtype is not None and dtype not in _TARGETS:
        raise UsageError("E_USAGE", f"dtype {escape(dtype)} is not known", f"choose one of {', '.join(_TARGETS)}")
    if not 0 < len(tensors) <= MAX_TENSORS or "__metadata__" in tensors:
        raise InputRefused(
            "E_WEIGHTS",
            f"there are {len(tensors):,} tensors to write, or one named __metadata__",
            f"one file holds 1 to {MAX_TENSORS:,} tensors with other names",
        )
    _refuse_buffers(tensors)
    target = None if dtype is None else _TARGETS[dtype]
    stuck = [name for name, info in tensors.items() if info.dtype in FLOATING - _CONVERTIBLE]
    if target is not None and stuck:
        raise InputRefused(
            "E_WEIGHTS",
            f"tensors of 8 bits or less cannot become {dtype}: {listed(sorted(stuck))}",
            "leave the dtype unchanged, or export the checkpoint that they were made from",
        )
    copies = [
        _Copy(name, info, target if target is not None and info.dtype in FLOATING else info.dtype)
        for name, info in tensors.items()
    ]
    return sorted(copies, key=lambda copy: (_LAYOUT[copy.dtype], copy.name))


def _refuse_buffers(tensors: Mapping[str, TensorInfo]) -> None:
    refused = sorted(
        name
        for name, info in tensors.items()
        if info.dtype not in FLOATING and not (info.dtype[0] in "IU" and name.endswith(KNOWN_BUFFERS))
    )
    if refused:
        raise InputRefused(
            "E_WEIGHTS",
            f"tensors are not floating point: {listed(refused)}",
            "export the checkpoint as it was before quantization, or remove them",
        )


def _header(copies: list[_Copy], metadata: Mapping[str, str]) -> bytes:
    """Length and JSON of the file, padded with spaces so that the data begins at a multiple of 8 bytes."""
    document: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    begin = 0
    for copy in copies:
        end = begin + copy.nbytes
        document[copy.name] = {
            "dtype": copy.dtype,
            "shape": list(copy.source.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    try:
        text = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputRefused("E_WEIGHTS", "a tensor has a name that is no Unicode", "rename it") from error
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise InputRefused("E_WEIGHTS", "the names of the tensors are too long for one file", "shorten them")
    return len(text).to_bytes(8, "little") + text


def _write(
    handle: RawIOBase,
    header: bytes,
    copies: list[_Copy],
    progress: Callable[[int], None] | None,
    written: Callable[[int], None],
) -> None:
    _reserve(handle, len(header) + sum(copy.nbytes for copy in copies))
    _write_all(handle, header)
    written(len(header))
    place, waiting, buffer = len(header), 0, bytearray(CHUNK)
    for copy in copies:
        for piece in _pieces(copy, buffer):
            _write_all(handle, piece)
            waiting += len(piece)
            if waiting >= _FLUSH:
                _flush(handle, place, waiting)
                place, waiting = place + waiting, 0
            if progress is not None:
                progress(len(piece) * BITS[copy.source.dtype] // BITS[copy.dtype])
            written(len(piece))


def _flush(handle: RawIOBase, begin: int, length: int) -> None:
    """Asks Linux to begin bringing bytes to the disk without waiting for it: fsync then has little left to do."""
    if sys.platform != "linux":
        return
    import ctypes

    start = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if start is not None:  # its result does not matter: fsync follows
        start(handle.fileno(), ctypes.c_int64(begin), ctypes.c_int64(length), _WRITE)


def _write_all(handle: RawIOBase, data: Buffer) -> None:
    """A system may write less than it was given."""
    while data:
        data = data[handle.write(data) or 0 :]


def _reserve(handle: RawIOBase, size: int) -> None:
    """Claims the disk space at once where the system can, so that a full disk shows before the work."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(handle.fileno(), 0, size)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise


def _check_header(target: Path) -> None:
    """Raises Bug where what was written cannot be read as every reader must."""
    try:
        read_header(target)
    except InputRefused as error:
        raise differs(target, "its header cannot be read back") from error


def _expected(header: bytes, copies: list[_Copy]) -> Iterator[tuple[str, Buffer]]:
    """The bytes of the file as they follow from the sources, read once more, with the words for what they are."""
    yield "its header", header
    buffer = bytearray(CHUNK)
    for copy in copies:
        for piece in _pieces(copy, buffer, check=False):
            yield f"tensor {escape(copy.name)}", piece


def _pieces(copy: _Copy, into: bytearray, *, check: bool = True) -> Iterator[Buffer]:
    """The bytes of a tensor as they will be in the file, in pieces that are good until the next.

    Raises InputRefused where one is not finite.
    """
    source = copy.source.dtype
    for piece in chunks(copy.source, CHUNK, checksum=check, into=into):
        if check and not _finite(piece, source):
            raise InputRefused(
                "E_WEIGHTS",
                f"tensor {escape(copy.name)} holds NaN or infinity",
                "use another checkpoint: such a weight spoils what the model computes",
            )
        if copy.dtype == source:
            yield piece
            continue
        converted = _from_float32(_to_float32(piece, source), copy.dtype)
        if not _finite(converted, copy.dtype):
            raise InputRefused(
                "E_WEIGHTS",
                f"tensor {escape(copy.name)} holds numbers that are too large for {_NAMES[copy.dtype]}",
                "choose a dtype with a wider range (bfloat16, float32) or leave it unchanged",
            )
        yield converted


def _finite(piece: Buffer, dtype: str) -> bool:
    """Whether no element is NaN or infinite, told from the exponent bits; integers always are."""
    if dtype not in _MAGNITUDE:
        return len(bytes(piece).translate(None, _NOT_FINITE.get(dtype, b""))) == len(piece)
    width = BITS[dtype] // 8
    last = bytes(piece)[width - 1 :: width]
    if not any(each in last for each in _LARGE[dtype]):  # to import numpy takes longer than to copy MiniLM
        return True
    import numpy as np

    mask, limit = _MAGNITUDE[dtype]
    bits = np.frombuffer(piece, f"<u{width}")
    return int((bits & bits.dtype.type(mask)).max()) < limit


def _to_float32(piece: Buffer, dtype: str) -> NDArray[np.float32]:
    """float64 is rounded, the others are exact. What is too large becomes infinite."""
    import numpy as np

    if dtype == "BF16":
        return (np.frombuffer(piece, "<u2").astype("<u4") << 16).view("<f4")
    with np.errstate(all="ignore"):
        return np.frombuffer(piece, f"<f{BITS[dtype] // 8}").astype("<f4", copy=False)


def _from_float32(numbers: NDArray[np.float32], dtype: str) -> bytes:
    """Rounds to nearest, ties to even, subnormal numbers included. What is too large becomes infinite."""
    import numpy as np

    if dtype == "BF16":
        bits = numbers.view("<u4")
        # Half of the last kept place, less one bit where that place is even: ties then go to the even one.
        short: NDArray[np.uint16] = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype("<u2")
        return short.tobytes()
    with np.errstate(all="ignore"):
        return numbers.astype("<f2" if dtype == "F16" else "<f4", copy=False).tobytes()
