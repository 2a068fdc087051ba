"""What --json prints fits docs/schemas, whether a command passed, failed or compared nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import numpy as np
import onnx
import pytest
from documents import SCHEMAS, checked, validator
from onnx import numpy_helper

from bertx.errors import CODES
from bertx.manifest import read
from program import Ran


@pytest.mark.parametrize("path", sorted(SCHEMAS.glob("*.json")), ids=lambda path: path.name)
def test_every_schema_is_one(path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(path.read_text("utf-8")))


def test_an_unknown_field_is_refused(exports: tuple[Path, dict[str, Ran]]) -> None:
    document = exports[1]["trace"].json
    for place in (document, document["artifacts"][0], document["report"], document["report"]["results"][0]):
        place["unknown"] = 1
        with pytest.raises(jsonschema.ValidationError):
            checked(document)
        del place["unknown"]
    checked(document)


@pytest.mark.parametrize("exporter", ["to-safetensors", "trace", "to-onnx"])
def test_an_exporter_prints_what_it_published(exporter: str, exports: tuple[Path, dict[str, Ran]]) -> None:
    bundle, ended = exports
    ran = ended[exporter]
    document = checked(ran.json)
    assert (ran.err, document["report"]["verdict"], document["bundle"]) == ("", "pass", str(bundle))
    (artifact,) = document["artifacts"]
    stated = read(bundle).files[artifact["path"]]
    assert (artifact["sha256"], artifact["bytes"]) == (stated.sha256, stated.bytes)
    assert (bundle / artifact["path"]).is_file()


def test_the_manifest_holds_the_report_that_was_printed(exports: tuple[Path, dict[str, Ran]]) -> None:
    bundle, ended = exports
    validator("bundle").validate(json.loads((bundle / "bertx.json").read_text("utf-8")))
    for entry, ran in zip(read(bundle).artifacts, ended.values(), strict=True):
        assert entry.report == ran.json["report"]


def test_an_export_that_was_not_compared_publishes_nothing(
    bertx: Callable[..., Ran], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """ONNX Runtime has no bfloat16 kernels on the CPU."""
    source = checkpoint("feature-extraction")
    ran = bertx("to-onnx", source, "-o", tmp_path / "out", "--dtype", "bfloat16", "--device", "cpu", "--json")
    document = checked(ran.json)
    assert (ran.code, document["bundle"], document["report"]["verdict"]) == (6, None, "incomplete")
    assert ran.err.startswith("bertx: error[E_NOT_COMPARED]: ")
    assert list(tmp_path.iterdir()) == []


def test_a_verification_prints_its_report(bertx: Callable[..., Ran], exports: tuple[Path, dict[str, Ran]]) -> None:
    ran = bertx("verify", exports[0], "--json")
    assert (ran.code, ran.err, checked(ran.json)["verdict"]) == (0, "", "pass")


def test_a_failed_verification_prints_its_report_and_exits_1(
    bertx: Callable[..., Ran], exports: tuple[Path, dict[str, Ran]], tmp_path: Path
) -> None:
    spoilt = tmp_path / "bundle"
    shutil.copytree(exports[0], spoilt)
    changed(spoilt / "onnx" / "model.onnx", lambda array: array * np.float32(1.01))
    ran = bertx("verify", spoilt, "--runtime", "onnxruntime", "--json")
    document = checked(ran.json)
    verdicts = {result["artifact"]: result["verdict"] for result in document["results"]}
    assert (ran.code, document["verdict"], verdicts["onnx/model.onnx"]) == (1, "fail", "fail")
    assert ran.err.splitlines()[-1].startswith("bertx: error[E_PARITY]: onnx/model.onnx is wrong in onnxruntime")


def test_not_a_number_is_a_problem_and_no_number_in_the_report(
    bertx: Callable[..., Ran], exports: tuple[Path, dict[str, Ran]], tmp_path: Path
) -> None:
    copy = tmp_path / "model.onnx"
    shutil.copy(exports[0] / "onnx" / "model.onnx", copy)
    changed(copy, lambda array: array * np.float32("nan"))
    ran = bertx("verify", copy, "--against", exports[0], "--json")
    checked(ran.json)
    (result,) = ran.results
    assert (ran.code, result["verdict"]) == (1, "fail")
    assert "holds NaN or Inf" in result["outputs"][0]["problem"]
    assert result["outputs"][0]["rms_ratio"] is None


def test_what_was_not_compared_is_incomplete_and_exits_6(
    bertx: Callable[..., Ran], exports: tuple[Path, dict[str, Ran]], tmp_path: Path
) -> None:
    ran = bertx("verify", exports[0], "--runtime", "torchscript", "--json", BERTX_CACHE=str(tmp_path))
    document = checked(ran.json)
    assert (ran.code, document["verdict"]) == (6, "incomplete")
    assert ran.err.startswith("bertx: error[E_NOT_COMPARED]: ")


def test_a_reference_that_is_not_computed_in_time_is_nothing_compared(
    bertx: Callable[..., Ran], exports: tuple[Path, dict[str, Ran]], tmp_path: Path
) -> None:
    ran = bertx("verify", exports[0], "--timeout", "0.01", "--json", BERTX_CACHE=str(tmp_path))
    document = checked(ran.json)
    assert (ran.code, document["code"]) == (6, "E_NOT_COMPARED")
    assert "did not end within 0.01 s; give it more seconds with --timeout" in ran.err


def test_a_recipe_prints_every_run(
    bertx: Callable[..., Ran], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'checkpoint = "{checkpoint("feature-extraction")}"\nartifacts = ["safetensors"]\n', "utf-8")
    ran = bertx("run", recipe, "-o", tmp_path / "out", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert checked(ran.json)["runs"][0]["recipe"] == "recipe.toml"


def test_a_recipe_that_is_refused_keeps_none_of_the_others_from_being_done(
    bertx: Callable[..., Ran], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """The first cannot replace another bundle; what comes of the second stands in the document and in JUnit's."""
    recipes, source = [], checkpoint("feature-extraction")
    for name in ("refused", "done"):
        recipes.append(tmp_path / f"{name}.toml")
        text = f'checkpoint = "{source}"\noutput = "{tmp_path / name}"\nartifacts = ["safetensors"]\n'
        recipes[-1].write_text(text, "utf-8")
    (tmp_path / "refused").mkdir()
    (tmp_path / "refused" / "mine.txt").write_text("kept", "utf-8")
    ran = bertx("run", *recipes, "--json", "--junit", tmp_path / "parity.xml")
    refused, done = checked(ran.json)["runs"]
    assert (ran.code, refused["error"]["exit"]) == (refused["error"]["exit"], 2)
    told = refused["error"]
    assert ran.err == f"bertx: error[{told['code']}]: refused.toml: {told['message']}; {told['hint']}\n"
    assert (done["recipe"], done["report"]["verdict"]) == ("done.toml", "pass")
    assert (tmp_path / "done" / "bertx.json").is_file()
    suite = ElementTree.parse(tmp_path / "parity.xml").getroot()
    assert (suite.get("errors"), suite.get("failures")) == ("1", "0")
    assert [case.get("classname") for case in suite if case.find("error") is not None] == ["refused.toml"]


def test_every_code_fits_the_schema_of_errors() -> None:
    for code in CODES:
        validator("error").validate({"schema": "bertx.error/1", "code": code, "exit": 3, "message": "m", "hint": "h"})


def changed(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Changes the last matrix of an ONNX file."""
    model = onnx.load(path)
    matrix = [each for each in model.graph.initializer if len(each.dims) == 2][-1]
    matrix.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(matrix)), matrix.name))
    onnx.save(model, path)
