"""Faults of the graph: operators, layers, outputs and precision, made in the ONNX file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from onnx import NodeProto, helper

from mutants.graph import Graph
from mutants.trial import Inapplicable

Change = Callable[[Graph], None]


def number(g: Graph, value: float) -> str:
    return g.constant(value, np.float32)


# activations


def _gelu_input(g: Graph, erf: NodeProto) -> tuple[str, str]:
    """(what goes into the gelu around an Erf, what comes out of it)."""
    entered = g.producer(erf.input[0]).input[0]
    ends = [
        node for node in g.users(g.users(g.users(erf.output[0])[0].output[0])[0].output[0]) if entered in node.input
    ]
    if not ends:
        raise Inapplicable("no gelu around this Erf")
    return entered, ends[0].output[0]


def activation(build: Callable[[Graph, str], str], which: slice = slice(None)) -> Change:
    """Puts another function in the place of erf-gelu, in the chosen layers."""

    def change(g: Graph) -> None:
        for erf in g.of("Erf")[which]:
            entered, left = _gelu_input(g, erf)
            g.after(left, lambda _, entered=entered: build(g, entered))  # type: ignore[misc]

    return change


def _tanh_gelu(g: Graph, x: str) -> str:
    cube = g.add("Mul", g.add("Mul", x, x), x)
    inner = g.add("Add", x, g.add("Mul", cube, number(g, 0.044715)))
    tanh = g.add("Tanh", g.add("Mul", inner, number(g, math.sqrt(2 / math.pi))))
    return g.add("Mul", g.add("Mul", x, number(g, 0.5)), g.add("Add", tanh, number(g, 1)))


def _quick_gelu(g: Graph, x: str) -> str:
    return g.add("Mul", x, g.add("Sigmoid", g.add("Mul", x, number(g, 1.702))))


def _silu(g: Graph, x: str) -> str:
    return g.add("Mul", x, g.add("Sigmoid", x))


def _relu(g: Graph, x: str) -> str:
    return g.add("Relu", x)


def head_activation_missing(g: Graph) -> None:
    """The last Tanh or Relu, of a pooler or a classifier, is left out."""
    node = g.of("Tanh", "Relu")[-1]
    g.after(node.output[0], lambda _: node.input[0])


# attention


def softmax_scaled(by: float, which: slice = slice(None)) -> Change:
    def change(g: Graph) -> None:
        for node in g.of("Softmax")[which]:
            g.before(node, 0, lambda value: g.add("Mul", value, number(g, by)))

    return change


def softmax_over_queries(g: Graph) -> None:
    node = g.of("Softmax")[0]
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("axis", -2))


def heads_not_transposed_back(g: Graph) -> None:
    """Heads are merged without being moved behind the sequence."""
    softmax = g.of("Softmax")[0]
    product = g.users(softmax.output[0])[0]
    moved = g.users(product.output[0])[0]
    if moved.op_type != "Transpose":
        raise Inapplicable("no transposition behind the attention")
    g.after(moved.output[0], lambda _: product.output[0])


def attention_skipped(g: Graph) -> None:
    softmax = g.of("Softmax")[-1]
    product = g.users(softmax.output[0])[0]
    g.after(product.output[0], lambda value: g.add("Mul", value, number(g, 0)))


def causal(g: Graph) -> None:
    """A token sees only those before it, as in a decoder."""
    one = g.constant(1, np.int64)
    counted = g.add("CumSum", g.add("Add", g.add("Sub", "input_ids", "input_ids"), one), one)
    ahead = g.add(
        "Greater",
        g.add("Unsqueeze", counted, g.constant([1, 2], np.int64)),
        g.add("Unsqueeze", counted, g.constant([1, 3], np.int64)),
    )
    for node in g.of("Softmax"):
        g.before(node, 0, lambda value: g.add("Where", ahead, number(g, -1e9), value))


def ties_to_the_first(g: Graph) -> None:
    """Attention goes to the highest score only: hard instead of soft."""
    node = g.of("Softmax")[0]
    g.after(node.output[0], lambda _: g.add("Hardmax", node.input[0], axis=-1))


# normalisation and residuals


def epsilon(value: float, which: slice = slice(None)) -> Change:
    def change(g: Graph) -> None:
        for node in g.of("LayerNormalization")[which]:
            kept = [each for each in node.attribute if each.name != "epsilon"]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("epsilon", value)])

    return change


def epsilon_first(g: Graph) -> None:
    """A LayerNorm spelt out with its epsilon as the first operand of the addition.

    The same mathematics, and still a wrong artifact: ONNX Runtime 1.31 fuses it and takes 1e-5 for the epsilon.
    """
    for node in g.of("Sqrt"):
        added = g.producer(node.input[0])
        if added.op_type != "Add":
            raise Inapplicable("no epsilon before the root")
        added.input[0], added.input[1] = added.input[1], added.input[0]


def norm_before_adding(g: Graph) -> None:
    """LayerNorm before the residual is added, not after it."""
    node = g.layer_nodes(0, "LayerNormalization")[0]
    added = g.producer(node.input[0])
    if added.op_type != "Add":
        raise Inapplicable("no residual before the LayerNorm")
    node.input[0] = added.input[0]
    g.after(node.output[0], lambda value: g.add("Add", value, added.input[1]))


def norm_left_out(g: Graph) -> None:
    node = g.layer_nodes(0, "LayerNormalization")[-1]
    g.after(node.output[0], lambda _: node.input[0])


def norm_without_mean(g: Graph) -> None:
    """Root mean square normalisation in the place of LayerNorm."""
    node = g.of("LayerNormalization")[-1]
    x, axis = node.input[0], g.constant([-1], np.int64)

    def build(_: str) -> str:
        root = g.add("Sqrt", g.add("ReduceMean", g.add("Mul", x, x), axis, keepdims=1))
        scaled = g.add("Mul", g.add("Div", x, root), node.input[1])
        return g.add("Add", scaled, node.input[2]) if len(node.input) > 2 else scaled

    g.after(node.output[0], build)


def residual_dropped(which: int) -> Change:
    def change(g: Graph) -> None:
        for node in g.layer_nodes(g.layers - 1, "LayerNormalization")[which:]:
            added = g.producer(node.input[0])
            if added.op_type == "Add":
                node.input[0] = added.input[0]
                return
        raise Inapplicable("no residual")

    return change


def residual_doubled(g: Graph) -> None:
    node = g.layer_nodes(0, "LayerNormalization")[-1]
    added = g.producer(node.input[0])
    if added.op_type != "Add":
        raise Inapplicable("no residual")
    g.before(node, 0, lambda value: g.add("Add", value, added.input[1]))


# layers


def layer_skipped(k: int) -> Change:
    def change(g: Graph) -> None:
        g.after(g.tap(k % g.layers + 1), lambda _: g.tap(k % g.layers))

    return change


def layers_swapped(g: Graph) -> None:
    """The first two layers change their constants."""
    first, second = (g.within(k) for k in (0, 1))
    if [n.op_type for n in first] != [n.op_type for n in second]:
        raise Inapplicable("the layers are not alike")
    constants = set(g.arrays())
    for one, other in zip(first, second, strict=True):
        for index, (mine, theirs) in enumerate(zip(list(one.input), list(other.input), strict=True)):
            if mine in constants and theirs in constants:
                one.input[index], other.input[index] = theirs, mine


def last_layer_left_out(g: Graph) -> None:
    """What follows the encoder reads layer N - 1, taps stay as they are."""
    last, before = g.tap(g.layers), g.tap(g.layers - 1)
    users = g.users(last)
    g.rewire(last, before, users)
    if any(each.name == last for each in g.model.graph.output):
        producer = g.producer(last)
        producer.output[0] = "mutant.last"
        g.rewire(last, "mutant.last")
        g.add("Identity", before, to=last)
        _tap_moved(g, "mutant.last")


def _tap_moved(g: Graph, value: str) -> None:
    import json

    g.taps[f"hidden_states.{g.layers}"] = value
    for entry in g.model.metadata_props:
        if entry.key == "bertx.taps":
            entry.value = json.dumps(g.taps)


def taps_forgotten(change: Change) -> Change:
    """The same fault in a file that records no taps, as other exporters write it."""

    def both(g: Graph) -> None:
        change(g)
        kept = [entry for entry in g.model.metadata_props if entry.key != "bertx.taps"]
        del g.model.metadata_props[:]
        g.model.metadata_props.extend(kept)

    return both


# precision


def products(build: Callable[[Graph, str], str], which: slice = slice(None)) -> Change:
    """Rounds what goes into matrix products."""

    def change(g: Graph) -> None:
        for node in g.of("MatMul", "Gemm")[which]:
            for index in (0, 1):
                g.before(node, index, lambda value: build(g, value))

    return change


def through(kind: int) -> Callable[[Graph, str], str]:
    return lambda g, value: g.cast(g.cast(value, kind), 1)


def results(*kinds: str, kind: int) -> Change:
    """What operators give is rounded to another type, as where they compute in it."""

    def change(g: Graph) -> None:
        for node in g.of(*kinds):
            g.after(node.output[0], lambda value: g.cast(g.cast(value, kind), 1))

    return change


def _tf32(g: Graph, value: str) -> str:
    """Ten bits of mantissa: x·c − (x·c − x) with c = 2^13 + 1 drops the last thirteen."""
    wide = g.add("Mul", value, number(g, 2.0**13 + 1))
    return g.add("Sub", wide, g.add("Sub", wide, value))


def outputs(build: Callable[[Graph, str], str]) -> Change:
    """Changes the first output of the graph."""

    def change(g: Graph) -> None:
        g.after(g.model.graph.output[0].name, lambda value: build(g, value))

    return change


_TANH = activation(_tanh_gelu)
#: fault class -> name -> change
FAULTS: Mapping[str, Mapping[str, Change]] = {
    "activation": {
        "tanh-gelu": _TANH,
        "tanh-gelu-in-last-layer": activation(_tanh_gelu, slice(-1, None)),
        "tanh-gelu-without-taps": taps_forgotten(_TANH),
        "quick-gelu": activation(_quick_gelu),
        "relu-for-gelu": activation(_relu),
        "silu-for-gelu": activation(_silu),
        "head-activation-missing": head_activation_missing,
    },
    "attention scale": {
        "softmax-scale-halved": softmax_scaled(0.5),
        "softmax-scale-of-last-layer-off-by-0.1-percent": softmax_scaled(1.001, slice(-1, None)),
    },
    "attention": {
        "softmax-over-queries": softmax_over_queries,
        "heads-not-moved-back": heads_not_transposed_back,
        "attention-skipped": attention_skipped,
        "attention-causal": causal,
        "attention-hard": ties_to_the_first,
    },
    "epsilon": {
        "epsilon-1e-5": epsilon(1e-5),
        "epsilon-1e-12": epsilon(1e-12),
        "epsilon-1e-3": epsilon(1e-3),
        "epsilon-1e-5-in-last-norm": epsilon(1e-5, slice(-1, None)),
        "epsilon-first-in-addition": epsilon_first,
    },
    "norms and residuals": {
        "norm-before-adding": norm_before_adding,
        "norm-left-out": norm_left_out,
        "norm-without-mean": norm_without_mean,
        "attention-residual-dropped": residual_dropped(0),
        "feed-forward-residual-dropped": residual_dropped(1),
        "residual-doubled": residual_doubled,
    },
    "layers": {
        "first-layer-skipped": layer_skipped(0),
        "last-layer-skipped": layer_skipped(-1),
        "layers-swapped": layers_swapped,
        "layer-skipped-without-taps": taps_forgotten(layer_skipped(0)),
    },
    "output of layer N-1": {"output-of-layer-before-last": last_layer_left_out},
    "lower precision": {
        "products-in-float16": products(through(10)),
        "products-in-bfloat16": products(through(16)),
        "products-in-tf32": products(_tf32),
        "last-product-in-tf32": products(_tf32, slice(-1, None)),
        "products-in-bfloat16-without-taps": taps_forgotten(products(through(16))),
        "products-summed-in-float16": results("MatMul", "Gemm", kind=10),
        "softmax-in-float16": results("Softmax", kind=10),
        "norms-in-bfloat16": results("LayerNormalization", kind=16),
        "output-through-float16": outputs(through(10)),
        "output-through-bfloat16": outputs(through(16)),
    },
}
