"""Faults of the parameters: elements, rows, layouts, precision. Made on tensors by name, for both formats.

A change takes the checkpoint's tensors (in the checkpoint's layout) and gives those that it altered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from mutants.graph import Array, Graph, weights
from mutants.stands import Stand
from mutants.trial import Inapplicable

Tensors = Mapping[str, Array]
#: (tensors, model type, heads) -> altered tensors
Alter = Callable[[Tensors, "Sizes"], Tensors]

QUERY = r"(\.query|\.q_lin|\.attn\.q|pos_q_proj)"
KEY = r"(\.key|\.k_lin|\.attn\.k)"
VALUE = r"(\.value|\.v_lin|\.attn\.v|in_proj)"
INNER = r"(intermediate\.dense|ffn\.lin1|\.ffn)"
OUTER = r"(layer\.\d+\.output\.dense|ffn\.lin2|ffn_output)"
NORM = r"(LayerNorm|layer_norm|sa_layer_norm)"
WORDS = r"word_embeddings\.weight"


class Sizes:
    """What a change needs to know of the architecture."""

    def __init__(self, stand: Stand) -> None:
        self.heads = int(stand.config.num_attention_heads)
        self.hidden = int(stand.config.hidden_size)
        self.head = self.hidden // self.heads


def named(tensors: Tensors, pattern: str, last: str = "weight", which: int = 0) -> str:
    """The name of the `which`-th tensor that matches."""
    found = sorted(
        name for name in tensors if re.search(f"{pattern}\\.{last}$|{pattern}$", name) and name.endswith(last)
    )
    if not found:
        raise Inapplicable(f"no tensor {pattern}")
    return found[which]


def element(pattern: str, by: float, which: int = 0, last: str = "weight") -> Alter:
    """One element moves."""

    def change(tensors: Tensors, _sizes: Sizes) -> Tensors:
        name = named(tensors, pattern, last, which)
        array = tensors[name].copy()
        array.flat[array.size // 2 + 3 if array.size > 8 else 0] += by
        return {name: array}

    return change


def row(index: int, by: float) -> Alter:
    """One row of the word embeddings moves by this much."""

    def change(tensors: Tensors, _sizes: Sizes) -> Tensors:
        name = named(tensors, WORDS)
        array = tensors[name].copy()
        # One number added to all of a row would be taken out again by the LayerNorm that follows.
        array[index, ::2] += by
        return {name: array}

    return change


def rows_swapped(pattern: str, one: int, other: int) -> Alter:
    def change(tensors: Tensors, _sizes: Sizes) -> Tensors:
        name = named(tensors, pattern)
        array = tensors[name].copy()
        if array.shape[0] <= max(one, other):
            raise Inapplicable("too few rows")
        array[[one, other]] = array[[other, one]]
        return {name: array}

    return change


def transposed(pattern: str) -> Alter:
    def change(tensors: Tensors, _sizes: Sizes) -> Tensors:
        name = named(tensors, pattern)
        if tensors[name].shape[0] != tensors[name].shape[1]:
            raise Inapplicable("not square")
        return {name: tensors[name].T.copy()}

    return change


def zeroed(pattern: str, last: str = "bias") -> Alter:
    def change(tensors: Tensors, _sizes: Sizes) -> Tensors:
        name = named(tensors, pattern, last)
        return {name: np.zeros_like(tensors[name])}

    return change


def scaled(pattern: str, by: Callable[[Sizes], float]) -> Alter:
    """Weight and bias of the first such layer, times a factor."""

    def change(tensors: Tensors, sizes: Sizes) -> Tensors:
        names = [named(tensors, pattern)]
        names += [name for name in tensors if name == names[0].removesuffix("weight") + "bias"]
        return {name: (tensors[name] * by(sizes)).astype(tensors[name].dtype) for name in names}

    return change


def _head(tensors: Tensors, pattern: str, sizes: Sizes) -> tuple[str, str]:
    weight = named(tensors, pattern)
    if tensors[weight].shape != (sizes.hidden, sizes.hidden):
        raise Inapplicable("heads are not rows of this tensor")
    return weight, weight.removesuffix("weight") + "bias"


def head_zeroed(tensors: Tensors, sizes: Sizes) -> Tensors:
    found = {}
    for name in _head(tensors, VALUE, sizes):
        found[name] = tensors[name].copy()
        found[name][sizes.head : 2 * sizes.head] = 0
    return found


def head_query_and_key_swapped(tensors: Tensors, sizes: Sizes) -> Tensors:
    found = {}
    for one, other in zip(_head(tensors, QUERY, sizes), _head(tensors, KEY, sizes), strict=True):
        found[one], found[other] = tensors[one].copy(), tensors[other].copy()
        found[one][: sizes.head], found[other][: sizes.head] = tensors[other][: sizes.head], tensors[one][: sizes.head]
    return found


def heads_interleaved(tensors: Tensors, sizes: Sizes) -> Tensors:
    """Rows of the query ordered by dimension, then head."""
    found = {}
    for name in _head(tensors, QUERY, sizes):
        array = tensors[name]
        found[name] = array.reshape(sizes.heads, sizes.head, *array.shape[1:]).swapaxes(0, 1).reshape(array.shape)
    return found


def exchanged(one: str, other: str, last: str = "weight") -> Alter:
    """Two tensors of one shape change places."""

    def change(tensors: Tensors, _sizes: Sizes) -> Tensors:
        first, second = named(tensors, one, last), named(tensors, other, last, -1)
        if first == second or tensors[first].shape != tensors[second].shape:
            raise Inapplicable("nothing to exchange")
        return {first: tensors[second].copy(), second: tensors[first].copy()}

    return change


def random(pattern: str) -> Alter:
    """A layer without its weights: transformers would fill it with small random numbers."""

    def change(tensors: Tensors, _sizes: Sizes) -> Tensors:
        name = named(tensors, pattern)
        return {name: (np.random.default_rng(0).standard_normal(tensors[name].shape) * 0.02).astype(np.float32)}

    return change


def _bfloat16(array: Array) -> Array:
    return ((array.view(np.uint32) + 0x8000) & np.uint32(0xFFFF0000)).view(np.float32)


def _int8(array: Array) -> Array:
    scale = np.abs(array).max() / 127
    return (np.round(array / scale) * scale).astype(np.float32)


def _zero_point(array: Array) -> Array:
    """Dequantised with a zero point that is one too high."""
    return (array + np.abs(array).max() / 127).astype(np.float32)


def rounded(how: Callable[[Array], Array], pattern: str = r"weight$") -> Alter:
    """Matrices kept at lower precision inside a float32 file."""

    def change(tensors: Tensors, _sizes: Sizes) -> Tensors:
        return {n: how(np.ascontiguousarray(a)) for n, a in tensors.items() if a.ndim == 2 and re.search(pattern, n)}

    return change


def flipped(pattern: str) -> Alter:
    """The rows of a table in reverse order: the sign of a distance is lost."""

    def change(tensors: Tensors, _sizes: Sizes) -> Tensors:
        name = named(tensors, pattern)
        return {name: tensors[name][::-1].copy()}

    return change


def rolled(pattern: str) -> Alter:
    def change(tensors: Tensors, _sizes: Sizes) -> Tensors:
        name = named(tensors, pattern)
        return {name: np.roll(tensors[name], 1, axis=0)}

    return change


def position_rows_rolled(tensors: Tensors, _sizes: Sizes) -> Tensors:
    name = named(tensors, r"position_embeddings")
    return {name: np.roll(tensors[name], 1, axis=0)}


def last_position_lost(tensors: Tensors, _sizes: Sizes) -> Tensors:
    name = named(tensors, r"position_embeddings")
    array = tensors[name].copy()
    array[-1] = 0
    return {name: array}


def labels_permuted(tensors: Tensors, _sizes: Sizes) -> Tensors:
    order = [1, 0, *range(2, 5)]
    names = [name for name in ("classifier.weight", "classifier.bias") if name in tensors]
    if not names:
        raise Inapplicable("no labels")
    return {name: tensors[name][order] for name in names}


def half(array: Array) -> Array:
    return array.astype(np.float16).astype(np.float32)


#: fault class -> name -> change
FAULTS: Mapping[str, Mapping[str, Alter]] = {
    "one weight": {
        "query-element-1e-3": element(QUERY, 1e-3),
        "value-element-1e-3": element(VALUE, 1e-3),
        "inner-element-1e-3": element(INNER, 1e-3),
        "outer-element-1e-3": element(OUTER, 1e-3, -1),
        "norm-element-1e-3": element(NORM, 1e-3),
        "norm-bias-element-1e-3": element(NORM, 1e-3, -1, "bias"),
        "key-element-1e-3": element(KEY, -1e-3, -1),
    },
    "one row": {
        "word-0-moved": row(0, 1e-2),
        "word-of-text-moved": row(7, 1e-3),
        "last-word-moved": row(-1, 1e-2),
        "rare-word-moved": row(-27, 1e-1),
        "words-swapped": rows_swapped(WORDS, 2, 3),
        "outer-rows-swapped": rows_swapped(OUTER, 1, 6),
        "inner-rows-swapped": rows_swapped(INNER, 0, 9),
        "value-rows-swapped": rows_swapped(VALUE, 3, 4),
        "last-position-lost": last_position_lost,
        "position-rows-rolled": position_rows_rolled,
    },
    "layout": {
        "query-transposed": transposed(QUERY),
        "value-transposed": transposed(VALUE),
        "heads-interleaved": heads_interleaved,
        "query-and-value-exchanged": exchanged(QUERY, VALUE),
        "key-and-value-exchanged": exchanged(KEY, VALUE),
        "layer-norms-exchanged": exchanged(NORM, NORM),
        "outer-matrices-exchanged": exchanged(OUTER, OUTER),
    },
    "relative positions": {
        "distances-turned": flipped(r"(relative_attention_bias|rel_embeddings)"),
        "distances-shifted": rolled(r"(relative_attention_bias|rel_embeddings)"),
    },
    "bias dropped": {
        "query-bias-dropped": zeroed(QUERY),
        "value-bias-dropped": zeroed(VALUE),
        "key-bias-dropped": zeroed(KEY),
        "inner-bias-dropped": zeroed(INNER),
        "outer-bias-dropped": zeroed(OUTER),
        "norm-bias-dropped": zeroed(NORM),
        "decoder-bias-dropped": zeroed(r"predictions(\.decoder)?"),
    },
    "heads": {"head-zeroed": head_zeroed, "head-query-and-key-swapped": head_query_and_key_swapped},
    "attention scale": {
        "scale-1-over-d": scaled(QUERY, lambda sizes: sizes.head**-0.5),
        "scale-missing": scaled(QUERY, lambda sizes: sizes.head**0.5),
        "scale-of-hidden-size": scaled(QUERY, lambda sizes: (sizes.head / sizes.hidden) ** 0.5),
    },
    "random head": {"pooler-random": random(r"pooler\.dense"), "classifier-random": random(r"^(pre_)?classifier")},
    "weights rounded": {
        "weights-rounded-to-float16": rounded(half),
        "weights-rounded-to-bfloat16": rounded(_bfloat16),
        "weights-rounded-to-int8": rounded(_int8),
        "words-rounded-to-float16": rounded(half, WORDS),
        "one-matrix-rounded-to-float16": rounded(half, INNER),
        "zero-point-off-by-one": rounded(_zero_point, INNER),
    },
    "labels permuted": {"labels-permuted": labels_permuted},
}


def in_graph(alter: Alter) -> Callable[[Graph], None]:
    """The change in an ONNX file: wherever a constant is one of the altered tensors, as it is or transposed."""

    def change(g: Graph) -> None:
        tensors = weights(g.stand)
        count = 0
        for name, array in alter(tensors, Sizes(g.stand)).items():
            before = tensors[name]
            for constant, value in g.arrays().items():
                if value.dtype != np.float32 or value.size < 2:
                    continue
                if value.shape == before.shape and np.array_equal(value, before):
                    g.set(constant, array)
                elif before.ndim == 2 and value.shape == before.shape[::-1] and np.array_equal(value, before.T):
                    g.set(constant, array.T)
                else:
                    continue
                count += 1
        if not count:
            raise Inapplicable("the graph holds none of these tensors")

    return change


def in_trace(alter: Alter) -> Callable[[Stand, Path], None]:
    """The change in a TorchScript file: parameters of the loaded archive, saved again."""
    import torch

    def make(stand: Stand, path: Path) -> None:
        module = torch.jit.load(str(stand.right("torchscript")))
        held = {name.removeprefix("model."): p for name, p in module.named_parameters()}
        tensors = weights(stand)
        count = 0
        for name, array in alter(tensors, Sizes(stand)).items():
            for candidate in (name, name.partition(".")[2]):
                if candidate in held and held[candidate].shape == tuple(array.shape):
                    with torch.no_grad():
                        held[candidate].copy_(torch.from_numpy(np.ascontiguousarray(array)))
                    count += 1
                    break
        if not count:
            raise Inapplicable("the trace holds none of these tensors")
        torch.jit.save(module, str(path))

    return make
