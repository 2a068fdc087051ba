"""Which input of a file is which of the reference's: decided once, here; runners are told in the file's own words.

By name where a name is known; what is left by the words in its name (mask, segment or type), else by position. Segments
that the reference does not take are all zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from bertx.errors import escape
from bertx.signature import DTYPES, Signature, TensorSpec

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

IDS = "input_ids"
#: some exporters ask for it where the model has but one segment
SEGMENTS = "token_type_ids"

#: words in foreign names that say what an input is; what they say is never bound to anything else
_WORDS = {"mask": "attention_mask", "segment": SEGMENTS, "type": SEGMENTS, "position": "position_ids"}


@dataclass(frozen=True)
class Binding:
    """{the file's input: ours} in the file's order, and the axes whose size the file fixes, by their symbol.

    `problem` says why there is none; then nothing can be run.
    """

    names: Mapping[str, str]
    static: Mapping[str, int] = field(default_factory=dict)
    problem: str | None = None

    @property
    def order(self) -> tuple[str, ...]:
        """Our names in the file's order."""
        return tuple(self.names.values())

    @property
    def ids(self) -> str | None:
        """The file's name for token ids."""
        return next((theirs for theirs, ours in self.names.items() if ours == IDS), None)

    def fed(self, theirs: Signature | None, ours: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        """What is fed, by the file's names and in its order: our shapes, the file's dtypes where it states them."""
        known = {spec.name: spec for spec in ours}
        stated = {spec.name: spec.dtype for spec in theirs.inputs} if theirs else {}
        text = next(iter(known.values()))
        fed = [replace(known.get(name, text), name=own) for own, name in self.names.items()]
        return tuple(
            replace(spec, dtype=stated[spec.name]) if stated.get(spec.name) in DTYPES else spec for spec in fed
        )


def bind(theirs: Signature | None, ours: Sequence[TensorSpec]) -> Binding:
    """How a file's inputs are fed; a file that states no signature takes ours in our order."""
    specs = {spec.name: spec for spec in ours}
    if theirs is None:
        return Binding({name: name for name in specs})
    names = _names([spec.name for spec in theirs.inputs], list(specs))
    if names is None:
        stated = ", ".join(escape(spec.name, 60) for spec in theirs.inputs) or "nothing"
        return Binding({}, {}, f"its inputs ({stated}) cannot be matched with {', '.join(specs)}")
    static: dict[str, int] = {}
    for spec in theirs.inputs:
        wanted = specs.get(names[spec.name], specs[next(iter(specs))]).shape
        if spec.shape and len(spec.shape) != len(wanted):
            return Binding(names, {}, f"input {escape(spec.name)} has {len(spec.shape)} axes, not {len(wanted)}")
        for size, symbol in zip(spec.shape, wanted, strict=False):
            if isinstance(size, int) and isinstance(symbol, int) and size != symbol:
                return Binding(names, {}, f"input {escape(spec.name)} has an axis of {size}, not of {symbol}")
            if isinstance(size, int) and isinstance(symbol, str) and static.setdefault(symbol, size) != size:
                return Binding(names, {}, f"its inputs fix {symbol} at {static[symbol]} and at {size}")
    return Binding(names, static)


def filled(inputs: Mapping[str, Array], binding: Binding, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """A case's inputs as a file takes them, by its names; segments that the reference does not take are zeros.

    A mask or ids may be of any type that holds them; numbers of other inputs keep their kind.
    """
    import numpy as np

    found = {}
    for spec in specs:
        ours = binding.names[spec.name]
        array = inputs[ours] if ours in inputs else np.zeros_like(inputs[IDS])
        whole = array.dtype.kind in "iu" and spec.dtype in ("int32", "int64", "float32", "float16", "float64", "bool")
        found[spec.name] = array.astype(spec.dtype) if whole else array
    return found


def _names(theirs: Sequence[str], ours: Sequence[str]) -> dict[str, str] | None:
    """{theirs: ours}, None where something is left over."""
    known = {*ours, SEGMENTS} if IDS in ours else set(ours)
    found = {name: name for name in theirs if name in known}
    for name in theirs if IDS in ours else ():
        meant = next((meant for word, meant in _WORDS.items() if word in name.lower()), None)
        if name not in found and meant is not None:
            if meant not in known or meant in found.values():
                return None
            found[name] = meant
    left = [name for name in ours if name not in found.values()]
    for name in (name for name in theirs if name not in found):
        if not left:
            return None
        found[name] = left.pop(0)
    return {name: found[name] for name in theirs} if theirs else None
