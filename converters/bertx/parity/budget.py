"""Budgets for artifacts that are meant to differ: int8 has no eager twin, so what is allowed is stated, not measured.

A budget is the least cosine of any token's vector with the exact one, and the least share of labels that agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bertx.errors import UsageError, escape
from bertx.signature import BATCH, SEQUENCE, TensorSpec

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

#: outputs whose highest number is an answer: a label, a word, the begin or end of a span
_LABELLED = ("logits", "start_logits", "end_logits")


@dataclass(frozen=True)
class Budget:
    """What is allowed: `cosine` per token at least, `labels` the share that agrees at least; None is not asked for."""

    cosine: float | None = None
    labels: float | None = None

    def to_json(self) -> dict[str, float | None]:
        return {"cosine": self.cosine, "labels": self.labels}


@dataclass(frozen=True)
class Spent:
    """How one output stands to a budget: its least cosine and where, the share of labels that agree (None: none)."""

    budget: Budget
    cosine: float
    case: str
    index: tuple[int, ...]
    labels: float | None
    case_cosine: Mapping[str, float]

    @property
    def problem(self) -> str | None:
        """What the budget does not allow, or does not speak of; None where it holds."""
        asked = self.budget
        if asked.cosine is None and (asked.labels is None or self.labels is None):
            return "the budget says nothing of it: it needs a cosine"
        if asked.cosine is not None and not self.cosine >= asked.cosine:
            where = ", ".join(map(str, self.index))
            return f"cosine {self.cosine:.4g} in case {self.case} at [{where}], the budget asks for {asked.cosine:g}"
        if asked.labels is not None and self.labels is not None and not self.labels >= asked.labels:
            return f"{self.labels:.4g} of the labels agree, the budget asks for {asked.labels:g}"
        return None

    def to_json(self) -> dict[str, Any]:
        return {
            "cosine": round(self.cosine, 6),
            "cosine_limit": self.budget.cosine,
            "labels": None if self.labels is None else round(self.labels, 6),
            "labels_limit": self.budget.labels,
            "worst": {"case": self.case, "index": list(self.index)},
        }


def read(text: str) -> Budget:
    """A budget from "cosine=0.99,labels=0.98". Raises UsageError."""
    pairs = [part.partition("=") for part in text.split(",")]
    try:
        return checked({name.strip(): float(value) for name, _, value in pairs}, len(pairs))
    except ValueError as error:
        raise _refused(text) from error


def checked(table: Mapping[str, Any], count: int | None = None) -> Budget:
    """A budget from its table. Raises UsageError where it is none."""
    known = set(table) <= {"cosine", "labels"} and len(table) == (count or len(table)) and table
    whole = all(isinstance(v, int | float) and not isinstance(v, bool) and 0 < v <= 1 for v in table.values())
    if not known or not whole:
        raise _refused(", ".join(f"{key}={value}" for key, value in table.items()))
    return Budget(**{key: float(value) for key, value in table.items()})


def _refused(text: str) -> UsageError:
    hint = "write cosine=0.99,labels=0.98 or one of them, each above 0 and at most 1"
    return UsageError("E_USAGE", f"the budget {escape(text)} is not understood", hint)


def spend(budget: Budget, spec: TensorSpec, compared: Sequence[tuple[str, Array, Array, Array]]) -> Spent:
    """How an output stands to a budget, from (case, computed, exact, judged) of each case."""
    import numpy as np

    worst: tuple[float, str, tuple[int, ...]] = (float("inf"), "", ())
    least: dict[str, float] = {}
    agreed = total = 0
    for case, made, exact, judged in compared:
        for index, ours, theirs in _vectors(spec, made.astype(np.float64), exact.astype(np.float64), judged):
            cosine = _cosine(ours, theirs)
            worst = min(worst, (cosine, case, index))
            least[case] = min(least.get(case, cosine), cosine)
            agreed += int(ours.argmax() == theirs.argmax())
            total += 1
    labelled = spec.name in _LABELLED and spec.shape[-1] != 1
    return Spent(budget, worst[0], worst[1], worst[2], agreed / total if labelled and total else None, least)


def _cosine(ours: Array, theirs: Array) -> float:
    import numpy as np

    norms = float(np.linalg.norm(ours) * np.linalg.norm(theirs))
    if norms == 0.0:
        return 1.0 if bool((ours == theirs).all()) else 0.0
    return float(ours @ theirs) / norms


def _vectors(
    spec: TensorSpec, made: Array, exact: Array, judged: Array
) -> Iterator[tuple[tuple[int, ...], Array, Array]]:
    """(place, computed, exact) of every vector of an output: a token's, a row's; all numbers where each has but one."""
    import numpy as np

    if made.ndim < 2 or (made.shape[-1] == 1 and spec.shape[-1] not in (BATCH, SEQUENCE)):
        yield (), made[judged], exact[judged]
        return
    for place in np.ndindex(*made.shape[:-1]):
        keep = judged[place]
        if keep.any():
            yield tuple(int(i) for i in place), made[place][keep], exact[place][keep]
