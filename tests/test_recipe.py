"""Recipes: what they ask for is done, and what is not understood is refused before any work."""

from __future__ import annotations

import json
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from bertx.errors import BertxError
from bertx.formats import ExportOptions
from bertx.model.head import HeadOptions
from bertx.parity.budget import Budget
from bertx.recipe import read
from program import ROOT, Ran

SCHEMA = json.loads((ROOT / "docs" / "schemas" / "recipe.schema.json").read_text("utf-8"))


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda path: path.name)
def test_every_shipped_recipe_is_read_and_fits_the_schema(path: Path) -> None:
    Draft202012Validator(SCHEMA).validate(tomllib.loads(path.read_text("utf-8")))
    assert read(path).artifacts


def test_every_key_reaches_what_it_is_for(tmp_path: Path) -> None:
    text = """
    checkpoint = "org/name"
    revision = "v1"
    task = "fill-mask"
    output = "out"
    artifacts = ["safetensors", {format = "onnx", dtype = "float16", opset = 20, output_name = ["logits"]}, WEIGHTS]
    runtimes = ["eager"]
    device = "cpu"
    cases = "full"
    text = "TEXTS"
    latency = true
    limit = 2
    budget = { cosine = 0.99, labels = 0.98 }
    timeout = 5
    [[runner]]
    name = "mine"
    command = "./check --fast"
    formats = ["onnx"]
    """
    weights = 'rename = "legacy", max_shard_size = "20KB", init_head = true, num_labels = 3, seed = 7'
    text = text.replace("WEIGHTS", f'{{format = "safetensors", {weights}}}')
    text = text.replace("TEXTS", (tmp_path / "texts.txt").as_posix())
    (tmp_path / "texts.txt").write_text("one\n\ntwo\n", "utf-8")
    Draft202012Validator(SCHEMA).validate(tomllib.loads(text))
    recipe = read(written(tmp_path, text))
    assert (recipe.checkpoint, recipe.revision, recipe.task, recipe.output) == (
        "org/name",
        "v1",
        "fill-mask",
        Path("out"),
    )
    (first, _), (second, options), (_, weights) = recipe.artifacts
    assert (first, second, options.dtype, options.opset) == ("safetensors", "onnx", "float16", 20)
    assert options.output_names == ("logits",)
    assert weights == ExportOptions(spelling="legacy", shard_bytes=20_000, head=HeadOptions(3, 7))
    verify = recipe.verify
    assert (verify.texts, verify.latency) == (("one", "two"), True)
    assert (verify.runtimes, verify.device, verify.cases, verify.limit, verify.timeout) == (
        ("eager",),
        "cpu",
        "full",
        2,
        5,
    )
    assert verify.budget == Budget(0.99, 0.98)
    assert (verify.runners[0].name, verify.runners[0].program) == ("mine", ("./check", "--fast"))
    assert verify.runners[0].reads == {"onnx"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("checkpoint = 'a'", "has no artifacts"),
        ("artifacts = ['onnx']", "has no checkpoint"),
        ("checkpoint = 'a'\nartifacts = []", "artifacts is empty"),
        ("checkpoint = 'a'\nartifacts = ['onyx']", "unknown format onyx"),
        ("checkpoint = 'a'\nartifacts = ['onnx']\nruntime = ['eager']", "unknown key runtime"),
        ("checkpoint = 'a'\nartifacts = 'onnx'", "artifacts has the wrong type"),
        ("checkpoint = 'a'\nartifacts = ['onnx']\nlimit = true", "limit has the wrong type"),
        ("checkpoint = 'a'\nartifacts = [{format = 'onnx', opset = 99}]", "opset 99 is none of 18 to 23"),
        ("checkpoint = 'a'\nartifacts = ['onnx']\nlimit = inf", "limit is inf, no finite number above 0"),
        ("checkpoint = 'a'\nartifacts = ['onnx']\ntimeout = nan", "timeout is nan, no finite number above 0"),
        ("checkpoint = 'a'\nartifacts = ['onnx']\nlimit = -1", "limit is -1, no finite number above 0"),
        ("checkpoint = 'a'\nartifacts = ['onnx']\nbudget = {cosine = 2}", "the budget cosine=2 is not understood"),
        ("checkpoint = 'a'\nartifacts = ['onnx']\nbudget = {}", "is not understood"),
        ("checkpoint = 'a'\nartifacts = [{format = 'onnx', opsett = 1}]", "unknown key opsett"),
        ("checkpoint = 'a'\nartifacts = [{format = 'onnx', dtype = 'int8'}]", "unknown dtype int8"),
        ("checkpoint = 'a'\nartifacts = ['onnx']\n[[runner]]\nname = 'x'", "a runner is a table with a command"),
        ("checkpoint = 'a'\nartifacts = [{format = 'onnx', rename = 'torch'}]", "rename means nothing for onnx"),
        ("checkpoint = 'a'\nartifacts = [{format = 'safetensors', opset = 20}]", "opset means nothing for safetensors"),
        ("checkpoint = 'a'\nartifacts = [{format = 'safetensors', rename = 'x'}]", "unknown rename x"),
        (
            "checkpoint = 'a'\nartifacts = [{format = 'safetensors', max_shard_size = '5'}]\ntext = 'x'",
            "cannot be read",
        ),
        ("checkpoint = 'a'\nartifacts = [{format = 'safetensors', max_shard_size = 'big'}]", "big is no size"),
        ("checkpoint = 'a'\nartifacts = [{format = 'safetensors', init_head = true}]", "--num-labels is missing"),
        ("checkpoint = 'a'\nartifacts = [{format = 'safetensors', seed = 1}]", "--init-head is missing"),
        (
            "checkpoint = 'a'\nartifacts = [{format = 'safetensors', init_head = true, num_labels = 1, seed = -1}]",
            "seed",
        ),
        ("checkpoint = 'a'\nartifacts = ['onnx']\ncases = 'ful'", "neither quick nor full nor a file"),
        ("checkpoint = {package = 'os', folder = '../etc'}\nartifacts = ['onnx']", "a folder inside it"),
        ("checkpoint = {package = 'no_such_package', folder = 'm'}\nartifacts = ['onnx']", "no installed package"),
        ("checkpoint = ", "is no TOML"),
    ],
)
def test_what_is_not_understood_is_refused_in_one_line(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(BertxError, match=told) as raised:
        read(written(tmp_path, text))
    assert "\n" not in str(raised.value)


def test_a_recipe_does_the_whole_job_and_writes_junit(bertx: Callable[..., Ran], tiny: Path, tmp_path: Path) -> None:
    out = json.dumps(str(tmp_path / "out"))
    text = f"checkpoint = {json.dumps(str(tiny))}\noutput = {out}\nartifacts = ['safetensors', 'torchscript']\n"
    ran = bertx("run", written(tmp_path, text), "--junit", tmp_path / "parity.xml", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert ran.json["runs"][0]["report"]["verdict"] == "pass"
    suite = ElementTree.parse(tmp_path / "parity.xml").getroot()
    assert (suite.get("failures"), suite.get("errors")) == ("0", "0")
    assert int(suite.get("tests", 0)) - int(suite.get("skipped", 0)) == 2
    assert (tmp_path / "out" / "bertx.json").is_file()


def test_a_recipe_whose_artifact_fails_publishes_nothing(bertx: Callable[..., Ran], tiny: Path, tmp_path: Path) -> None:
    out = json.dumps(str(tmp_path / "out"))
    text = f"checkpoint = {json.dumps(str(tiny))}\noutput = {out}\nartifacts = ['torchscript']\nlimit = 1e-6\n"
    recipe, page = written(tmp_path, text), tmp_path / "parity.html"
    assert bertx("run", recipe, recipe, "--html", page).code == 2
    ran = bertx("run", recipe, "--junit", tmp_path / "parity.xml", "--html", page, "--json")
    assert ran.code == 1
    assert "<title>fail" in page.read_text("utf-8")
    assert ran.json["runs"][0]["bundle"] is None
    assert ran.json["runs"][0]["report"]["limit"] == 1e-6
    assert not (tmp_path / "out").exists()
    assert ElementTree.parse(tmp_path / "parity.xml").getroot().get("failures") == "1"


def test_what_is_refused_of_a_later_recipe_is_refused_before_the_first(
    bertx: Callable[..., Ran], tiny: Path, tmp_path: Path
) -> None:
    recipes = []
    for name, source in (("here", str(tiny)), ("gone", str(tmp_path / "gone"))):
        recipes.append(tmp_path / f"{name}.toml")
        text = f"checkpoint = {json.dumps(source)}\noutput = {json.dumps(str(tmp_path / name))}\n"
        recipes[-1].write_text(f"{text}artifacts = ['safetensors']\n", "utf-8")
    ran = bertx("run", *recipes, "--json")
    assert (ran.code, ran.json["code"]) == (2, "E_USAGE")
    assert not (tmp_path / "here").exists()


def test_a_recipe_can_do_what_to_safetensors_can(bertx: Callable[..., Ran], tiny: Path, tmp_path: Path) -> None:
    """The same bytes as the command's, with a new head, other names and shards."""
    out, again = tmp_path / "out", tmp_path / "again"
    weights = '{format = "safetensors", rename = "legacy", max_shard_size = "20KB", init_head = true, num_labels = 3}'
    text = f"checkpoint = {json.dumps(str(tiny))}\noutput = {json.dumps(str(out))}\nartifacts = [{weights}]\n"
    ran = bertx("run", written(tmp_path, f'{text}task = "text-classification"\n'))
    assert (ran.code, ran.err) == (0, "")
    asked = ("--rename", "legacy", "--max-shard-size", "20KB", "--init-head", "--num-labels", "3")
    ran = bertx("to-safetensors", tiny, "--task", "text-classification", *asked, "-o", again)
    assert (ran.code, ran.err) == (0, "")
    files = {path.name for path in out.iterdir()} - {"bertx.json"}
    assert len([name for name in files if name.startswith("model-")]) > 2
    for name in files:
        assert (out / name).read_bytes() == (again / name).read_bytes(), name
