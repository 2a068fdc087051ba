"""What an .onnx file says of itself, read without the onnx package and without its weights.

A file is one protobuf message (onnx.ModelProto, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto), whose fields
are walked in place: whatever is not asked for, the data of the weights above all, is skipped and never read. So a
model of two gigabytes costs milliseconds, and a hostile length costs a refusal.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from bertx.errors import InputRefused, escape
from bertx.signature import Signature, TensorSpec

#: Fields in one file; a large model has some hundred thousand.
MAX_FIELDS = 5_000_000
#: Bytes of a text that is read; longer ones (metadata) are left out.
MAX_TEXT = 1 << 20

#: the domain of ONNX's own operators, which files name by nothing
STANDARD = "ai.onnx"

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
#: onnx.TensorProto.DataType, by the names of numpy where it has one
_DTYPES = (
    *("undefined", "float32", "uint8", "int8", "uint16", "int16", "int32", "int64", "string", "bool", "float16"),
    *("float64", "uint32", "uint64", "complex64", "complex128", "bfloat16", "float8_e4m3fn", "float8_e4m3fnuz"),
    *("float8_e5m2", "float8_e5m2fnuz", "uint4", "int4", "float4_e2m1", "float8_e8m0", "uint2", "int2"),
    *("float6_e2m3", "float6_e3m2"),
)


@dataclass(frozen=True)
class Weight:
    """An initializer; `external` where its data lies in another file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    external: bool

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class OnnxHeader:
    """A model without its weights' data. `opsets` maps a domain ("ai.onnx") to its version.

    `domains` are those of its nodes, which may be fewer than `opsets` has.
    """

    ir_version: int
    producer: str
    opsets: Mapping[str, int]
    nodes: int
    domains: frozenset[str]
    signature: Signature
    weights: tuple[Weight, ...]
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class _Field:
    """One field of a message: `value` where it is a number, else the place of its bytes in the file."""

    number: int
    kind: int
    value: int
    begin: int
    end: int


def read_onnx_header(path: Path) -> OnnxHeader:
    """Reads the header of an .onnx file. Raises InputRefused(E_FORMAT) where it is none, or is cut short."""
    try:
        if not path.is_file():
            raise ValueError("it is no regular file")
        with path.open("rb") as handle:
            return _model(_Reader(handle), _Field(0, _BYTES, 0, 0, os.fstat(handle.fileno()).st_size))
    except (OSError, ValueError) as error:
        raise InputRefused("E_FORMAT", f"{escape(path)} is no ONNX file: {escape(error)}", "export it again") from error


class _Reader:
    """Walks the messages of an open file, `MAX_FIELDS` fields in all."""

    def __init__(self, handle: BinaryIO) -> None:
        self._handle = handle
        self._left = MAX_FIELDS

    def fields(self, message: _Field) -> Iterator[_Field]:
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
            yield _Field(key >> 3, kind, value, first, place)

    def text(self, field: _Field) -> str:
        """The text of a field; empty where it is longer than any that matters."""
        if field.kind != _BYTES or field.end - field.begin > MAX_TEXT:
            return ""
        self._handle.seek(field.begin)
        return self._handle.read(field.end - field.begin).decode("utf-8", "replace")

    def numbers(self, field: _Field) -> Iterator[int]:
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


def _model(reader: _Reader, whole: _Field) -> OnnxHeader:
    ir_version, producer, opsets, metadata = 0, ["", ""], {}, {}
    graph: _Field | None = None
    for field in reader.fields(whole):
        if field.number == 1:
            ir_version = field.value
        elif field.number in (2, 3):
            producer[field.number - 2] = reader.text(field)
        elif field.number == 7:
            graph = field
        elif field.number == 8:
            domain, version = _opset(reader, field)
            opsets[domain] = version
        elif field.number == 14:
            key, value = _pair(reader, field)
            metadata[key] = value
    if graph is None:
        raise ValueError("it holds no graph")
    domains, signature, weights = _graph(reader, graph)
    who, named = " ".join(producer).strip(), frozenset(domains)
    return OnnxHeader(ir_version, who, opsets, len(domains), named, signature, weights, metadata)


def _graph(reader: _Reader, graph: _Field) -> tuple[list[str], Signature, tuple[Weight, ...]]:
    """(the domain of each node, the signature, the weights)."""
    domains: list[str] = []
    weights: list[Weight] = []
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    for field in reader.fields(graph):
        if field.number == 1:
            stated = (reader.text(each) for each in reader.fields(field) if each.number == 7)
            domains.append(next(stated, "") or STANDARD)
        elif field.number == 5:
            weights.append(_weight(reader, field))
        elif field.number == 11:
            inputs.append(_value(reader, field))
        elif field.number == 12:
            outputs.append(_value(reader, field))
    # Before IR version 4 a weight was an input, too.
    named = {weight.name for weight in weights}
    fed = tuple(spec for spec in inputs if spec.name not in named)
    return domains, Signature(fed, tuple(outputs)), tuple(weights)


def _weight(reader: _Reader, message: _Field) -> Weight:
    name, dtype, external = "", 0, False
    shape: list[int] = []
    for field in reader.fields(message):
        if field.number == 1:
            shape += reader.numbers(field)
        elif field.number == 2:
            dtype = field.value
        elif field.number == 8:
            name = reader.text(field)
        elif field.number == 14:
            external = field.value == 1
    return Weight(name, _dtype(dtype), tuple(shape), external)


def _value(reader: _Reader, message: _Field) -> TensorSpec:
    """ValueInfoProto: name, and type.tensor_type with its elem_type and shape."""
    name, dtype = "", 0
    shape: list[str | int] = []
    for field in reader.fields(message):
        if field.number == 1:
            name = reader.text(field)
        for tensor in _inside(reader, field, 2, 1):
            for part in reader.fields(tensor):
                if part.number == 1:
                    dtype = part.value
                shape += [_size(reader, dim) for dim in _inside(reader, part, 2, 1)]
    return TensorSpec(name, _dtype(dtype), tuple(shape))


def _inside(reader: _Reader, field: _Field, outer: int, inner: int) -> list[_Field]:
    """The fields `inner` of a field, where that is `outer`."""
    if field.number != outer:
        return []
    return [part for part in reader.fields(field) if part.number == inner]


def _size(reader: _Reader, dim: _Field) -> str | int:
    for field in reader.fields(dim):
        if field.number == 1:
            return field.value
        if field.number == 2:
            return reader.text(field) or "?"
    return "?"


def _opset(reader: _Reader, message: _Field) -> tuple[str, int]:
    domain, version = "", 0
    for field in reader.fields(message):
        if field.number == 1:
            domain = reader.text(field)
        elif field.number == 2:
            version = field.value
    return domain or STANDARD, version


def _pair(reader: _Reader, message: _Field) -> tuple[str, str]:
    texts = {field.number: reader.text(field) for field in reader.fields(message)}
    return texts.get(1, ""), texts.get(2, "")


def _dtype(number: int) -> str:
    return _DTYPES[number] if number < len(_DTYPES) else f"onnx dtype {number}"
