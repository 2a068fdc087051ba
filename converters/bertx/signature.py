"""What goes into a model and what comes out: names, dtypes and symbolic shapes, in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bertx.errors import InputRefused, escape

#: dtypes a signature may name, with their size in bytes.
DTYPES: dict[str, int] = {
    "int64": 8,
    "int32": 4,
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "uint8": 1,
    "int8": 1,
    "bool": 1,
}

BATCH = "batch"
SEQUENCE = "sequence"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output: `shape` mixes symbols ("batch", "sequence") and fixed sizes."""

    name: str
    dtype: str
    shape: tuple[str | int, ...]

    def axis(self, symbol: str) -> int | None:
        """The position of a symbolic dimension, None where the tensor has none."""
        return self.shape.index(symbol) if symbol in self.shape else None

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> TensorSpec:
        try:
            name, dtype, shape = document["name"], document["dtype"], document["shape"]
        except (KeyError, TypeError) as error:
            raise InputRefused("E_FORMAT", "a signature lacks a field", f"it needs {error}") from error
        symbols = isinstance(shape, list) and all(isinstance(s, str | int) for s in shape)
        if not (isinstance(name, str) and dtype in DTYPES and symbols):
            raise InputRefused("E_FORMAT", f"a signature names {escape(document)}", "export the artifact again")
        return TensorSpec(name, dtype, tuple(shape))


@dataclass(frozen=True)
class Signature:
    """Ordered inputs and outputs of an artifact."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "inputs": [spec.to_json() for spec in self.inputs],
            "outputs": [spec.to_json() for spec in self.outputs],
        }

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> Signature:
        """Reads what `to_json` wrote. Raises InputRefused where it is malformed."""
        if not isinstance(document, Mapping) or not {"inputs", "outputs"} <= set(document):
            raise InputRefused("E_FORMAT", "a signature lacks inputs or outputs", "export the artifact again")
        return Signature(
            tuple(TensorSpec.from_json(spec) for spec in document["inputs"]),
            tuple(TensorSpec.from_json(spec) for spec in document["outputs"]),
        )


def sizes(specs: Sequence[TensorSpec], shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """{symbol: its size} in one batch of inputs, from the shape of each by name."""
    return {
        symbol: size
        for spec in specs
        for symbol, size in zip(spec.shape, shapes[spec.name], strict=True)
        if isinstance(symbol, str)
    }


def symbolic(
    name: str, dtype: str, shapes: Sequence[tuple[int, ...]], seen_sizes: Sequence[Mapping[str, int]]
) -> TensorSpec:
    """The spec of a tensor seen in several runs, from its shape and the size of each symbol in every run.

    A dimension that follows a symbol in every run is that symbol, one that stays is fixed, any other is "?". The runs
    must differ in every symbol for this to tell them apart.
    """
    if len({len(shape) for shape in shapes}) != 1:
        raise InputRefused("E_FORMAT", f"{escape(name)} changes its number of dimensions", "report this model")
    symbols = {symbol: tuple(each[symbol] for each in seen_sizes) for symbol in seen_sizes[0]}
    shape: list[str | int] = []
    for seen in zip(*shapes, strict=True):
        followed = next((symbol for symbol, followed in symbols.items() if followed == seen), None)
        shape.append(followed or (seen[0] if len(set(seen)) == 1 else "?"))
    return TensorSpec(name, dtype, tuple(shape))
