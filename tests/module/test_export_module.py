"""export_module: any nn.Module into a bundle, judged before it is published, and left as it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator
from safetensors.torch import load_file, save_file
from torch import nn

import bertx
from bertx.errors import InputRefused, ParityFailed, SourceUnavailable, UsageError
from bertx.parity.options import VerifyOptions
from bertx.runtimes import Foreign
from module.conftest import SAMPLES, Made, trained
from program import ROOT, Ran

RUNTIMES = ("--runtime", "torchscript", "--runtime", "onnxruntime")


def test_the_bundle_has_the_three_artifacts_and_their_golden_cases(made: Made) -> None:
    files = {path.relative_to(made.folder).as_posix() for path in made.folder.rglob("*") if path.is_file()}
    artifacts = {"model.safetensors", "torchscript/model.pt", "onnx/model.onnx"}
    assert files == {*artifacts, "parity/cases.safetensors", "parity/expected.safetensors", "bertx.json"}
    assert set(made.export.written) == artifacts


def test_the_manifest_fits_its_schema_and_says_what_it_is_of(made: Made) -> None:
    document = json.loads((made.folder / "bertx.json").read_text("utf-8"))
    schema = json.loads((ROOT / "docs" / "schemas" / "bundle.schema.json").read_text("utf-8"))
    Draft202012Validator(schema).validate(document)
    assert (document["task"], document["head"], document["source"]["checkpoint"]) == ("module", "Net", "Net")


def test_every_artifact_was_compared_with_the_module_at_every_output(made: Made) -> None:
    report = made.export.report.to_json()
    schema = json.loads((ROOT / "docs" / "schemas" / "report.schema.json").read_text("utf-8"))
    Draft202012Validator(schema).validate(report)
    assert (report["verdict"], report["reference"]["origin"], report["reference"]["pure"]) == ("pass", "module", True)
    compared = {r["runtime"]: [row["name"] for row in r["outputs"]] for r in report["results"]}
    assert compared == {"bytes": ["weights"], "torchscript": ["map"], "onnxruntime": ["map", "means"]}


def test_the_onnx_file_has_the_names_and_axes_that_were_given(made: Made) -> None:
    entry = next(entry for entry in made.export.manifest.artifacts if entry.format == "onnx")
    assert entry.signature is not None
    assert [spec.name for spec in (*entry.signature.inputs, *entry.signature.outputs)] == ["a", "b", "map", "means"]
    assert {spec.shape for spec in entry.signature.inputs} == {("batch", 3, "height", "width")}
    assert entry.signature.outputs[0].shape == ("batch", 4, "height", "width")


def test_the_module_stays_in_training_with_its_gradients_and_statistics(made: Made) -> None:
    fresh = trained()
    assert made.net.training and made.net.norm.training
    for name, value in made.net.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[name])
    for ours, theirs in zip(made.net.parameters(), fresh.parameters(), strict=True):
        assert ours.requires_grad and ours.grad is not None and torch.equal(ours.grad, theirs.grad)


def test_the_weights_are_the_modules_own_names_and_bytes(made: Made) -> None:
    held, own = load_file(made.folder / "model.safetensors"), made.net.state_dict()
    assert held.keys() == own.keys()
    assert all(torch.equal(held[name], own[name]) for name in own)


def test_a_bundle_verifies_again_without_its_module(bertx: Callable[..., Ran], made: Made) -> None:
    ran = bertx("verify", made.folder, *RUNTIMES, "--json", BERTX_CACHE=str(made.options.cache))
    assert (ran.code, ran.err) == (0, "")
    assert ran.json["reference"]["origin"] == "recorded"
    assert [(r["runtime"], r["verdict"]) for r in ran.json["results"]] == [
        ("bytes", "pass"),
        ("torchscript", "pass"),
        ("onnxruntime", "pass"),
    ]


def test_a_runtime_whose_program_cannot_be_fed_is_not_said_to_fail(made: Made) -> None:
    narrow = Foreign("narrow", ("false",), frozenset({"onnx"}), takes=frozenset({"int64"}))
    options = replace(made.options, runtimes=("onnxruntime",), runners=(narrow,))
    report = bertx.verify(made.folder / "onnx" / "model.onnx", options=options).report
    assert [(r.runtime, r.verdict) for r in report.results] == [("onnxruntime", "pass"), ("narrow", "not-run")]
    assert report.results[1].reason == "its program is fed int64, and a is float32"
    assert report.verdict == "incomplete"  # it was asked for by name


def test_inspect_says_what_it_is(bertx: Callable[..., Ran], made: Made) -> None:
    ran = bertx("inspect", made.folder, "--json")
    assert (ran.code, ran.json["task"], ran.json["architectures"]) == (0, "module", ["Net"])
    assert bertx("inspect", made.folder).code == 0


def test_no_checkpoint_can_be_exported_from_it(bertx: Callable[..., Ran], made: Made) -> None:
    ran = bertx("to-onnx", made.folder)
    assert ran.code == 3
    assert ran.err.startswith("bertx: error[E_MODULE]: net is of a plain module, Net")


def copied(made: Made, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made.folder, tmp_path / "copy"))


def test_golden_cases_that_were_changed_are_no_reference(made: Made, tmp_path: Path) -> None:
    folder = copied(made, tmp_path)
    shutil.copyfile(folder / "parity" / "cases.safetensors", folder / "parity" / "expected.safetensors")
    with pytest.raises(SourceUnavailable, match="is not the file that bertx"):
        bertx.verify(folder, options=made.options)


def test_weights_that_were_changed_fail(made: Made, tmp_path: Path) -> None:
    folder = copied(made, tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights["left.weight"][0, 0, 0, 0] += 1e-3
    save_file(weights, folder / "model.safetensors")
    found = bertx.verify(folder / "model.safetensors", options=made.options)
    assert (found.report.verdict, found.report.results[0].runtime) == ("fail", "bytes")


def test_the_same_module_may_be_added_to_and_another_one_may_not(
    made: Made, arguments: dict[str, Any], tmp_path: Path
) -> None:
    folder = copied(made, tmp_path)
    again = bertx.export_module(made.net, output=folder, formats=["safetensors"], **arguments)
    assert [entry.format for entry in again.manifest.artifacts] == ["safetensors", "torchscript", "onnx"]
    other = trained()
    other.norm.running_mean += 1
    with pytest.raises(InputRefused, match="holds other weights or cases of Net") as refused:
        bertx.export_module(other, output=folder, formats=["safetensors"], **arguments)
    assert refused.value.code == "E_BUNDLE_MISMATCH"
    replaced = bertx.export_module(other, output=folder, formats=["safetensors"], force=True, **arguments)
    assert [entry.format for entry in replaced.manifest.artifacts] == ["safetensors"]


def test_torchscript_of_several_outputs_asks_which_one(arguments: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="TorchScript gives one tensor, and Net gives map, means"):
        bertx.export_module(trained(), output=tmp_path / "net", **{**arguments, "output_name": None})
    with pytest.raises(UsageError, match="Net gives no other"):
        bertx.export_module(trained(), output=tmp_path / "net", **{**arguments, "output_name": "other"})
    assert not (tmp_path / "net").exists()


class Branching(nn.Module):
    """Branches on a size, which a trace does not see."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.shape[0] < 4 else x * 3


def test_a_trace_that_is_wrong_is_not_published(options: VerifyOptions, tmp_path: Path) -> None:
    with pytest.raises(ParityFailed, match=r"torchscript/model.pt is wrong in torchscript") as failed:
        bertx.export_module(
            Branching(),
            {"x": torch.rand(2, 4)},
            tmp_path / "net",
            dynamic={"x": {0: "batch"}},
            formats=["torchscript"],
            verify=options,
        )
    assert failed.value.report.verdict == "fail"
    assert not (tmp_path / "net").exists()


class Tied(nn.Module):
    """Two names for one matrix, a buffer that is not saved, ids in."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 8)
        self.back = nn.Linear(8, 50, bias=False)
        self.back.weight = self.table.weight
        self.register_buffer("scale", torch.tensor(0.5), persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.back(self.table(ids).mean(dim=1)) * self.scale


class Mixed(nn.Module):
    """Ids, a mask and bytes of a picture in; one number, integers and booleans out."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.classes = nn.Embedding(30, 8), nn.Linear(8, 4)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, picture: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.classes(self.table(ids)).masked_fill(~mask.unsqueeze(-1), 0.0).sum(dim=1)
        bright = (picture.float() / 255).mean()
        return {"loss": (logits * bright).square().mean(), "best": logits.argmax(dim=-1), "any": mask.any(dim=1)}


def test_inputs_and_outputs_of_any_dtype_are_judged(options: VerifyOptions, tmp_path: Path) -> None:
    made = bertx.export_module(
        Mixed(),
        {
            "ids": torch.randint(0, 30, (2, 5)),
            "mask": torch.ones(2, 5, dtype=torch.bool),
            "picture": torch.randint(0, 256, (3, 4), dtype=torch.uint8),
        },
        tmp_path / "net",
        dynamic={"ids": {0: "batch", 1: "length"}, "mask": {0: "batch", 1: "length"}},
        ranges={"ids": (0, 29), "picture": (0, 255)},
        formats=["onnx"],
        verify=options,
    )
    (result,) = made.report.results
    assert [(row.name, row.passed) for row in result.outputs] == [("loss", True), ("best", True), ("any", True)]
    assert bertx.verify(made, options=options).report.verdict == "pass"


def test_tied_weights_are_written_once_and_told(options: VerifyOptions, tmp_path: Path) -> None:
    made = bertx.export_module(
        Tied(),
        {"ids": torch.randint(0, 50, (2, 6))},
        tmp_path / "net",
        dynamic={"ids": {0: "batch", 1: "length"}},
        ranges={"ids": (0, 49)},
        formats=["safetensors", "onnx"],
        verify=options,
    )
    assert made.report.verdict == "pass"
    assert set(load_file(made.folder / "model.safetensors")) == {"table.weight"}
    entry = made.manifest.artifacts[0]
    assert (entry.options["aliases"], entry.options["left_out"]) == ({"back.weight": "table.weight"}, ["scale"])


def test_a_module_without_weights_has_no_safetensors(options: VerifyOptions, tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="ReLU has no weights"):
        bertx.export_module(nn.ReLU(), {"x": torch.randn(2, 4)}, tmp_path / "net", verify=options)


def test_without_a_comparison_nothing_is_said_to_pass(arguments: dict[str, Any], tmp_path: Path) -> None:
    made = bertx.export_module(
        trained(), output=tmp_path / "net", **{**arguments, "verify": None}, formats=["safetensors"]
    )
    assert made.report.verdict == "incomplete"


def test_golden_cases_that_do_not_fit_are_refused(options: VerifyOptions, tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="do not fit in 16 MiB") as refused:
        bertx.export_module(
            nn.ReLU(), {"x": torch.rand(2, 1100, 1100)}, tmp_path / "net", formats=["onnx"], verify=options
        )
    assert refused.value.code == "E_CASES"


@pytest.mark.parametrize("formats", [[], "onnx", ["gguf"]])
def test_formats_that_are_none_are_refused(formats: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        bertx.export_module(nn.ReLU(), SAMPLES, tmp_path / "net", formats=formats)


def test_a_dtype_is_the_modules_own(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at its own dtype"):
        bertx.export_module(nn.ReLU(), SAMPLES, tmp_path / "net", options=replace(bertx_options(), dtype="float16"))


def bertx_options() -> Any:
    from bertx.formats import ExportOptions

    return ExportOptions()
