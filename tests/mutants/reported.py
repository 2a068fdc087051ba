"""Faults that are reported of converters, made in the ONNX file.

Collected in the literature by where they lie: inputs, parameters, hyper-parameters, graph (arXiv 2303.17708, in which
a third of the reported failures are semantically wrong models, and arXiv 2312.15101). Those that the other modules
hold already (masks, segments, shapes, layouts, precision, epsilon) are not repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from onnx import NodeProto, helper

from mutants.graph import Graph
from mutants.trial import Inapplicable

Change = Callable[[Graph], None]
IDS, MASK, SEGMENTS = "input_ids", "attention_mask", "token_type_ids"
INT8, FLOAT16 = 3, 10


def _number(g: Graph, value: float) -> str:
    return g.constant(value, np.float32)


def _ints(g: Graph, *values: int) -> str:
    return g.constant(list(values), np.int64)


# inputs: types, sizes and order


def ids_through(kind: int) -> Change:
    """Ids are cast to a type that cannot hold all of them."""

    def change(g: Graph) -> None:
        if g.stand.config.vocab_size <= (2048 if kind == FLOAT16 else 127):
            raise Inapplicable("it can hold all ids")
        g.feed(IDS, lambda ids: g.cast(g.cast(ids, kind), 7))

    return change


def counts_in_int8(g: Graph) -> None:
    """Sums over the sequence, positions among them, run over in eight bits."""
    found = [node for node in g.nodes if node.op_type == "CumSum"]
    if not found or _longest(g) <= 127:
        raise Inapplicable("nothing is counted that far")
    for node in found:
        g.after(node.output[0], lambda value: g.cast(g.cast(value, INT8), 7))


def ids_and_mask_swapped(g: Graph) -> None:
    ids, mask = g.users(IDS), g.users(MASK)
    g.rewire(IDS, "\0", ids)
    g.rewire(MASK, IDS, mask)
    g.rewire("\0", MASK, ids)


def truncated(length: int) -> Change:
    """Tokens behind a maximal length count as padding, as a tokenizer's own truncation would make them."""

    def change(g: Graph) -> None:
        if _longest(g) <= length:
            raise Inapplicable("no sequence is longer")
        one = g.constant(1, np.int64)

        def build(mask: str) -> str:
            place = g.add("CumSum", g.add("Add", g.add("Sub", mask, mask), one), one)
            return g.add("Mul", mask, g.cast(g.add("LessOrEqual", place, g.constant(length, np.int64)), 7))

        g.feed(MASK, build)

    return change


def _longest(g: Graph) -> int:
    return max(case.inputs[IDS].shape[1] for case in g.stand.quick.cases)


# attributes and hyper-parameters


def window(size: int) -> Change:
    """A token sees only its neighbours: a window of attention that the model does not have."""

    def change(g: Graph) -> None:
        one = g.constant(1, np.int64)
        place = g.add("CumSum", g.add("Add", g.add("Sub", IDS, IDS), one), one)
        rows, columns = (g.add("Unsqueeze", place, _ints(g, 1, axis)) for axis in (2, 3))
        far = g.add("Greater", g.add("Abs", g.add("Sub", columns, rows)), g.constant(size, np.int64))
        for node in g.of("Softmax"):
            g.before(node, 0, lambda value: g.add("Where", far, _number(g, -1e9), value))

    return change


def softmax_of_opset_12(g: Graph) -> None:
    """Before opset 13 a softmax was taken over all axes from its own on: here over queries and keys together."""
    for node in g.of("Softmax"):
        x = node.input[0]

        def build(_: str, x: str = x) -> str:
            flat = g.add("Softmax", g.add("Flatten", x, axis=2), axis=-1)
            return g.add("Reshape", flat, g.add("Shape", x))

        g.after(node.output[0], build)


def softmax_missing(g: Graph) -> None:
    """Scores are exponentiated and not divided by their sum."""
    node = g.of("Softmax")[0]
    g.after(node.output[0], lambda value: g.add("Mul", value, _number(g, 1.01)))


def opset_lowered(g: Graph) -> None:
    """The file says an older opset than its nodes were written for."""
    for each in g.model.opset_import:
        if each.domain == "":
            each.version = 13


def scale_of_integer_root(g: Graph) -> None:
    """1/√d by integer division: the root is cut to a whole number."""
    for softmax in g.of("Softmax"):
        scaled = next((n for n in _above(g, softmax) if n.op_type in ("Mul", "Div")), None)
        if scaled is None:
            raise Inapplicable("no scale before the softmax")
        size = int(g.stand.config.hidden_size) // int(g.stand.config.num_attention_heads)
        off = size**0.5 / int(size**0.5)
        g.after(scaled.output[0], lambda value, off=off: g.add("Mul", value, _number(g, off)))  # type: ignore[misc]


def _above(g: Graph, node: NodeProto) -> list[NodeProto]:
    """The first nodes on the way up from a node's first input."""
    found, value = [], node.input[0]
    for _ in range(4):
        producer = next((n for n in g.nodes if value in n.output), None)
        if producer is None or not producer.input:
            break
        found.append(producer)
        value = producer.input[0]
    return found


def heads_merged_backwards(g: Graph) -> None:
    """Heads are put together in reverse order: a wrong permutation of axes that keeps the shape."""
    moved = [n for n in g.of("Transpose") if _perm(n) == [0, 2, 1, 3]]
    softmax = g.of("Softmax")[0]
    behind = next((n for n in moved if n.input[0] in g.users(softmax.output[0])[0].output), None)
    if behind is None:
        raise Inapplicable("no transposition behind the attention")
    heads = int(g.stand.config.num_attention_heads)
    order = _ints(g, *reversed(range(heads)))
    g.after(behind.output[0], lambda value: g.add("Gather", value, order, axis=2))


def axes_of_key_exchanged(g: Graph) -> None:
    """The key is transposed in one pair of axes too few."""
    node = next((n for n in g.of("Transpose") if _perm(n) == [0, 2, 3, 1]), None)
    if node is None:
        raise Inapplicable("no such transposition")
    _set_attribute(node, "perm", [0, 2, 1, 3])


def _perm(node: NodeProto) -> list[int]:
    return next((list(a.ints) for a in node.attribute if a.name == "perm"), [])


def _set_attribute(node: NodeProto, name: str, value: object) -> None:
    kept = [each for each in node.attribute if each.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def pooler_reads(index: int) -> Change:
    """The pooler or classifier reads another token than the first."""

    def change(g: Graph) -> None:
        g.after(_first_token(g).output[0], lambda _: _picked(g, index))

    return change


def pooler_gathers_along_batch(g: Graph) -> None:
    """A gather along the wrong axis: the first row for all of the batch."""

    def build(value: str) -> str:
        return g.add("Add", g.add("Sub", value, value), g.add("Gather", value, _ints(g, 0), axis=0))

    g.after(_first_token(g).output[0], build)


def _first_token(g: Graph) -> NodeProto:
    last = g.tap(g.layers)
    node = next((n for n in g.nodes if n.op_type in ("Gather", "Slice") and n.input[0] == last), None)
    if node is None or node.op_type != "Gather":
        raise Inapplicable("no token is picked")
    return node


def _picked(g: Graph, index: int) -> str:
    """Token `index` of each row, or the last one of shorter rows."""
    last = g.tap(g.layers)
    size = g.add("Shape", last, start=1, end=2)
    place = g.add("Min", g.constant([index], np.int64), g.add("Sub", size, _ints(g, 1)))
    return g.add("Squeeze", g.add("Gather", last, place, axis=1), _ints(g, 1))


# broadcasting and folding


def mask_over_queries(g: Graph) -> None:
    """The mask is broadcast along the wrong axis: it hides queries, not keys."""
    found = 0
    for node in g.of("Add", "Where"):
        if not any(n.op_type == "Softmax" for n in g.users(node.output[0])):
            continue
        for index in (1,) if node.op_type == "Add" else (0,):
            value = node.input[index]
            node.input[index] = g.add("Transpose", value, perm=[0, 1, 3, 2])
            found += 1
    if not found:
        raise Inapplicable("no mask is added")


def segments_of_first_token(g: Graph) -> None:
    """Segment ids are broadcast along the sequence from the first one."""
    g.feed(
        SEGMENTS, lambda value: g.add("Add", g.add("Sub", value, value), g.add("Gather", value, _ints(g, 0), axis=1))
    )


def positions_of_shorter_sample(length: int) -> Change:
    """Positions were folded for the sample: behind its length they stand still."""

    def change(g: Graph) -> None:
        node = g.of("CumSum")[-1]
        g.after(node.output[0], lambda value: g.add("Min", value, g.constant(length, np.int64)))

    return change


def bias_folded_twice(g: Graph) -> None:
    """A bias that was folded into the product is added again."""
    names = set(g.arrays())
    for node in g.of("Add"):
        bias = next((v for v in node.input if v in names and g.array(v).ndim == 1 and g.array(v).size > 1), None)
        if bias is not None:
            g.after(node.output[0], lambda value, bias=bias: g.add("Add", value, bias))  # type: ignore[misc]
            return
    raise Inapplicable("no bias")


def constants_folded_in_half(g: Graph) -> None:
    """Numbers that were folded from float16: scales and roots."""
    found = 0
    for name, value in g.arrays().items():
        half = value.astype(np.float16).astype(np.float32) if value.dtype == np.float32 else value
        if value.dtype == np.float32 and value.size == 1 and 1e-3 < abs(float(value.reshape(-1)[0])) < 1e3:
            found += int((half != value).any())
            g.set(name, half)
    if not found:
        raise Inapplicable("every constant is a half")


# edges


def residual_from_layer_input(g: Graph) -> None:
    """The second residual of a layer is taken from the layer's input instead of from its attention."""
    norms = g.layer_nodes(0, "LayerNormalization")
    added = g.producer(norms[-1].input[0])
    if len(norms) < 2 or added.op_type != "Add" or norms[0].output[0] not in added.input:
        raise Inapplicable("no second residual")
    index = list(added.input).index(norms[0].output[0])
    added.input[index] = g.tap(0)


def value_from_layer_input_missing(g: Graph) -> None:
    """The value of the last layer is computed from the layer before: an edge to the wrong node."""
    if g.layers < 2:
        raise Inapplicable("one layer")
    start = g.tap(g.layers - 1)
    readers = [node for node in g.users(start) if node.op_type in ("MatMul", "Gemm")]
    if not readers:
        raise Inapplicable("no product reads the layer's input")
    g.rewire(start, g.tap(g.layers - 2), readers[-1:])


def outputs_exchanged(g: Graph) -> None:
    """Two outputs of one rank stand under each other's names."""
    names = [each.name for each in g.model.graph.output]
    if len(names) < 2:
        raise Inapplicable("one output")
    for old, new in ((names[0], "\0"), (names[1], names[0]), ("\0", names[1])):
        for node in g.nodes:
            node.output[:] = [new if value == old else value for value in node.output]
            node.input[:] = [new if value == old else value for value in node.input]


def noise_left_on(g: Graph) -> None:
    """A node that draws random numbers was kept."""

    def build(value: str) -> str:
        return g.add("Add", value, g.add("RandomNormalLike", value, mean=0.0, scale=1e-4))

    g.after(g.tap(1), build)


# the batch


def rows_sorted_by_length(g: Graph) -> None:
    """Rows are sorted by their lengths, as programs do that pack batches, and not put back."""
    _reorder(g, g.add("ReduceSum", MASK, _ints(g, 1), keepdims=0))


def rows_sorted_by_content(g: Graph) -> None:
    """Rows are sorted by their first id, as finding duplicates does, and not put back."""
    _reorder(g, g.add("Squeeze", g.add("Gather", IDS, _ints(g, 0), axis=1), _ints(g, 1)))


def _reorder(g: Graph, key: str) -> None:
    index = "mutant.order"
    count = g.add("Shape", key)
    names = [name for name in (IDS, MASK, SEGMENTS) if g.has(name)]
    readers = {name: [n for n in g.users(name) if not any("mutant" in v for v in n.output)] for name in names}
    g.model.graph.node.append(helper.make_node("TopK", [key, count], ["mutant.keys", index], axis=0, largest=1))
    for name in names:
        g.rewire(name, g.add("Gather", name, index, axis=0), readers[name])


def batch_norm(share: float) -> Change:
    """A little of each number is normalised over the batch, as by a normalisation that was left in training mode."""

    def change(g: Graph) -> None:
        def build(value: str) -> str:
            centred = g.add("Sub", value, g.add("ReduceMean", value, _ints(g, 0), keepdims=1))
            return g.add("Sub", value, g.add("Mul", centred, _number(g, share)))

        g.after(g.tap(g.layers), build)

    return change


#: fault class -> name -> change
FAULTS: Mapping[str, Mapping[str, Change]] = {
    "reported: inputs": {
        "ids-through-int8": ids_through(INT8),
        "ids-through-float16": ids_through(FLOAT16),
        "counts-in-int8": counts_in_int8,
        "ids-and-mask-swapped": ids_and_mask_swapped,
        "truncated-at-32": truncated(32),
        "truncated-at-128": truncated(128),
    },
    "reported: hyper-parameters": {
        "window-of-8": window(8),
        "window-of-32": window(32),
        "softmax-of-opset-12": softmax_of_opset_12,
        "softmax-sum-missing": softmax_missing,
        "opset-lowered": opset_lowered,
        "scale-of-integer-root": scale_of_integer_root,
        "heads-merged-backwards": heads_merged_backwards,
        "axes-of-key-exchanged": axes_of_key_exchanged,
        "pooler-reads-second-token": pooler_reads(1),
        "pooler-gathers-along-batch": pooler_gathers_along_batch,
    },
    "reported: folding": {
        "mask-over-queries": mask_over_queries,
        "segments-of-first-token": segments_of_first_token,
        "positions-of-shorter-sample": positions_of_shorter_sample(7),
        "bias-folded-twice": bias_folded_twice,
        "constants-folded-in-half": constants_folded_in_half,
    },
    "reported: edges": {
        "residual-from-layer-input": residual_from_layer_input,
        "value-from-layer-before": value_from_layer_input_missing,
        "outputs-exchanged": outputs_exchanged,
        "noise-left-on": noise_left_on,
    },
    "batch leaks": {
        "rows-sorted-by-length": rows_sorted_by_length,
        "rows-sorted-by-content": rows_sorted_by_content,
        "normalised-over-batch": batch_norm(1e-1),
        "normalised-over-batch-a-little": batch_norm(1e-4),
    },
}
