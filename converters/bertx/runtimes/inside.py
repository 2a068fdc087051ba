"""What an artifact computes between two layer boundaries, for a diagnosis: its nodes there, by format-neutral names.

A runner whose file of cases says `inside` (the number of a layer boundary) gives, beside its outputs, every
floating-point value on the way from the boundary before to that one, and the constants that its nodes read. Values go
by `inside.<i>`, constants by `constant.<i>`, the boundary before by `start`; what else a node reads by "".
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

#: the key in the metadata of cases and of outputs
KEY = "inside"
START = "start"


@dataclass(frozen=True)
class Node:
    """One operator: what it reads and what it gives, by name."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Inside:
    """The nodes between two boundaries in order; `end` is the value that should be the later one.

    `values` and `constants` are {our name: the artifact's}.
    """

    nodes: tuple[Node, ...]
    values: Mapping[str, str]
    constants: Mapping[str, str]
    end: str

    def only(self, kept: Container[str]) -> Inside:
        """The same with those values and constants alone that the artifact calls so."""
        values, constants = (
            {mine: theirs for mine, theirs in held.items() if theirs in kept} for held in (self.values, self.constants)
        )
        return replace(self, values=values, constants=constants)

    def to_json(self) -> str:
        """The nodes and the end, as the metadata of outputs holds them: by our names."""
        nodes = [[node.kind, list(node.inputs), list(node.outputs)] for node in self.nodes]
        return json.dumps({"nodes": nodes, "end": self.end})


def stated(text: str) -> tuple[tuple[Node, ...], str]:
    """(nodes, end) from metadata. Raises ValueError, KeyError or TypeError where it is malformed."""
    found = json.loads(text)
    nodes = tuple(Node(str(kind), tuple(inputs), tuple(outputs)) for kind, inputs, outputs in found["nodes"])
    return nodes, str(found["end"])


def between(
    nodes: Sequence[Node], fed: Iterable[str], start: str | None, end: str, constants: Iterable[str] = ()
) -> Inside:
    """The part of a graph, whose `nodes` come in order, that lies between two of its values.

    `fed` are the graph's inputs, `constants` what is known before any node; without a `start` it begins at the inputs.
    """
    moving, after = set(fed), {start} if start is not None else set(fed)
    fixed = set(constants)
    for node in nodes:
        moving |= set(node.outputs) if moving & set(node.inputs) else set()
        after |= set(node.outputs) if after & set(node.inputs) else set()
        fixed |= set() if moving & set(node.inputs) else set(node.outputs)
    wanted, kept = {end}, []
    for node in reversed(nodes):
        if wanted & {*node.outputs} - {""} and start not in node.outputs:
            wanted |= set(node.inputs)
            if after & set(node.inputs):
                kept.append(node)
    kept.reverse()
    values = {
        name: f"inside.{k}" for k, name in enumerate(dict.fromkeys(n for node in kept for n in node.outputs if n))
    }
    read = dict.fromkeys(name for node in kept for name in node.inputs if name in fixed - moving)
    known = {name: f"constant.{k}" for k, name in enumerate(read)}
    ours = {**known, **values, **({start: START} if start is not None else {})}
    named = [
        replace(
            node,
            inputs=tuple(ours.get(name, "") for name in node.inputs),
            outputs=tuple(ours.get(name, "") for name in node.outputs),
        )
        for node in kept
    ]
    return Inside(
        tuple(named),
        {mine: theirs for theirs, mine in values.items()},
        {mine: theirs for theirs, mine in known.items()},
        ours.get(end, ""),
    )
