"""A failure names the part of the layer: provoked by artifacts that are wrong in one part, read from inside."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bertx.errors import InputRefused
from bertx.parity import stations
from bertx.parity.cases import Case
from bertx.parity.dissection import Probe, dissected
from bertx.parity.judge import Run
from bertx.parity.report import Result
from bertx.parity.stations import Stations
from bertx.runtimes.eager import EagerProgram
from bertx.runtimes.inside import Node, between
from bertx.runtimes.process import Limits
from bertx.runtimes.protocol import Tensors, read_tensors, write_outputs
from cli.documents import checked
from mutants.catalogue import catalogue
from mutants.stands import Stand, shared
from mutants.trial import PROGRAMS, made, run, verdict
from program import Ran

ALL = {mutant.label: mutant for mutant in catalogue()}

#: a plain export of the stock model by PyTorch's older exporter, which knows no LayerNormalization
FOREIGN = """
import torch
from transformers import AutoModel

class Plain(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = AutoModel.from_pretrained({source!r}, attn_implementation="eager").eval()

    def forward(self, input_ids, attention_mask, token_type_ids):
        found = self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        return found.last_hidden_state

names = ["input_ids", "attention_mask", "token_type_ids"]
axes = {{name: {{0: "batch", 1: "sequence"}} for name in [*names, "last_hidden_state"]}}
sample = tuple(torch.ones(2, 7, dtype=torch.long) for _ in names)
torch.onnx.export(Plain(), sample, {target!r}, input_names=names, output_names=["last_hidden_state"],
                  dynamic_axes=axes, opset_version=14, dynamo=False)
"""


class Here:
    """A stand's origin, as far as a diagnosis asks it: what verify has a process for is computed in this one."""

    def __init__(self, stand: Stand, folder: Path) -> None:
        self.stand, self.file = stand, folder / "stations"

    def stations(
        self, dtype: str, cases: Sequence[Case], boundary: int, device: str, limits: Limits
    ) -> Stations | None:
        stock = EagerProgram(dtype)
        stock.open(self.stand.checkpoint.folder / "model", device, {"task": self.stand.task.name})
        found, facts = stations.answers(stock, {case.name: case.inputs for case in cases}, boundary)
        write_outputs(self.file, found, {"stations": json.dumps(facts)})
        return stations.read(read_tensors(self.file))


def looked_at(label: str, folder: Path) -> Result:
    """The result of a mutant, after the look inside it."""
    mutant, stand = ALL[label], shared()[ALL[label].stand]
    with made(mutant, stand) as path:
        subject = stand.subject(mutant.format, path)
        result = verdict(subject, run(subject, stand.quick), stand.quick)

        def inner(cases: Sequence[Case], more: Mapping[str, str]) -> Run:
            program = PROGRAMS[mutant.format]()
            assert subject.signature is not None
            program.open(path, "cpu", {"signature": json.dumps(subject.signature.to_json()), "threads": "1", **more})
            arrays: dict[str, Any] = {}
            for case in cases:
                given = {**program.run(case.inputs), **program.taps(case.inputs)}
                arrays[case.name] = {name: np.asarray(value) for name, value in given.items()}
            return Run({}, Tensors(arrays, {}, program.facts()))

        probe = Probe(inner, stand.quick, Here(stand, folder), "float32", "cpu", Limits())  # type: ignore[arg-type]
        (found,) = dissected([result], lambda _: probe)
    assert (found.verdict, found.outputs, found.taps) == (result.verdict, result.outputs, result.taps)
    return found


@pytest.mark.parametrize(
    ("label", "layer", "part"),
    [
        ("bert/onnx/tanh-gelu", "encoder.layer.0", "intermediate.intermediate_act_fn"),
        ("bert/onnx/tanh-gelu-in-last-layer", "encoder.layer.2", "intermediate.intermediate_act_fn"),
        ("bert/onnx/scale-1-over-d", "encoder.layer.0", "attention.self.query"),
        ("bert/onnx/softmax-scale-halved", "encoder.layer.0", "the scores of attention.self"),
        ("bert/onnx/softmax-over-queries", "encoder.layer.0", "the softmax of attention.self"),
        ("bert/onnx/heads-not-moved-back", "encoder.layer.0", "attention.self"),
        ("bert/onnx/value-transposed", "encoder.layer.0", "attention.self.value"),
        ("bert/onnx/outer-bias-dropped", "encoder.layer.0", "output.dense"),
        ("bert/onnx/attention-residual-dropped", "encoder.layer.2", "the residual before attention.output.LayerNorm"),
        ("bert/onnx/feed-forward-residual-dropped", "encoder.layer.2", "the residual before output.LayerNorm"),
        ("bert/onnx/norm-before-adding", "encoder.layer.0", "the residual before attention.output.LayerNorm"),
        ("bert/onnx/epsilon-1e-5-in-last-norm", "encoder.layer.2", "output.LayerNorm"),
        ("bert/onnx/epsilon-1e-3", "embeddings", "LayerNorm"),
        ("bert/onnx/products-in-bfloat16", "encoder.layer.0", "attention.self"),
        # Files that name no layer boundary: those that are right are found by what they hold.
        ("bert/onnx/tanh-gelu-without-taps", "encoder.layer.0", "intermediate.intermediate_act_fn"),
        ("mpnet/onnx/softmax-scale-halved", "encoder.layer.0", "the scores of attention.attn"),
        ("bert/torchscript/module-tanh-gelu", "encoder.layer.0", "intermediate.intermediate_act_fn"),
        ("bert/torchscript/query-transposed", "encoder.layer.0", "attention.self.query"),
        # One operator computes scores, softmax and their product with the values: no more can be told.
        ("bert/torchscript/module-scaling-doubled", "encoder.layer.0", "attention.self"),
    ],
)  # fmt: skip
def test_the_part_of_the_layer_is_named_with_the_evidence(label: str, layer: str, part: str, tmp_path: Path) -> None:
    result = looked_at(label, tmp_path)
    found = result.first_bad_part
    assert found is not None
    assert (result.first_bad_layer, found.name) == (layer, part)
    assert part not in found.right
    assert not found.row.passed
    assert result.cause is not None
    assert f"; first bad: {layer}, in {part} (rms " in result.cause


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("bert/onnx/softmax-scale-halved", "the scores of attention.self (rms # of 3): their scale, or what is added"),
        ("bert/onnx/softmax-over-queries", "the softmax of attention.self (rms # of 3): its axis or its precision"),
        ("bert/onnx/mask-ignored", "the scores of attention.self (padding is not hidden in # places): their scale"),
        ("bert/onnx/mask-minus-10", "the scores of attention.self (padding is not hidden in # places): their scale"),
        ("bert/onnx/heads-not-moved-back", "attention.self (rms # of 3): how its parts are put together"),
        ("bert/onnx/tanh-gelu", "intermediate.intermediate_act_fn (rms # of 3): another function, or an approximated"),
        ("bert/onnx/epsilon-1e-5-in-last-norm", "output.LayerNorm (rms # of 3): its epsilon, weight, bias or"),
        ("bert/onnx/outer-bias-dropped", "output.dense (rms # of 3): its matrix, its bias or the precision of the"),
        ("bert/onnx/residual-doubled", "the residual before output.LayerNorm (rms # of 3): what is added up"),
    ],
)  # fmt: skip
def test_what_can_be_wrong_with_a_part_is_said(label: str, words: str, tmp_path: Path) -> None:
    told = (looked_at(label, tmp_path).cause or "").partition(", in ")[2]
    assert re.sub(r"\d[\d.e+]* ", "# ", told).startswith(words)


def test_a_layer_of_which_nothing_is_known_names_no_part(tmp_path: Path) -> None:
    result = looked_at("bert/onnx/last-layer-skipped", tmp_path)
    assert (result.first_bad_layer, result.first_bad_part) == ("encoder.layer.2", None)


def test_a_diagnosis_that_cannot_be_made_leaves_verdict_and_cause(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = looked_at("bert/onnx/value-transposed", tmp_path)

    def refuse(*_: Any) -> Stations:
        raise InputRefused("E_REFERENCE", "no module gives the layer boundary", "see docs/parity.md")

    monkeypatch.setattr(Here, "stations", refuse)
    result = looked_at("bert/onnx/value-transposed", tmp_path)
    assert (result.verdict, result.first_bad_part) == ("fail", None)
    assert (told.cause or "").startswith(f"{result.cause}; first bad: ")


def test_what_lies_between_two_values_is_what_both_depend_on() -> None:
    nodes = [
        Node("Identity", ("weight",), ("turned",)),
        Node("Log", ("mask",), ("bias",)),
        Node("MatMul", ("x", "earlier"), ("start",)),
        Node("MatMul", ("start", "turned"), ("product",)),
        Node("Add", ("product", "bias"), ("end",)),
        Node("Relu", ("product",), ("aside",)),
    ]
    found = between(nodes, ("x", "mask"), "start", ["end"], ("weight", "earlier"))
    assert [(node.kind, node.inputs, node.outputs) for node in found.nodes] == [
        ("MatMul", ("start", "constant.0"), ("inside.0",)),
        ("Add", ("inside.0", ""), ("inside.1",)),
    ]
    assert (dict(found.values), dict(found.constants)) == (
        {"inside.0": "product", "inside.1": "end"},
        {"constant.0": "turned"},
    )
    assert found.end == "inside.1"


def test_the_layer_of_a_file_that_names_none_is_told_where_no_part_is(tmp_path: Path) -> None:
    result = looked_at("bert/onnx/layer-skipped-without-taps", tmp_path)
    assert (result.first_bad_layer, result.first_bad_part) == ("encoder.layer.0", None)
    assert (result.cause or "").endswith("; first bad: encoder.layer.0")


@pytest.fixture(scope="module")
def exported(bertx: Callable[..., Ran], tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ran]:
    """The tiny checkpoint's ONNX file with its weights beside it, and how its export ended."""
    folder = tmp_path_factory.mktemp("part") / "out"
    ran = bertx("to-onnx", tiny, "-o", folder, "--external-data", "-v")
    assert ran.code == 0, ran.err
    return folder / "onnx" / "model.onnx", ran


def test_verify_names_the_part_in_report_and_error(
    bertx: Callable[..., Ran], exported: tuple[Path, Ran], tiny: Path, tmp_path: Path
) -> None:
    source, _ = exported
    model = onnx.load(source, load_external_data=False)
    norm = [node for node in model.graph.node if node.op_type == "LayerNormalization"][1]
    (epsilon,) = [each for each in norm.attribute if each.name == "epsilon"]
    epsilon.f = 1e-2
    (tmp_path / f"{source.name}_data").write_bytes(source.with_name(f"{source.name}_data").read_bytes())
    onnx.save(model, tmp_path / "model.onnx")
    ran = bertx("verify", tmp_path / "model.onnx", "--against", tiny, "--runtime", "onnxruntime", "--json")
    (result,) = checked(ran.json)["results"]
    assert ran.code == 1
    assert result["first_bad_layer"] == "encoder.layer.0"
    assert result["first_bad_part"]["name"] == "attention.output.LayerNorm"
    assert result["first_bad_part"]["right"][-1] == "the residual before attention.output.LayerNorm"
    assert "; first bad: encoder.layer.0, in attention.output.LayerNorm (rms " in ran.err


def test_a_file_of_another_exporter_names_layer_and_part(bertx: Callable[..., Ran], tiny: Path, tmp_path: Path) -> None:
    code = FOREIGN.format(source=str(tiny), target=str(tmp_path / "foreign.onnx"))
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True)
    model = onnx.load(tmp_path / "foreign.onnx")
    assert not [node for node in model.graph.node if node.op_type == "LayerNormalization"]
    [node for node in model.graph.node if node.op_type == "Erf"][1].op_type = "Tanh"
    onnx.save(model, tmp_path / "wrong.onnx")
    ran = bertx("verify", tmp_path / "wrong.onnx", "--against", tiny, "--runtime", "onnxruntime", "--json")
    (result,) = checked(ran.json)["results"]
    assert (ran.code, result["taps"], result["first_bad_layer"]) == (1, [], "encoder.layer.1")
    assert result["first_bad_part"]["name"] == "intermediate.intermediate_act_fn"


def test_what_passes_is_not_looked_into(exported: tuple[Path, Ran]) -> None:
    _, ran = exported
    assert "in onnxruntime: " in ran.err
    assert "looking inside" not in ran.err
