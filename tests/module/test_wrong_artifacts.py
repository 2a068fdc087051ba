"""Wrong artifacts of a plain module fail and say why, right ones that look odd pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import bertx
from bertx.formats import ExportOptions, format_named
from bertx.model.plain import samples_for_export, source, take
from bertx.parity.report import Result
from bertx.parity.verify import VerifyOptions
from bertx.signature import TensorSpec
from module.conftest import DYNAMIC, SAMPLES, Made, Net, trained

MAP = (TensorSpec("map", "float32", ("batch", 4, "height", "width")),)
BOTH = (*MAP, TensorSpec("means", "float32", ("batch", 4)))

Change = Callable[[onnx.ModelProto], None]


def initializer(model: onnx.ModelProto, wanted: Callable[[np.ndarray], bool]) -> Any:
    return next(each for each in model.graph.initializer if wanted(numpy_helper.to_array(each)))


def weight(model: onnx.ModelProto) -> None:
    """One element of one kernel."""
    tensor = initializer(model, lambda array: array.ndim == 4)
    array = numpy_helper.to_array(tensor).copy()
    array[1, 2, 0, 1] += 1e-2
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def swapped(model: onnx.ModelProto) -> None:
    """Two inputs of one shape, each under the other's name."""
    other = {"a": "b", "b": "a"}
    for node in model.graph.node:
        node.input[:] = [other.get(name, name) for name in node.input]


def padding(model: onnx.ModelProto) -> None:
    """Edges repeated where they are to be mirrored."""
    (node,) = [node for node in model.graph.node if node.op_type == "Pad"]
    (mode,) = [attribute for attribute in node.attribute if attribute.name == "mode"]
    mode.s = b"edge"


def activation(model: onnx.ModelProto) -> None:
    next(node for node in model.graph.node if node.op_type == "Tanh").op_type = "Sigmoid"


def outputs_swapped(model: onnx.ModelProto) -> None:
    """A bias more, on one output alone."""
    last = next(node for node in model.graph.node if "means" in node.output)
    last.output[list(last.output).index("means")] = "means.before"
    model.graph.initializer.append(numpy_helper.from_array(np.full((4,), 1e-4, np.float32), "more"))
    model.graph.node.append(onnx.helper.make_node("Add", ["means.before", "more"], ["means"]))


def static(model: onnx.ModelProto) -> None:
    """The sample's batch, declared."""
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 2


def fixed(model: onnx.ModelProto) -> None:
    """A batch that no recorded case has, declared."""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 5


def fixed_wrong(model: onnx.ModelProto) -> None:
    """The same, and one element of one kernel."""
    fixed(model)
    weight(model)


def first_row(model: onnx.ModelProto) -> None:
    """The same, and the first image for all."""
    fixed(model)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(5, np.int64), "first"))
    for node in model.graph.node:
        node.input[:] = ["a.first" if name == "a" else name for name in node.input]
    model.graph.node.insert(0, onnx.helper.make_node("Gather", ["a", "first"], ["a.first"], axis=0))


def rounded(model: onnx.ModelProto) -> None:
    """Weights that were float16 once."""
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            kept = array.astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(kept, tensor.name))


def half(model: onnx.ModelProto) -> None:
    """float16 arithmetic in front of a float32 output."""
    last = next(node for node in model.graph.node if "map" in node.output)
    last.output[list(last.output).index("map")] = "map.wide"
    model.graph.node.append(onnx.helper.make_node("Cast", ["map.wide"], ["map.half"], to=onnx.TensorProto.FLOAT16))
    model.graph.node.append(onnx.helper.make_node("Cast", ["map.half"], ["map"], to=onnx.TensorProto.FLOAT))


def renamed(model: onnx.ModelProto) -> None:
    """Right: other names of nodes, and an output more."""
    for k, node in enumerate(model.graph.node):
        node.name = f"step_{k}"
    model.graph.output.append(onnx.ValueInfoProto(name=model.graph.node[0].output[0]))


def reordered(model: onnx.ModelProto) -> None:
    """Right: inputs and outputs in another order, by the same names."""
    for values in (model.graph.input, model.graph.output):
        kept = list(values)[::-1]
        del values[:]
        values.extend(kept)


WRONG: tuple[Change, ...] = (
    weight,
    swapped,
    padding,
    activation,
    outputs_swapped,
    rounded,
    half,
    fixed_wrong,
    first_row,
)
RIGHT: tuple[Change, ...] = (renamed, reordered)


class Baked(Net):
    """Its batch is what it was when it was traced."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> dict[str, torch.Tensor]:
        found = super().forward(a, b)
        return {**found, "map": found["map"][: int(a.shape[0])].reshape(2, -1, *found["map"].shape[1:]).flatten(0, 1)}


class ZeroPadded(Net):
    """Zeros at the edges where they are to be mirrored."""

    def __init__(self) -> None:
        super().__init__()
        self.left.padding_mode = "zeros"


def traced(net: Net, path: Path, *, train: bool = False) -> None:
    """A TorchScript file of a net's map, traced as anybody would."""

    class OnlyMap(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return self.net(a, b)["map"]

    module = OnlyMap().train(train)
    with torch.no_grad():
        torch.jit.trace(module, tuple(SAMPLES.values()), check_trace=False).save(str(path))


def like(made: Made, net: Net) -> Net:
    net.load_state_dict(made.net.state_dict())
    return net.eval()


@pytest.fixture(scope="module")
def found(made: Made, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """{file: the verdict on it}, of all wrong and odd files together."""
    folder = tmp_path_factory.mktemp("wrong")
    for change in (*WRONG, *RIGHT, static, fixed):
        model = onnx.load(str(made.folder / "onnx" / "model.onnx"))
        change(model)
        onnx.save(model, str(folder / f"{change.__name__}.onnx"))
    plain = take(made.net, SAMPLES, DYNAMIC)
    later = source(plain, BOTH, "float32", samples_for_export(plain))
    format_named("onnx").write_module(later, ExportOptions(opset=20, external_data=True), folder / "later.onnx")
    traced(like(made, trained()), folder / "statistics.pt", train=True)
    traced(like(made, ZeroPadded()), folder / "zeros.pt")
    traced(like(made, Baked()), folder / "baked.pt")
    traced(like(made, Net()), folder / "plain.pt")
    options = VerifyOptions(
        runtimes=made.options.runtimes, device="cpu", cache=made.options.cache, trust=True, dtype="float32"
    )
    report = bertx.verify(folder, made.folder / "parity", options=options).report
    return {result.artifact.partition(".")[0]: result for result in report.results}


@pytest.mark.parametrize("name", [change.__name__ for change in WRONG] + ["statistics", "zeros", "baked"])
def test_a_wrong_file_fails(name: str, found: dict[str, Result]) -> None:
    assert found[name].verdict == "fail"
    assert found[name].cause


@pytest.mark.parametrize("name", [change.__name__ for change in RIGHT] + ["later", "plain"])
def test_a_right_file_that_looks_odd_passes(name: str, found: dict[str, Result]) -> None:
    assert (found[name].verdict, found[name].cause, found[name].reason) == ("pass", None, None)


def test_a_file_that_fixes_the_batch_is_not_said_to_pass(found: dict[str, Result]) -> None:
    assert found["static"].static == {"batch": 2}  # what a report says pass of only where --allow-static is given


def test_a_file_that_fixes_a_batch_of_its_own_is_judged_by_the_recorded_rows(found: dict[str, Result]) -> None:
    result = found["fixed"]
    assert (result.verdict, result.static) == ("pass", {"batch": 5})
    assert len(result.outputs[0].cases) > 10


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("statistics", "something is computed over the batch"),
        ("zeros", "another padding"),
        ("padding", "another padding"),
        ("half", "float16"),
        ("baked", "the runner failed"),
    ],
)
def test_a_failure_names_its_cause(name: str, words: str, found: dict[str, Result]) -> None:
    assert words in str(found[name].cause)
