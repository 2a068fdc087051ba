"""Causes that neighbours, places and the choice of wrong cases suggest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bertx.parity.findings import Findings

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


# what neighbours prove


def _rows_of(found: Findings, case: str, name: str) -> Array | None:
    made = found.evidence.made.get(case, {}).get(name) if found.evidence else None
    return None if made is None else made.astype("float64")


def _right_rows(found: Findings, case: str, name: str) -> Array:
    return found.evidence.exact[case][name].astype("float64")  # type: ignore[union-attr]


def first_row_for_all(found: Findings) -> str | None:
    for row in found.rows:
        room = row.max_limit * row.max_noise
        for case, made, exact in found.pairs(row.name):
            if case != "rows-together" or len(made) < 2 or abs(made[0] - exact[0]).max() > room:
                continue
            if abs(made[1:] - made[:1]).max() <= room:
                return "every row gets the answer of the first one: the sample's batch was baked in"
    return None


def neighbours(found: Findings) -> str | None:
    """The same rows alone, together and in another order: a right program gives them the same answers."""
    for row in found.rows:
        together, permuted, alone = (
            _rows_of(found, case, row.name) for case in ("rows-together", "rows-permuted", "row-alone")
        )
        if together is None or permuted is None or alone is None or together.shape != permuted.shape:
            continue
        room = 2 * row.max_limit * row.max_noise
        if together.shape[:1] != (3,) or alone.shape != (1, *together.shape[1:]) or not _by_rows(found, row.name, room):
            continue
        if abs(permuted - together[[2, 0, 1]]).max() > room:
            if found.bad == set(found.compared):
                return "the same row gets another answer each time: dropout or another random number is left on"
            return "a row's answer depends on its place in the batch: batch and sequence are mixed up or baked in"
        if abs(alone[0] - together[1]).max() > room:
            return "a row's answer depends on the other rows of its batch: something is computed over the batch"
    return None


def _by_rows(found: Findings, name: str, room: float) -> bool:
    """Whether the reference itself gives a row the same answer alone, together and in another order."""
    exact = [_right_rows(found, case, name) for case in ("rows-together", "rows-permuted", "row-alone")]
    together, permuted, alone = exact
    if together.shape[:1] != (3,) or permuted.shape != together.shape or alone.shape != (1, *together.shape[1:]):
        return False
    return bool(abs(permuted - together[[2, 0, 1]]).max() <= room and abs(alone[0] - together[1]).max() <= room)


# what places prove, at the first layer boundary


def _first_tap(found: Findings) -> list[tuple[Mapping[str, Array], Array, Array]]:
    if not found.states or found.states[0].passed:
        return []
    return list(found.wrong(found.states[0]))


def segments_fixed(found: Findings) -> str | None:
    places = _first_tap(found)
    if not places or "token_type_ids" not in places[0][0]:
        return None
    for fixed, why in enumerate(
        (
            "so they are ignored or fixed",
            "so attention_mask stands in their place (inputs swapped), or they are fixed to 1",
        )
    ):
        if all((wrong == (valid & (i["token_type_ids"] != fixed))).all() for i, valid, wrong in places):
            return f"token_type_ids: embeddings are wrong exactly where segments differ from {fixed}, {why}"
    return None


def one_row(found: Findings) -> str | None:
    """All wrong places hold a few ids, and all places of these ids are wrong."""
    import numpy as np

    places = _first_tap(found)
    wrong_ids = {int(k) for i, _, wrong in places for k in i["input_ids"][wrong]}
    # A small error at a few tokens is not a wrong row: an epsilon, say, shows where variance is smallest.
    if not places or not 1 <= len(wrong_ids) <= 8 or found.states[0].max_ratio < 10 * found.states[0].max_limit:
        return None
    if all((wrong == (valid & np.isin(i["input_ids"], list(wrong_ids)))).all() for i, valid, wrong in places):
        listed = ", ".join(str(k) for k in sorted(wrong_ids))
        return f"embeddings: wrong wherever the token is {listed} and nowhere else, so its row of the table is wrong"
    return None


def positions(found: Findings) -> str | None:
    """Wrong embeddings that lie by their place in the row, and not by their token."""
    import numpy as np

    places = _first_tap(found)
    if not places:
        return None
    first = min((int(np.nonzero(wrong)[1].min()) for _, _, wrong in places if wrong.any()), default=0)
    after = [
        wrong[:, first:].sum() / max(1, valid[:, first:].sum()) for _, valid, wrong in places if wrong.shape[1] > first
    ]
    if first > 0 and min(after) > 0.9:
        return f"positions: embeddings are right up to position {first - 1} and wrong from there on"
    if any(valid.all() and wrong.any() for _, valid, wrong in places):
        first_row = any(wrong[0].any() for _, _, wrong in places)
        others = all(wrong[1:].any(axis=1).all() for _, valid, wrong in places if valid.all())
        if not first_row and others:
            return "positions: right in the first row of a batch and wrong in the others, so they are not begun anew"
        return None
    behind = [wrong & (np.cumsum(valid, axis=1) == np.arange(1, valid.shape[1] + 1)) for _, valid, wrong in places]
    if not any(each.any() for each in behind):
        return "positions: wrong only behind padding, so that they count valid tokens where the model counts all"
    return None


# what the choice of wrong cases suggests


def mask(found: Findings) -> str | None:
    right_only = found.named("right") - found.named("left", "holes")
    unpadded = found.named("full", "segments") - found.named("right", "left", "holes")
    if not found.bad or not unpadded or found.bad & unpadded:
        return None
    listed = ", ".join(sorted(found.bad))
    if found.bad == found.named("left", "holes") and right_only:
        return (
            "attention_mask: wrong only on rows that are padded on the left or have holes, "
            f"so the mask was reduced to a length ({listed})"
        )
    if found.bad == found.named("right", "holes") and found.named("left") - found.bad:
        return (
            "attention_mask: wrong only on rows that are padded on the right or have holes, "
            f"so the mask was reduced to a length that is counted from the end ({listed})"
        )
    if found.bad <= found.named("holes"):
        return f"attention_mask: wrong only on rows with holes, which are taken for valid tokens ({listed})"
    if found.bad == found.named("right", "left", "holes"):
        if found.evidence and _largest(found) < 0.02:
            return (
                "attention_mask: right without padding and a little wrong with it, so what is added to masked scores "
                f"is too weak to hide them ({listed})"
            )
        return f"attention_mask: right without padding and wrong with it, so the mask is ignored or altered ({listed})"
    return None


def _largest(found: Findings) -> float:
    """The largest relative error of any case, over failed rows."""
    errors = [c.rms_error / c.rms_value for row in found.rows for c in row.cases if c.rms_value and c.case in found.bad]
    return max(errors, default=0.0)


def segments_only(found: Findings) -> str | None:
    if found.bad and found.bad == found.named("segments") and len(found.bad) < len(found.compared):
        listed = ", ".join(sorted(found.bad))
        return f"token_type_ids: wrong only where segments differ, so they are ignored or fixed ({listed})"
    return None


def longest_only(found: Findings) -> str | None:
    ends = {"longest", "longest-of-all"}
    at_end = found.bad & ends and found.bad <= {*ends, "long-mixed"}
    return f"positions: wrong only at the longest sequence ({', '.join(sorted(found.bad))})" if at_end else None


def long_only(found: Findings) -> str | None:
    if found.bad != {"long-mixed"}:
        return None
    return (
        "long rows: wrong only where they are padded, holed, of several segments or more than one, so that they go "
        "another way than short ones and than one whole row (long-mixed)"
    )


def longer(found: Findings) -> str | None:
    """Rows are right up to a number of tokens, from the first valid one to the last, and wrong from there on."""
    spans = {case: _span(inputs) for case, inputs in (found.evidence.inputs if found.evidence else {}).items()}
    bad = [spans.get(case, 0) for case in found.bad]
    good = [spans.get(case, 0) for case in found.compared if case not in found.bad]
    most, least = max(good, default=0), min(bad, default=0)
    if not 1 < most < least:
        return None
    where = f"attention in {found.layer} sees" if found.layer not in (None, "embeddings") else "they see"
    return (
        f"long rows: right up to {most} tokens and wrong from {least} on, so {where} another window of tokens, "
        f"or long rows go another way ({', '.join(sorted(found.bad))})"
    )


def _span(inputs: Mapping[str, Array]) -> int:
    """The most tokens that lie between the first and the last valid one of a row, both counted; 0 without a mask."""
    import numpy as np

    places = [np.flatnonzero(row) for row in inputs.get("attention_mask", ())]
    return max((int(each[-1] - each[0]) + 1 for each in places if len(each)), default=0)


def lone_tokens(found: Findings) -> str | None:
    """A token that sees only itself gives its whole attention to itself, whatever the scores are."""
    row = next((row for row in found.states if not row.passed), None)
    if row is None or row is found.states[0] or not found.evidence or row.max_ratio < 10 * row.max_limit:
        return None
    single = "single-token" not in row.bad_cases and "single-token" in row.case_max
    places = {case: (made, exact) for case, made, exact in found.pairs(row.name)}
    if not single or "one-valid-token" not in places:
        return None
    made, exact = places["one-valid-token"]
    lone = found.evidence.inputs["one-valid-token"]["attention_mask"].sum(axis=1) == 1
    right = abs(made - exact)[lone][:, 0].max() <= row.max_limit * row.max_noise if lone.any() else False
    if right:
        return (
            f"attention in {found.layer}: a token that sees only itself is right and others are wrong, "
            "so the scores are: their scale, the query, the key or the softmax"
        )
    return (
        f"attention_mask: in {found.layer} a sequence of one token is right and a row with one valid token is wrong, "
        "as are rows without padding: the mask is inverted, or attention goes along the wrong axis"
    )


# what is left: which part, and how large


def head(found: Findings) -> str | None:
    """Every layer is right, something behind the last one is not."""
    if found.states and all(row.passed for row in found.states):
        names = ", ".join(row.name for row in found.rows)
        return f"every layer is right and {names} is wrong: the head or pooling behind the last layer, or its weights"
    return None


def size(found: Findings) -> str | None:
    """An error that is small and the same in every case, at the first layer boundary that fails."""
    row = next((row for row in (*found.states, *found.outputs) if not row.passed), found.rows[0])
    errors = [c.rms_error / c.rms_value for c in row.cases if c.rms_value]
    if set(row.bad_cases) != set(row.case_max) or not errors or max(errors) > 8 * min(errors):
        return None
    mean = sum(errors) / len(errors)
    start = "" if found.layer is None else f" from {found.layer} on"
    sizes = (
        (
            2.5e-4,
            "an approximated function (tanh for erf in gelu), weights kept in float16, another epsilon or one weight",
        ),
        (1e-3, "float16 or TF32 arithmetic"),
        (2e-2, "bfloat16 or int8 arithmetic or weights"),
    )
    like = next((words for most, words in sizes if mean < most), None)
    return like and f"wrong by {mean:.1g} of the values in every case{start}: the size of {like}"


def where(found: Findings) -> str | None:
    if found.layer == "embeddings":
        return "the first tap already differs: embeddings, positions or segment ids"
    if found.layer is not None:
        return f"everything before {found.layer} is right: a weight or an operator in that layer is wrong"
    which = "every case" if found.bad == set(found.compared) else f"{len(found.bad)} of {len(found.compared)} cases"
    return f"{', '.join(row.name for row in found.rows[:3])} differs in {which}"
