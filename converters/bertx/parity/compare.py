"""The rule: is a difference only rounding? Pure functions on arrays.

For every output and tap, with R64 the reference in float64 and R32 the same at the artifact's dtype:
noise is a statistic of R32 − R64, error the same statistic of artifact − R64, and two ratios of error to noise are
judged, root mean square (how large is the whole error) and maximum (is one element wrong).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bertx.parity.budget import Spent
from bertx.signature import BATCH, SEQUENCE, TensorSpec

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

RMS_LIMIT = 3.0
MAX_LIMIT = 12.0
#: a case's own rms ratio is judged from this many compared elements on; fewer are judged pooled
FEWEST = 64

#: bits of mantissa, for one unit in the last place
_BITS = {"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7}


@dataclass(frozen=True)
class Compared:
    """One output in one case: its error and noise over the compared elements, and where it is worst."""

    case: str
    count: int
    rms_error: float
    max_error: float
    rms_noise: float
    max_noise: float
    rms_value: float
    largest: float
    dot: float
    norms: float
    worst: tuple[int, ...]


@dataclass(frozen=True)
class Noise:
    """What rounding alone does to one output in one case, where it was recorded and need not be measured."""

    rms: float
    max: float


@dataclass(frozen=True)
class Row:
    """One output or tap over all cases. `problem` is a reason to fail other than a ratio.

    With `spent` a budget is judged, and the ratios are told only.
    """

    name: str
    cases: tuple[Compared, ...]
    rms_ratio: float
    max_ratio: float
    rms_limit: float
    max_limit: float
    case_rms: Mapping[str, float]
    case_max: Mapping[str, float]
    rms_noise: float
    max_noise: float
    problem: str | None = None
    spent: Spent | None = None

    @property
    def bad_cases(self) -> tuple[str, ...]:
        """Cases past either limit, or past the budget's cosine."""
        if self.spent is not None:
            least = self.spent.budget.cosine or 0.0
            return tuple(case for case, cosine in self.spent.case_cosine.items() if not cosine >= least)
        judged = {c.case for c in self.cases if c.count >= FEWEST}
        return tuple(
            name
            for name in self.case_max
            if self.case_max[name] > self.max_limit or (name in judged and self.case_rms[name] > self.rms_limit)
        )

    @property
    def passed(self) -> bool:
        """Every judged ratio lies within its limit, or the budget holds; not-a-number does not."""
        if self.spent is not None:
            return self.problem is None and bool(self.cases) and self.spent.problem is None
        fits = self.rms_ratio <= self.rms_limit and self.max_ratio <= self.max_limit
        return self.problem is None and bool(self.cases) and fits and not self.bad_cases


def judged_positions(spec: TensorSpec, mask: Array | None, shape: tuple[int, ...]) -> Array:
    """A boolean array of `shape`: valid positions of a per-token output, rows with any of them of a pooled one."""
    import numpy as np

    batch, sequence = spec.axis(BATCH), spec.axis(SEQUENCE)
    if mask is None or batch is None:
        return np.ones(shape, dtype=bool)
    wide = [1] * len(shape)
    if sequence is None:
        wide[batch] = len(mask)
        return np.broadcast_to((mask == 1).any(axis=1).reshape(wide), shape)
    wide[batch], wide[sequence] = mask.shape
    return np.broadcast_to((mask == 1).reshape(wide), shape)


def compare(case: str, made: Array, exact: Array, rounded: Array, judged: Array) -> Compared:
    """Error and noise of one output in one case, over the judged elements (at least one)."""
    import numpy as np

    whole = bool(judged.all())

    def picked(array: Array) -> Array:
        wide = array.astype(np.float64, copy=False)
        return wide.reshape(-1) if whole else wide[judged]

    # Sums by einsum: the threads of a BLAS would wait for processors that runners compute on.
    def rms(values: Array) -> float:
        return math.sqrt(float(np.einsum("i,i->", values, values)) / max(1, values.size))

    truth, value = picked(exact), picked(made)
    noise, error = np.abs(picked(rounded) - truth), np.abs(value - truth)
    worst = int(np.argmax(error)) if error.size else 0
    place = np.unravel_index(worst if whole else np.flatnonzero(judged)[worst], judged.shape)
    return Compared(
        case,
        int(error.size),
        rms(error),
        float(error.max()),
        rms(noise),
        float(noise.max()),
        rms(truth),
        float(np.abs(truth).max()),
        float(np.einsum("i,i->", value, truth)),
        rms(value) * rms(truth) * value.size,
        tuple(int(i) for i in place),
    )


def pool(name: str, cases: Sequence[Compared], dtype: str, factor: float, allowance: float = 1.0) -> Row:
    """Judges one output over its cases, against their pooled noise. `allowance` is the runtime's own factor on the rms
    limit."""
    counts = [c.count for c in cases]

    def pooled(values: Sequence[float]) -> float:
        squares = sum(count * value * value for count, value in zip(counts, values, strict=True))
        return math.sqrt(squares / sum(counts))

    # Noise is never less than one unit in the last place, of the size that the statistic itself is about: measured
    # against the largest element, an rms floor would hide errors of ten times the noise at the embeddings.
    rms_noise = max(pooled([c.rms_noise for c in cases]), _last_place(pooled([c.rms_value for c in cases]), dtype))
    max_noise = max(*(c.max_noise for c in cases), _last_place(max(c.largest for c in cases), dtype))
    rms_error = pooled([c.rms_error for c in cases])
    case_rms = {c.case: c.rms_error / max(c.rms_noise, rms_noise) for c in cases}
    case_max = {c.case: c.max_error / max_noise for c in cases}
    return Row(
        name,
        tuple(cases),
        rms_error / rms_noise,
        max(case_max.values()),
        RMS_LIMIT * factor * allowance,
        MAX_LIMIT * factor,
        case_rms,
        case_max,
        rms_noise,
        max_noise,
    )


def failed(name: str, problem: str, factor: float) -> Row:
    """A row for an output that could not be compared number by number."""
    nan = float("nan")
    return Row(name, (), nan, nan, RMS_LIMIT * factor, MAX_LIMIT * factor, {}, {}, nan, nan, problem)


def _last_place(size: float, dtype: str) -> float:
    if size == 0.0:
        return float(2.0**-126)
    return float(2.0 ** (math.floor(math.log2(size)) - _BITS.get(dtype, 23)))
