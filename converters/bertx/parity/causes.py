"""The causes: functions that look at the findings and say what they see, or None.

They go from what arrays prove (an output that is another layer's, labels in another order) over what neighbouring
rows and places prove to what the choice of wrong cases suggests, and end with the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bertx.parity.compare import Row
from bertx.parity.findings import TAP, Findings

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


# what arrays prove


def _close(one: Array, other: Array, within: float = 1e-3) -> bool:
    """Whether two arrays are the same thing, rounding and small errors aside."""
    import numpy as np

    if one.shape != other.shape or one.size == 0:
        return False
    return bool(np.sqrt(np.mean((one - other) ** 2)) <= within * np.sqrt(np.mean(other**2)) + 1e-30)


def _valid(found: Findings, case: str, array: Array) -> Array:
    mask = found.evidence.inputs[case].get("attention_mask") if found.evidence else None
    return array[mask == 1] if mask is not None and array.shape[:2] == mask.shape else array


def not_a_number(found: Findings, row: Row) -> str | None:
    import numpy as np

    if "NaN" not in (row.problem or "") or not found.evidence:
        return None
    values = [(case, made[row.name]) for case, made in found.evidence.made.items() if row.name in made]
    where = [(case, value) for case, value in values if not np.isfinite(value).all()]
    if all(np.isfinite(_valid(found, case, value)).all() for case, value in where):
        return "at padding only: something is divided by the mask, or a row of it is all −inf"
    if len(where) == len(values):
        return "in every case: a number is too large for the precision that it passes through (float16 ends at 65504)"
    return f"in {len(where)} of {len(values)} cases"


def fixed_shape(found: Findings, row: Row) -> str | None:
    if "has shape" not in (row.problem or "") or not found.evidence:
        return None
    made = {v[row.name].shape for v in found.evidence.made.values() if row.name in v}
    exact = {v[row.name].shape for v in found.evidence.exact.values() if row.name in v}
    if len(exact) > 1 and len(made) == 1:
        return "it is the same in every case: the sample's shape was baked in"
    if all(shape[:-1] in {e[:-1] for e in exact} for shape in made) and {s[-1] for s in made} != {s[-1] for s in exact}:
        return "only its last axis differs: a layer at the end (Dense, head) is missing or another one"
    return None


def _constant(found: Findings) -> str | None:
    row = found.rows[0]
    values = [made.reshape(-1, made.shape[-1]) for _, made, _ in found.pairs(row.name)]
    if values and all((value == values[0][0]).all() for value in values):
        return f"{row.name} is the same whatever goes in: it is cut off from the inputs"
    return None


def _labels(found: Findings) -> str | None:
    """Columns of a small last axis in another order."""
    for row in found.rows:
        pairs = list(found.pairs(row.name))
        width = pairs[0][1].shape[-1] if pairs else 0
        if row.name.startswith(TAP) or not 2 <= width <= 256:
            continue
        made, exact = (_stack([_valid(found, p[0], p[k]) for p in pairs], width) for k in (1, 2))
        order = [next((j for j in range(width) if _close(made[:, k], exact[:, j])), None) for k in range(width)]
        if None not in order and len(set(order)) == width and order != list(range(width)):
            moved = [k for k in range(width) if order[k] != k]
            listed = ", ".join(f"{k} is {order[k]}" for k in moved[:6])
            return f"{row.name}: the numbers are right in another order, so the labels are permuted ({listed})"
    return None


def _stack(arrays: Sequence[Array], width: int) -> Array:
    import numpy as np

    return np.concatenate([array.reshape(-1, width) for array in arrays])


def _other_layer(found: Findings) -> str | None:
    """An output that is the reference's state at another boundary."""
    if not found.evidence:
        return None
    row = next((row for row in found.rows if row.name == "last_hidden_state"), None)
    first = next(iter(found.evidence.exact.values()))
    states = [name for name in first if name.startswith(TAP)]
    for name in states[:-1] if row else ():
        if all(_is(found, case, made, name) for case, made, _ in found.pairs("last_hidden_state")):
            layer = name.removeprefix(TAP)
            return f"last_hidden_state is the output of layer {layer} of {len(states) - 1}, not of the last one"
    return None


def _is(found: Findings, case: str, made: Array, name: str) -> bool:
    exact = found.evidence.exact[case].get(name) if found.evidence else None
    return exact is not None and _close(_valid(found, case, made), _valid(found, case, exact))


def _skipped(found: Findings) -> str | None:
    for before, row in zip(found.states, found.states[1:], strict=False):
        if row.passed or not before.passed:
            continue
        if all(_is(found, case, made, before.name) for case, made, _ in found.pairs(row.name)) and found.evidence:
            return f"{found.layer} is skipped: {row.name} is what {before.name} should be"
    return None


def _scaled(found: Findings) -> str | None:
    """Rows of the right direction and another length."""
    import numpy as np

    for row in (each for each in found.rows if not each.name.startswith(TAP)):
        pairs = [(made, exact) for _, made, exact in found.pairs(row.name) if made.ndim == 2 and made.shape[1] > 2]
        made, exact = (np.concatenate([p[k] for p in pairs]) if pairs else np.zeros((0, 1)) for k in (0, 1))
        ours, theirs = (np.linalg.norm(a, axis=1) for a in (made, exact))
        if not len(ours) or not (ours.min() > 0 and theirs.min() > 0):
            continue
        if not _close(made / ours[:, None], exact / theirs[:, None]):
            continue
        if np.allclose(theirs, 1, atol=1e-4):
            return (
                f"{row.name} is not normalised: directions are right, lengths are {ours.min():.3g} to {ours.max():.3g}"
            )
        if np.allclose(ours, 1, atol=1e-4):
            return f"{row.name} is normalised, which the model does not do: directions are right"
    return None


def _pooled(found: Findings) -> str | None:
    """A pooled output that is another pooling of the right tokens."""
    import numpy as np

    for row in (each for each in found.rows if not each.name.startswith(TAP)):
        fitting = set(_POOLINGS)
        pairs = [pair for pair in found.pairs(row.name) if pair[1].ndim == 2]
        for case, made, _ in pairs:
            tokens = found.evidence.exact[case].get("last_hidden_state") if found.evidence else None
            if tokens is None or tokens.shape[-1] != made.shape[-1]:
                return None
            mask = found.evidence.inputs[case]["attention_mask"]  # type: ignore[union-attr]
            for name in tuple(fitting):
                pooled = np.stack([_POOLINGS[name](t, m == 1) for t, m in zip(tokens, mask, strict=True)])
                length = np.linalg.norm(pooled, axis=1, keepdims=True)
                if not (_close(made, pooled) or _close(made, pooled / length)):
                    fitting.discard(name)
        if pairs and fitting:
            return f"{row.name}: the tokens are right and pooled in another way, by {' or '.join(sorted(fitting))}"
    return None


_POOLINGS: Mapping[str, Callable[[Any, Any], Any]] = {
    "the first position": lambda tokens, keep: tokens[0],
    "the first valid token": lambda tokens, keep: tokens[keep][0],
    "the last valid token": lambda tokens, keep: tokens[keep][-1],
    "the last position": lambda tokens, keep: tokens[-1],
    "the maximum": lambda tokens, keep: tokens[keep].max(axis=0),
    "the mean": lambda tokens, keep: tokens[keep].mean(axis=0),
    "the mean over padding too": lambda tokens, keep: tokens.mean(axis=0),
}


def _narrow(found: Findings) -> str | None:
    """Numbers that fit in fewer bits: they passed through another dtype."""
    import numpy as np

    for row in found.rows:
        arrays = [made for _, made, _ in found.pairs(row.name)]
        if not arrays:
            continue
        flat = np.concatenate([array.reshape(-1) for array in arrays]).astype(np.float32)
        if (flat.astype(np.float16).astype(np.float32) == flat).all():
            return f"{row.name} holds float16 numbers in a wider tensor: it passed through float16"
        if not (flat.view(np.uint32) & 0xFFFF).any():
            return f"{row.name} holds bfloat16 numbers in a wider tensor: it passed through bfloat16"
    return None


# what neighbours prove


def _rows_of(found: Findings, case: str, name: str) -> Array | None:
    made = found.evidence.made.get(case, {}).get(name) if found.evidence else None
    return None if made is None else made.astype("float64")


def _neighbours(found: Findings) -> str | None:
    """The same rows alone, together and in another order: a right program gives them the same answers."""
    for row in found.rows:
        together, permuted, alone = (
            _rows_of(found, case, row.name) for case in ("rows-together", "rows-permuted", "row-alone")
        )
        if together is None or permuted is None or alone is None or together.shape != permuted.shape:
            continue
        room = 2 * row.max_limit * row.max_noise
        if len(together) > 1 and abs(together[1:] - together[:1]).max() <= room:
            return "every row gets the answer of the first one: the sample's batch was baked in"
        if abs(permuted - together[[2, 0, 1]]).max() > room:
            if found.bad == set(found.compared):
                return "the same row gets another answer each time: dropout or another random number is left on"
            return "a row's answer depends on its place in the batch: batch and sequence are mixed up or baked in"
        if abs(alone[0] - together[1]).max() > room:
            return "a row's answer depends on the other rows of its batch: something is computed over the batch"
    return None


# what places prove, at the first layer boundary


def _first_tap(found: Findings) -> list[tuple[Mapping[str, Array], Array, Array]]:
    if not found.states or found.states[0].passed:
        return []
    return list(found.wrong(found.states[0]))


def _segments_fixed(found: Findings) -> str | None:
    places = _first_tap(found)
    if not places or "token_type_ids" not in places[0][0]:
        return None
    if all((wrong == (valid & (i["token_type_ids"] != i["attention_mask"]))).all() for i, valid, wrong in places):
        return "inputs swapped: embeddings are wrong exactly where token_type_ids and attention_mask differ"
    for fixed in (0, 1):
        if all((wrong == (valid & (i["token_type_ids"] != fixed))).all() for i, valid, wrong in places):
            return f"token_type_ids: wrong only where segments differ from {fixed}, so they are ignored or fixed"
    return None


def _one_row(found: Findings) -> str | None:
    """All wrong places hold a few ids, and all places of these ids are wrong."""
    import numpy as np

    places = _first_tap(found)
    wrong_ids = {int(k) for i, _, wrong in places for k in i["input_ids"][wrong]}
    if not places or not 1 <= len(wrong_ids) <= 8:
        return None
    if all((wrong == (valid & np.isin(i["input_ids"], list(wrong_ids)))).all() for i, valid, wrong in places):
        listed = ", ".join(str(k) for k in sorted(wrong_ids))
        return f"embeddings: wrong wherever the token is {listed} and nowhere else, so its row of the table is wrong"
    return None


def _positions(found: Findings) -> str | None:
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
        if all(not wrong[0].any() for _, _, wrong in places) and max(after) > 0.5:
            return "positions: right in the first row of a batch and wrong in the others, so they are not begun anew"
        return None
    behind = [wrong & (np.cumsum(valid, axis=1) == np.arange(1, valid.shape[1] + 1)) for _, valid, wrong in places]
    if not any(each.any() for each in behind):
        return "positions: wrong only behind padding, so that they count valid tokens where the model counts all"
    return None


# what the choice of wrong cases suggests


def _mask(found: Findings) -> str | None:
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


def _segments_only(found: Findings) -> str | None:
    if found.bad and found.bad == found.named("segments") and len(found.bad) < len(found.compared):
        listed = ", ".join(sorted(found.bad))
        return f"token_type_ids: wrong only where segments differ, so they are ignored or fixed ({listed})"
    return None


def _longest_only(found: Findings) -> str | None:
    return "positions: wrong only at the longest sequence" if found.bad == {"longest"} else None


def _lone_tokens(found: Findings) -> str | None:
    """A token that sees only itself gives its whole attention to itself, whatever the scores are."""
    row = next((row for row in found.states if not row.passed), None)
    if row is None or row is found.states[0] or not found.evidence:
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
        "as are rows without padding: the mask is inverted or another input"
    )


# what is left: which part, and how large


def _head(found: Findings) -> str | None:
    """Every layer is right, something behind the last one is not."""
    if found.states and all(row.passed for row in found.states):
        names = ", ".join(row.name for row in found.rows)
        return f"every layer is right and {names} is wrong: the head or pooling behind the last layer, or its weights"
    return None


def _size(found: Findings) -> str | None:
    """An error that is small and the same in every case, at the first layer boundary that fails."""
    row = next((row for row in (*found.states, *found.outputs) if not row.passed), found.rows[0])
    errors = [c.rms_error / c.rms_value for c in row.cases if c.rms_value]
    if set(row.bad_cases) != set(row.case_max) or not errors or max(errors) > 8 * min(errors):
        return None
    mean = sum(errors) / len(errors)
    start = "" if found.layer is None else f" from {found.layer} on"
    if 1e-3 <= mean < 2e-2:
        return f"wrong by {mean:.1g} of the values in every case{start}: the size of bfloat16 or int8 arithmetic or weights"
    if 1.2e-4 <= mean < 1e-3:
        return (
            f"wrong by {mean:.1g} of the values in every case{start}: the size of float16 or TF32 arithmetic or weights"
        )
    if mean < 1.2e-4:
        return (
            f"wrong by {mean:.1g} of the values in every case{start}: the size of an approximated function (tanh for "
            "erf in gelu), another epsilon, or one changed weight"
        )
    return None


def _where(found: Findings) -> str | None:
    if found.layer == "embeddings":
        return "the first tap already differs: embeddings, positions or segment ids"
    if found.layer is not None:
        return f"everything before {found.layer} is right: a weight or an operator in that layer is wrong"
    which = "every case" if found.bad == set(found.compared) else f"{len(found.bad)} of {len(found.compared)} cases"
    return f"{', '.join(row.name for row in found.rows[:3])} differs in {which}"


#: the first that speaks is told
CAUSES: tuple[Callable[[Findings], str | None], ...] = (
    _constant,
    _labels,
    _other_layer,
    _skipped,
    _scaled,
    _pooled,
    _narrow,
    _segments_fixed,
    _one_row,
    _mask,
    _segments_only,
    _positions,
    _longest_only,
    _neighbours,
    _lone_tokens,
    _head,
    _size,
    _where,
)
