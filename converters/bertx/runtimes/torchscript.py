"""Runtime `torchscript`: torch.jit.load on the published file, inputs by position as Rust and C++ give them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertx.runtimes import Runtime, absent, inside, lookups
from bertx.runtimes.protocol import Program, limit_threads, main

if TYPE_CHECKING:
    import torch

    from bertx.runtimes.protocol import Array


class TorchScript(Runtime):
    name = "torchscript"
    reads = frozenset({"torchscript"})
    distributions = ("torch",)
    looks_inside = True

    def missing(self) -> str | None:
        return absent("torch")


class TorchScriptProgram(Program):
    """forward(*inputs) -> one Tensor; hidden_states(*inputs), where the file has it, gives all layer boundaries.

    A file from elsewhere, whose outputs nothing names, may give a tuple or a dict.
    """

    runtime = "torchscript"

    def open(self, artifact: Path, device: str, metadata: Mapping[str, str]) -> None:
        import torch

        limit_threads(metadata)
        self.device = device
        # As it was saved, without eval(): who loads it in C++ or Rust need not know that dropout was left on.
        self.module = torch.jit.load(str(artifact), map_location=device)
        if lookups.hooked(self.module):
            raise TypeError("hooks stand around forward: Python runs them, and C++ and Rust do not")
        signature = json.loads(metadata["signature"])
        self.inputs = {spec["name"]: getattr(torch, spec["dtype"]) for spec in signature["inputs"]}
        # Asked of the compiled module: a plain one may have an attribute or a part of this name.
        self.tapped = "hidden_states" in self.module._c._method_names()
        self.inside: inside.Inside | None = None
        self.inner: Callable[..., Any] | None = None
        ids = metadata.get(lookups.KEY)
        self.read = lookups.in_torchscript(self.module, list(self.inputs).index(ids)) if ids in self.inputs else None
        wanted = metadata.get(inside.KEY, "")
        if self.tapped and wanted.isdigit():
            self.inside, self.inner = _inside(self.module, int(wanted))
        self.output = signature["outputs"][0]["name"] if signature["outputs"] else None
        self.provider = "unknown"

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Any]:
        import torch

        with torch.inference_mode():
            result = self.module(*self._fed(inputs))
        if self.output is None:  # somebody else's file: whatever it gives, under names of its own
            outputs = dict(_tensors(result, ""))
        elif isinstance(result, torch.Tensor):
            outputs = {self.output: result}
        else:
            raise TypeError(f"forward gave a {type(result).__name__}, not one Tensor")
        self.provider = str(next(iter(outputs.values())).device) if outputs else "unknown"
        return {name: value.cpu() for name, value in outputs.items()}

    def taps(self, inputs: Mapping[str, Array]) -> Mapping[str, Any]:
        import torch

        with torch.inference_mode():
            states = self.module.hidden_states(*self._fed(inputs)) if self.tapped else ()
            values = self.inner(self.module, *self._fed(inputs)) if self.inner is not None else ()
        found = {f"hidden_states.{k}": state.cpu() for k, state in enumerate(states)}
        names = (*self.inside.values, *self.inside.constants) if self.inside else ()
        inner = {name: value.cpu() for name, value in zip(names, values, strict=True) if value.is_floating_point()}
        return found | inner

    def _fed(self, inputs: Mapping[str, Array]) -> list[torch.Tensor]:
        import torch

        return [torch.from_numpy(inputs[name]).to(self.device, dtype) for name, dtype in self.inputs.items()]

    def facts(self) -> Mapping[str, str]:
        import torch

        found = next((str(p.dtype).removeprefix("torch.") for p in self.module.parameters()), "unknown")
        told = {inside.KEY: self.inside, lookups.KEY: self.read}
        more = {key: each.to_json() for key, each in told.items() if each}
        return {"version": torch.__version__, "provider": "torch", "device": self.provider, "dtype": found, **more}


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """(name, tensor) of a tensor, or of a dict or tuple of them: keys, or places as output_0, output_1, …"""
    import torch

    if isinstance(value, torch.Tensor):
        yield name or "output", value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _tensors(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, tuple | list):
        for k, part in enumerate(value):
            yield from _tensors(part, f"{name}.{k}" if name else f"output_{k}")


def _inside(module: Any, boundary: int) -> tuple[inside.Inside | None, Callable[..., Any] | None]:
    """(what lies between two layer boundaries, a function that computes the tensors of it and those it reads).

    Of the graph of `hidden_states`, whose one output is the stack of all boundaries; (None, None) of any other.
    """
    import torch

    graph = module._c._get_method("hidden_states").graph.copy()
    torch._C._jit_pass_inline(graph)
    torch._C._jit_pass_lower_all_tuples(graph)
    stack = next(iter(graph.outputs())).node()
    if stack.kind() != "aten::stack":
        return None, None
    states = [value.debugName() for value in next(iter(stack.inputs())).node().inputs()]
    owner, *fed = (value.debugName() for value in graph.inputs())
    tensors = {v.debugName(): v for node in graph.nodes() for v in node.outputs() if str(v.type()) == "Tensor"}
    nodes = [
        inside.Node(
            node.kind(), *(tuple(value.debugName() for value in ends) for ends in (node.inputs(), node.outputs()))
        )
        for node in graph.nodes()
    ]
    before = states[boundary - 1] if boundary else None
    found = inside.between(nodes, fed, before, [states[boundary]], {owner}).only(tensors)
    wanted = [tensors[name] for name in (*found.values.values(), *found.constants.values())]
    given = graph.create("prim::TupleConstruct", wanted, 1)
    given.output().setType(torch._C.TupleType([value.type() for value in wanted]))
    graph.appendNode(given)
    graph.eraseOutput(0)
    graph.registerOutput(given.output())
    return found, torch._C._create_function_from_graph("inside", graph)


RUNTIME = TorchScript()

if __name__ == "__main__":
    main(TorchScriptProgram())
