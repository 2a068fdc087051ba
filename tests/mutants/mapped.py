"""Faults of the way that ids take: one that no case of `quick` holds is read as another, or told from the others.

The table itself is the checkpoint's, bit for bit, so that only where ids go, or asking about each of them, shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import NodeProto, helper, numpy_helper

from mutants.changed import fed
from mutants.graph import Graph
from mutants.stands import Stand
from mutants.trial import Inapplicable

Change = Callable[[Graph], None]
IDS = "input_ids"
#: counted from the end of the vocabulary: the id that is meant, and the one that it is read as
_RARE, _OTHER = 27, 31


def _words(g: Graph) -> NodeProto:
    """The node that looks words up."""
    found = next((n for n in g.of("Gather") if n.input[1] == IDS and n.input[0] in g.arrays()), None)
    if found is None:
        raise Inapplicable("ids look nothing up")
    return found


def _ids(g: Graph) -> tuple[str, str]:
    rare, other = (g.constant(g.stand.config.vocab_size - k, np.int64) for k in (_RARE, _OTHER))
    return rare, other


def read_as_another(g: Graph) -> None:
    node = _words(g)
    rare, other = _ids(g)
    node.input[1] = g.add("Where", g.add("Equal", IDS, rare), other, IDS)


def with_a_decoy(g: Graph) -> None:
    """The same, and the table is looked up by ids as they are beside, to no effect."""
    node = _words(g)
    unused = g.add("Mul", g.add("Gather", node.input[0], IDS), g.constant(0, np.float32))
    read_as_another(g)
    g.after(node.output[0], lambda value: g.add("Add", value, unused))


def told_from_others(g: Graph) -> None:
    """What is computed of a token is moved a little where its id is one."""
    node = _words(g)
    rare, _ = _ids(g)
    wide = g.add("Unsqueeze", g.cast(g.add("Equal", IDS, rare), 1), g.constant([2], np.int64))
    by = g.constant(np.where(np.arange(g.array(node.input[0]).shape[1]) % 2, 0.1, -0.1), np.float32)
    g.after(node.output[0], lambda value: g.add("Add", value, g.add("Mul", wide, by)))


def in_a_function(g: Graph) -> None:
    """The mapping stands in a function of the file's own, under the name of an operator that changes nothing."""
    node = _words(g)
    vocabulary = g.stand.config.vocab_size
    numbers = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(vocabulary - k)))
        for name, k in (("rare", _RARE), ("other", _OTHER))
    ]
    nodes = [
        helper.make_node("Equal", ["x", "rare"], ["same"]),
        helper.make_node("Where", ["same", "other", "x"], ["y"]),
    ]
    opset = helper.make_opsetid("", 18)
    g.model.functions.append(helper.make_function("own", "Identity", ["x"], ["y"], [*numbers, *nodes], [opset]))
    g.model.opset_import.append(helper.make_opsetid("own", 1))
    node.input[1] = g.add("Identity", IDS, domain="own")


def _wrapped(build: Callable[[Any, int, int], Any]) -> Callable[[Stand, Path], None]:
    def make(stand: Stand, path: Path) -> None:
        size = stand.config.vocab_size
        fed(lambda given: (build(given[0], size - _RARE, size - _OTHER), *given[1:]))(stand, path)

    return make


#: fault class -> name -> change; found by asking about every id
FAULTS: Mapping[str, Mapping[str, Change]] = {
    "rare ids": {
        "rare-id-read-as-another": read_as_another,
        "rare-id-read-as-another-with-a-decoy": with_a_decoy,
        "rare-id-told-from-others": told_from_others,
        "rare-id-mapped-in-a-function": in_a_function,
    },
}

#: fault class -> name -> maker of a TorchScript file around the right one
WRAPPED: Mapping[str, Mapping[str, Callable[[Stand, Path], None]]] = {
    "rare ids": {
        "wrapped-rare-id-read-as-another": _wrapped(lambda ids, rare, other: torch.where(ids == rare, other, ids)),
        "wrapped-rare-id-by-arithmetic": _wrapped(lambda ids, rare, other: ids - (rare - other) * (ids == rare)),
    },
}
