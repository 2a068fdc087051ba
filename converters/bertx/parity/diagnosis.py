"""From the pattern of what differs to a cause in words, with the evidence."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from bertx.parity.compare import Row

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
    outputs: Sequence[Row], taps: Sequence[Row], traits: Mapping[str, frozenset[str]], layer: str | None
) -> str | None:
    """The likeliest cause of a failure in words, None where nothing failed."""
    rows = [row for row in (*outputs, *taps) if not row.passed]
    if not rows:
        return None
    problem = next((row for row in rows if row.problem), None)
    if problem is not None:
        return f"{problem.name}: {problem.problem}"
    compared = {case for row in (*outputs, *taps) for case in row.case_max}
    bad = {case for row in rows for case in row.bad_cases}
    told = _pattern({c: traits.get(c, frozenset()) for c in compared}, bad)
    worst = max(rows, key=lambda row: row.max_ratio)
    place = max(worst.case_max, key=lambda case: worst.case_max[case])
    size = f"max error {worst.max_ratio:.3g} times the rounding noise in case {place}, allowed {worst.max_limit:g}"
    if told is None and layer == "embeddings":
        told = "the first tap already differs: embeddings, positions or segment ids"
    if told is None and layer is not None:
        told = f"everything before {layer} is right: a weight or an operator in that layer is wrong"
    if told is None:
        which = "every case" if bad == compared else f"{len(bad)} of {len(compared)} cases"
        told = f"{', '.join(row.name for row in rows[:3])} differs in {which}"
    return f"{told} ({size})"


def _pattern(traits: Mapping[str, frozenset[str]], bad: set[str]) -> str | None:
    """Which class of cases is wrong, each of them, while all others are right."""

    def named(*wanted: str) -> set[str]:
        return {case for case, found in traits.items() if found & set(wanted)}

    right_only = named("right") - named("left", "holes")
    unpadded = named("full", "segments") - named("right", "left", "holes")
    if not bad or not unpadded:
        return None
    listed = ", ".join(sorted(bad))
    if bad == named("left", "holes") and right_only:
        return (
            "attention_mask: wrong only on rows that are padded on the left or have holes, "
            f"so the mask was reduced to a length ({listed})"
        )
    if bad == named("right", "left", "holes"):
        return f"attention_mask: right without padding and wrong with it, so the mask is ignored or altered ({listed})"
    if bad == named("segments"):
        return f"token_type_ids: wrong only where segments differ, so they are ignored or fixed ({listed})"
    if bad == {"longest"}:
        return "positions: wrong only at the longest sequence"
    return None
