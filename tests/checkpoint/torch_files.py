"""Files as torch.save writes them, put together by hand so that one thing at a time can be made wrong."""

from __future__ import annotations

import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

MAGIC = 0x1950A86A20F9469CFC6C


def text(value: str) -> bytes:
    """BINUNICODE"""
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    """LONG1, or BININT where it fits"""
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def reference(key: str = "0", count: int = 6, kind: str = "torch\nFloatStorage", more: bytes = b"") -> bytes:
    """A storage's persistent id; `more` is N (None) in the legacy container."""
    return (
        b"(" + text("storage") + b"c" + kind.encode() + b"\n" + text(key) + text("cpu") + number(count) + more + b"tQ"
    )


def tensor(
    storage: bytes | None = None,
    offset: int = 0,
    shape: tuple[int, ...] = (2, 3),
    strides: tuple[int, ...] = (3, 1),
    rest: bytes = b"\x89}",
) -> bytes:
    """A call of _rebuild_tensor_v2."""
    arguments = (storage or reference()) + number(offset) + numbers(*shape) + numbers(*strides) + rest
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def state_dict(**values: bytes) -> bytes:
    """The pickle of a dictionary."""
    return b"\x80\x02}(" + b"".join(text(name) + value for name, value in values.items()) + b"u."


def zipped(path: Path, entries: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """A zip archive with these entries."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def torch_zip(path: Path, pickled: bytes, storages: Mapping[str, bytes] | None = None, **more: bytes) -> Path:
    """The zip container around a pickle; one storage of six floats where none is given."""
    data = {"0": bytes(range(24))} if storages is None else storages
    entries = {"archive/data.pkl": pickled, "archive/byteorder": b"little", "archive/version": b"3\n"}
    entries |= {f"archive/{name}": content for name, content in more.items()}
    return zipped(path, entries | {f"archive/data/{key}": content for key, content in data.items()})


def torch_legacy(
    path: Path, pickled: bytes, keys: object = ("0",), tail: bytes | None = None, **system: object
) -> Path:
    """The legacy container around a pickle; one storage of six floats where no `tail` is given."""
    told = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}, **system}
    parts = [pickle.dumps(part, 2) for part in (MAGIC, 1001, told)]
    listed = pickle.dumps(list(keys) if isinstance(keys, tuple) else keys, 2)
    storage = struct.pack("<q", 6) + bytes(range(24)) if tail is None else tail
    path.write_bytes(b"".join(parts) + pickled + listed + storage)
    return path


def raw_entry(name: bytes, content: bytes, place: int, **changes: int) -> tuple[bytes, bytes]:
    """(local header and content, entry of the directory) of a stored entry; `changes` falsify the directory's."""
    stated = {"flags": 0, "method": 0, "crc": zlib.crc32(content), "packed": len(content), "size": len(content)}
    local = struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 20, 0, 0, 0, 0, *_sizes(stated), len(name), 0) + name + content
    stated |= {"offset": place, **changes}
    central = struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", 20, 20, stated["flags"], stated["method"], 0, 0,
                          *_sizes(stated), len(name), 0, 0, 0, 0, 0, stated["offset"]) + name  # fmt: skip
    return local, central


def raw_zip(path: Path, parts: list[tuple[bytes, bytes]], *, count: int | None = None, **changes: int) -> Path:
    """An archive from raw entries; `changes` falsify the end of the directory."""
    body, directory = b"".join(local for local, _ in parts), b"".join(central for _, central in parts)
    number_of = len(parts) if count is None else count
    stated = {"length": len(directory), "begin": len(body), "disk": 0, "comment": 0, **changes}
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", stated["disk"], 0, number_of, number_of, stated["length"],
                      stated["begin"], stated["comment"])  # fmt: skip
    path.write_bytes(body + directory + end)
    return path


def _sizes(stated: Mapping[str, int]) -> tuple[int, int, int]:
    return stated["crc"], stated["packed"], stated["size"]
