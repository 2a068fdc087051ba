"""A traced module as bytes that hold nothing of this machine: neither its device nor its folders.

torch.jit.trace writes down the device that a family's own `torch.arange(..., device=x.device)` saw. Loaded onto a GPU,
such a program would make that tensor on the CPU still, and stop. Each of these constants is replaced by the device of
a tensor that the same method is given, or of one of its weights. torch.jit.save adds, compressed, the path and line of
every Python function that was traced; no reader needs them.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

from bertx.errors import InputRefused, escape

#: records that name source files, and those that the writer makes itself
_SOURCES, _OWN = ".debug_pkl", frozenset({"version", ".data/serialization_id"})


def archive(traced: Any, extra: Mapping[str, bytes]) -> io.BytesIO:
    """The TorchScript file of a traced module, with `extra` files inside; the module is changed in place.

    Raises InputRefused(E_EXPORT) where the trace holds a device or a Python function that cannot be taken out of it.
    """
    import torch

    free_of_devices(traced)
    saved, clean = io.BytesIO(), io.BytesIO()
    try:
        torch.jit.save(traced, saved, _extra_files=dict(extra))
    except RuntimeError as error:
        first = next((line for line in str(error).splitlines() if line.strip()), "")
        raise InputRefused("E_EXPORT", f"PyTorch cannot save the trace: {escape(first)}", "try to-onnx") from error
    saved.seek(0)
    reader, writer = torch._C.PyTorchFileReader(saved), torch._C.PyTorchFileWriter(clean)
    for name in reader.get_all_records():
        if not name.endswith(_SOURCES) and name not in _OWN:
            record = reader.get_record(name)
            writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    clean.seek(0)
    return clean


def free_of_devices(traced: Any) -> None:
    """Replaces every device constant in all methods of a traced module, in place.

    Raises InputRefused(E_EXPORT) where a method with such a constant has no tensor to ask.
    """
    for module in traced.modules():
        for name in module._c._method_names():
            _replace(module._c._get_method(name).graph, module)


def _replace(graph: Any, module: Any) -> None:
    constants = [node for node in _nodes(graph) if _is_device(node)]
    if not constants:
        return
    made = _device(graph, module)
    for node in constants:
        node.output().replaceAllUsesWith(made)
    graph.lint()


def _nodes(block: Any) -> Iterator[Any]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)


def _is_device(node: Any) -> bool:
    return bool(node.kind() == "prim::Constant" and node.output().type().kind() == "DeviceObjType")


def _device(graph: Any, module: Any) -> Any:
    """The device of the method's first tensor argument, computed before everything else in the graph."""
    import torch

    first = next(iter(graph.nodes()))
    tensor = next((value for value in graph.inputs() if value.type().kind() == "TensorType"), None)
    if tensor is None:
        owner = next(iter(graph.inputs()))
        name = next((name for name, _ in module.named_parameters(recurse=False)), None)
        if name is None:
            raise InputRefused("E_EXPORT", "the trace fixes a device that nothing in it can tell", "try to-onnx")
        getter = graph.create("prim::GetAttr", [owner])
        getter.s_("name", name)
        getter.output().setType(torch._C.TensorType.get())
        getter.insertBefore(first)
        tensor = getter.output()
    asked = graph.create("prim::device", [tensor])
    asked.output().setType(torch._C.DeviceObjType.get())
    if tensor.node().kind() == "prim::GetAttr":
        asked.insertAfter(tensor.node())
    else:
        asked.insertBefore(first)
    return asked.output()
