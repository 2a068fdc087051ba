"""Cases from a signature and a sample: for images, numbers, masks, ids and whatever else a module takes.

Every case exists for a class of wrong artifacts, which `FAULTS` names. Values lie in the range of the sample, or in
the one that the user states. Deterministic by seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bertx.errors import InputRefused, UsageError, escape
from bertx.parity.cases import SETS, Case
from bertx.parity.rows import row_axis
from bertx.signature import TensorSpec, sizes

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

#: how a case's name begins -> what would otherwise go unseen; the longest beginning counts
FAULTS: Mapping[str, str] = {
    "sample": "anything, on what the user says is usual",
    "zeros": "a bias dropped or added twice, an epsilon (integers: the lowest, booleans: all false)",
    "ones": "another padding mode, padding counted in a mean (integers: the highest, booleans: all true)",
    "impulse": "a kernel flipped or transposed, channels or axes in another order",
    "normal": "weights, operators, inputs swapped",
    "uniform": "the same, inside of the sample's own range",
    "large": "clipping, saturation, an approximated function, lower precision",
    "every-value": "one wrong row of an embedding",
    "rows-together": "something computed over the batch, such as batch statistics",
    "rows-permuted": "a row that depends on its place",
    "row-alone": "a row that depends on its neighbours",
    "axis": "a size that was baked in (a batch of one or seven, an image of another height)",
    "mixed": "two axes taken for one another",
    "seed": "what one draw of numbers does not show",
}

#: numbers of distinct integers up to which a quick set has all of them
MOST_VALUES = 8192
#: batches that this may take
MOST_BATCHES = 16


@dataclass(frozen=True)
class Known:
    """What cases are made from: the inputs, a sample of each, and {input: (lowest, highest)} where the user knows."""

    inputs: tuple[TensorSpec, ...]
    samples: Mapping[str, Array]
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, int]:
        """{symbol: its size in the sample}"""
        return sizes(self.inputs, {name: array.shape for name, array in self.samples.items()})

    @property
    def rows(self) -> str | None:
        """The symbol of the first axis, where all inputs that have it have it first: the batch."""
        return row_axis(self.inputs)

    def check(self) -> None:
        """Raises UsageError for ranges that no input has or that are none."""
        for name, bounds in self.ranges.items():
            if name not in self.samples:
                raise UsageError("E_USAGE", f"ranges names {escape(name)}, which is no input", "name an input")
            if len(bounds) != 2 or not bounds[0] <= bounds[1]:
                raise UsageError("E_USAGE", f"the range of {escape(name)} is none", "write (lowest, highest)")


#: whether the module runs on these inputs
Runs = Callable[[Mapping[str, "Array"]], bool]


def build(chosen: str, known: Known, runs: Runs, seed: int = 0) -> tuple[Case, ...]:
    """The cases of a set. `runs` is asked which sizes the module takes.

    Raises UsageError for an unknown set, InputRefused(E_MODULE) where an axis said to move does not.
    """
    import numpy as np

    if chosen not in SETS:
        raise UsageError("E_USAGE", f"unknown set of cases {escape(chosen)}", f"choose {' or '.join(SETS)}")
    known.check()
    maker = _Maker(known, np.random.default_rng(seed))
    moved = _moved(maker, runs)
    made = [*_values(maker, moved), *_sizes(maker, moved, runs), *_rows(maker, runs)]
    if chosen == "full":
        again = _Maker(known, np.random.default_rng(seed + 1))
        made += _more(again, moved)
    return tuple(made)


def fault(case: str) -> str:
    """The class of faults that a case exists for."""
    fitting = [start for start in FAULTS if case.startswith(start)]
    return FAULTS[max(fitting, key=len)]


@dataclass(frozen=True)
class _Maker:
    """Makes inputs of given sizes."""

    known: Known
    rng: np.random.Generator

    def case(self, name: str, kind: str, changed: Mapping[str, int]) -> Case:
        return Case(name, self.inputs(kind, changed))

    def inputs(self, kind: str, changed: Mapping[str, int]) -> dict[str, Array]:
        chosen = self.known.sizes | dict(changed)
        return {spec.name: self._array(spec, kind, chosen) for spec in self.known.inputs}

    def _array(self, spec: TensorSpec, kind: str, chosen: Mapping[str, int]) -> Array:
        shape = tuple(chosen[size] if isinstance(size, str) else size for size in spec.shape)
        sample = self.known.samples[spec.name]
        if sample.dtype.kind == "b":
            return self._booleans(kind, shape)
        if sample.dtype.kind in "iu":
            return self._integers(spec.name, kind, shape).astype(sample.dtype)
        return self._floats(spec.name, kind, shape).astype(sample.dtype)

    def _booleans(self, kind: str, shape: tuple[int, ...]) -> Array:
        import numpy as np

        if kind in ("zeros", "ones"):
            return np.full(shape, kind == "ones")
        drawn = self.rng.random(shape) < 0.7
        if drawn.ndim and drawn.shape[-1]:
            drawn[..., 0] = True  # a row without anything valid is a case of its own: "zeros"
        return drawn

    def bounds(self, name: str) -> tuple[float, float]:
        """The lowest and highest value of an input."""
        sample = self.known.samples[name]
        if name in self.known.ranges:
            return self.known.ranges[name]
        low, high = float(sample.min()), float(sample.max())
        return (low, high) if low < high or sample.dtype.kind in "iu" else (low - 1.0, high + 1.0)

    def _integers(self, name: str, kind: str, shape: tuple[int, ...]) -> Array:
        import numpy as np

        low, high = (int(bound) for bound in self.bounds(name))
        fixed = {"zeros": low, "ones": high}
        return np.full(shape, fixed[kind]) if kind in fixed else self.rng.integers(low, high + 1, shape)

    def _floats(self, name: str, kind: str, shape: tuple[int, ...]) -> Array:
        import numpy as np

        sample = self.known.samples[name].astype(np.float64)
        low, high = self.bounds(name)
        mean, deviation = float(sample.mean()), float(sample.std()) or 1.0
        if kind in ("zeros", "ones"):
            drawn = np.full(shape, float(kind == "ones"))
        elif kind == "impulse":
            drawn = np.zeros(shape)
            drawn.reshape(-1)[self.rng.integers(0, max(1, drawn.size), max(1, drawn.size // 256))] = 1.0
        elif kind == "uniform":
            drawn = self.rng.uniform(low, high, shape)
        else:
            drawn = mean + (4.0 if kind == "large" else 1.0) * deviation * self.rng.standard_normal(shape)
        return np.clip(drawn, low, high) if name in self.known.ranges else drawn


def _moved(maker: _Maker, runs: Runs) -> dict[str, tuple[int, ...]]:
    """{symbol: sizes other than the sample's that the module takes}, at least one each."""
    found: dict[str, tuple[int, ...]] = {}
    for symbol, size in maker.known.sizes.items():
        fitting: list[int] = []
        for wanted in _candidates(symbol == maker.known.rows, size):
            fits = next((n for n in wanted if n != size and n > 0 and runs(maker.inputs("uniform", {symbol: n}))), None)
            if fits is not None and fits not in fitting:
                fitting.append(fits)
        if not fitting:
            what = f"axis {escape(symbol)} is said to move, and the module runs only where it is {size}"
            raise InputRefused("E_MODULE", what, "leave it out of dynamic")
        found[symbol] = tuple(fitting)
    return found


def _candidates(rows: bool, size: int) -> Sequence[Sequence[int]]:
    """Sizes to try; of each list the first that fits is taken: a small, an odd and a larger one."""
    if rows:
        return [(1,), (2,), (7, 8)]
    odd = [n for n in (size + 1, size - 1, size + 3, size + 5) if n % 2]
    larger = [2 * size, size + 32, size + 16, size + 8, size + 4, size + 2, size + 1]
    return [(1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, size // 2, size - 1), odd, larger]


def _values(maker: _Maker, moved: Mapping[str, Sequence[int]]) -> Iterator[Case]:
    import numpy as np

    yield Case("sample", {name: np.asarray(array, order="C") for name, array in maker.known.samples.items()})
    rows = maker.known.rows
    base = {rows: 2} if rows and 2 in (*moved[rows], maker.known.sizes[rows]) else {}
    for kind in ("zeros", "ones", "impulse", "normal", "uniform", "large"):
        yield maker.case(kind, kind, base)
    yield from _every_value(maker, base)


def _every_value(maker: _Maker, base: Mapping[str, int]) -> Iterator[Case]:
    """Every integer of an input's range, in batches of more rows where that makes them few."""
    import numpy as np

    rows = maker.known.rows
    for spec in maker.known.inputs:
        sample = maker.known.samples[spec.name]
        low, high = maker.bounds(spec.name) if sample.dtype.kind in "iu" else (0, 0)
        count = int(high - low) + 1
        size = maker.inputs("uniform", base)[spec.name].size
        batch = dict(base)
        if rows and spec.shape[:1] == (rows,):
            batch[rows] = max(base.get(rows, 1), -(-count * batch.get(rows, 1) // (size * 4)))
            size = maker.inputs("uniform", batch)[spec.name].size
        if not 2 < count <= MOST_VALUES or count > size * MOST_BATCHES:
            continue
        values = np.arange(int(low), int(high) + 1)
        for k in range(-(-count // size)):
            inputs = maker.inputs("uniform", batch)
            part = np.resize(values[k * size : (k + 1) * size], inputs[spec.name].shape)
            inputs[spec.name] = part.astype(sample.dtype)
            yield Case(f"every-value-{spec.name}-{k}", inputs)


def _sizes(maker: _Maker, moved: Mapping[str, Sequence[int]], runs: Runs) -> Iterator[Case]:
    for symbol, fitting in moved.items():
        for size in fitting:
            yield maker.case(f"axis-{symbol}-{size}", "uniform", {symbol: size})
    others = [symbol for symbol in moved if symbol != maker.known.rows]
    if others:
        # Sizes that differ from axis to axis: the k-th of each, so that none is another's.
        mixed = {symbol: moved[symbol][k % len(moved[symbol])] for k, symbol in enumerate(moved)}
        if runs(maker.inputs("uniform", mixed)):
            yield maker.case("mixed-sizes", "uniform", mixed)


def _rows(maker: _Maker, runs: Runs) -> Iterator[Case]:
    """Three rows together, in another order, and one of them alone."""
    rows = maker.known.rows
    together = maker.inputs("uniform", {rows: 3}) if rows else {}
    if rows is None or not runs(together):
        return
    batched = {spec.name for spec in maker.known.inputs if spec.shape and spec.shape[0] == rows}
    yield Case("rows-together", together)
    yield Case("rows-permuted", {n: a[[2, 0, 1]] if n in batched else a for n, a in together.items()})
    alone = {n: a[1:2] if n in batched else a for n, a in together.items()}
    if runs(alone):
        yield Case("row-alone", alone)


def _more(maker: _Maker, moved: Mapping[str, Sequence[int]]) -> Iterator[Case]:
    for k in range(4):
        for kind in ("normal", "uniform", "impulse"):
            yield maker.case(f"seed-{k}-{kind}", kind, {})
    for symbol, fitting in moved.items():
        for size in fitting:
            yield maker.case(f"axis-{symbol}-{size}-normal", "normal", {symbol: size})
