"""Takes the devices out of a trace, so that a TorchScript file runs wherever it is loaded.

torch.jit.trace writes down the device that a family's own `torch.arange(..., device=x.device)` saw. Loaded onto a GPU,
such a program would make that tensor on the CPU still, and stop. Each of these constants is replaced by the device of
a tensor that the same method is given, or of one of its weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bertx.errors import InputRefused


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
    return node.kind() == "prim::Constant" and node.output().type().kind() == "DeviceObjType"


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
