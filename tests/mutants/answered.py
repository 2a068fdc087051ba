"""Faults of what comes out: numbers that are none, and answers that are wrong in a few places, in the ONNX file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import numpy as np

from mutants.computed import Change, number, outputs
from mutants.graph import Graph
from mutants.trial import Inapplicable


def overflow(g: Graph) -> None:
    """An activation of float16 that is too large for it."""

    def build(value: str) -> str:
        wide = g.cast(g.cast(g.add("Mul", value, number(g, 6e4)), 10), 1)
        return g.add("Div", wide, number(g, 6e4))

    g.after(g.tap(1), build)


def nan_in_empty_rows(g: Graph) -> None:
    """Minus infinity is added to masked scores: the softmax of a row without tokens is 0 / 0."""
    lowest = [n for n, v in g.arrays().items() if v.dtype == np.float32 and v.size == 1 and v < -1e30]
    if not lowest:
        raise Inapplicable("no lowest number")
    for name in lowest:
        g.set(name, np.full_like(g.array(name), -np.inf))


def mean_of_nothing(g: Graph) -> None:
    """A mean over tokens that is divided by their number, whatever it is: 0 / 0 in a row without tokens."""
    if g.stand.task.name != "sentence-similarity":
        raise Inapplicable("nothing is pooled")
    bound = g.of("Max")[-1]
    g.after(bound.output[0], lambda _: bound.input[0])


def nan_where_masked(g: Graph) -> None:
    """A division by the mask: not a number at padding."""
    mask = g.add("Unsqueeze", g.cast("attention_mask", 1), g.constant([-1], np.int64))
    if g.stand.task.name != "feature-extraction":
        raise Inapplicable("no output per token")
    g.after(g.model.graph.output[0].name, lambda value: g.add("Div", g.add("Mul", value, mask), mask))


def element_wrong(g: Graph) -> None:
    """One number of the answer is wrong, at the second token of each row."""
    name = g.model.graph.output[0].name
    size = g.stand.broad.specs[name].shape[-1]
    if not isinstance(size, int):
        raise Inapplicable("one number for each token")
    bump = np.zeros(size, np.float32)
    bump[1] = 1e-3
    g.after(name, lambda value: g.add("Add", value, g.constant(bump)))


def _last_token_of_long_rows(g: Graph) -> None:
    """From the 60th token on, answers are a little off."""
    one = g.constant(1, np.int64)
    counted = g.add("CumSum", g.add("Add", g.add("Sub", "input_ids", "input_ids"), one), one)
    late = g.cast(g.add("Greater", counted, g.constant(60, np.int64)), 1)
    wide = g.add("Unsqueeze", late, g.constant([-1], np.int64))
    g.after(g.tap(g.layers), lambda v: g.add("Add", v, g.add("Mul", g.add("Mul", v, wide), number(g, 1e-3))))


def _long(g: Graph) -> str:
    """Whether rows have more than 60 tokens."""
    length = g.add("Gather", g.add("Shape", "input_ids"), g.constant(1, np.int64), axis=0)
    return g.add("Greater", length, g.constant(60, np.int64))


def _long_padded_rows(g: Graph) -> None:
    """Long rows go another way where they are padded, as in a kernel of blocks that takes no mask."""
    padded = g.add("Not", g.cast(g.add("ReduceMin", "attention_mask", keepdims=0), 9))
    other = g.add("And", _long(g), padded)
    g.after(g.tap(g.layers), lambda v: g.add("Where", other, g.add("Mul", v, number(g, 1.001)), v))


def _segments_of_long_rows(g: Graph) -> None:
    """Long rows have no segments."""
    if not g.has("token_type_ids"):
        raise Inapplicable("no segments")
    long = _long(g)
    none = g.constant(0, np.int64)
    g.feed("token_type_ids", lambda v: g.add("Where", long, g.add("Mul", v, none), v))


def _tap_instead(g: Graph) -> None:
    """The file says that a layer boundary which goes by the output's name is another value, which is right."""
    name = g.model.graph.output[0].name
    inner: list[str] = []

    def build(value: str) -> str:
        inner.append(value)
        return g.add("Mul", value, number(g, 1.01))

    g.after(name, build)
    taps = {name: inner[0], **{tap: inner[0] if value == name else value for tap, value in g.taps.items()}}
    for entry in g.model.metadata_props:
        if entry.key == "bertx.taps":
            entry.value = json.dumps(taps)


def constant_output(g: Graph) -> None:
    g.after(g.model.graph.output[0].name, lambda value: g.add("Mul", value, number(g, 0)))


#: fault class -> name -> change
FAULTS: Mapping[str, Mapping[str, Change]] = {
    "overflow and NaN": {
        "float16-overflow": overflow,
        "nan-at-padding": nan_where_masked,
        "nan-in-empty-rows": nan_in_empty_rows,
        "nan-mean-of-empty-rows": mean_of_nothing,
    },
    "output": {
        "one-element-off": element_wrong,
        "late-tokens-off": _last_token_of_long_rows,
        "long-padded-rows-off": _long_padded_rows,
        "segments-of-long-rows-zero": _segments_of_long_rows,
        "tap-in-the-place-of-the-output": _tap_instead,
        "constant-output": constant_output,
        "output-scaled-by-1.0001": outputs(lambda g, v: g.add("Mul", v, number(g, 1.0001))),
    },
}


def _spans(build: Callable[[Graph, str, str], tuple[str, str]]) -> Change:
    """Other starts and ends than those of a question's answer."""

    def change(g: Graph) -> None:
        names = [output.name for output in g.model.graph.output]
        if names != ["start_logits", "end_logits"]:
            raise Inapplicable("no starts and ends")
        inner = []
        for name in names:
            producer = g.producer(name)
            inner.append(f"right.{name}")
            producer.output[list(producer.output).index(name)] = inner[-1]
        for name, value in zip(names, build(g, *inner), strict=True):
            g.add("Identity", value, to=name)

    return change


def _later(g: Graph, value: str) -> str:
    """Scores moved by one token: those of the first token go last."""
    first = g.add("Slice", value, *(g.constant([k], np.int64) for k in (0, 1, 1)))
    rest = g.add("Slice", value, *(g.constant([k], np.int64) for k in (1, 2**31 - 1, 1)))
    return g.add("Concat", rest, first, axis=1)


def _of_text(g: Graph, value: str) -> str:
    """Scores of the second segment alone, the question's as low as can be."""
    question = g.cast(g.add("Sub", g.constant(1, np.int64), "token_type_ids"), 1)
    return g.add("Sub", value, g.add("Mul", question, number(g, 1e4)))


#: the same for starts and ends of answers
SPANS: Mapping[str, Mapping[str, Change]] = {
    "starts and ends": {
        "start-and-end-exchanged": _spans(lambda g, start, end: (end, start)),
        "end-is-start": _spans(lambda g, start, end: (start, start)),
        "end-one-token-late": _spans(lambda g, start, end: (start, _later(g, end))),
        "scores-as-probabilities": _spans(
            lambda g, start, end: (g.add("Softmax", start, axis=-1), g.add("Softmax", end, axis=-1))
        ),
        "scores-of-the-text-alone": _spans(lambda g, start, end: (start, _of_text(g, end))),
        "scores-centred": _spans(lambda g, start, end: (g.add("Sub", start, g.add("ReduceMean", start)), end)),
    },
}
