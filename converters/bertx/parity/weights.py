"""The weights inside an artifact beside the checkpoint's, bit for bit, where a tensor can be recognised.

Cases touch few rows of an embedding: a wrong one of the others is found here. A tensor is known by its name; where an
exporter renamed, transposed or fused it, by what it holds: if half of it or more is one tensor of the checkpoint,
then all of it should be. What was folded or rounded cannot be recognised, and is judged by what it computes: a table
that ids look up needs every id for that.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertx.checkpoint.tensors import TensorInfo, chunks
from bertx.checkpoint.weights import read_file
from bertx.errors import InputRefused, escape
from bertx.parity.compare import Compared, Row, failed, pool
from bertx.parity.judge import Subject
from bertx.runtimes import lookups
from bertx.runtimes.lookups import Lookups

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

#: safetensors codes of what is compared, as numpy reads them; bfloat16 is widened to float32
_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
#: a tensor without a name is looked up by what it holds from this many elements on
_FEWEST = 64
#: how many of its elements are looked at first, and how many of these must differ from one another
_SAMPLE, _DISTINCT = 256, 16
#: into how many parts a fused tensor is taken apart
_PARTS = (2, 3, 4)


@dataclass(frozen=True)
class Weighed:
    """A row of the report: how many elements are the checkpoint's, or which tensor is not; None where none is known.

    `known` are the tensors all of which was recognised; `lookups` is where ids go, as far as the file alone tells.
    Weights without a graph are `plain`: the program that looks them up is not theirs.
    """

    row: Row | None
    known: tuple[_Tensor, ...] = ()
    lookups: Lookups | None = None
    plain: bool = False

    def looks_up(self, ids: int, held: Container[int], told: Lookups | None = None) -> bool:
        """Whether each of so many ids gets its row of recognised tables, and is not told from others on another way.

        `held` are the ids that cases hold; `told` is where they go, as far as a program that loaded the file tells.
        """
        tables = [tensor for tensor in self.known if ids in tensor.shape]
        if self.plain:
            return bool(tables)
        found = self.lookups or told
        if found is None or not found.tables or any(each not in held for each in found.compared):
            return False
        return found.tables <= {tensor.key() for tensor in tables}


@dataclass(frozen=True)
class _Tensor:
    """A tensor inside an artifact, read when it is asked for; bfloat16 widened to float32.

    `key` is what `Lookups` call it.
    """

    name: str
    code: str
    shape: tuple[int, ...]
    read: Callable[[], Array]
    key: Callable[[], str]


def compare_weights(
    subject: Subject, weights: Mapping[str, TensorInfo], factor: float, ids: str = "input_ids"
) -> Weighed:
    """What an artifact's own tensors are beside the checkpoint's; `ids` is how it calls its token ids."""
    if subject.format == "onnx" and any(name.endswith("running_mean") for name in weights):
        return Weighed(None)  # exporters fold batch normalisation into the layer before it, under that layer's name
    known = _Known(weights)
    count = 0
    whole: list[_Tensor] = []
    try:
        tensors, read = _inside(subject, ids)
        for tensor in tensors:
            found = known.same(tensor)
            if isinstance(found, str):
                return Weighed(failed("weights", found, factor))
            count += sum(found.values())
            whole += [tensor] if sum(found.values()) == math.prod(tensor.shape) else []
    except Exception as error:  # noqa: BLE001 - whatever a reader raises at somebody's file is about the file
        return Weighed(failed("weights", f"cannot be read: {escape(error)}", factor))
    if count == 0:
        return Weighed(None)
    same = Compared("bytes", count, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, ())
    return Weighed(pool("weights", [same], "float32", factor), tuple(whole), read, subject.format == "safetensors")


class _Known:
    """The checkpoint's tensors, found by an artifact's name for them or by what an artifact's tensor holds."""

    def __init__(self, weights: Mapping[str, TensorInfo]) -> None:
        floats = {name: info for name, info in weights.items() if info.dtype in _NUMPY}
        self.names = _Names(floats)
        self.by_shape: dict[tuple[int, ...], list[TensorInfo]] = {}
        for info in floats.values():
            self.by_shape.setdefault(info.shape, []).append(info)
        self.samples: dict[tuple[str, str], Array] = {}

    def same(self, tensor: _Tensor) -> dict[str, int] | str:
        """Which of the checkpoint's tensors it holds, and how many elements of each; in words, how it differs."""
        info = self.names.find(tensor.name)
        if info is not None and tensor.shape in (info.shape, info.shape[::-1]):
            return _difference(info, tensor) or {info.name: info.elements}
        return self._by_content(tensor)

    def _by_content(self, tensor: _Tensor) -> dict[str, int] | str:
        parts = [part for part in _parts(tensor.shape) if self._shapes(part.shape(tensor.shape))]
        if not parts:
            return {}
        array = tensor.read()
        for part in parts:
            found = [self._block(block, tensor) for block in part.of(array)]
            problem = next((each for each in found if isinstance(each, str)), None)
            if problem is not None:
                return problem
            if any(found):
                return {name: size for each in found if not isinstance(each, str) for name, size in each.items()}
        return {}

    def _shapes(self, shape: tuple[int, ...]) -> list[TensorInfo]:
        turned = self.by_shape.get(shape[::-1], []) if len(shape) == 2 and shape[0] != shape[1] else []
        return [*self.by_shape.get(shape, []), *turned]

    def _block(self, block: Array, tensor: _Tensor) -> dict[str, int] | str:
        """The same for one part of a tensor, in either orientation."""
        near = [
            (info, turned)
            for info in self._shapes(block.shape)
            for turned in ([block, block.T] if block.ndim == 2 else [block])
            if turned.shape == info.shape and self._alike(info, turned, tensor.code)
        ]
        for info, turned in near:
            if bool((turned == _rounded(_array(info), tensor.code)).all()):
                return {info.name: int(block.size)}
        if len(near) != 1:
            return {}
        info, turned = near[0]
        same = turned == _rounded(_array(info), tensor.code)
        return _told(info, same, tensor.name) if same.mean() >= 0.5 else {}

    def _alike(self, info: TensorInfo, array: Array, code: str) -> bool:
        """Whether half of a sample is the tensor's. Tensors of few numbers (ones, zeros) are like one another."""
        import numpy as np

        places = np.unravel_index(_places(array.size), array.shape)
        key = (info.name, code)
        if key not in self.samples:
            self.samples[key] = _rounded(_array(info)[places], code)
        sample = self.samples[key]
        return len(np.unique(sample)) >= _DISTINCT and float(np.mean(sample == array[places])) >= 0.5


@dataclass(frozen=True)
class _Parts:
    """One way to take a tensor apart: into `count` equal parts along `axis`."""

    axis: int
    count: int

    def shape(self, whole: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(size // self.count if axis == self.axis else size for axis, size in enumerate(whole))

    def of(self, array: Array) -> list[Array]:
        import numpy as np

        return list(np.split(array, self.count, self.axis))


def _parts(shape: tuple[int, ...]) -> Iterator[_Parts]:
    """The whole first, then what fused tensors (query, key and value in one) may consist of."""
    if not 1 <= len(shape) <= 2 or math.prod(shape) < _FEWEST:
        return
    yield _Parts(0, 1)
    for axis, size in enumerate(shape):
        yield from (_Parts(axis, n) for n in _PARTS if size % n == 0 and math.prod(shape) // n >= _FEWEST)


def _places(size: int) -> Array:
    """Places of a sample, spread over a tensor of this size and always the same."""
    import numpy as np

    return np.random.default_rng(size).integers(0, size, _SAMPLE)


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
    made, wanted = tensor.read(), _rounded(_array(info), tensor.code)
    # A matrix may lie transposed under its old name; whether rightly so is for the cases to tell.
    turned = made.ndim == 2 and made.T.shape == wanted.shape and bool((wanted == made.T).all())
    if turned or (made.shape == wanted.shape and bool((made == wanted).all())):
        return None
    return _told(info, (made if made.shape == wanted.shape else made.T) == wanted, "")


def _told(info: TensorInfo, same: Array, name: str) -> str:
    import numpy as np

    where = ", ".join(str(int(i)) for i in np.argwhere(~same)[0])
    held = f" (in {name})" if name else ""
    return f"{info.name}{held} differs in {int((~same).sum())} of {same.size} elements, first at [{where}]"


def _array(info: TensorInfo) -> Array:
    """A tensor of a safetensors file; bfloat16 widened to float32."""
    return _decoded(b"".join(chunks(info)), info.dtype, info.shape)


def _decoded(data: bytes, code: str, shape: tuple[int, ...]) -> Array:
    import numpy as np

    found = np.frombuffer(data, dtype=_NUMPY[code]).reshape(shape)
    return (found.astype(np.uint32) << 16).view(np.float32) if code == "BF16" else found


def _rounded(array: Array, code: str) -> Array:
    """Numbers as a dtype keeps them: rounded to nearest, ties to even; bfloat16 in float32."""
    import numpy as np

    with np.errstate(over="ignore"):
        if code != "BF16":
            return array.astype(_NUMPY[code])
        bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def _inside(subject: Subject, ids: str) -> tuple[Iterator[_Tensor], Lookups | None]:
    """(the floating tensors inside an artifact by name, where its ids go). No code in the file is run."""
    if subject.format == "onnx":
        import onnx

        model = onnx.load(str(subject.path), load_external_data=False)
        return _onnx(model, subject.path.parent), lookups.in_onnx(model, ids)
    if subject.format == "torchscript":
        return _torchscript(subject.path), None
    return _safetensors(subject.path), None


def _safetensors(path: Path) -> Iterator[_Tensor]:
    for info in read_file(path).values():
        if info.dtype in _NUMPY:
            yield _Tensor(info.name, info.dtype, info.shape, partial(_array, info), partial(str, info.name))


def _torchscript(path: Path) -> Iterator[_Tensor]:
    try:
        from bertx.parity.archive import stored  # with pickle and zipfile, which few need

        found = list(stored(path))
    except InputRefused:
        return  # an archive that is not understood tells no weights; whether it loads is for its runner to say
    for each in found:

        def read(data: Callable[[], bytes] = each.read, code: str = each.code, shape: Any = each.shape) -> Array:
            return _decoded(data(), code, shape)

        def key(data: Callable[[], bytes] = each.read) -> str:
            return lookups.digest(data())

        yield _Tensor(each.path, each.code, each.shape, read, key)


def _onnx(model: Any, folder: Path) -> Iterator[_Tensor]:
    """Initializers and larger Constant nodes, external data included."""
    import onnx
    from onnx import numpy_helper

    kinds = onnx.TensorProto
    codes = {kinds.FLOAT: "F32", kinds.FLOAT16: "F16", kinds.DOUBLE: "F64", kinds.BFLOAT16: "BF16"}
    constants = [
        (node.output[0], attribute.t)
        for node in model.graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    ]
    for name, tensor in (*((each.name, each) for each in model.graph.initializer), *constants):
        if tensor.data_type not in codes:
            continue
        code = codes[tensor.data_type]

        def read(tensor: Any = tensor, code: str = code) -> Array:
            made: Array = numpy_helper.to_array(tensor, base_dir=str(folder))
            return made.astype("float32") if code == "BF16" else made

        yield _Tensor(name, code, tuple(tensor.dims), read, partial(str, name))
