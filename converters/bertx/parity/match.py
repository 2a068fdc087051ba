"""Outputs of somebody else's file under other names: which of the reference's outputs each of them is.

By name where one is known; else, for each output of the task, the one of equal shape in every case that is nearest.
Beside outputs of known names, only one that equals it within a hundredth is meant. What is left over is an extra
output, which is fine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bertx.model.tasks import HIDDEN_STATES
from bertx.runtimes.protocol import Tensors

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, Mapping[str, np.ndarray[Any, Any]]]


def match(made: Tensors, exact: Tensors, wanted: Sequence[str], known: Iterable[str] = ()) -> dict[str, str]:
    """{the reference's name: the file's}, for those of `wanted` that some output of the file can be.

    `known` are the reference's names: what goes by one of them is taken at its word.
    """
    named = set(known) & {name for outputs in made.arrays.values() for name in outputs}
    offered = dict.fromkeys(name for outputs in made.arrays.values() for name in outputs if name not in named)
    theirs = sorted(offered, key=lambda name: name.startswith(HIDDEN_STATES))  # a tap is the last to be an output
    found: dict[str, str] = {}
    for ours in (name for name in wanted if name not in named):
        distances = {
            name: _distance(made.arrays, name, exact.arrays, ours) for name in theirs if name not in found.values()
        }
        most = _size(exact.arrays, ours) / 100 if named else float("inf")
        near = {name: value for name, value in distances.items() if value is not None and value <= most}
        if near:
            found[ours] = min(near, key=lambda name: near[name])
    return found


def renamed(made: Tensors, names: Mapping[str, str]) -> Tensors:
    """The same tensors under the reference's names; `names` is what `match` gave."""
    ours = {theirs: name for name, theirs in names.items()}
    arrays = {case: {ours.get(n, n): array for n, array in outputs.items()} for case, outputs in made.arrays.items()}
    return Tensors(arrays, {ours.get(n, n): dtype for n, dtype in made.dtypes.items()}, made.metadata)


def _size(exact: Arrays, ours: str) -> float:
    """The mean absolute value over all cases."""
    import numpy as np

    held = [outputs[ours] for outputs in exact.values() if ours in outputs]
    return float(sum(np.nanmean(np.abs(array)) for array in held))


def _distance(made: Arrays, theirs: str, exact: Arrays, ours: str) -> float | None:
    """The mean absolute difference over all cases, infinite where it is no number; None where shapes differ."""
    import numpy as np

    total = 0.0
    for case, outputs in exact.items():
        value = made.get(case, {}).get(theirs)
        if value is None or ours not in outputs or value.shape != outputs[ours].shape:
            return None
        known = np.isfinite(outputs[ours])  # all of it, but for rows that hold no token
        total += float(np.mean(np.abs(value.astype(np.float64) - outputs[ours])[known]))
    return total if np.isfinite(total) else float("inf")
