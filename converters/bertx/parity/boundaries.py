"""The layer boundaries in a file that does not name them: values that equal the reference's hidden states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bertx.parity.cases import Case
from bertx.parity.compare import compare, pool
from bertx.parity.findings import boundaries
from bertx.parity.judge import Bench

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


def known(
    bench: Bench, cases: Sequence[Case], made: Mapping[str, Mapping[str, Array]], names: Sequence[str], dtype: str
) -> list[str]:
    """The values that are the first boundaries, in order, up to one that none of them equals."""
    found: list[str] = []
    left = list(names)
    for state in boundaries(bench.specs):
        value = next((name for name in left if _equals(bench, cases, made, name, state, dtype)), None)
        if value is None:
            break
        found.append(value)
        left = left[left.index(value) + 1 :]
    return found


def _equals(
    bench: Bench, cases: Sequence[Case], made: Mapping[str, Mapping[str, Array]], name: str, state: str, dtype: str
) -> bool:
    """Whether a value is a hidden state in all cases, rounding aside; it may be flat."""
    import numpy as np

    rows = []
    for case in cases:
        value, exact = made[case.name].get(name), bench.reference.exact.arrays[case.name][state]
        if value is None or value.dtype.kind != "f" or value.size != exact.size:
            return False
        value, judged = value.reshape(exact.shape), bench.judged(case, state)
        if not np.isfinite(value[judged]).all():
            return False
        rows.append(compare(case.name, value, exact, bench.reference.rounded.arrays[case.name][state], judged))
    return pool(state, rows, dtype, bench.factor).passed
