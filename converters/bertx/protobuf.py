"""Walks the fields of a protobuf file in place (https://protobuf.dev/programming-guides/encoding/), without a schema.

    with opened(path) as (reader, whole):
        for field in reader.fields(whole): ...

Whatever is not asked for, the data of a model's weights above all, is skipped and never read: a file of two gigabytes
costs milliseconds, and a hostile length costs a refusal.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

#: Fields in one file; a large model has some hundred thousand.
MAX_FIELDS = 5_000_000
#: Bytes of a text that is read; longer ones (metadata) are left out.
MAX_TEXT = 1 << 20

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Field:
    """One field of a message: `value` where it is a number, else the place of its bytes in the file."""

    number: int
    kind: int
    value: int
    begin: int
    end: int


@contextmanager
def opened(path: Path) -> Iterator[tuple[Reader, Field]]:
    """A reader of a file, and the message that the file is. Raises OSError or ValueError, as all that reads does."""
    if not path.is_file():
        raise ValueError("it is no regular file")
    with path.open("rb") as handle:
        yield Reader(handle), Field(0, _BYTES, 0, 0, os.fstat(handle.fileno()).st_size)


class Reader:
    """Walks the messages of an open file, `MAX_FIELDS` fields in all."""

    def __init__(self, handle: BinaryIO) -> None:
        self._handle = handle
        self._left = MAX_FIELDS

    def fields(self, message: Field) -> Iterator[Field]:
        """The fields of the message that a field holds. Raises ValueError where it holds none."""
        if message.kind != _BYTES:
            raise ValueError("it is another kind of protobuf")
        place = message.begin
        while place < message.end:
            self._left -= 1
            if self._left < 0:
                raise ValueError(f"it has more than {MAX_FIELDS:,} fields")
            self._handle.seek(place)
            key = self._varint()
            kind, value, first = key & 7, 0, self._handle.tell()
            if kind == _VARINT:
                value = self._varint()
                place = self._handle.tell()
            elif kind == _BYTES:
                length = self._varint()
                first = self._handle.tell()
                place = first + length
            elif kind in (_FIXED64, _FIXED32):
                place = first + (8 if kind == _FIXED64 else 4)
            else:
                raise ValueError("it is not protobuf")
            if place > message.end or not key >> 3:
                raise ValueError("it is cut short, or not protobuf")
            yield Field(key >> 3, kind, value, first, place)

    def text(self, field: Field) -> str:
        """The text of a field; empty where it is longer than any that matters."""
        if field.kind != _BYTES or field.end - field.begin > MAX_TEXT:
            return ""
        self._handle.seek(field.begin)
        return self._handle.read(field.end - field.begin).decode("utf-8", "replace")

    def numbers(self, field: Field) -> Iterator[int]:
        """The numbers of a repeated field, packed or one by one."""
        if field.kind == _VARINT:
            yield field.value
            return
        self._handle.seek(field.begin)
        while self._handle.tell() < field.end:
            yield self._varint()

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._handle.read(1)
            if not byte:
                raise ValueError("it is cut short")
            value |= (byte[0] & 0x7F) << shift
            if byte[0] < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF
        raise ValueError("it is not protobuf")
