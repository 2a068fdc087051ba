"""The tensors inside a TorchScript archive by attribute path, read as data: nothing in the file is executed.

The archive is a zip; `data.pkl` describes the module tree, `constants.pkl` the constants of its code, and each storage
is a member of its own (torch/csrc/jit/serialization). The pickles are read by an unpickler that knows three inert
stand-ins (a module, a tensor, a storage's type) and gives None for whatever else they name; opcodes that could reach
further, or take more memory than the file has bytes, are refused before.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertx.errors import InputRefused, escape
from bertx.formats.torchscript import opened

#: bytes of a pickle that are read, and how deep modules lie in one another
MOST_PICKLE = 64 * 2**20
DEEPEST = 64

#: TorchScript's storage type -> safetensors code
_CODES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
}
#: what TorchScript's own pickler writes (torch/csrc/jit/serialization/pickler.cpp), and no other
_OPCODES = frozenset(
    {"PROTO", "STOP", "FRAME", "MARK", "GLOBAL", "REDUCE", "BUILD", "NEWOBJ", "BINPERSID", "BINPUT", "LONG_BINPUT",
     "BINGET", "LONG_BINGET", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT",
     "BINUNICODE", "BINSTRING", "SHORT_BINSTRING", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1",
     "TUPLE2", "TUPLE3", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "DICT", "LIST", "MEMOIZE", "POP"}
)  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """A floating tensor in an archive: `code` is a safetensors code; `read` gives its bytes in row-major order.

    `path` is the attribute path in the module tree; "" for a constant of the code, which has no name.
    """

    path: str
    code: str
    shape: tuple[int, ...]
    read: Callable[[], bytes]


@dataclass(frozen=True)
class _Storage:
    code: str
    key: str


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage | None
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Module:
    """A module of the tree: attributes by name."""

    def __init__(self) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.attributes = {str(k): v for k, v in state.items()} if isinstance(state, dict) else {"": state}


def stored(path: Path) -> Iterator[Stored]:
    """Every contiguous floating tensor of an archive. Raises InputRefused("E_FORMAT") where it is malformed."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            found = [(name, _unpickled(archive, name)) for kind in ("data", "constants") for name in names
                     if name.count("/") == 1 and name.endswith(f"/{kind}.pkl")]  # fmt: skip
    except InputRefused:
        raise
    except Exception as error:  # a pickle of any bytes raises anything
        raise InputRefused(
            "E_FORMAT", f"{escape(path.name)} is no TorchScript file: {escape(error)}", "export it again"
        ) from error
    for member, root in found:
        folder, _, kind = member.rpartition("/")
        for name, tensor in _walk(root, (), set()):
            if tensor.storage is not None and _contiguous(tensor):
                place = f"{folder}/{'data' if kind == 'data.pkl' else 'constants'}/{tensor.storage.key}"
                named = name if kind == "data.pkl" else ""
                yield Stored(named, tensor.storage.code, tensor.shape, _reader(path, place, tensor))


def _unpickled(archive: zipfile.ZipFile, name: str) -> Any:
    if archive.getinfo(name).file_size > MOST_PICKLE:
        raise ValueError(f"{name} is too large")
    data = archive.read(name)
    _check(data)
    return _Reader(io.BytesIO(data)).load()


def _check(data: bytes) -> None:
    """Refuses opcodes that TorchScript does not write, and places in the memo that no pickle of this size needs."""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name not in _OPCODES:
            raise ValueError(f"opcode {opcode.name}")
        if opcode.name in ("BINPUT", "LONG_BINPUT") and int(argument or 0) > len(data):
            raise ValueError("a memo beyond its end")


class _Reader(pickle.Unpickler):
    """Makes modules, tensors and storages; everything else that the pickle names becomes None."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch._utils" and name == "_rebuild_tensor_v2":
            return _tensor
        if module == "torch" and name.endswith("Storage"):
            return _CODES.get(name, "")
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        return _Module if module.startswith("__torch__") else _nothing

    def persistent_load(self, pid: Any) -> Any:
        if not isinstance(pid, tuple) or len(pid) < 3 or not isinstance(pid[2], str):
            raise ValueError("a storage without a name")
        return _Storage(pid[1], pid[2]) if isinstance(pid[1], str) and pid[1] else None


def _nothing(*_: Any) -> None:
    return None


def _tensor(storage: Any, offset: Any = 0, shape: Any = (), strides: Any = (), *_: Any) -> _Tensor:
    whole = all(type(number) is int and 0 <= number < 2**48 for number in (offset, *shape, *strides))
    if not whole or len(shape) != len(strides):
        raise ValueError("a malformed tensor")
    return _Tensor(storage if isinstance(storage, _Storage) else None, offset, tuple(shape), tuple(strides))


def _walk(value: Any, path: tuple[str, ...], seen: set[int]) -> Iterator[tuple[str, _Tensor]]:
    """Tensors with their paths. What is shared is told once, so that a pickle cannot make the walk long."""
    if isinstance(value, _Tensor):
        yield ".".join(path), value
    if len(path) > DEEPEST or id(value) in seen:
        return
    seen.add(id(value))
    for name, each in _parts(value):
        yield from _walk(each, (*path, name), seen)


def _parts(value: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(value, _Module):
        return value.attributes.items()
    if isinstance(value, dict):
        return ((str(name), each) for name, each in value.items())
    if isinstance(value, (tuple, list)):
        return ((str(index), each) for index, each in enumerate(value))
    return ()


def _contiguous(tensor: _Tensor) -> bool:
    """Whether elements lie in row-major order without gaps; strides of axes of one element do not matter."""
    expected = 1
    for size, stride in reversed(list(zip(tensor.shape, tensor.strides, strict=True))):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return expected > 0


_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


def _reader(path: Path, member: str, tensor: _Tensor) -> Callable[[], bytes]:
    def read() -> bytes:
        assert tensor.storage is not None
        size = _SIZES[tensor.storage.code]
        begin, count = tensor.offset * size, math.prod(tensor.shape) * size
        with opened(path) as archive:
            whole = archive.getinfo(member).file_size
            if begin + count > whole:
                raise ValueError(f"{member} holds {whole} bytes, a tensor needs {begin + count}")
            with archive.open(member) as stream:
                stream.seek(begin)
                return stream.read(count)

    return read
