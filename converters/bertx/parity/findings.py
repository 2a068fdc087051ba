"""What diagnosis looks at: the rows that were judged, what is special about the cases, and the arrays themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bertx.model.tasks import HIDDEN_STATES
from bertx.parity.compare import Row

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

TAP = f"{HIDDEN_STATES}."


def boundary(tap: str) -> int:
    """The number of the layer boundary that a tap is at."""
    return int(tap.removeprefix(TAP))


def boundaries(names: Iterable[str]) -> list[str]:
    """The taps among some names, in order."""
    return sorted((name for name in names if name.startswith(TAP)), key=boundary)


@dataclass(frozen=True)
class Evidence:
    """The numbers behind the rows: case -> input, case -> what was computed, case -> what is exact.

    `dtype` is what the artifact claims to compute in.
    """

    inputs: Mapping[str, Mapping[str, Array]]
    made: Mapping[str, Mapping[str, Array]]
    exact: Mapping[str, Mapping[str, Array]]
    dtype: str = "float32"


@dataclass(frozen=True)
class Findings:
    """All that a cause may look at. Without evidence, arrays prove nothing and only cases tell."""

    outputs: Sequence[Row]
    taps: Sequence[Row]
    traits: Mapping[str, frozenset[str]]
    layer: str | None
    evidence: Evidence | None

    @cached_property
    def rows(self) -> list[Row]:
        """Outputs and taps that failed."""
        return [row for row in (*self.outputs, *self.taps) if not row.passed]

    @cached_property
    def compared(self) -> dict[str, frozenset[str]]:
        """Every case that was compared, with its traits."""
        cases = dict.fromkeys(case for row in (*self.outputs, *self.taps) for case in row.case_max)
        return {case: self.traits.get(case, frozenset()) for case in cases}

    @cached_property
    def bad(self) -> set[str]:
        return {case for row in self.rows for case in row.bad_cases}

    @cached_property
    def states(self) -> list[Row]:
        """Layer boundaries in order."""
        found = [row for row in (*self.outputs, *self.taps) if row.name.startswith(TAP)]
        return sorted(found, key=lambda row: boundary(row.name))

    def named(self, *wanted: str) -> set[str]:
        """Compared cases with one of these traits."""
        return {case for case, found in self.compared.items() if found & set(wanted)}

    def pairs(self, name: str) -> Iterator[tuple[str, Array, Array]]:
        """(case, computed, exact) of an output, in float64, for each case that holds both in one shape.

        Cases with a row that holds no token prove nothing: its answer is not defined.
        """
        for case in self.evidence.inputs if self.evidence else ():
            if "empty" in self.traits.get(case, ()):
                continue
            made, exact = self.evidence.made.get(case, {}).get(name), self.evidence.exact[case].get(name)  # type: ignore[union-attr]
            if made is not None and exact is not None and made.shape == exact.shape:
                yield case, made.astype("float64"), exact

    def wrong(self, row: Row) -> Iterator[tuple[Mapping[str, Array], Array, Array]]:
        """(inputs, valid, wrong) per case of a per-token output: boolean arrays (batch, sequence)."""
        for case, made, exact in self.pairs(row.name):
            inputs = self.evidence.inputs[case]  # type: ignore[union-attr]
            if "input_ids" in inputs and made.ndim == 3 and made.shape[:2] == inputs["input_ids"].shape:
                valid = inputs.get("attention_mask", inputs["input_ids"] * 0 + 1) == 1
                yield inputs, valid, valid & (abs(made - exact).max(axis=2) > row.max_limit * row.max_noise)
