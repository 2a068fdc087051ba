"""Rows of batches put into batches of another size, for files that fix theirs.

A batch is repeated from its beginning, or goes over several. Answers move with their rows only where it is known that
a row's answer does not depend on the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bertx.parity.cases import Case
from bertx.signature import BATCH, SEQUENCE, TensorSpec

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Regrouped:
    """Rows of a case as a batch of their own: the name of the case, and which of its rows."""

    name: str
    case: str
    places: tuple[int, ...]

    def of(self, arrays: Mapping[str, Array], specs: Mapping[str, TensorSpec], rows: str) -> dict[str, Array]:
        """These rows of a case's arrays; what has no rows stays whole."""
        import numpy as np

        return {
            name: np.ascontiguousarray(array[list(self.places)]) if specs[name].shape[:1] == (rows,) else array
            for name, array in arrays.items()
        }


def row_axis(inputs: Sequence[TensorSpec]) -> str | None:
    """The symbol of the first axis, where all inputs that have it have it first: the batch."""
    first = next((spec.shape[0] for spec in inputs if spec.shape and isinstance(spec.shape[0], str)), None)
    elsewhere = any(first in spec.shape[1:] for spec in inputs)
    return None if first is None or elsewhere else str(first)


def regrouped(counts: Mapping[str, int], size: int) -> Iterator[Regrouped]:
    """Batches of `size` rows, from cases of so many rows each."""
    for name, count in counts.items():
        for start in range(0, count, size):
            places = tuple((start + k) % count for k in range(size))
            yield Regrouped(name if count <= size else f"{name}-{start // size}", name, places)


def fitted(cases: Sequence[Case], static: Mapping[str, int], padding: int) -> tuple[Case, ...]:
    """Cases of text for a file that fixes its batch or its length, from cases that are no longer than that.

    Rows are filled with padding; of the batches that come of a case, those without any token are left out.
    """
    import numpy as np

    def wide(name: str, array: Array) -> Array:
        room = static.get(SEQUENCE, array.shape[1]) - array.shape[1]
        return np.pad(array, ((0, 0), (0, room)), constant_values=padding if name == "input_ids" else 0)

    made = []
    for case in cases:
        inputs = {name: wide(name, array) for name, array in case.inputs.items()}
        count = len(next(iter(inputs.values())))
        for each in regrouped({case.name: count}, static.get(BATCH, count)):
            made.append(Case(each.name, {name: array[list(each.places)] for name, array in inputs.items()}))
    return tuple(case for case in made if "attention_mask" not in case.inputs or case.inputs["attention_mask"].any())


def resized(cases: Sequence[Case], inputs: Sequence[TensorSpec], size: int) -> tuple[Case, ...]:
    """The cases in batches of `size` rows."""
    rows, specs = row_axis(inputs), {spec.name: spec for spec in inputs}
    held = {case.name: case.inputs for case in cases}
    if rows is None:
        return tuple(cases)
    counts = {name: _rows(arrays, specs, rows) for name, arrays in held.items()}
    return tuple(Case(each.name, each.of(held[each.case], specs, rows)) for each in regrouped(counts, size))


def _rows(arrays: Mapping[str, Array], specs: Mapping[str, TensorSpec], rows: str) -> int:
    return next(len(array) for name, array in arrays.items() if specs[name].shape[:1] == (rows,))


def independent(
    answers: Mapping[str, Mapping[str, Array]], outputs: Sequence[TensorSpec], rows: str, room: Mapping[str, float]
) -> bool:
    """Whether answers show that a row's does not depend on the others: the same alone, together and in another order.

    `room` is by how much rounding alone may let them differ. Without those three cases nothing shows it.
    """
    import numpy as np

    cases = [answers.get(name) for name in ("rows-together", "rows-permuted", "row-alone")]
    if None in cases or any(spec.shape[:1] != (rows,) for spec in outputs):
        return False
    for spec in outputs:
        together, permuted, alone = (case[spec.name].astype(np.float64) for case in cases if case is not None)
        if len(together) != 3 or permuted.shape != together.shape or alone.shape != (1, *together.shape[1:]):
            return False
        far = (np.abs(permuted - together[[2, 0, 1]]).max(), np.abs(alone[0] - together[1]).max())
        if not max(far) <= room[spec.name]:
            return False
    return True
