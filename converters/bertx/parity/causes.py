"""The causes: functions that look at the findings and say what they see, or None.

They go from what arrays prove (an output that is another layer's, labels in another order) over what neighbouring
rows and places prove to what the choice of wrong cases suggests, and end with the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bertx.parity import patterns, places
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
    if all("empty" in found.traits.get(case, ()) for case, _ in where):
        return "only beside or in a row that is padding only: a softmax or a mean over no token divides by zero"
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
    if () in made | exact:
        return None
    if all(shape[:-1] in {e[:-1] for e in exact} for shape in made) and {s[-1] for s in made} != {s[-1] for s in exact}:
        return "only its last axis differs: a layer at the end (Dense, head) is missing or another one"
    return None


def _constant(found: Findings) -> str | None:
    row = found.rows[0]
    values = [made.reshape(-1, made.shape[-1]) for _, made, _ in found.pairs(row.name) if made.ndim]
    if values and all((value == values[0][0]).all() for value in values):
        return f"{row.name} is the same whatever goes in: it is cut off from the inputs"
    return None


def _labels(found: Findings) -> str | None:
    """Columns of a small last axis in another order."""
    for row in found.rows:
        pairs = list(found.pairs(row.name))
        width = pairs[0][1].shape[-1] if pairs and pairs[0][1].ndim else 0
        if row.name.startswith(TAP) or not 2 <= width <= 256:
            continue
        made = _stack([_valid(found, case, ours) for case, ours, _ in pairs], width)
        exact = _stack([_valid(found, case, theirs) for case, _, theirs in pairs], width)
        order = [next((j for j in range(width) if _close(made[:, k], exact[:, j])), None) for k in range(width)]
        if None not in order and len(set(order)) == width and order != list(range(width)):
            moved = [k for k in range(width) if order[k] != k]
            listed = ", ".join(f"{k} is {order[k]}" for k in moved[:6])
            return f"{row.name}: the numbers are right in another order, so the labels are permuted ({listed})"
    return None


def _stack(arrays: Sequence[Array], width: int) -> Array:
    import numpy as np

    return np.concatenate([array.reshape(-1, width) for array in arrays])


def _moved(found: Findings) -> str | None:
    """Rows that are all there, in another order, in every case that is wrong."""
    for row in (each for each in found.rows if each.bad_cases):
        pairs = [pair for pair in found.pairs(row.name) if pair[0] in row.bad_cases]
        if pairs and all(_reordered(found, *pair) for pair in pairs):
            return f"{row.name}: every row is right and in another place: rows were sorted and not put back"
    return None


def _reordered(found: Findings, case: str, made: Array, exact: Array) -> bool:
    """Whether each right row of a batch is in the answer, at its own valid positions, and one is not in its place."""
    mask = found.evidence.inputs[case].get("attention_mask") if found.evidence else None
    tokens = mask is not None and made.shape[:2] == mask.shape
    stays = True
    for k, right in enumerate(exact):
        keep = mask[k] == 1 if tokens and mask is not None else slice(None)
        if not any(_close(ours[keep], right[keep]) for ours in made):
            return False
        stays = stays and _close(made[k][keep], right[keep])
    return not stays


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


def _other_output(found: Findings) -> str | None:
    """An output that is what another should be: starts and ends of answers exchanged."""
    if not found.evidence:
        return None
    names = [name for name in next(iter(found.evidence.exact.values())) if not name.startswith(TAP)]
    for row in (each for each in found.rows if each.name in names):
        for name in names:
            pairs = [(case, made) for case, made, _ in found.pairs(row.name)] if name != row.name else []
            if pairs and all(_is(found, case, made, name) for case, made in pairs):
                return f"{row.name} is what {name} should be"
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
        if len({made.shape[1] for made, _ in pairs}) > 1:
            continue  # a number for each token, and not a vector for each row
        made, exact = (np.concatenate([p[k] for p in pairs]) if pairs else np.zeros((0, 1)) for k in (0, 1))
        ours, theirs = (np.linalg.norm(a, axis=1) for a in (made, exact))
        if not len(ours) or not (ours.min() > 0 and theirs.min() > 0):
            continue
        if not _close(made / ours[:, None], exact / theirs[:, None]):
            continue
        if abs(ours - theirs).max() < 1e-4:
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
        if all(_close(made, exact) for _, made, exact in pairs):
            continue  # pooled as it should be, and a little wrong
        for case, made, _ in pairs:
            tokens = found.evidence.exact[case].get("last_hidden_state") if found.evidence else None
            mask = found.evidence.inputs[case].get("attention_mask") if found.evidence else None
            if tokens is None or mask is None or tokens.shape[-1] != made.shape[-1]:
                return None
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
    """Numbers that fit in fewer bits than are claimed: they passed through another dtype."""
    import numpy as np

    claimed = found.evidence.dtype if found.evidence else None
    for row in found.rows if claimed != "bfloat16" else ():
        arrays = [made for _, made, exact in found.pairs(row.name) if exact.dtype.kind == "f"]
        if not arrays:
            continue
        flat = np.concatenate([array.reshape(-1) for array in arrays]).astype(np.float32)
        if not (flat.view(np.uint32) & 0xFFFF).any():
            return f"{row.name} holds bfloat16 numbers in a wider tensor: it passed through bfloat16"
        if claimed != "float16" and (flat.astype(np.float16).astype(np.float32) == flat).all():
            return f"{row.name} holds float16 numbers in a wider tensor: it passed through float16"
    return None


#: the first that speaks is told
CAUSES: tuple[Callable[[Findings], str | None], ...] = (
    _constant,
    _labels,
    _moved,
    _other_layer,
    _other_output,
    _skipped,
    _scaled,
    _pooled,
    _narrow,
    places.border,
    patterns.first_row_for_all,
    patterns.segments_fixed,
    patterns.longest_only,
    patterns.long_only,
    patterns.one_row,
    patterns.positions,
    patterns.mask,
    patterns.segments_only,
    patterns.neighbours,
    patterns.longer,
    patterns.lone_tokens,
    patterns.head,
    patterns.size,
    patterns.where,
)
