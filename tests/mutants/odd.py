"""Right artifacts that look odd: each computes what the checkpoint computes, and must pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
import torch

import bertx.model.loading as loading
from bertx.formats import ExportOptions
from mutants.computed import Change, taps_forgotten
from mutants.graph import Array, Graph
from mutants.stands import Stand
from mutants.trial import Inapplicable

Make = Callable[[Stand, Path], None]


# graphs edited


def as_written(_: Graph) -> None:
    """The file as bertx writes it."""


def nodes_renamed(g: Graph) -> None:
    for index, node in enumerate(g.nodes):
        node.name = f"n{index}"
        node.doc_string = "odd"
    g.model.producer_name = "somebody"


def values_renamed(g: Graph) -> None:
    """Every inner value gets another name; taps, which are names, are dropped."""
    kept = {each.name for each in (*g.model.graph.input, *g.model.graph.output)}
    names = {v: f"v{k}" for k, v in enumerate(v for n in g.nodes for v in n.output if v and v not in kept)}
    for node in g.nodes:
        node.input[:] = [names.get(value, value) for value in node.input]
        node.output[:] = [names.get(value, value) for value in node.output]
    taps_forgotten(as_written)(g)


def inputs_renamed(g: Graph) -> None:
    for value in g.model.graph.input:
        g.rewire(value.name, f"in.{value.name}")
        value.name = f"in.{value.name}"


def constants_as_nodes(g: Graph) -> None:
    for each in list(g.model.graph.initializer):
        if each.dims and np.prod(each.dims) > 8:
            continue
        g.model.graph.initializer.remove(each)
        g.model.graph.node.insert(0, onnx.helper.make_node("Constant", [], [each.name], value=each))


def identities(g: Graph) -> None:
    for node in g.of("MatMul"):
        g.after(node.output[0], lambda value: g.add("Identity", value))


def weights_turned(g: Graph) -> None:
    """Matrices kept the other way round and transposed when the program runs."""
    names = set(g.arrays())
    for node in g.of("MatMul"):
        if node.input[1] in names and g.array(node.input[1]).ndim == 2:
            turned = g.constant(g.array(node.input[1]).T.copy())
            node.input[1] = g.add("Transpose", turned, perm=[1, 0])


def table_in_halves(g: Graph, alter: Callable[[Array], Array] = lambda table: table) -> None:
    """The word embeddings kept in two parts, which are put together when the program runs."""
    node = next((n for n in g.of("Gather") if n.input[1] == "input_ids" and n.input[0] in g.arrays()), None)
    if node is None:
        raise Inapplicable("ids look nothing up")
    one, other = np.array_split(alter(g.array(node.input[0])), 2)
    node.input[0] = g.add("Concat", g.constant(one), g.constant(other), axis=0)


def constants_duplicated(g: Graph) -> None:
    names = set(g.arrays())
    for node in g.of("Add", "Mul", "Div"):
        for index, value in enumerate(node.input):
            if value in names:
                node.input[index] = g.constant(g.array(value))


def taps_as_outputs(g: Graph) -> None:
    present = {each.name for each in g.model.graph.output}
    for value in g.taps.values():
        if value not in present:
            g.model.graph.output.append(onnx.helper.make_tensor_value_info(value, 1, None))


def foreign_output(g: Graph) -> None:
    counted = g.add("ReduceSum", "attention_mask", g.constant([1], np.int64), keepdims=0)
    g.add("Identity", counted, to="lengths")
    g.model.graph.output.append(onnx.helper.make_tensor_value_info("lengths", 7, ["batch"]))


def padding_zeroed(g: Graph) -> None:
    name = g.model.graph.output[0].name
    if len(g.stand.broad.specs[name].shape) != 3:
        raise Inapplicable("no output per token")
    mask = g.add("Unsqueeze", g.cast("attention_mask", 1), g.constant([-1], np.int64))
    users = g.users(name)
    if users:
        raise Inapplicable("others read this output")
    g.after(name, lambda value: g.add("Mul", value, mask))


def softmax_spelt_out(g: Graph) -> None:
    """exp(x - max) over its sum."""
    for node in g.of("Softmax"):
        axis = g.constant([-1], np.int64)
        x = node.input[0]

        def build(_: str, x: str = x, axis: str = axis) -> str:
            powers = g.add("Exp", g.add("Sub", x, g.add("ReduceMax", x, axis, keepdims=1)))
            return g.add("Div", powers, g.add("ReduceSum", powers, axis, keepdims=1))

        g.after(node.output[0], build)


def norms_spelt_out(g: Graph) -> None:
    """LayerNorm as mean, variance and division."""
    for node in g.of("LayerNormalization"):
        epsilon = next(each.f for each in node.attribute if each.name == "epsilon")
        x, weight, *bias = node.input

        def build(_: str, x: str = x, weight: str = weight, bias: list[str] = bias, epsilon: float = epsilon) -> str:
            axis = g.constant([-1], np.int64)
            centred = g.add("Sub", x, g.add("ReduceMean", x, axis, keepdims=1))
            variance = g.add("ReduceMean", g.add("Mul", centred, centred), axis, keepdims=1)
            root = g.add("Sqrt", g.add("Add", variance, g.constant(epsilon, np.float32)))
            scaled = g.add("Mul", g.add("Div", centred, root), weight)
            return g.add("Add", scaled, *bias) if bias else scaled

        g.after(node.output[0], build)


def mask_of_ten_thousand(g: Graph) -> None:
    """-10000 in the place of the lowest number, as models of old have it."""
    names = g.arrays()
    lowest = [name for name, value in names.items() if value.dtype == np.float32 and value.size == 1 and value < -1e30]
    if not lowest:
        raise Inapplicable("no lowest number")
    for name in lowest:
        g.set(name, np.full_like(names[name], -1e4))


def products_in_float64(g: Graph) -> None:
    for node in g.of("MatMul"):
        node.input[0], node.input[1] = g.cast(node.input[0], 11), g.cast(node.input[1], 11)
        g.after(node.output[0], lambda value: g.cast(value, 1))


def additions_turned(g: Graph) -> None:
    """Operands change places, but for numbers such as an epsilon: see `epsilon_first` among the wrong ones."""
    numbers = {name for name, value in g.arrays().items() if value.size == 1}
    for node in g.of("Add"):
        if not numbers & set(node.input):
            node.input[0], node.input[1] = node.input[1], node.input[0]


def scale_in_the_query(g: Graph) -> None:
    """The query is multiplied by the scale, not the product of query and key."""
    for softmax in g.of("Softmax"):
        added = g.producer(softmax.input[0])
        scaled = g.producer(added.input[0])
        if scaled.op_type != "Mul":
            raise Inapplicable("no scale behind the product")
        product = g.producer(scaled.input[0])
        product.input[0] = g.add("Mul", product.input[0], scaled.input[1])
        g.after(scaled.output[0], lambda _, product=product: product.output[0])  # type: ignore[misc]


EDITED: Mapping[str, Change] = {
    "as-written": as_written,
    "nodes-renamed": nodes_renamed,
    "values-renamed": values_renamed,
    "inputs-renamed": inputs_renamed,
    "constants-as-nodes": constants_as_nodes,
    "identities": identities,
    "weights-turned": weights_turned,
    "table-in-halves": table_in_halves,
    "constants-duplicated": constants_duplicated,
    "taps-as-outputs": taps_as_outputs,
    "foreign-output": foreign_output,
    "padding-zeroed": padding_zeroed,
    "softmax-spelt-out": softmax_spelt_out,
    "norms-spelt-out": norms_spelt_out,
    "mask-of-ten-thousand": mask_of_ten_thousand,
    "products-in-float64": products_in_float64,
    "additions-turned": additions_turned,
    "scale-in-the-query": scale_in_the_query,
}


# files written another way


def optimised(level: str) -> Make:
    """Optimised offline by ONNX Runtime itself, at a level whose result is a plain ONNX file."""

    def make(stand: Stand, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 4
        onnxruntime.InferenceSession(str(stand.right("onnx")), options, providers=["CPUExecutionProvider"])

    return make


def external_data(stand: Stand, path: Path) -> None:
    onnx.save(
        onnx.load(str(stand.right("onnx"))),
        str(path),
        save_as_external_data=True,
        location="model.onnx_data",
        size_threshold=100,  # ONNX Runtime wants shapes and axes inside the file
    )


def opset(version: int) -> Make:
    return lambda stand, path: _written(stand, "onnx", path, ExportOptions(opset=version))


def _written(stand: Stand, kind: str, path: Path, options: ExportOptions | None = None) -> None:
    stand.write(kind, path, options)


def attention(kind: str, implementation: str) -> Make:
    """Exported from another implementation of attention than bertx chooses."""

    def make(stand: Stand, path: Path) -> None:
        strict = loading.load
        with patch.object(loading, "load", lambda *a, **k: strict(*a, **{**k, "attention": implementation})):
            stand.write(kind, path)

    return make


def copied(stand: Stand, path: Path) -> None:
    path.write_bytes(stand.right("torchscript").read_bytes())


def frozen(stand: Stand, path: Path) -> None:
    """Weights folded into the program; the method that gives the taps is gone."""
    module = torch.jit.load(str(stand.right("torchscript"))).eval()
    torch.jit.save(torch.jit.freeze(module), str(path))


def frozen_with_taps(stand: Stand, path: Path) -> None:
    module = torch.jit.load(str(stand.right("torchscript"))).eval()
    torch.jit.save(torch.jit.freeze(module, preserved_attrs=["hidden_states"]), str(path))


def plain_trace(stand: Stand, path: Path) -> None:
    """The stock model traced as it is, without bertx's wrapper."""
    if stand.task.name != "feature-extraction":
        raise Inapplicable("its output needs more than the stock model")
    model = loading.load(stand.checkpoint, stand.task, attention="sdpa").model
    names = tuple(stand.quick.cases[0].inputs)

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *given: Any) -> Any:
            return self.model(**dict(zip(names, given, strict=True))).last_hidden_state

    samples = tuple(torch.from_numpy(value) for value in next(
        case for case in stand.quick.cases if case.name == "holes").inputs.values())  # fmt: skip
    with torch.no_grad():
        torch.jit.save(torch.jit.trace(Plain(), samples, check_trace=False), str(path))


WRITTEN: Mapping[str, tuple[str, Make]] = {
    "optimised-basic": ("onnx", optimised("ORT_ENABLE_BASIC")),
    "optimised-extended": ("onnx", optimised("ORT_ENABLE_EXTENDED")),
    "external-data": ("onnx", external_data),
    "trace-as-written": ("torchscript", copied),
    "trace-frozen": ("torchscript", frozen),
    "trace-frozen-with-taps": ("torchscript", frozen_with_taps),
    "trace-of-eager-attention": ("torchscript", attention("torchscript", "eager")),
    "trace-without-wrapper": ("torchscript", plain_trace),
}

#: slow to write: for the stands named
SLOW: Mapping[str, tuple[tuple[str, ...], str, Make]] = {
    "opset-20": (("bert", "distilbert-classifier"), "onnx", opset(20)),
    "opset-21": (("roberta", "bert-sentences"), "onnx", opset(21)),
    "sdpa-attention": (("bert", "electra"), "onnx", attention("onnx", "sdpa")),
}
