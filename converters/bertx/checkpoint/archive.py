"""The directory of a zip archive, read strictly: where each stored entry's bytes lie. Nothing is unpacked.

torch.save writes entries one after another without compression. Whatever else a zip archive may be (compressed,
encrypted, with entries that overlap or are named twice, split over disks) is refused before any of it is read.
The format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NoReturn

from bertx.errors import InputRefused, escape

MAX_ENTRIES = 200_000
MAX_DIRECTORY_BYTES = 32 * 2**20

_END = b"PK\5\6"
_END_BYTES = 22
_LARGE_END = b"PK\6\6"
_LOCATOR = b"PK\6\7"
_LOCATOR_BYTES = 20
_CENTRAL = b"PK\1\2"
_LOCAL = b"PK\3\4"
_FULL2, _FULL4 = 0xFFFF, 0xFFFF_FFFF
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_DESCRIPTOR = 0x8
_DAMAGED = "download it again"
_RESAVE = "save it again with torch.save, or use safetensors"


@dataclass
class Entry:
    """A stored entry: its bytes are file[begin:end], `crc` their CRC-32; `checked` once they were found to have it."""

    name: str
    begin: int
    end: int
    crc: int
    checked: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class _Listed:
    """What the directory says of an entry, and how its local header must repeat it."""

    name: bytes
    flags: int
    crc: int
    size: int
    offset: int


def read_directory(handle: BinaryIO, size: int, file: Path) -> dict[str, Entry]:
    """The entries of an archive of `size` bytes by name. Raises InputRefused("E_FORMAT") on any doubt."""
    count, begin, end = _directory_place(handle, size, file)
    handle.seek(begin)
    directory = handle.read(end - begin)
    listed = _listed(directory, count, file)
    listed.sort(key=lambda each: each.offset)
    entries: dict[str, Entry] = {}
    free = 0
    for each in listed:
        if each.offset < free:
            _refuse(file, f"has entries that overlap: {_shown(each.name)}")
        entry = _located(handle, each, file)
        free = entry.end
        if free > begin:
            _refuse(file, f"is truncated or damaged: entry {_shown(each.name)} reaches into the directory")
        if entry.name in entries:
            _refuse(file, f"has the entry {_shown(each.name)} twice")
        entries[entry.name] = entry
    return entries


def _directory_place(handle: BinaryIO, size: int, file: Path) -> tuple[int, int, int]:
    """(number of entries, where the directory begins, where it ends)."""
    start = max(0, size - _END_BYTES - _FULL2)
    handle.seek(start)
    tail = handle.read(size - start)
    place = tail.rfind(_END)
    if place < 0 or place + _END_BYTES > len(tail):
        _refuse(file, "is truncated: it begins as a zip archive and has no directory")
    disk, first, here, count, length, begin, comment = struct.unpack_from("<HHHHIIH", tail, place + 4)
    if place + _END_BYTES + comment != len(tail):
        _refuse(file, "has bytes after the end of its zip archive")
    end = start + place
    handle.seek(max(0, end - _LOCATOR_BYTES))
    locator = handle.read(_LOCATOR_BYTES)
    if locator[:4] == _LOCATOR and len(locator) == _LOCATOR_BYTES:  # torch.save always writes a zip64 directory, too
        disk, first, here, count, length, begin, end = _large_end(handle, locator, end, file)
    elif _FULL2 in (count, here, disk, first) or _FULL4 in (length, begin):
        _refuse(file, "is damaged: its zip64 directory is missing")
    if disk or first or here != count:
        _refuse(file, "is one part of a split archive", _RESAVE)
    if count > MAX_ENTRIES or length > MAX_DIRECTORY_BYTES:
        _refuse(file, f"has {count:,} entries in a directory of {length:,} bytes, which no model needs", _RESAVE)
    if begin + length != end:
        _refuse(file, "is truncated or damaged: its directory is not where it should be")
    return count, begin, begin + length


def _large_end(handle: BinaryIO, locator: bytes, end: int, file: Path) -> tuple[int, int, int, int, int, int, int]:
    """The fields of the zip64 directory that `locator` leads to, and where it begins; `end` is that of the archive."""
    disk, place, disks = struct.unpack("<IQI", locator[4:])
    last = end - _LOCATOR_BYTES
    if disk or disks > 1 or place > last - 56:
        _refuse(file, "is damaged: its zip64 directory is not where it should be")
    handle.seek(place)
    record = handle.read(56)
    if record[:4] != _LARGE_END or struct.unpack_from("<Q", record, 4)[0] != last - place - 12:
        _refuse(file, "is damaged: its zip64 directory is malformed")
    return (*struct.unpack("<IIQQQQ", record[16:]), place)


def _listed(directory: bytes, count: int, file: Path) -> list[_Listed]:
    found: list[_Listed] = []
    place = 0
    for _ in range(count):
        if directory[place : place + 4] != _CENTRAL or place + 46 > len(directory):
            _refuse(file, "is damaged: its directory is malformed")
        flags, method = struct.unpack_from("<HH", directory, place + 8)
        crc, packed, size, name, extra, comment, disk = struct.unpack_from("<IIIHHHH", directory, place + 16)
        offset = struct.unpack_from("<I", directory, place + 42)[0]
        called = directory[place + 46 : place + 46 + name]
        fields = directory[place + 46 + name : place + 46 + name + extra]
        place += 46 + name + extra + comment
        if place > len(directory):
            _refuse(file, "is damaged: its directory is malformed")
        size, packed, offset, disk = _large(fields, [size, packed, offset, disk], file)
        if flags & _ENCRYPTED:
            _refuse(file, f"has an encrypted entry: {_shown(called)}", _RESAVE)
        if method or packed != size:
            what = f"has a compressed entry: {_shown(called)} ({packed:,} bytes for {size:,})"
            _refuse(file, what, _RESAVE)
        if disk:
            _refuse(file, "is one part of a split archive", _RESAVE)
        found.append(_Listed(called, flags, crc, size, offset))
    if place != len(directory):
        _refuse(file, "is damaged: its directory has bytes that belong to no entry")
    return found


def _large(fields: bytes, values: list[int], file: Path) -> list[int]:
    """Size, packed size, offset and disk of an entry, those that are too large for their field from the zip64 one."""
    limits = (_FULL4, _FULL4, _FULL4, _FULL2)
    if all(value != limit for value, limit in zip(values, limits, strict=True)):
        return values
    place = 0
    while place + 4 <= len(fields):
        kind, length = struct.unpack_from("<HH", fields, place)
        if kind == 1:
            return _replaced(fields[place + 4 : place + 4 + length], values, limits, file)
        place += 4 + length
    return values  # a size that is just that large


def _replaced(data: bytes, values: list[int], limits: tuple[int, ...], file: Path) -> list[int]:
    sizes = (8, 8, 8, 4)
    found: list[int] = []
    for value, limit, size in zip(values, limits, sizes, strict=True):
        if value == limit:
            if len(data) < size:
                _refuse(file, "is damaged: a zip64 field is too short")
            value, data = int.from_bytes(data[:size], "little"), data[size:]
        found.append(value)
    return found


def _located(handle: BinaryIO, listed: _Listed, file: Path) -> Entry:
    """Where an entry's bytes lie, from its local header, which must repeat the directory."""
    handle.seek(listed.offset)
    header = handle.read(30)
    if len(header) < 30 or header[:4] != _LOCAL:
        _refuse(file, f"is truncated or damaged: entry {_shown(listed.name)} is not where the directory says")
    flags, method = struct.unpack_from("<HH", header, 6)
    crc, packed, size, name, extra = struct.unpack_from("<IIIHH", header, 14)
    same = method == 0 and not flags & _ENCRYPTED and handle.read(name) == listed.name
    if not flags & _DESCRIPTOR:  # with it, sizes and CRC follow the data and are zero here
        same = same and crc == listed.crc and size in (listed.size, _FULL4) and packed in (listed.size, _FULL4)
    if not same:
        _refuse(file, f"is damaged: entry {_shown(listed.name)} is described in two ways")
    try:
        called = listed.name.decode("utf-8")
    except UnicodeDecodeError:
        _refuse(file, f"has an entry whose name is no UTF-8: {_shown(listed.name)}")
    begin = listed.offset + 30 + name + extra
    return Entry(called, begin, begin + listed.size, listed.crc)


def _shown(name: bytes) -> str:
    return escape(name[:200].decode("utf-8", "replace"), 200)


def _refuse(file: Path, what: str, hint: str = _DAMAGED) -> NoReturn:
    raise InputRefused("E_FORMAT", f"{escape(file)} {what}", hint)
