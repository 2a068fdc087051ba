"""An ONNX graph to be edited: found by pattern, changed in place, sorted and saved."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper

from mutants.stands import Stand
from mutants.trial import Inapplicable

Array = np.ndarray[Any, Any]


@cache
def _weights(folder: Path) -> dict[str, Array]:
    from safetensors.numpy import load_file

    return dict(load_file(folder / "model.safetensors"))


def weights(stand: Stand) -> dict[str, Array]:
    """The checkpoint's tensors by name."""
    return _weights(stand.checkpoint.folder)


class Graph:
    """The right ONNX file of a stand, loaded anew. Methods raise Inapplicable where a pattern is not there."""

    def __init__(self, stand: Stand) -> None:
        self.stand = stand
        self.model = onnx.load(str(stand.right("onnx")))
        self.taps: dict[str, str] = next(
            json.loads(entry.value) for entry in self.model.metadata_props if entry.key == "bertx.taps"
        )
        self._count = 0

    # what is there

    @property
    def nodes(self) -> list[NodeProto]:
        return list(self.model.graph.node)

    @property
    def layers(self) -> int:
        return len(self.taps) - 1

    def tap(self, k: int) -> str:
        """The value of layer boundary k."""
        return self.taps[f"hidden_states.{k}"]

    def of(self, *kinds: str) -> list[NodeProto]:
        """Nodes of these operators, at least one."""
        found = [node for node in self.nodes if node.op_type in kinds]
        if not found:
            raise Inapplicable(f"no {' or '.join(kinds)}")
        return found

    def producer(self, value: str) -> NodeProto:
        found = next((node for node in self.nodes if value in node.output), None)
        if found is None:
            raise Inapplicable(f"nothing computes {value}")
        return found

    def users(self, value: str) -> list[NodeProto]:
        return [node for node in self.nodes if value in node.input]

    def has(self, value: str) -> bool:
        """Whether `value` is an input of the graph."""
        return any(each.name == value for each in self.model.graph.input)

    def within(self, k: int) -> list[NodeProto]:
        """Nodes on the way from layer boundary k to the next one, in order."""
        start, wanted, seen = self.tap(k), [self.tap(k + 1)], set()
        for value in wanted:
            producer = next((node for node in self.nodes if value in node.output), None)
            if producer is not None and value != start and producer.output[0] not in seen:
                seen.add(producer.output[0])
                wanted += list(producer.input)
        after = self._downstream(start)
        return [node for node in self.nodes if node.output[0] in seen & after]

    def _downstream(self, value: str) -> set[str]:
        """First outputs of the nodes that depend on a value."""
        reached, found = {value}, set()
        for node in self.nodes:
            if reached & set(node.input):
                reached |= set(node.output)
                found.add(node.output[0])
        return found

    def layer_nodes(self, k: int, *kinds: str) -> list[NodeProto]:
        """Nodes of these operators between layer boundaries k and k + 1, at least one."""
        found = [node for node in self.within(k) if node.op_type in kinds]
        if not found:
            raise Inapplicable(f"no {' or '.join(kinds)} in layer {k}")
        return found

    # constants

    def arrays(self) -> dict[str, Array]:
        return {each.name: numpy_helper.to_array(each) for each in self.model.graph.initializer}

    def array(self, name: str) -> Array:
        """A constant by name."""
        found = next((each for each in self.model.graph.initializer if each.name == name), None)
        if found is None:
            raise Inapplicable(f"{name} is no constant")
        return numpy_helper.to_array(found)

    def set(self, name: str, array: Array) -> None:
        """Replaces a constant."""
        for each in self.model.graph.initializer:
            if each.name == name:
                each.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))
                return
        raise Inapplicable(f"{name} is no constant")

    def origin(self, name: str) -> str:
        """The checkpoint's tensor that a constant is, as it is or transposed; "" where it is none."""
        array = next((a for key, a in self.arrays().items() if key == name), None)
        if array is None or array.dtype != np.float32:
            return ""
        for tensor, weight in weights(self.stand).items():
            if weight.size == array.size and weight.size > 1:
                turned = weight.T if weight.ndim == 2 else weight
                if np.array_equal(weight, array) or (turned.shape == array.shape and np.array_equal(turned, array)):
                    return tensor
        return ""

    def constant(self, value: Any, dtype: Any = None) -> str:
        """Adds a constant and gives its name."""
        name = self._name("constant")
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    # changes

    def add(self, kind: str, *inputs: str, to: str | None = None, **attributes: Any) -> str:
        """Adds a node and gives the name of its value."""
        output = to or self._name(kind.lower())
        self.model.graph.node.append(onnx.helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def cast(self, value: str, kind: int) -> str:
        """Adds a Cast to an ONNX element type: 1 float32, 7 int64, 9 bool, 10 float16, 16 bfloat16."""
        output = self._name("cast")
        self.model.graph.node.append(onnx.helper.make_node("Cast", [value], [output], to=kind))
        return output

    def rewire(self, old: str, new: str, among: Iterable[NodeProto] | None = None) -> None:
        """Lets nodes (all, unless told which) read `new` instead of `old`."""
        for node in self.nodes if among is None else among:
            for index, value in enumerate(node.input):
                if value == old:
                    node.input[index] = new

    def feed(self, name: str, build: Callable[[str], str]) -> None:
        """Lets every reader of a graph input read what `build` makes of it."""
        if not self.has(name):
            raise Inapplicable(f"no input {name}")
        readers = self.users(name)
        self.rewire(name, build(name), readers)

    def after(self, value: str, build: Callable[[str], str]) -> None:
        """Puts what `build` makes of a computed value in its place, for outputs and taps too."""
        producer = self.producer(value)
        before = self._name("before")
        producer.output[list(producer.output).index(value)] = before
        self.add("Identity", build(before), to=value)

    def before(self, node: NodeProto, index: int, build: Callable[[str], str]) -> None:
        """Lets one input of a node read what `build` makes of it."""
        node.input[index] = build(node.input[index])

    def remove(self, node: NodeProto) -> None:
        self.model.graph.node.remove(node)

    def save(self, path: Path) -> None:
        """Sorts the nodes, drops those that nothing needs, and writes the file."""
        self._sort()
        onnx.save(self.model, str(path))

    def _sort(self) -> None:
        graph = self.model.graph
        known = {each.name for each in graph.input} | {each.name for each in graph.initializer} | {""}
        left, ordered = self.nodes, []
        while left:
            ready = [node for node in left if set(node.input) <= known]
            if not ready:
                raise Inapplicable("the graph would have a cycle")
            ordered += ready
            known |= {value for node in ready for value in node.output}
            left = [node for node in left if not any(node is each for each in ready)]
        copies = [NodeProto.FromString(node.SerializeToString()) for node in ordered]
        del graph.node[:]
        graph.node.extend(copies)
        del graph.value_info[:]

    def _name(self, stem: str) -> str:
        self._count += 1
        return f"mutant.{stem}.{self._count}"


def edit(change: Callable[[Graph], None]) -> Callable[[Stand, Path], None]:
    """A mutant's maker from a change of the right ONNX file."""

    def make(stand: Stand, path: Path) -> None:
        graph = Graph(stand)
        change(graph)
        graph.save(path)

    return make
