"""The cases: named batches, each made to kill a class of wrong artifacts.

Made from the signature and a few facts of the checkpoint, deterministic by seed. `traits` says what is special about
a case, read off its tensors; diagnosis names causes by them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bertx.errors import InputRefused, UsageError, escape
from bertx.model.positions import positions

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

SETS = ("quick", "full")

#: the longest sequence of `quick`, whatever the model allows: attention's memory grows with its square
LONGEST = 2048
#: tokens of a long sequence that is not the longest: more than the blocks of 64 and 128 in which kernels go
_LONG = 130
#: more sizes of `full`: lengths and batches at, before and behind such blocks, and odd ones
_LENGTHS = (33, 65, 100, 129, 257, 384)
_BATCHES = (4, 5, 6, 8, 9, 16, 33)
#: bytes of float64 that eager attention needs for each head and pair of tokens: scores, mask added, softmax, dropout
_PAIR = 4 * 8

#: real text in several scripts, for the checkpoint's own tokenizer
TEXTS = (
    "The quick brown fox jumps over the lazy dog, twice.",
    "Zürich, naïve café — déjà vu at 17:30?",
    "機械学習のコア部分のロジックを、定型的な実装部分から切り離す。",
    "Москва слезам не верит.",
    "한국어 문장과 emoji 🙂 together.",
    "एक छोटा वाक्य।",
)


@dataclass(frozen=True)
class Facts:
    """What cases need to know of a checkpoint. `longest` is what the model takes, in tokens, `segments` the number of
    segment ids."""

    vocabulary: int
    longest: int
    segments: int
    padding: int
    special: tuple[int, ...]
    texts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Case:
    """One named batch of inputs, each (batch, sequence) int64."""

    name: str
    inputs: Mapping[str, Array]

    @property
    def traits(self) -> frozenset[str]:
        """Of: full, right, left, holes, empty (how rows are padded), segments (more than one id)."""
        found: set[str] = set()
        mask = self.inputs.get("attention_mask")
        for row in mask if mask is not None and mask.ndim == 2 else ():
            valid = row.nonzero()[0]
            if not len(valid):
                found.add("empty")
                continue
            first, last = int(valid[0]), int(valid[-1])
            found |= {"left"} if first > 0 else set()
            found |= {"right"} if last < len(row) - 1 else set()
            found |= {"holes"} if len(valid) < last - first + 1 else set()
        if "token_type_ids" in self.inputs and self.inputs["token_type_ids"].any():
            found.add("segments")
        return frozenset(found or {"full"})


def facts(values: Mapping[str, Any], texts: Sequence[Sequence[int]], special: Sequence[int]) -> Facts:
    """Facts from a configuration's values and the tokenizer's answers.

    Raises InputRefused where the configuration lacks them.
    """
    vocabulary = values.get("vocab_size")
    if not isinstance(vocabulary, int) or vocabulary < 2:
        raise InputRefused("E_CONFIG", "config.json states no vocab_size", "bertx needs it to make test cases")
    padding = values.get("pad_token_id")
    padding = padding if isinstance(padding, int) and 0 <= padding < vocabulary else 0
    longest = positions(values, unstated=512) or 0
    if longest < 1:
        stated = escape(values.get("max_position_embeddings", values.get("n_positions")))
        raise InputRefused("E_CONFIG", f"max_position_embeddings {stated} leaves no position", "correct config.json")
    segments = values.get("type_vocab_size", 2)
    inside = tuple(i for i in special if 0 <= i < vocabulary)
    encoded = tuple(tuple(i for i in text if i < vocabulary)[: min(longest, 64)] for text in texts)
    return Facts(vocabulary, longest, int(segments or 1), padding, inside, tuple(t for t in encoded if t))


def shortened(known: Facts, longest: int) -> Facts:
    """The same facts of a file that takes fewer tokens than the model."""
    length = min(longest, known.longest)
    return replace(known, longest=length, texts=tuple(text[:length] for text in known.texts))


def room(values: Mapping[str, Any], free: int) -> int:
    """How many tokens one row may have for the attention of one layer to fit in `free` bytes."""
    heads = values.get("num_attention_heads", values.get("n_heads"))
    return math.isqrt(free // (_PAIR * (heads if isinstance(heads, int) and heads > 0 else 16)))


def build(
    chosen: str, inputs: Sequence[str], known: Facts, seed: int = 0, *, ids: bool = True, most: int = LONGEST
) -> tuple[Case, ...]:
    """The cases of a set for these inputs; without those of every id for who asks about these apart.

    Those of `full` may have `most` tokens, where that is more than `LONGEST`. Raises UsageError for an unknown set.
    """
    import numpy as np

    if chosen not in SETS:
        raise UsageError("E_USAGE", f"unknown set of cases {escape(chosen)}", f"choose {' or '.join(SETS)}")
    made = list(_quick(known, np.random.default_rng(seed)))
    if chosen == "full":
        made += list(_every_id(known, range(known.vocabulary))) if ids else []
        made += list(_full(known, np.random.default_rng(seed + 1), min(known.longest, most)))
    return _with(inputs, made)


def _with(inputs: Sequence[str], cases: Iterable[Case]) -> tuple[Case, ...]:
    """The cases with these of their inputs, in this order."""
    return tuple(Case(case.name, {name: case.inputs[name] for name in inputs}) for case in cases)


def _case(name: str, ids: Array, mask: Array | None = None, segments: Array | None = None) -> Case:
    import numpy as np

    mask = np.ones_like(ids) if mask is None else mask
    segments = np.zeros_like(ids) if segments is None else segments
    named = {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments}
    return Case(name, {key: np.ascontiguousarray(a.astype(np.int64)) for key, a in named.items()})


def _quick(known: Facts, rng: np.random.Generator) -> Iterator[Case]:
    import numpy as np

    def ids(batch: int, length: int) -> Array:
        return rng.integers(0, known.vocabulary, (batch, min(length, known.longest)), dtype=np.int64)

    yield _case("single-token", ids(1, 1))
    yield _case("two-tokens", ids(2, 2))
    yield _case("three-tokens", ids(1, 3))
    yield _case("batch-of-seven", ids(7, 5))
    yield _longest("longest", ids(1, LONGEST), known)
    yield from _padded(known, ids(3, 17))
    yield _segmented(known, ids(2, 19))
    edges = np.array([0, 1, known.vocabulary - 1, *known.special], dtype=np.int64)[: known.longest]
    yield _case("edge-ids", edges[None, :])
    yield _case("repeated-token", np.repeat(ids(2, 1), min(12, known.longest), axis=1))
    together = ids(3, 13)
    yield _case("rows-together", together)
    yield _case("rows-permuted", together[[2, 0, 1]])
    yield _case("row-alone", together[1:2])
    yield _mixed(known, ids(2, _LONG))
    if known.texts:
        yield _texts(known)


def _longest(name: str, ids: Array, known: Facts) -> Case:
    """Families that count positions at tokens other than padding reach the last one only without padding ids."""
    import numpy as np

    return _case(name, np.where(ids == known.padding, (known.padding + 1) % known.vocabulary, ids))


def _padded(known: Facts, ids: Array, suffix: str = "") -> Iterator[Case]:
    """The same rows padded right, left, with holes, with one row of a single valid token, and with one of none.

    No tokenizer gives a row of padding only, but programs that fill their batches do. What such a row should give is
    nowhere defined, so only the other rows are compared; it must be finite.
    """
    import numpy as np

    batch, length = ids.shape
    lengths = [max(1, length - 6 * row) for row in range(batch)]
    right = np.array([[1] * n + [0] * (length - n) for n in lengths])
    padded = np.where(right == 1, ids, known.padding)
    yield _case(f"right-padded{suffix}", padded, right)
    left = right[:, ::-1]
    yield _case(f"left-padded{suffix}", np.where(left == 1, ids, known.padding), left)
    holes = np.ones_like(ids)
    holes[0, length // 3 : length // 2] = 0
    holes[-1, 1::3] = 0
    yield _case(f"holes{suffix}", ids, holes)
    lone = np.ones_like(ids)
    lone[-1, 1:] = 0
    yield _case(f"one-valid-token{suffix}", np.where(lone == 1, ids, known.padding), lone)
    empty = np.ones_like(ids)
    empty[-1] = 0
    yield _case(f"empty-row{suffix}", np.where(empty == 1, ids, known.padding), empty)


def _segmented(known: Facts, ids: Array, suffix: str = "") -> Case:
    import numpy as np

    segments = np.zeros_like(ids)
    if known.segments > 1:
        segments[0, ids.shape[1] // 2 :] = 1
        others = range(known.segments - 1, 0, -1)
        segments[-1, ::3] = np.resize(others, segments[-1, ::3].shape)
    return _case(f"segments{suffix}", ids, None, segments)


def _mixed(known: Facts, ids: Array) -> Case:
    """Long rows, more than one, padded, holed and of several segments: what is right of short rows, or of one whole
    long row, may go another way here."""
    import numpy as np

    length = ids.shape[1]
    mask, segments = np.ones_like(ids), np.zeros_like(ids)
    mask[0, max(1, 2 * length // 3) :] = 0
    mask[-1, : length // 4] = 0
    mask[-1, length // 2 : length // 2 + length // 8] = 0
    if known.segments > 1:
        segments[0, length // 2 :] = 1
        segments[-1, ::3] = known.segments - 1
    return _case("long-mixed", np.where(mask == 1, ids, known.padding), mask, segments)


def _texts(known: Facts) -> Case:
    """Real text, padded on the right as a tokenizer does."""
    import numpy as np

    longest = max(len(text) for text in known.texts)
    ids = np.full((len(known.texts), longest), known.padding, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(known.texts):
        ids[row, : len(text)] = text
        mask[row, : len(text)] = 1
    return _case("text", ids, mask)


def of_texts(inputs: Sequence[str], known: Facts) -> tuple[Case, ...]:
    """Real text alone: each text by itself, all in one batch, padded right and left, and in another order.

    For artifacts that approximate: what they do to random ids says nothing of what they do to text, and what they do
    to a text depends on what it is batched with.
    """
    import numpy as np

    together = _texts(known)
    ids, mask = together.inputs["input_ids"], together.inputs["attention_mask"]
    places = np.argsort(mask, axis=1, kind="stable")  # padding first, tokens in their order
    made = [
        together,
        _case("text-left-padded", np.take_along_axis(ids, places, 1), np.take_along_axis(mask, places, 1)),
        _case("text-permuted", ids[::-1], mask[::-1]),
        *(_case(f"text-{k}-alone", np.array([text])) for k, text in enumerate(known.texts)),
    ]
    return _with(inputs, made)


def every_id(inputs: Sequence[str], known: Facts, ids: range) -> tuple[Case, ...]:
    """Each of these token ids once: for artifacts whose embeddings cannot be read, only run."""
    return _with(inputs, _every_id(known, ids))


def _every_id(known: Facts, ids: range) -> Iterator[Case]:
    """Rows of ids that follow one another; the last row begins again."""
    import numpy as np

    width = min(128, known.longest)
    count = -(-len(ids) // width)
    every = ids.start + np.arange(count * width, dtype=np.int64).reshape(count, width) % len(ids)
    for start in range(0, count, 16):
        yield _case(f"every-id-from-{ids.start + start * width}", every[start : start + 16])


def _full(known: Facts, rng: np.random.Generator, most: int) -> Iterator[Case]:
    """More sizes and seeds."""
    import numpy as np

    for length in (9, 31, 64, min(200, known.longest)):
        ids = rng.integers(0, known.vocabulary, (4, min(length, known.longest)), dtype=np.int64)
        yield from _padded(known, ids, f"-{length}")
        yield _segmented(known, ids, f"-{length}")
    for length in (each for each in _LENGTHS if each <= known.longest):
        yield _case(f"length-{length}", rng.integers(0, known.vocabulary, (2, length), dtype=np.int64))
    for batch in _BATCHES:
        ids = rng.integers(0, known.vocabulary, (batch, min(6, known.longest)), dtype=np.int64)
        yield _case(f"batch-of-{batch}", ids)
    if most > LONGEST:
        yield _longest("longest-of-all", rng.integers(0, known.vocabulary, (1, most), dtype=np.int64), known)
