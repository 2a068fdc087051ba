"""What an .onnx file says of itself, read without the onnx package and without its weights.

A file is one protobuf message: onnx.ModelProto, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bertx.errors import InputRefused, escape
from bertx.protobuf import Field, Reader, opened
from bertx.signature import Signature, TensorSpec

#: the domain of ONNX's own operators, which files name by nothing
STANDARD = "ai.onnx"

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


def read_onnx_header(path: Path) -> OnnxHeader:
    """Reads the header of an .onnx file. Raises InputRefused(E_FORMAT) where it is none, or is cut short."""
    try:
        with opened(path) as (reader, whole):
            return _model(reader, whole)
    except (OSError, ValueError) as error:
        raise InputRefused("E_FORMAT", f"{escape(path)} is no ONNX file: {escape(error)}", "export it again") from error


def _model(reader: Reader, whole: Field) -> OnnxHeader:
    ir_version, producer, opsets, metadata = 0, ["", ""], {}, {}
    graph: Field | None = None
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


def _graph(reader: Reader, graph: Field) -> tuple[list[str], Signature, tuple[Weight, ...]]:
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


def _weight(reader: Reader, message: Field) -> Weight:
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


def _value(reader: Reader, message: Field) -> TensorSpec:
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


def _inside(reader: Reader, field: Field, outer: int, inner: int) -> list[Field]:
    """The fields `inner` of a field, where that is `outer`."""
    if field.number != outer:
        return []
    return [part for part in reader.fields(field) if part.number == inner]


def _size(reader: Reader, dim: Field) -> str | int:
    for field in reader.fields(dim):
        if field.number == 1:
            return field.value
        if field.number == 2:
            return reader.text(field) or "?"
    return "?"


def _opset(reader: Reader, message: Field) -> tuple[str, int]:
    domain, version = "", 0
    for field in reader.fields(message):
        if field.number == 1:
            domain = reader.text(field)
        elif field.number == 2:
            version = field.value
    return domain or STANDARD, version


def _pair(reader: Reader, message: Field) -> tuple[str, str]:
    texts = {field.number: reader.text(field) for field in reader.fields(message)}
    return texts.get(1, ""), texts.get(2, "")


def _dtype(number: int) -> str:
    return _DTYPES[number] if number < len(_DTYPES) else f"onnx dtype {number}"
