"""Runners in C++, Go, Java and JavaScript compute what is asked, or say in one line what is wrong.

Small files made here, a few lines of graph each. They are tested where they are built (`make native`).
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertx.cli.options import cache_folder
from bertx.runtimes import Job, registry
from bertx.runtimes.native import Native
from bertx.runtimes.protocol import read_tensors, write_cases
from bertx.signature import Signature, TensorSpec
from program import ready_or_skip

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")

#: the programs that check all of this alike; those in Rust have their own rules (rten takes int32, say)
NATIVE = [
    each.at(cache_folder())
    for each in registry().values()
    if isinstance(each, Native) and each.language in ("cpp", "go", "java", "node")
]
NAMES = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True)
class Model:
    """A model that weighs its inputs, so that an exchange shows: ids + 10 mask + 100 segments, (batch, sequence, 1)."""

    inputs: str = "int64"
    output: str = "float32"
    names: tuple[str, ...] = NAMES


@dataclass(frozen=True)
class Ended:
    code: int
    lines: list[str]
    outputs: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)


@pytest.fixture(params=NATIVE, ids=lambda runtime: runtime.name)
def native(request: pytest.FixtureRequest) -> Native:
    """Each native runtime that is built; the others are skipped with what they lack."""
    found: Native = ready_or_skip(request.param)
    return found


@pytest.fixture
def ask(native: Native, tmp_path: Path) -> Callable[..., Ended]:
    """Runs the runner on a model and two cases, whose inputs are those named; what it said and gave."""

    def run(
        model: Model, inputs: tuple[str, ...] = NAMES, device: str = "cpu", width: int = 1, more: tuple[str, ...] = ()
    ) -> Ended:
        (kind,) = native.reads
        job = Job(_made(kind, model, tmp_path), tmp_path / "cases", tmp_path / "out", device)
        specs = tuple(TensorSpec(name, "int64", ("batch", "sequence")) for name in NAMES)
        output = TensorSpec("last_hidden_state", "float32", ("batch", "sequence", width))
        cases = {name: {each: _array(each, *shape) for each in inputs} for name, shape in SHAPES.items()}
        write_cases(job.inputs, cases, Signature(specs, (output,)), "feature-extraction", "float32")
        ended = subprocess.run([*native.command(job), *more], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if ended.returncode:
            assert not job.outputs.exists()
            return Ended(ended.returncode, ended.stderr.splitlines())
        made = read_tensors(job.outputs)
        return Ended(0, ended.stderr.splitlines(), dict(made.arrays), dict(made.metadata))

    return run


SHAPES = {"one": (1, 5), "two": (2, 3)}


def _array(name: str, batch: int, sequence: int) -> Any:
    return np.arange(1, 1 + batch * sequence, dtype=np.int64).reshape(batch, sequence) + NAMES.index(name)


def _made(kind: str, model: Model, folder: Path) -> Path:
    return _onnx(model, folder / "model.onnx") if kind == "onnx" else _torchscript(model, folder / "model.pt")


def _onnx(model: Model, path: Path) -> Path:
    import onnx
    from onnx import TensorProto, helper

    types = {"int64": TensorProto.INT64, "int32": TensorProto.INT32}
    types |= {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}
    constants = {"ten": 10, "hundred": 100}
    named = zip(model.names, NAMES, strict=True)
    nodes = [helper.make_node("Cast", [theirs], [f"{ours}_"], to=TensorProto.INT64) for theirs, ours in named]
    nodes += [
        helper.make_node("Mul", ["attention_mask_", "ten"], ["tens"]),
        helper.make_node("Mul", ["token_type_ids_", "hundred"], ["hundreds"]),
        helper.make_node("Sum", ["ids", "tens_", "hundreds_"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["cast"], to=types[model.output]),
        helper.make_node("Unsqueeze", ["cast", "axes"], ["last_hidden_state"]),
    ]
    floats = {"input_ids_": "ids", "tens": "tens_", "hundreds": "hundreds_"}
    nodes[5:5] = [helper.make_node("Cast", [a], [b], to=TensorProto.FLOAT) for a, b in floats.items()]
    shape = ["batch", "sequence"]
    graph = helper.make_graph(
        nodes,
        "weighed",
        [helper.make_tensor_value_info(name, types[model.inputs], shape) for name in model.names],
        [helper.make_tensor_value_info("last_hidden_state", types[model.output], [*shape, 1])],
        [
            helper.make_tensor("axes", TensorProto.INT64, [1], [-1]),
            *(helper.make_tensor(name, TensorProto.INT64, [], [value]) for name, value in constants.items()),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def _torchscript(model: Model, path: Path) -> Path:
    import torch

    class Weighed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = torch.nn.Parameter(torch.ones(1, dtype=getattr(torch, model.output)))

        def forward(
            self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
        ) -> torch.Tensor:
            return (input_ids + 10 * attention_mask + 100 * token_type_ids).unsqueeze(-1) * self.one

    ids = torch.ones(1, 2, dtype=torch.long)
    torch.jit.trace(Weighed().eval(), (ids, ids, ids)).save(str(path))
    return path


def test_every_case_is_answered_with_its_own_inputs(native: Native, ask: Callable[..., Ended]) -> None:
    ended = ask(Model())
    assert (ended.code, ended.lines, set(ended.outputs)) == (0, [], set(SHAPES))
    for name, shape in SHAPES.items():
        expected = sum(10**k * _array(each, *shape) for k, each in enumerate(NAMES))
        np.testing.assert_array_equal(ended.outputs[name]["last_hidden_state"], expected[..., None])
    assert (ended.metadata["device"], ended.metadata["dtype"]) == ("cpu", "float32")
    assert all(ended.metadata[key] for key in ("runtime", "version", "provider", "seconds"))


def test_a_file_with_names_of_its_own_is_fed_in_the_order_of_the_cases(
    native: Native, ask: Callable[..., Ended]
) -> None:
    if "onnx" not in native.reads:
        pytest.skip("a TorchScript file takes its inputs by position anyway")
    ended = ask(Model(names=("z", "y", "x")))
    assert (ended.code, ended.lines) == (0, [])
    expected = sum(10**k * _array(each, *SHAPES["two"]) for k, each in enumerate(NAMES))
    np.testing.assert_array_equal(ended.outputs["two"]["last_hidden_state"], expected[..., None])


def test_a_dtype_other_than_the_claimed_is_named(ask: Callable[..., Ended]) -> None:
    ended = ask(Model(output="float16"))
    assert ended.code not in (0, 5)
    assert len(ended.lines) == 1
    assert "float16 where float32 is claimed" in ended.lines[0]


def test_inputs_of_another_dtype_are_not_converted(native: Native, ask: Callable[..., Ended]) -> None:
    if "onnx" not in native.reads:
        pytest.skip("a TorchScript file states no dtypes of inputs")
    ended = ask(Model(inputs="int32"))
    assert ended.code not in (0, 5)
    assert len(ended.lines) == 1
    assert "int32" in ended.lines[0]


def test_an_input_that_the_cases_lack_is_named(ask: Callable[..., Ended]) -> None:
    ended = ask(Model(), inputs=("input_ids", "attention_mask"))
    assert ended.code not in (0, 5)
    assert len(ended.lines) == 1
    assert "token_type_ids" in ended.lines[0]


def test_a_shape_other_than_the_claimed_is_named(ask: Callable[..., Ended]) -> None:
    ended = ask(Model(), width=7)
    assert ended.code not in (0, 5)
    assert len(ended.lines) == 1
    assert "last_hidden_state has shape" in ended.lines[0]


def test_a_device_that_is_not_here_is_refused(ask: Callable[..., Ended]) -> None:
    ended = ask(Model(), device="cuda:63")
    assert ended.code == 5
    assert len(ended.lines) == 1
    assert ended.lines[0].startswith("E_DEVICE: ")
    assert ended.lines[0].endswith("; use --device cpu")


def test_texts_are_refused_where_it_takes_none(native: Native, ask: Callable[..., Ended]) -> None:
    if native.takes_texts:
        pytest.skip("test_native_texts.py has those that take texts")
    ended = ask(Model(), more=("--tokenizer", "tokenizer.json"))
    assert ended.code not in (0, 5)
    assert len(ended.lines) == 1
    assert "it takes no texts" in ended.lines[0]
