"""What an artifact computes between two layer boundaries, for a diagnosis: its nodes there, by format-neutral names.

A runner whose file of cases says `inside` gives, beside its outputs, every floating-point value on the way from one
layer boundary to another, and the constants that its nodes read. Values go by `inside.<i>`, constants by
`constant.<i>`, the boundary before by `start`; what else a node reads by "". What it says is the number of the later
boundary, or, of a file that does not name them, `from:` and the value to begin at: none is the inputs.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

#: the key in the metadata of cases and of outputs
KEY = "inside"
START = "start"
FROM = "from:"


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
        """The same as the metadata of outputs hold it."""
        nodes = [[node.kind, list(node.inputs), list(node.outputs)] for node in self.nodes]
        named = {"values": dict(self.values), "constants": dict(self.constants)}
        return json.dumps({"nodes": nodes, **named, "end": self.end})


def stated(text: str) -> Inside:
    """What metadata say. Raises ValueError, KeyError or TypeError where it is malformed."""
    found = json.loads(text)
    nodes = tuple(Node(str(kind), tuple(inputs), tuple(outputs)) for kind, inputs, outputs in found["nodes"])
    return Inside(nodes, dict(found["values"]), dict(found["constants"]), str(found["end"]))


def between(
    nodes: Sequence[Node], fed: Iterable[str], start: str | None, ends: Sequence[str], constants: Iterable[str] = ()
) -> Inside:
    """The part of a graph, whose `nodes` come in order, that lies between two of its values, or a value and several.

    `fed` are the graph's inputs, `constants` what is known before any node; without a `start` it begins at the inputs.
    """
    moving, after = set(fed), {start} if start is not None else set(fed)
    fixed = set(constants)
    for node in nodes:
        moving |= set(node.outputs) if moving & set(node.inputs) else set()
        after |= set(node.outputs) if after & set(node.inputs) else set()
        fixed |= set() if moving & set(node.inputs) else set(node.outputs)
    wanted, kept = set(ends), []
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
        ours.get(ends[0], ""),
    )
