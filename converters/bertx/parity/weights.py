"""The weights inside an artifact beside the checkpoint's, bit for bit where a tensor can be recognised by its name.

Cases touch few rows of an embedding: a wrong one of the others is found here. What an exporter renamed, folded or
transposed cannot be recognised, and is judged by what it computes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertx.checkpoint.tensors import TensorInfo, chunks, read_header
from bertx.parity.compare import Compared, Row, failed, pool
from bertx.parity.judge import Subject

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

#: safetensors codes of what is compared, as numpy reads them
_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


@dataclass(frozen=True)
class _Tensor:
    """A tensor inside an artifact, read when it is asked for."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], Array]


def compare_weights(subject: Subject, weights: Mapping[str, TensorInfo], factor: float) -> Row | None:
    """A row of the report: how many elements are the checkpoint's, or which tensor is not; None where none is known."""
    names = _Names(weights)
    count = 0
    for tensor in _inside(subject):
        info = names.find(tensor.name)
        if info is None or info.shape != tensor.shape or info.dtype not in _NUMPY:
            continue
        problem = _difference(info, tensor)
        if problem is not None:
            return failed("weights", problem, factor)
        count += info.elements
    if count == 0:
        return None
    return pool("weights", [Compared("bytes", count, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, ())], "float32", factor)


class _Names:
    """Finds a checkpoint's tensor by an artifact's name for it: the same but for what stands before it."""

    def __init__(self, weights: Mapping[str, TensorInfo]) -> None:
        self.by_name = {_modern(name): info for name, info in weights.items()}
        self.by_tail: dict[str, list[str]] = {}
        for name in self.by_name:
            parts = name.split(".")
            for k in range(len(parts) - 1):
                self.by_tail.setdefault(".".join(parts[k:]), []).append(name)

    def find(self, name: str) -> TensorInfo | None:
        parts = _modern(name).split(".")
        # The longest common ending that belongs to one tensor alone; a single part ("weight") says nothing.
        for k in range(len(parts) - 2):
            tail = ".".join(parts[k:])
            found = self.by_tail.get(tail, [])
            if len(found) == 1 and (tail == found[0] or k == 0 or _is_prefix(parts[:k])):
                return self.by_name[found[0]]
            if found:
                return None
        return None


def _is_prefix(parts: list[str]) -> bool:
    """Whether what stands before a name is a model's prefix, not a part of another tensor's name."""
    return not any(part.isdigit() for part in parts)


def _modern(name: str) -> str:
    return re.sub(r"\.beta$", ".bias", re.sub(r"\.gamma$", ".weight", name))


def _difference(info: TensorInfo, tensor: _Tensor) -> str | None:
    """Where a tensor is not the checkpoint's rounded to its own dtype, in words; None where it is."""
    import numpy as np

    made = tensor.read()
    kept = _array(info)
    with np.errstate(over="ignore"):
        wanted = kept.astype(made.dtype)
    same = made == wanted
    # A square matrix may lie transposed under its old name; whether rightly so is for the cases to tell.
    if bool(same.all()) or (made.ndim == 2 and wanted.shape == made.T.shape and bool((made == wanted.T).all())):
        return None
    where = ", ".join(str(int(i)) for i in np.argwhere(~same)[0])
    return f"{info.name} differs in {int((~same).sum())} of {same.size} elements, first at [{where}]"


def _inside(subject: Subject) -> Iterator[_Tensor]:
    """The floating tensors inside an artifact by name; none where its format does not tell them without running it."""
    if subject.format == "safetensors":
        yield from _safetensors(subject.path)
    if subject.format == "onnx":
        yield from _onnx(subject.path)


def _safetensors(path: Path) -> Iterator[_Tensor]:
    for info in read_header(path).values():
        if info.dtype in _NUMPY:
            yield _Tensor(info.name, info.shape, partial(_array, info))


def _array(info: TensorInfo) -> Array:
    import numpy as np

    return np.frombuffer(b"".join(chunks(info)), dtype=_NUMPY[info.dtype]).reshape(info.shape)


def _onnx(path: Path) -> Iterator[_Tensor]:
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(path), load_external_data=False)
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
    for tensor in model.graph.initializer:
        if tensor.data_type in floats:
            read = partial(numpy_helper.to_array, tensor, base_dir=str(path.parent))
            yield _Tensor(tensor.name, tuple(tensor.dims), read)
