"""Where token ids go inside an artifact, read off its graph as data.

Cases hold few ids. That the others are right follows from the bytes of a table only where ids, as they are fed, choose
its rows and go nowhere else: nothing maps them before, nothing asks for one of them beside. Whatever is not known here
to be such a way (another operator, a branch, a function of the file's own) makes the reading None: such a file is asked
about every id.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

#: the key in the metadata of cases, which say the ids' name, and of outputs, which say what was read
KEY = "lookups"


@dataclass(frozen=True)
class Lookups:
    """`tables` whose rows ids choose, and the ids that they are `compared` with (a padding id, most often).

    A table goes by its name in an ONNX file, and by the SHA-256 of its numbers in a TorchScript file.
    """

    tables: frozenset[str]
    compared: frozenset[int]

    def to_json(self) -> str:
        """The same as the metadata of outputs hold it."""
        return json.dumps({"tables": sorted(self.tables), "compared": sorted(self.compared)})


def stated(text: str | None) -> Lookups | None:
    """What metadata say; None where they say nothing that can be read."""
    try:
        found = json.loads(text or "")
        return Lookups(frozenset(map(str, found["tables"])), frozenset(map(int, found["compared"])))
    except (ValueError, KeyError, TypeError):
        return None


# ONNX

#: operators of ONNX that leave ids what they are, that read their shape alone, and that leave a table's rows in place
_KEEPING = frozenset({"Identity", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Slice"})
_MEASURING = frozenset({"Shape", "Size"})
_TABLES = frozenset({"Cast", "Identity", "Transpose"})
#: ONNX's own types of whole numbers that hold every id: int32, int64
_WHOLE = (6, 7)


def in_onnx(model: Any, ids: str) -> Lookups | None:
    """Where a graph input goes in an ONNX model."""
    own = {(each.domain, each.name) for each in model.functions}
    names = [each.name for each in model.graph.initializer]
    if any((node.domain, node.op_type) in own for node in model.graph.node) or len(set(names)) < len(names):
        return None  # what stands under a known name is something else, or one of two things
    fed, tables, compared = {ids}, set[str](), set[int]()
    source: dict[str, str] = {}
    numbers = dict(_numbers(model.graph))
    for node in model.graph.node:
        read = [index for index, name in enumerate(node.input) if name in fed]
        known = (node.domain in ("", "ai.onnx"), node.op_type)
        if any(name in fed for name in _captured(node)):
            return None
        if known[0] and node.op_type in _TABLES and node.input and not read:
            source[node.output[0]] = source.get(node.input[0], node.input[0])
        if not read or (known[0] and node.op_type in _MEASURING):
            continue
        if read == [0] and known[0] and (node.op_type in _KEEPING or _widened(node)):
            fed.add(node.output[0])
        elif read == [1] and known == (True, "Gather") and _attribute(node, "axis") in (None, 0):
            tables.add(source.get(node.input[0], node.input[0]))
        elif read == [0] and (node.domain, node.op_type) == ("com.microsoft", "EmbedLayerNormalization"):
            tables.add(source.get(node.input[2], node.input[2]))  # ids, segments; tables of words, positions, segments
        elif len(read) == 1 and known == (True, "Equal") and numbers.get(node.input[1 - read[0]]):
            compared.update(numbers[node.input[1 - read[0]]])
        else:
            return None
    return Lookups(frozenset(tables), frozenset(compared))


def _widened(node: Any) -> bool:
    return node.op_type == "Cast" and _attribute(node, "to") in _WHOLE


def _attribute(node: Any, name: str) -> int | None:
    return next((int(each.i) for each in node.attribute if each.name == name), None)


def _numbers(graph: Any) -> Iterator[tuple[str, list[int]]]:
    """The few whole numbers that a graph's small constants hold, by name."""
    import onnx

    constants = [(n.output[0], a.t) for n in graph.node if n.op_type == "Constant" for a in n.attribute
                 if a.name == "value"]  # fmt: skip
    for name, tensor in (*((each.name, each) for each in graph.initializer), *constants):
        if tensor.data_type in _WHOLE and not tensor.external_data and sum(tensor.dims) < 8:
            yield name, onnx.numpy_helper.to_array(tensor).reshape(-1).tolist()


def _captured(node: Any) -> Iterator[str]:
    """What the graphs inside of a node read, by name."""
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for each in graph.node:
                yield from each.input
                yield from _captured(each)
            yield from (each.name for each in graph.output)


# TorchScript

#: operators of PyTorch that leave ids what they are, and that read their shape, type or device alone
_KEPT = frozenset({"contiguous", "detach", "clone", "view", "reshape", "unsqueeze", "squeeze", "expand", "flatten",
                   "slice", "select"})  # fmt: skip
_MEASURED = frozenset({"aten::size", "aten::dim", "aten::numel", "aten::len", "prim::device", "prim::dtype",
                       "aten::ones_like", "aten::zeros_like", "aten::new_ones", "aten::new_zeros"})  # fmt: skip
#: torch.int32 and torch.int64, as a graph's constants have them
_LONG = (3, 4)


def in_torchscript(module: torch.jit.ScriptModule, place: int) -> Lookups | None:
    """Where the argument at a place goes in what `forward` of a loaded module computes."""
    try:
        return _in_forward(module, place)
    except Exception:  # noqa: BLE001 - whatever PyTorch raises at somebody's graph, it is not read, and runs all the same
        return None


def _in_forward(module: Any, place: int) -> Lookups | None:
    import torch

    if hooked(module):
        return None  # they run around forward, and are not in its graph
    graph = module._c._get_method("forward").graph.copy()
    torch._C._jit_pass_inline(graph)
    fed = {list(graph.inputs())[place + 1].debugName()}
    tables, compared = set[str](), set[int]()
    for node in _nodes(graph):
        inputs = list(node.inputs())
        read = [index for index, value in enumerate(inputs) if value.debugName() in fed]
        kind = node.kind()
        if kind == "prim::SetAttr" or (kind.endswith("_") and not kind.endswith("__") and _lasting(inputs[0])):
            return None  # the next answer may be another
        if any(value.debugName() in fed for block in node.blocks() for value in block.outputs()):
            return None
        if not read or kind in _MEASURED:
            continue
        if read == [0] and (kind.removeprefix("aten::") in _KEPT or (kind == "aten::to" and _is_long(node))):
            fed |= {value.debugName() for value in node.outputs()}
        elif read == [1] and kind == "aten::embedding" and (table := _held(inputs[0], module)) is not None:
            tables.add(digest(table.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()))
        elif read == [0] and kind in ("aten::eq", "aten::ne") and (number := _number(inputs[1])) is not None:
            compared.add(number)
        else:
            return None
    return Lookups(frozenset(tables), frozenset(compared))


def hooked(module: Any) -> bool:
    """Whether a loaded module has hooks around its `forward`."""
    return bool(module._c._get_forward_hooks() or module._c._get_forward_pre_hooks())


def digest(data: bytes) -> str:
    """How a table of a TorchScript file is called."""
    return hashlib.sha256(data).hexdigest()


def _nodes(block: Any) -> Iterator[Any]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)


def _lasting(value: Any) -> bool:
    """Whether what is changed in place may be what the module keeps: it, or a view of it."""
    node = value.node()
    while node.kind() not in ("prim::Constant", "prim::GetAttr"):
        if node.schema() == "(no schema)":
            return bool(node.kind() != "prim::Param")
        if not any(each.alias_info for each in _schema(node).returns):
            return False
        node = next(iter(node.inputs())).node()
    return True


def _schema(node: Any) -> Any:
    import torch

    return torch._C.parse_schema(node.schema())


def _is_long(node: Any) -> bool:
    """Whether a conversion keeps whole numbers whole: its dtype is one that holds every id, or none is named."""
    names = [argument.name for argument in _schema(node).arguments]
    if "dtype" not in names:
        return "other" not in names
    constant = list(node.inputs())[names.index("dtype")].node()
    return constant.kind() == "prim::Constant" and constant.output().toIValue() in (*_LONG, None)


def _held(value: Any, module: Any) -> torch.Tensor | None:
    """A tensor that the module keeps, None of one that is computed."""
    import torch

    node, path = value.node(), list[str]()
    while node.kind() == "prim::GetAttr":
        path.append(node.s("name"))
        node = next(iter(node.inputs())).node()
    found = value.toIValue() if node.kind() == "prim::Constant" and not path else module
    if path and node.kind() != "prim::Param":
        return None
    for name in reversed(path):
        found = getattr(found, name)
    return found if isinstance(found, torch.Tensor) else None


def _number(value: Any) -> int | None:
    import torch

    found = value.toIValue() if value.node().kind() == "prim::Constant" else None
    if isinstance(found, torch.Tensor):
        found = found.item() if found.ndim == 0 and not found.is_floating_point() else None
    return found if isinstance(found, int) else None
