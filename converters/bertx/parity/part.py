"""Which part of a layer is wrong: the stations of eager PyTorch beside the values inside an artifact. Pure functions.

A station is measured at the value that stands in its place, which is told by the weights that its node reads, by the
order of norms and softmaxes, or by being the only one left. Where nothing stands in its place, it is right if any value
equals it up to rounding, in whatever order an exporter computes them; if none does (operators were fused), it is not
measured, and parts are named together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bertx.parity.compare import Row, compare, failed, pool
from bertx.parity.stations import GIVES, SOFTMAX, TAKES, Station, Stations
from bertx.runtimes.inside import START, Node

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

#: operators by the names that ONNX and TorchScript have for them
_NORMS = frozenset({"LayerNormalization", "SkipLayerNormalization", "aten::layer_norm"})
_SOFTMAXES = frozenset({"Softmax", "aten::softmax", "aten::_softmax"})
_SUMS = frozenset({"Add", "aten::add", "aten::add_"})
#: numbers beyond this are what masks add to scores, which every exporter chooses as it likes
_MASKED = 5e3
#: scores below this lose against any other
_HIDDEN = 1e2


@dataclass(frozen=True)
class Part:
    """The part of a layer where a difference begins: its row where it was measured, what of the layer is right, and
    what can be wrong with such a part when all that goes into it is right."""

    name: str
    row: Row
    right: tuple[str, ...]
    suspects: str | None = None

    def words(self) -> str:
        """The name with the evidence, by how much and how much is allowed, and the suspects."""
        return f"{self.name} ({self._evidence()}){f': {self.suspects}' if self.suspects else ''}"

    def _evidence(self) -> str:
        row = self.row
        if row.problem is not None:
            return row.problem
        if row.rms_ratio > row.rms_limit or any(r > row.rms_limit for r in row.case_rms.values()):
            return f"rms {max(row.rms_ratio, *row.case_rms.values()):.3g} of {row.rms_limit:g}"
        return f"max {row.max_ratio:.3g} of {row.max_limit:g}"

    def to_json(self) -> dict[str, Any]:
        numbers = {
            key: float(f"{value:.4g}") if value == value and abs(value) != float("inf") else None
            for key, value in (("rms_ratio", self.row.rms_ratio), ("max_ratio", self.row.max_ratio))
        }
        limits = {"rms_limit": self.row.rms_limit, "max_limit": self.row.max_limit}
        return {"name": self.name, **numbers, **limits, "right": list(self.right)}


@dataclass(frozen=True)
class Made:
    """The values inside an artifact between the same two boundaries: {case: {value: array}}, and what computes them.

    `end` is the value of the later boundary, None where it is not known which: then what follows is there too. `masks`
    are each case's attention_mask where it has one.
    """

    nodes: Sequence[Node]
    end: str | None
    values: Mapping[str, Mapping[str, Array]]
    constants: Mapping[str, Array]
    masks: Mapping[str, Array | None]
    dtype: str
    factor: float

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for node in self.nodes for name in node.outputs if name))


def first_bad_part(stations: Stations, made: Made) -> Part | None:
    """Where the layer begins to be wrong; None where, read from inside, all of it is right or nothing can be told."""
    places = dict(_places(stations, made))
    listed = stations.listed
    right: set[int] = set()
    wrong: dict[int, Row] = {}
    for number, station in enumerate(listed):
        stand = [places[place] for place in station.places if place in places]
        stand += [made.end] if made.end and number == len(listed) - 1 else []
        bad = [row for row in _rows(station, stand, made) if not row.passed]
        if bad:
            wrong[number] = bad[0]
        elif any(row.passed for row in _rows(station, stand or made.names, made)):
            right.add(number)
    last = len(listed) - 1
    # Without an end, a layer of which nothing is right and no matrix is found may not be there at all.
    there = made.end is not None or bool(right or _by_matrix(stations, made))
    if last in right or not wrong or not there or (made.end is not None and last not in wrong):
        return None
    sound = right.union(*(listed[number].needs for number in right))
    first = [n for n in range(len(listed)) if n not in sound and listed[n].needs <= sound]
    measured = next((n for n in first if n in wrong), None)
    told = tuple(listed[number].name for number in sorted(right))
    if measured is not None:
        return Part(listed[measured].name, wrong[measured], told, _suspects(listed[measured], stations))
    # Nothing stands for the first ones alone: they are part of what is measured further on.
    later = min(n for n in wrong if n not in sound)
    name = _together([listed[n] for n in (*first, later)])
    return Part(name, wrong[later], told) if name else None


def _suspects(station: Station, stations: Stations) -> str:
    """What can be wrong with a part whose inputs are right."""
    kind, module = station.places[0]
    if module.endswith(f".{SOFTMAX}"):
        return "their scale, or what is added to them" if kind == TAKES else "its axis or its precision"
    if kind == TAKES:
        return "what is added up, or its precision"
    if module in stations.norms:
        return "its epsilon, weight, bias or precision"
    if module in stations.weights:
        return "its matrix, its bias or the precision of the product"
    if any(place.startswith(f"{module}.") for each in stations.listed for _, place in each.places):
        return "how its parts are put together"
    return "another function, or an approximated one"


def _together(stations: Sequence[Station]) -> str:
    """The innermost module that some stations have in common; none is the layer itself."""
    paths = [station.module.split(".") for station in stations]
    common = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common)


def _rows(station: Station, names: Iterable[str], made: Made) -> Iterator[Row]:
    return (row for row in (_row(station, name, made) for name in names) if row is not None)


def _row(station: Station, name: str, made: Made) -> Row | None:
    """A value of the artifact as a station, over the cases; None where it has another size or nothing is judged."""
    import numpy as np

    found = []
    for case, exact in station.exact.items():
        value = made.values[case].get(name)
        if value is None or value.dtype.kind != "f" or value.size != exact.size:
            return None
        judged = _judged(exact, made.masks[case])
        value = value.reshape(exact.shape)
        kind, module = station.places[0]
        if kind == TAKES and module.endswith(f".{SOFTMAX}"):
            seen = _hidden(exact, made.masks[case]) & ~(value < -_HIDDEN)
            if seen.any():
                return failed(station.name, f"padding is not hidden in {int(seen.sum())} places", made.factor)
        if judged is None or not judged.any():
            continue
        if not np.isfinite(value[judged]).all():
            return failed(station.name, "NaN or Inf", made.factor)
        found.append(compare(case, value, exact, station.rounded[case], judged))
    return pool(station.name, found, made.dtype, made.factor) if found else None


def _judged(exact: Array, mask: Array | None) -> Array | None:
    """Which numbers of a station are compared: at valid tokens, and pairs of them; None where it cannot be told."""
    import numpy as np

    if mask is None or bool((mask == 1).all()):
        keep = np.ones(exact.shape, dtype=bool)
    elif exact.shape[:2] == mask.shape:
        keep = np.broadcast_to((mask == 1).reshape(*mask.shape, *[1] * (exact.ndim - 2)), exact.shape)
    elif exact.ndim == 4 and (exact.shape[0], *exact.shape[2:]) == (*mask.shape, mask.shape[1]):
        valid = mask == 1
        keep = np.broadcast_to((valid[:, None, :, None] & valid[:, None, None, :]), exact.shape)
    else:
        return None
    return keep & (np.abs(exact) < _MASKED)


def _hidden(exact: Array, mask: Array | None) -> Array:
    """Scores of valid tokens that a mask hides in the reference."""
    import numpy as np

    valid = np.ones(exact.shape, dtype=bool)
    if mask is not None and exact.ndim == 4 and (exact.shape[0], exact.shape[2]) == mask.shape:
        valid = np.broadcast_to((mask == 1)[:, None, :, None], exact.shape)
    return valid & (exact <= -_MASKED)


# what stands in a station's place


def _places(stations: Stations, made: Made) -> Iterator[tuple[tuple[str, str], str]]:
    """(place, value of the artifact that stands there)."""
    users = Counter(name for node in made.nodes for name in node.inputs)
    for module, node in (*_by_weights(stations, made), *_by_order(stations, made)):
        moving = [name for name in node.inputs if name.startswith("inside.") or name == START]
        if moving and moving[0] != START:
            yield (TAKES, module), moving[0]
        yield (GIVES, module), _with_bias(node.outputs[0], made, users)


def _with_bias(value: str, made: Made, users: Mapping[str, int]) -> str:
    """The sum with a constant where that is all a value is used for, else the value."""
    if users[value] != 1:
        return value
    node = next(node for node in made.nodes if value in node.inputs)
    added = [name for name in node.inputs if name != value]
    fixed = all(name.startswith("constant.") for name in added)
    return node.outputs[0] if node.kind in _SUMS and fixed else value


def _by_matrix(stations: Stations, made: Made) -> list[tuple[str, Node]]:
    """(module, node) by the matrix that the node reads."""
    found = []
    for node, array in _reading(made):
        alike = [module for module, weight in stations.weights.items() if _alike(array, weight)]
        found += [(alike[0], node)] if len(alike) == 1 else []
    return found


def _by_weights(stations: Stations, made: Made) -> list[tuple[str, Node]]:
    """The same; of a matrix that is nobody's, the only one of its shape that is left is taken for the module's."""
    found = _by_matrix(stations, made)
    named, nodes = {module for module, _ in found}, [node for _, node in found]
    left = {module: tuple(sorted(weight.shape)) for module, weight in stations.weights.items() if module not in named}
    shapes = [(tuple(sorted(array.shape)), node) for node, array in _reading(made) if node not in nodes]
    for module, shape in left.items():
        fitting = [node for other, node in shapes if other == shape]
        if len(fitting) == 1 and list(left.values()).count(shape) == 1:
            found.append((module, fitting[0]))
    return found


def _reading(made: Made) -> list[tuple[Node, Array]]:
    """(node, matrix that it reads)"""
    reads = [(node, made.constants[name]) for node in made.nodes for name in node.inputs if name in made.constants]
    return [(node, array) for node, array in reads if array.ndim == 2]


def _alike(array: Array, weight: Array) -> bool:
    """Whether half of a constant or more is a module's matrix, as it is or transposed, at the constant's dtype."""
    if array.ndim != 2 or array.dtype.kind != "f":
        return False
    wanted = weight.astype(array.dtype)
    return any(
        turned.shape == array.shape and bool((turned == array).mean() >= 0.5)
        for turned in ([wanted, wanted.T] if wanted.ndim == 2 else [])
    )


def _by_order(stations: Stations, made: Made) -> list[tuple[str, Node]]:
    """(module, node) of norms and softmaxes, where the artifact has as many of them as the layer."""
    softmaxes = [m for s in stations.listed for kind, m in s.places if kind == GIVES and m.endswith(f".{SOFTMAX}")]
    found = []
    for modules, kinds in ((list(stations.norms), _NORMS), (softmaxes, _SOFTMAXES)):
        nodes = [node for node in made.nodes if node.kind in kinds][: None if made.end else len(modules)]
        found += list(zip(modules, nodes, strict=True)) if len(modules) == len(nodes) else []
    return found
