"""From the pattern of what differs to a cause in words, with the evidence."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from bertx.errors import escape
from bertx.parity.causes import CAUSES, fixed_shape, not_a_number
from bertx.parity.compare import Row
from bertx.parity.findings import Evidence, Findings

__all__ = ["Evidence", "cause", "first_bad_layer", "layer_prefix"]

#: what a cause says that could not be found out
STUMBLED = "the diagnosis failed"
_LAYER = re.compile(r"^(.*?\.)(\d+)\.")


def layer_prefix(weights: Iterable[str], layers: int) -> str:
    """The common beginning of layers' tensor names ("encoder.layer."), "layer " where names do not tell.

    It is the prefix that occurs with exactly the indices 0 to `layers` − 1.
    """
    found: dict[str, set[int]] = {}
    counts: Counter[str] = Counter()
    for name in weights:
        match = _LAYER.match(name)
        if match:
            found.setdefault(match[1], set()).add(int(match[2]))
            counts[match[1]] += 1
    fitting = [prefix for prefix, indices in found.items() if indices == set(range(layers))]
    return max(fitting, key=lambda prefix: counts[prefix]) if fitting else "layer "


def first_bad_layer(taps: Sequence[Row], weights: Iterable[str]) -> str | None:
    """Where a difference first appears: "embeddings", or the layer whose output is the first bad tap."""
    bad = next((k for k, tap in enumerate(taps) if not tap.passed), None)
    if bad is None:
        return None
    return "embeddings" if bad == 0 else f"{layer_prefix(weights, len(taps) - 1)}{bad - 1}"


def cause(
    outputs: Sequence[Row],
    taps: Sequence[Row],
    traits: Mapping[str, frozenset[str]],
    layer: str | None,
    evidence: Evidence | None = None,
) -> str | None:
    """The likeliest cause of a failure in words, None where nothing failed."""
    found = Findings(outputs, taps, traits, layer, evidence)
    if not found.rows:
        return None
    problem = next((row for row in found.rows if row.problem), None)
    told = _told(found, problem)
    if problem is not None:
        return f"{problem.name}: {problem.problem}{f'; {told}' if told else ''}"
    worst = max(found.rows, key=lambda row: row.max_ratio)
    place = max(worst.case_max, key=lambda case: worst.case_max[case])
    size = f"max error {worst.max_ratio:.3g} times the rounding noise in case {place}, allowed {worst.max_limit:g}"
    return f"{told or 'no known pattern'} ({size})"


def _told(found: Findings, problem: Row | None) -> str | None:
    """What the first cause says that speaks. One that stumbles over odd answers does not take the verdict with it."""
    try:
        if problem is not None:
            return not_a_number(found, problem) or fixed_shape(found, problem)
        return next((words for words in (each(found) for each in CAUSES) if words), None)
    except Exception as error:  # noqa: BLE001 - that it is wrong is known without knowing why
        return f"{STUMBLED} ({type(error).__name__}: {escape(error)}), report this"
