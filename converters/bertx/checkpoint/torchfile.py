"""Where each tensor of a torch.save file lies, read without PyTorch and without running anything that is in it.

Two containers hold the same records: a zip archive (since PyTorch 1.6) and, before it, pickles one after another with
the storages behind them. A tensor is a view of a storage: an offset, a shape and strides. What a state dict of plain
tensors needs is read; everything else (other objects, wrappers, quantised or sparse tensors) is refused by name.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from bertx.checkpoint.archive import Entry, read_directory
from bertx.checkpoint.pickles import MAX_PICKLE_BYTES, Call, Global, Persistent, read_pickle
from bertx.checkpoint.tensors import BITS, MAX_TENSORS, TensorInfo, is_contiguous
from bertx.errors import InputRefused, escape

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
#: What views may need more bytes than their file has: shared and expanded tensors are small in real models.
_EXPANDED = 4
_EXPANDED_BYTES = 64 * 2**20
_MAX_DIMENSIONS = 64

#: name of a storage class or dtype -> safetensors code; None where safetensors has no such dtype
_STORAGES: dict[str, str | None] = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "ComplexFloatStorage": "C64",
    "ComplexDoubleStorage": None,
    "UntypedStorage": "U8",
    **dict.fromkeys(("QInt8Storage", "QUInt8Storage", "QInt32Storage", "QUInt4x2Storage", "QUInt2x4Storage"), None),
}
_DTYPES: dict[str, str | None] = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "bool": "BOOL",
    "complex64": "C64",
    **dict.fromkeys(("complex128", "complex32", "float4_e2m1fn_x2", "quint8", "qint8", "qint32", "quint4x2"), None),
}
_QUANTISED = ("per_tensor_affine", "per_channel_affine", "per_channel_affine_float_qparams", "per_tensor_symmetric")
_TENSORS = frozenset({"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"})
_PARAMETERS = frozenset({"_rebuild_parameter", "_rebuild_parameter_with_state"})
#: function -> the kind of tensor that it makes, which is no plain one
_SPECIAL = {
    "_rebuild_qtensor": "quantised",
    "_rebuild_sparse_tensor": "sparse",
    "_rebuild_sparse_csr_tensor": "sparse",
    "_rebuild_nested_tensor": "nested",
    "_rebuild_meta_tensor_no_storage": "without data (on the meta device)",
}
#: every name that a pickle may hold; each is a word here
_ALLOWED = frozenset(
    {("collections", "OrderedDict"), ("torch", "Size"), ("torch", "device"), ("torch.serialization", "_get_layout")}
    | {("torch._utils", name) for name in (*_TENSORS, *_PARAMETERS, *_SPECIAL)}
    | {("torch", name) for name in (*_STORAGES, *_DTYPES, *_QUANTISED)}
    | {("torch.storage", "UntypedStorage")}
)
_DAMAGED = "download it again"
_PLAIN = "save plain tensors alone: torch.save(model.state_dict(), FILE)"


@dataclass(frozen=True)
class _Storage:
    """One storage: `code` is the dtype that it was saved as, `count` its elements, `begin` where its bytes lie."""

    code: str
    count: int
    begin: int
    entry: Entry | None

    @property
    def nbytes(self) -> int:
        return self.count * BITS[self.code] // 8


def read_torch_file(file: Path) -> dict[str, TensorInfo]:
    """The tensors of a torch.save file by name, in its own order; tied tensors share their place.

    Raises InputRefused: "E_FORMAT" where the file is malformed, holds code or is no torch.save file; "E_WEIGHTS",
    naming the tensor, where it holds something else than a state dict of plain tensors.
    """
    try:
        if not file.is_file():  # opening a pipe would wait for ever
            _refuse(file, "is no regular file" if file.exists() else "does not exist")
        with file.open("rb") as handle:
            size = os.fstat(handle.fileno()).st_size
            start = handle.read(8)
            if start[:4] == b"PK\3\4":
                calls, find = _zip(handle, size, file)
            else:
                _check_start(file, start, size, handle)
                calls, find = _legacy(handle, size, file)
    except OSError as error:
        what = f"{escape(file)} cannot be read ({error.strerror})"
        raise InputRefused("E_FORMAT", what, "check the file and its permissions") from error
    infos = {name: _tensor(name, call, find, file) for name, call in calls.items()}
    _check_expansion(infos, size, file)
    return infos


# Containers.

_Find = Callable[[Any, str], _Storage]


def _zip(handle: BinaryIO, size: int, file: Path) -> tuple[dict[str, Call], _Find]:
    entries = read_directory(handle, size, file)
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        _refuse(file, "is a zip archive, but not one of torch.save", "export weights with torch.save or safetensors")
    root = pickles[0].removesuffix("data.pkl")
    if any(name.startswith(f"{root}code/") or name == f"{root}constants.pkl" for name in entries):
        _refuse(file, "is a TorchScript file, not a checkpoint", "save the state dict of the model it was made from")
    order = entries.get(f"{root}byteorder")
    if order is not None and _content(handle, order, 16, file) != b"little":
        _refuse(file, "was written in another byte order than little-endian", "save it on the machine it will run on")
    data = _content(handle, entries[pickles[0]], MAX_PICKLE_BYTES, file)
    value, end = read_pickle(data, 0, file, _ALLOWED)
    if end != len(data):
        _refuse(file, "has bytes after its pickle")
    known: dict[str, tuple[str, int]] = {}

    def find(reference: Any, name: str) -> _Storage:
        code, key, count = _reference(reference, 5, known, file, name)
        entry = entries.get(f"{root}data/{key}")
        if entry is None:
            _refuse(file, f"lacks the data of tensor {_shown(name)}")
        found = _Storage(code, count, entry.begin, entry)
        if found.nbytes != entry.end - entry.begin:
            held = f"holds {entry.end - entry.begin:,} bytes"
            _refuse(file, f"gives the storage of tensor {_shown(name)} {found.nbytes:,} bytes and {held}")
        return found

    return _state_dict(value, file), find


def _content(handle: BinaryIO, entry: Entry, limit: int, file: Path) -> bytes:
    """The bytes of a small entry, whose CRC is checked."""
    import zlib

    if entry.end - entry.begin > limit:
        _refuse(file, f"has an entry {_shown(entry.name)} of more than {limit:,} bytes", _PLAIN)
    handle.seek(entry.begin)
    data = handle.read(entry.end - entry.begin)
    if len(data) != entry.end - entry.begin or zlib.crc32(data) != entry.crc:
        _refuse(file, f"is damaged: entry {_shown(entry.name)} does not have its checksum")
    return data


def _legacy(handle: BinaryIO, size: int, file: Path) -> tuple[dict[str, Call], _Find]:
    handle.seek(0)
    data = handle.read(min(size, MAX_PICKLE_BYTES))
    end = 0
    read: list[Any] = []
    for _ in range(5):  # magic number, protocol, system, the state dict, the keys of the storages
        value, end = read_pickle(data, end, file, _ALLOWED)
        read.append(value)
        if read[0] != _MAGIC or read[1:2] not in ([], [_PROTOCOL]):
            _refuse(file, "is no torch.save file", "export weights with torch.save or safetensors")
    _, _, system, value, keys = read
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        _refuse(file, "was written in another byte order than little-endian", "save it on the machine it will run on")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or len(keys) > MAX_TENSORS:
        _refuse(file, "has a malformed list of storages")
    calls = _state_dict(value, file)
    known: dict[str, tuple[str, int]] = {}
    for name, call in calls.items():
        _reference(call.arguments[0] if call.arguments else None, 6, known, file, name)
    if len(set(keys)) != len(keys) or set(keys) != known.keys():
        _refuse(file, "lists other storages than its tensors need")
    begins: dict[str, int] = {}
    for key in keys:
        code, count = known[key]
        handle.seek(end)
        if int.from_bytes(handle.read(8), "little", signed=True) != count:
            _refuse(file, "is truncated or damaged: a storage does not have the size that its tensors state")
        begins[key] = end + 8
        end += 8 + count * BITS[code] // 8
        if end > size:
            _refuse(file, f"is truncated: {end - size:,} bytes are missing")
    if end != size:
        _refuse(file, f"has {size - end:,} bytes that belong to no tensor")

    def find(reference: Any, name: str) -> _Storage:
        code, key, count = _reference(reference, 6, known, file, name)
        return _Storage(code, count, begins[key], None)

    return calls, find


def _reference(
    reference: Any, parts: int, known: dict[str, tuple[str, int]], file: Path, name: str
) -> tuple[str, str, int]:
    """(dtype code, key, elements) of a reference to a storage: ("storage", class, key, place, elements[, view])."""
    parted = reference.id if isinstance(reference, Persistent) else None
    if not isinstance(parted, tuple) or len(parted) != parts or parted[0] != "storage":
        _refuse(file, f"refers to the data of tensor {_shown(name)} in an unknown way")
    kind, key, place, count = parted[1:5]
    plain = isinstance(kind, Global) and isinstance(key, str) and isinstance(place, str)
    if not plain or type(count) is not int or not 0 <= count < 2**56 or parted[5:] not in ((), (None,)):
        _refuse(file, f"refers to the data of tensor {_shown(name)} in an unknown way")
    code = _STORAGES.get(kind.name) if kind.module in ("torch", "torch.storage") else None
    if code is None:
        _refuse_tensor(file, name, f"is of a type that safetensors does not have ({escape(kind.name, 60)})")
    if known.setdefault(key, (code, count)) != (code, count):
        _refuse(file, f"describes the storage of tensor {_shown(name)} in two ways")
    return code, key, count


# What is in them.


def _state_dict(value: Any, file: Path) -> dict[str, Call]:
    """Name -> the call that would rebuild a plain tensor."""
    if not isinstance(value, dict):
        _refuse_weights(file, "holds no state dict (tensors by name)", _PLAIN)
    if len(value) > MAX_TENSORS:
        _refuse_weights(file, f"has more than {MAX_TENSORS:,} tensors", _PLAIN)
    found: dict[str, Call] = {}
    for name, each in value.items():
        if not isinstance(name, str):
            _refuse_weights(file, f"has the key {_shown(str(name))}, which is no name of a tensor", _PLAIN)
        call = _tensor_call(each)
        if call is None:
            _refuse_value(file, name, each)
        found[name] = call
    return found


def _tensor_call(value: Any) -> Call | None:
    """The call that rebuilds a plain tensor, inside that of a parameter or alone; None for anything else."""
    for _ in range(2):
        if not isinstance(value, Call) or value.function.module != "torch._utils":
            return None
        if value.function.name in _TENSORS:
            return value
        value = value.arguments[0] if value.function.name in _PARAMETERS and value.arguments else None
    return None


def _tensor(name: str, call: Call, find: _Find, file: Path) -> TensorInfo:
    version, arguments = call.function.name, call.arguments
    needed = {"_rebuild_tensor": (4, 4), "_rebuild_tensor_v2": (6, 7), "_rebuild_tensor_v3": (7, 8)}[version]
    if not needed[0] <= len(arguments) <= needed[1]:
        _refuse(file, f"describes tensor {_shown(name)} in an unknown way")
    storage = find(arguments[0], name)
    offset, shape, strides = arguments[1], _size(arguments[2]), _size(arguments[3])
    if not _counts((offset,)) or not _counts(shape) or not _counts(strides) or len(shape) != len(strides):
        _refuse(file, f"has a malformed shape or malformed strides for tensor {_shown(name)}")
    if any(each for each in arguments[6 + (version == "_rebuild_tensor_v3") :]):
        _refuse_tensor(file, name, "is a conjugate or negated view")
    code, count = storage.code, storage.count
    if version == "_rebuild_tensor_v3":
        code, count = _retyped(storage, arguments[6], file, name)
    elements = math.prod(shape)
    if not elements:  # its offset means nothing
        return TensorInfo(name, code, shape, file, storage.begin, storage.begin)
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if last >= count:
        _refuse(file, f"is damaged: tensor {_shown(name)} reaches outside its storage")
    width = BITS[code] // 8
    begin = storage.begin + offset * width
    if is_contiguous(shape, strides):
        return TensorInfo(name, code, shape, file, begin, begin + elements * width, entry=storage.entry)
    return TensorInfo(name, code, shape, file, begin, storage.begin + (last + 1) * width, strides, storage.entry)


def _retyped(storage: _Storage, dtype: Any, file: Path, name: str) -> tuple[str, int]:
    """(dtype code, elements) of an untyped storage as the dtype that its tensor states."""
    code = _DTYPES.get(dtype.name) if isinstance(dtype, Global) and dtype.module == "torch" else None
    if code is None:
        shown = escape(dtype.name if isinstance(dtype, Global) else type(dtype).__name__, 60)
        _refuse_tensor(file, name, f"is of a type that safetensors does not have ({shown})")
    return code, storage.nbytes * 8 // BITS[code]


def _size(value: Any) -> Any:
    """A shape, which may be written as torch.Size(shape)."""
    if isinstance(value, Call) and value.function == Global("torch", "Size") and len(value.arguments) == 1:
        return value.arguments[0]
    return value


def _counts(values: Any) -> bool:
    # bool would pass isinstance(…, int).
    short = isinstance(values, tuple) and len(values) <= _MAX_DIMENSIONS
    return short and all(type(each) is int and 0 <= each < 2**56 for each in values)


def _check_expansion(infos: Mapping[str, TensorInfo], size: int, file: Path) -> None:
    """Views may repeat bytes: a shape of 10^12 elements with strides of zero fits in one number."""
    total = sum(info.nbytes for info in infos.values())
    if total > _EXPANDED * size + _EXPANDED_BYTES:
        what = f"has {size:,} bytes, of which its tensors would become {total:,}"
        _refuse(file, what, "save its tensors as contiguous ones of their own")


def _refuse_value(file: Path, name: str, value: Any) -> NoReturn:
    if isinstance(value, Call):
        kind = _SPECIAL.get(value.function.name)
        if kind is not None:
            _refuse_tensor(file, name, f"is {kind}")
    if isinstance(value, dict):
        what = f"wraps what it holds: {_shown(name)} is a dictionary, not a tensor"
        _refuse_weights(file, what, f'save that alone: torch.save(torch.load(FILE)["{_shown(name)}"], FILE)')
    kind = value.function.name if isinstance(value, Call) else type(value).__name__
    _refuse_weights(file, f"holds {_shown(name)}, which is no tensor ({escape(kind, 60)})", _PLAIN)


def _check_start(file: Path, start: bytes, size: int, handle: BinaryIO) -> None:
    """Refuses what is neither container, by what it is."""
    if len(start) < 8:
        _refuse(file, f"is too short for a torch.save file ({size} bytes)")
    if start == b"version ":
        _refuse(file, "is a Git LFS pointer, not the file itself", "run git lfs pull")
    handle.seek(257)
    if handle.read(5) == b"ustar":
        what = "was written by a PyTorch before 0.1.10, as a tar archive"
        _refuse(file, what, "load it with an old PyTorch and save its state dict again")
    if start[:1] not in (b"\x80", b"L", b"\x8a"):
        _refuse(file, "is no torch.save file", "export weights with torch.save or safetensors")


def _shown(name: str) -> str:
    return escape(name[:200], 200)


def _refuse_tensor(file: Path, name: str, what: str) -> NoReturn:
    hint = "save it as a plain tensor of floating-point numbers, or use the checkpoint it was made from"
    _refuse_weights(file, f"has tensor {_shown(name)}, which {what}", hint)


def _refuse_weights(file: Path, what: str, hint: str) -> NoReturn:
    raise InputRefused("E_WEIGHTS", f"{escape(file)} {what}", hint)


def _refuse(file: Path, what: str, hint: str = _DAMAGED) -> NoReturn:
    raise InputRefused("E_FORMAT", f"{escape(file)} {what}", hint)
