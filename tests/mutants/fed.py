"""Faults of what goes in: masks, segments, positions and shapes, made in the ONNX file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mutants.graph import Graph
from mutants.trial import Inapplicable

Change = Callable[[Graph], None]
IDS, MASK, SEGMENTS = "input_ids", "attention_mask", "token_type_ids"


def _zeros(g: Graph, value: str) -> str:
    return g.add("Sub", value, value)


def _ones(g: Graph, value: str) -> str:
    return g.add("Add", _zeros(g, value), g.constant(1, np.int64))


def _positions(g: Graph, value: str) -> str:
    return g.add("Sub", g.add("CumSum", _ones(g, value), g.constant(1, np.int64)), g.constant(1, np.int64))


def _length(g: Graph, mask: str) -> str:
    return g.add("ReduceSum", mask, g.constant([1], np.int64), keepdims=1)


def ignore_mask(g: Graph) -> None:
    g.feed(MASK, lambda mask: _ones(g, mask))


def invert_mask(g: Graph) -> None:
    g.feed(MASK, lambda mask: g.add("Sub", g.constant(1, np.int64), mask))


def mask_as_length(g: Graph) -> None:
    """What optimizers do that pass on the number of valid tokens: right for padding on the right only."""
    g.feed(MASK, lambda mask: g.cast(g.add("Less", _positions(g, mask), _length(g, mask)), 7))


def mask_as_length_from_the_right(g: Graph) -> None:
    def build(mask: str) -> str:
        size = g.add("ReduceSum", _ones(g, mask), g.constant([1], np.int64), keepdims=1)
        empty = g.add("Sub", size, _length(g, mask))
        return g.cast(g.add("GreaterOrEqual", _positions(g, mask), empty), 7)

    g.feed(MASK, build)


def mask_to_the_last_token(g: Graph) -> None:
    """Start and end only: holes are taken for valid tokens."""

    def build(mask: str) -> str:
        one = g.constant(1, np.int64)
        ahead = g.add("CumSum", mask, one)
        behind = g.add("CumSum", mask, one, reverse=1)
        return g.cast(g.add("Greater", g.add("Mul", ahead, behind), g.constant(0, np.int64)), 7)

    g.feed(MASK, build)


def mask_of_the_first_row(g: Graph) -> None:
    def build(mask: str) -> str:
        first = g.add("Gather", mask, g.constant([0], np.int64), axis=0)
        return g.add("Add", _zeros(g, mask), first)

    g.feed(MASK, build)


def mask_from_padding_ids(g: Graph) -> None:
    """Takes every padding id for padding, as programs do that take no mask."""
    padding = int(g.stand.config.pad_token_id or 0)
    readers = g.users(MASK)
    made = g.cast(g.add("Not", g.add("Equal", IDS, g.constant(padding, np.int64))), 7)
    g.rewire(MASK, made, readers)


def _additive(g: Graph, lowest: float) -> None:
    """What a softmax is given: its additive mask or the fill of its Where becomes `lowest` at masked places."""
    mask = g.cast(MASK, 1)
    wide = g.add("Unsqueeze", mask, g.constant([1, 2], np.int64))
    one = g.constant(1, np.float32)
    made = g.add("Mul", g.add("Sub", one, wide), g.constant(lowest, np.float32))
    for softmax in g.of("Softmax"):
        before = g.producer(softmax.input[0])
        if before.op_type == "Add":
            before.input[1] = made
        elif before.op_type == "Where":
            softmax.input[0] = g.add("Add", before.input[2], made)
        else:
            raise Inapplicable("the mask is not added before the softmax")


def mask_too_weak(lowest: float) -> Change:
    return lambda g: _additive(g, lowest)


def mask_in_one_layer_missing(g: Graph) -> None:
    softmax = g.of("Softmax")[-1]
    before = g.producer(softmax.input[0])
    if before.op_type not in ("Add", "Where"):
        raise Inapplicable("the mask is not added before the softmax")
    softmax.input[0] = before.input[0 if before.op_type == "Add" else 2]


def swap_mask_and_segments(g: Graph) -> None:
    if not g.has(SEGMENTS):
        raise Inapplicable("no segments")
    mask, segments = g.users(MASK), g.users(SEGMENTS)
    g.rewire(MASK, "\0", mask)
    g.rewire(SEGMENTS, MASK, segments)
    g.rewire("\0", SEGMENTS, mask)


def segments_zero(g: Graph) -> None:
    g.feed(SEGMENTS, lambda value: _zeros(g, value))


def segments_one(g: Graph) -> None:
    g.feed(SEGMENTS, lambda value: _ones(g, value))


def segments_of_the_first_row(g: Graph) -> None:
    def build(value: str) -> str:
        return g.add("Add", _zeros(g, value), g.add("Gather", value, g.constant([0], np.int64), axis=0))

    g.feed(SEGMENTS, build)


def _position_gather(g: Graph) -> Any:
    """The node that looks positions up."""
    for node in g.of("Gather"):
        if "position_embeddings" in node.input[0] or "position_embeddings" in g.origin(node.input[0]):
            return node
    raise Inapplicable("no table of positions")


def positions(build: Callable[[Graph, str], str]) -> Change:
    """Looks up other positions, inside the table."""

    def change(g: Graph) -> None:
        node = _position_gather(g)
        most = g.array(node.input[0]).shape[0] - 1
        made = g.add("Min", build(g, node.input[1]), g.constant(most, np.int64))
        node.input[1] = g.add("Max", made, g.constant(0, np.int64))

    return change


def position_shift(by: int) -> Change:
    return positions(lambda g, value: g.add("Add", value, g.constant(by, np.int64)))


def position_wrap(at: int) -> Change:
    return positions(lambda g, value: g.add("Mod", value, g.constant(at, np.int64)))


def position_cut(at: int) -> Change:
    return positions(lambda g, value: g.add("Min", value, g.constant(at, np.int64)))


def positions_of_valid_tokens(g: Graph) -> None:
    """Counts valid tokens only, as padding-aware programs do where the model counts all of them."""
    table = _position_gather(g)
    if g.stand.config.model_type in ("roberta", "mpnet"):
        raise Inapplicable("this family counts valid tokens itself")
    counted = g.add("CumSum", MASK, g.constant(1, np.int64))
    table.input[1] = g.add("Max", g.add("Sub", counted, g.constant(1, np.int64)), g.constant(0, np.int64))


def positions_of_all_tokens(g: Graph) -> None:
    """Counts padding too, where the model leaves it out."""
    if g.stand.config.model_type not in ("roberta", "mpnet"):
        raise Inapplicable("this family counts all tokens itself")
    table = _position_gather(g)
    table.input[1] = g.add("Add", _positions(g, IDS), g.constant(2, np.int64))


def positions_backwards(g: Graph) -> None:
    def build(graph: Graph, value: str) -> str:
        last = graph.add("ReduceMax", value, graph.constant([-1], np.int64), keepdims=1)
        return graph.add("Sub", last, value)

    positions(build)(g)


def positions_run_on_over_rows(g: Graph) -> None:
    """Numbers the whole batch through instead of each row."""
    ones = _ones(g, IDS)
    row = g.add("Sub", g.add("CumSum", ones, g.constant(0, np.int64)), g.constant(1, np.int64))
    positions(lambda graph, value: graph.add("Add", value, row))(g)


def fixed_batch(size: int) -> Change:
    """Cuts what goes in to the batch of the sample and repeats the answer's last row, or stops."""

    def change(g: Graph) -> None:
        for name in (IDS, MASK, SEGMENTS):
            if g.has(name):
                shape = g.constant([size, -1], np.int64)
                g.feed(name, lambda value, shape=shape: g.add("Reshape", value, shape))  # type: ignore[misc]

    return change


def fixed_length(size: int) -> Change:
    def change(g: Graph) -> None:
        for name in (IDS, MASK, SEGMENTS):
            if g.has(name):
                shape = g.constant([-1, size], np.int64)
                g.feed(name, lambda value, shape=shape: g.add("Reshape", value, shape))  # type: ignore[misc]

    return change


def cut_to(length: int) -> Change:
    """Reads the first tokens only: what comes later is masked."""

    def change(g: Graph) -> None:
        def build(mask: str) -> str:
            return g.add("Mul", mask, g.cast(g.add("Less", _positions(g, IDS), g.constant(length, np.int64)), 7))

        g.feed(MASK, build)

    return change


def first_row_for_all(g: Graph) -> None:
    """The batch dimension of the sample was folded: every row is the first one."""

    def build(value: str) -> str:
        return g.add("Add", _zeros(g, value), g.add("Gather", value, g.constant([0], np.int64), axis=0))

    g.feed(IDS, build)


def rows_beyond(batch: int) -> Change:
    """Rows behind the sample's batch are computed from the first row."""

    def change(g: Graph) -> None:
        def build(value: str) -> str:
            row = g.add("CumSum", _ones(g, value), g.constant(0, np.int64))
            late = g.cast(g.add("Greater", row, g.constant(batch, np.int64)), 9)
            first = g.add("Gather", value, g.constant([0], np.int64), axis=0)
            return g.add("Where", late, g.add("Add", _zeros(g, value), first), value)

        g.feed(IDS, build)

    return change


def length_off(length: int) -> Change:
    """Off by a thousandth for sequences of one length, to which an exporter specialised the graph."""

    def change(g: Graph) -> None:
        size = g.add("ReduceSum", _ones(g, IDS), g.constant([1], np.int64), keepdims=1)
        _off_where(g, g.add("Equal", size, g.constant(length, np.int64)))

    return change


def lone_tokens_off(g: Graph) -> None:
    """Off by a thousandth in rows with one valid token among others, as a division by n - 1 would be."""
    size = g.add("ReduceSum", _ones(g, IDS), g.constant([1], np.int64), keepdims=1)
    lone = g.add("Equal", _length(g, MASK), g.constant(1, np.int64))
    _off_where(g, g.add("And", lone, g.add("Greater", size, g.constant(1, np.int64))))


def repeated_tokens_off(g: Graph) -> None:
    """Off by a thousandth in long rows of one token only, whose attention is all ties."""
    first = g.add("Gather", IDS, g.constant([0], np.int64), axis=1)
    same = g.add("ReduceMin", g.cast(g.add("Equal", IDS, first), 7), g.constant([1], np.int64), keepdims=1)
    size = g.add("ReduceSum", _ones(g, IDS), g.constant([1], np.int64), keepdims=1)
    long = g.add("Greater", size, g.constant(4, np.int64))
    _off_where(g, g.add("And", g.cast(same, 9), long))


def _off_where(g: Graph, rows: str) -> None:
    """Moves the last hidden state of rows (batch, 1) by a thousandth of itself."""
    wide = g.add("Unsqueeze", g.cast(rows, 1), g.constant([2], np.int64))
    factor = g.add("Add", g.add("Mul", wide, g.constant(1e-3, np.float32)), g.constant(1, np.float32))
    g.after(g.tap(g.layers), lambda value: g.add("Mul", value, factor))


def leading_padding_seen(g: Graph) -> None:
    """Padding before the first valid token is taken for tokens."""

    def build(mask: str) -> str:
        begun = g.add("CumSum", mask, g.constant(1, np.int64))
        return g.add("Max", mask, g.cast(g.add("Equal", begun, g.constant(0, np.int64)), 7))

    g.feed(MASK, build)


def batch_leaks(g: Graph) -> None:
    """A statistic over the batch instead of the row: the answer depends on the neighbours."""
    value = g.tap(1)

    def build(before: str) -> str:
        mean = g.add("ReduceMean", before, g.constant([0], np.int64), keepdims=1)
        return g.add("Add", before, g.add("Mul", g.add("Sub", mean, before), g.constant(1e-3, np.float32)))

    g.after(value, build)


def id_replaced(old: int, new: int) -> Change:
    """One id is read as another, as a wrong special token or a clipped vocabulary does."""

    def change(g: Graph) -> None:
        size = int(g.stand.config.vocab_size)
        g.feed(
            IDS,
            lambda ids: g.add(
                "Where", g.add("Equal", ids, g.constant(old % size, np.int64)), g.constant(new, np.int64), ids
            ),
        )

    return change


def ids_clipped(g: Graph) -> None:
    size = int(g.stand.config.vocab_size)
    g.feed(IDS, lambda ids: g.add("Min", ids, g.constant(size - 2, np.int64)))


#: fault class -> name -> change
FAULTS: Mapping[str, Mapping[str, Change]] = {
    "mask ignored": {
        "mask-ignored": ignore_mask,
        "mask-missing-in-one-layer": mask_in_one_layer_missing,
        "mask-of-first-row": mask_of_the_first_row,
        "mask-from-padding-ids": mask_from_padding_ids,
    },
    "mask inverted": {"mask-inverted": invert_mask},
    "mask as length": {
        "mask-as-length": mask_as_length,
        "mask-as-length-from-right": mask_as_length_from_the_right,
        "mask-start-to-end": mask_to_the_last_token,
        "mask-leading-padding-seen": leading_padding_seen,
    },
    "mask too weak": {"mask-minus-1": mask_too_weak(-1.0), "mask-minus-10": mask_too_weak(-10.0)},
    "inputs swapped": {"mask-and-segments-swapped": swap_mask_and_segments},
    "segments fixed": {
        "segments-zero": segments_zero,
        "segments-one": segments_one,
        "segments-of-first-row": segments_of_the_first_row,
    },
    "positions": {
        "positions-shifted": position_shift(1),
        "positions-shifted-back": position_shift(-1),
        "positions-offset-dropped": position_shift(-2),
        "positions-wrap-at-32": position_wrap(32),
        "positions-cut-at-last-but-one": position_cut(62),
        "positions-of-valid-tokens": positions_of_valid_tokens,
        "positions-of-all-tokens": positions_of_all_tokens,
        "positions-backwards": positions_backwards,
        "positions-run-on-over-rows": positions_run_on_over_rows,
    },
    "shape baked in": {
        "batch-fixed-at-2": fixed_batch(2),
        "length-fixed-at-7": fixed_length(7),
        "reads-48-tokens-only": cut_to(48),
        "first-row-for-all": first_row_for_all,
        "rows-beyond-the-second": rows_beyond(2),
        "rows-beyond-the-third": rows_beyond(3),
        "rows-beyond-the-sixth": rows_beyond(6),
        "length-1-off": length_off(1),
        "length-2-off": length_off(2),
        "length-3-off": length_off(3),
    },
    "special rows": {
        "lone-tokens-off": lone_tokens_off,
        "repeated-tokens-off": repeated_tokens_off,
    },
    "batch leaks": {"batch-mean-leaks": batch_leaks},
    "ids": {
        "last-id-clipped": ids_clipped,
        "id-0-read-as-5": id_replaced(0, 5),
        "separator-read-as-unknown": id_replaced(3, 1),
    },
}
