"""rten and tract, which have not all of ONNX: what they lack is said and is nobody's failure; what they have is right.

Small files made here, a few lines of graph each. They are tested where they are built (`make native`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertx.cli.options import cache_folder
from bertx.runtimes import Job, runtime_named
from bertx.runtimes.native import Native
from bertx.runtimes.process import Ended, Limits, run, unsupported
from bertx.runtimes.protocol import read_tensors, write_cases
from bertx.signature import Signature, TensorSpec
from families import make
from program import Ran, ready_or_skip

INPUT = TensorSpec("input_ids", "int64", ("batch", "sequence"))
OUTPUT = TensorSpec("last_hidden_state", "float32", ("batch", "sequence"))
#: (operator, its inputs, its attributes), each named by its output
Steps = dict[str, tuple[str, list[str], dict[str, Any]]]

#: the positions that RoBERTa counts, padding (id 1) left out
POSITIONS: Steps = {
    "padding": ("Equal", ["input_ids", "one"], {}),
    "token": ("Not", ["padding"], {}),
    "narrow": ("Cast", ["token"], {"to": 6}),
    "wide": ("Cast", ["narrow"], {"to": 7}),
    "counted": ("CumSum", ["wide", "one"], {}),
    "last_hidden_state": ("Cast", ["counted"], {"to": 1}),
}
#: the last of each row, or its third where it is longer: looked up by a size, as DeBERTa does
LOOKED_UP: Steps = {
    "shape": ("Shape", ["input_ids"], {}),
    "length": ("Shape", ["input_ids"], {"start": 1}),
    "most": ("Min", ["length", "three"], {}),
    "place": ("Sub", ["most", "one"], {}),
    "places": ("Expand", ["place", "shape"], {}),
    "values": ("Cast", ["input_ids"], {"to": 1}),
    "last_hidden_state": ("GatherElements", ["values", "places"], {"axis": 1}),
}
#: an operator of ONNX that neither has
UNKNOWN: Steps = {
    "values": ("Cast", ["input_ids"], {"to": 1}),
    "square": ("Unsqueeze", ["values", "twice"], {}),
    "last_hidden_state": ("Det", ["square"], {}),
}
#: a place beyond the end of a row
BEYOND: Steps = {
    "values": ("Cast", ["input_ids"], {"to": 1}),
    "last_hidden_state": ("GatherElements", ["values", "input_ids"], {"axis": 1}),
}


@pytest.fixture(params=["rten", "tract"])
def native(request: pytest.FixtureRequest) -> Native:
    found: Native = ready_or_skip(runtime_named(request.param).at(cache_folder()))
    return found


def written(path: Path, steps: Steps) -> Path:
    """An ONNX file of a few operators, from input_ids to last_hidden_state."""
    import onnx
    from onnx import TensorProto, helper

    numbers = {"one": [1], "three": [3], "twice": [-2, -1]}
    taken = {name for _, inputs, _ in steps.values() for name in inputs}
    graph = helper.make_graph(
        [helper.make_node(kind, inputs, [name], **more) for name, (kind, inputs, more) in steps.items()],
        "steps",
        [helper.make_tensor_value_info(INPUT.name, TensorProto.INT64, INPUT.shape)],
        [helper.make_tensor_value_info(OUTPUT.name, TensorProto.FLOAT, OUTPUT.shape)],
        [
            # CumSum wants its axis as a number alone.
            helper.make_tensor(name, TensorProto.INT64, [] if steps is POSITIONS else [len(values)], values)
            for name, values in numbers.items()
            if name in taken
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def ran(native: Native, artifact: Path, rows: Sequence[Sequence[int]]) -> tuple[Ended, Job]:
    job = Job(artifact, artifact.with_name("cases"), artifact.with_name("out"), "cpu")
    cases = {"one": {INPUT.name: np.array(rows, dtype=np.int64)}}
    write_cases(job.inputs, cases, Signature((INPUT,), (OUTPUT,)), "feature-extraction", "float32")
    return run(native.command(job), Limits(60)), job


def computed(native: Native, artifact: Path, rows: Sequence[Sequence[int]]) -> Any:
    ended, job = ran(native, artifact, rows)
    assert ended.reason is None
    return read_tensors(job.outputs).arrays["one"][OUTPUT.name].tolist()


def test_positions_are_counted(native: Native, tmp_path: Path) -> None:
    artifact = written(tmp_path / "model.onnx", POSITIONS)
    assert computed(native, artifact, [[7, 7, 1, 7], [1, 1, 7, 1]]) == [[1, 2, 2, 3], [0, 0, 1, 1]]


def test_what_is_looked_up_by_a_size_is_found(native: Native, tmp_path: Path) -> None:
    artifact = written(tmp_path / "model.onnx", LOOKED_UP)
    assert computed(native, artifact, [[5, 6]]) == [[6, 6]]
    assert computed(native, artifact, [[5, 6, 7, 8]]) == [[7, 7, 7, 7]]


def test_an_operator_that_its_library_lacks_is_named(native: Native, tmp_path: Path) -> None:
    ended, job = ran(native, written(tmp_path / "model.onnx", UNKNOWN), [[5, 6]])
    assert "Det" in (unsupported(ended) or ""), ended.reason
    assert not job.outputs.exists()


def test_a_file_that_was_cut_off_lacks_nothing_and_fails(native: Native, tmp_path: Path) -> None:
    artifact = written(tmp_path / "model.onnx", UNKNOWN)
    artifact.write_bytes(artifact.read_bytes()[:-20])
    ended, _ = ran(native, artifact, [[5, 6]])
    assert (ended.exit_code, unsupported(ended)) == (1, None)


def test_what_goes_wrong_in_a_case_is_a_failure(native: Native, tmp_path: Path) -> None:
    ended, _ = ran(native, written(tmp_path / "model.onnx", BEYOND), [[5, 6]])
    assert (ended.exit_code, unsupported(ended)) == (1, None), ended.reason


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("bert", tmp_path_factory.mktemp("small") / "model")


@pytest.fixture(scope="module")
def bundle(bertx: Callable[..., Ran], model: Path) -> Path:
    folder = model.with_name("bundle")
    assert bertx("to-onnx", model, "-o", folder, "--no-verify").code == 0
    return folder


def ending(bundle: Path, path: Path, steps: Sequence[tuple[str, list[int]]]) -> Path:
    """A bundle's ONNX file with operators at the end of its first output, each with some numbers as second input."""
    import onnx
    from onnx import TensorProto, helper

    file = onnx.load(bundle / "onnx" / "model.onnx")
    graph, name = file.graph, file.graph.output[0].name
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = ["step 0" if each == name else each for each in names]
    for k, (kind, numbers) in enumerate(steps):
        inputs = [f"step {k}", *([f"numbers {k}"] if numbers else [])]
        made = name if k + 1 == len(steps) else f"step {k + 1}"
        graph.initializer.append(helper.make_tensor(f"numbers {k}", TensorProto.INT64, [len(numbers)], numbers))
        graph.node.append(helper.make_node(kind, inputs, [made]))
    onnx.save(file, path)
    return path


@pytest.fixture(scope="module")
def odd(bundle: Path) -> Path:
    """Right, and unknown to both: it ends with Det, of matrices of one number."""
    return ending(bundle, bundle / "onnx" / "odd.onnx", [("Unsqueeze", [-2, -1]), ("Det", [])])


@pytest.fixture(scope="module")
def by_default(bertx: Callable[..., Ran], model: Path, odd: Path, built: dict[str, str]) -> Ran:
    return bertx("verify", odd, "--against", model, "--json", **built)


def test_a_right_file_passes_where_nobody_named_the_program_that_lacks_an_operator(
    native: Native, by_default: Ran
) -> None:
    found = {each["runtime"]: each for each in by_default.json["results"]}
    assert (by_default.code, found["onnxruntime"]["verdict"]) == (0, "pass"), by_default.err
    assert found[native.name]["verdict"] == "not-run"
    assert found[native.name]["reason"].startswith(f"not supported: {native.name}: ")


def test_it_is_not_compared_where_somebody_did(
    native: Native, bertx: Callable[..., Ran], model: Path, odd: Path, built: dict[str, str]
) -> None:
    named = ("--runtime", native.name, "--runtime", "onnxruntime")
    answer = bertx("verify", odd, "--against", model, "--json", *named, **built)
    assert answer.code == 6
    assert answer.err.startswith(f"bertx: error[E_UNSUPPORTED]: odd.onnx was not compared in {native.name}: ")


def test_a_wrong_file_is_failed_by_another_where_a_program_calls_it_unsupported(
    bertx: Callable[..., Ran], model: Path, bundle: Path, built: dict[str, str]
) -> None:
    ready_or_skip(runtime_named("tract").at(cache_folder()))
    fixed = ending(bundle, bundle / "onnx" / "fixed.onnx", [("Reshape", [2, 7, 32])])
    answer = bertx("verify", fixed, "--against", model, "--json", **built)
    found = {each["runtime"]: each["verdict"] for each in answer.json["results"]}
    assert (found["tract"], found["onnxruntime"], answer.code) == ("not-run", "fail", 1)


def test_trying_it_there_is_a_problem_of_the_program_and_not_of_the_file(
    native: Native, bertx: Callable[..., Ran], odd: Path, built: dict[str, str]
) -> None:
    answer = bertx("try", odd, "a text", "another", "--runtime", native.name, **built)
    assert answer.code == 5
    assert answer.err.startswith(f"bertx: error[E_RUNTIME]: {native.name} does not run odd.onnx: {native.name}: ")
