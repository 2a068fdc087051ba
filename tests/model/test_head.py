"""A new head: the numbers that transformers itself would start from, in a checkpoint that says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bertx import api
from bertx.checkpoint import fetch
from bertx.errors import BertxError, InputRefused, UsageError
from bertx.formats import ExportOptions
from bertx.model.head import HeadOptions
from families import make_class

TASK = "text-classification"
HEAD = ["bert.pooler.dense.bias", "bert.pooler.dense.weight", "classifier.bias", "classifier.weight"]


def started(source: Path, output: Path, task: str = TASK, labels: int = 3, seed: int = 7) -> api.Export:
    options = ExportOptions(head=HeadOptions(labels, seed))
    return api.export(str(source), ["safetensors"], output, task=task, options=options, verify=None)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A masked LM without a pooler, with old names, as torch.save writes it."""
    folder = make_class("BertForMaskedLM", tmp_path_factory.mktemp("source") / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors = {name.replace("LayerNorm.weight", "LayerNorm.gamma"): each for name, each in tensors.items()}
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


@pytest.fixture(scope="module")
def bundle(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return started(source, tmp_path_factory.mktemp("started") / "bundle").folder


def test_the_tensors_are_those_that_transformers_starts_from_at_that_seed(source: Path, bundle: Path) -> None:
    from transformers import BertForSequenceClassification

    torch.manual_seed(7)
    expected = BertForSequenceClassification.from_pretrained(source, num_labels=3).state_dict()
    made = load_file(bundle / "model.safetensors")
    assert made.keys() == expected.keys()
    assert all(torch.equal(made[name], expected[name]) for name in expected)


def test_the_manifest_and_the_configuration_say_what_was_initialised(bundle: Path) -> None:
    entry = json.loads((bundle / "bertx.json").read_text("utf-8"))["artifacts"][0]
    assert entry["options"]["initialised"] == {"tensors": HEAD, "labels": 3, "seed": 7}
    config = json.loads((bundle / "config.json").read_text("utf-8"))
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["num_labels"] == 3
    assert config["id2label"] == {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}


def test_the_bundle_is_its_own_checkpoint_from_then_on(source: Path, tmp_path: Path) -> None:
    """Also while the source is still there: it has no such head."""
    bundle = started(source, tmp_path / "bundle").folder
    found = fetch(str(bundle))
    assert (found.origin, set(HEAD) <= set(found.weights)) == ("bundle", True)
    before = json.loads((bundle / "bertx.json").read_text("utf-8"))
    for _ in range(2):
        api.export(str(bundle), ["torchscript", "safetensors"], verify=None)
    after: Any = json.loads((bundle / "bertx.json").read_text("utf-8"))
    assert after["source"] == before["source"]
    assert after["artifacts"][0]["options"]["initialised"] == before["artifacts"][0]["options"]["initialised"]
    report = api.verify(bundle, options=api.VerifyOptions(runtimes=("torchscript",), trust=True)).report
    assert ("torchscript", "pass") in [(result.runtime, result.verdict) for result in report.results]
    (bundle / "model.safetensors").write_bytes((bundle / "model.safetensors").read_bytes() + b" ")
    with pytest.raises(BertxError, match="are not as they were published"):
        fetch(str(bundle))


@pytest.mark.parametrize(
    ("task", "labels", "says"),
    [
        ("fill-mask", 3, "no meaning for fill-mask"),
        ("feature-extraction", 3, "no meaning for feature-extraction"),
        ("question-answering", 3, "cannot have 3 labels"),
        (TASK, 0, "cannot have 0 labels"),
    ],
)
def test_a_head_that_makes_no_sense_is_a_usage_error(
    source: Path, tmp_path: Path, task: str, labels: int, says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        started(source, tmp_path / "out", task, labels)


def test_it_needs_an_output_and_a_format_of_its_own(source: Path, tmp_path: Path) -> None:
    options = ExportOptions(head=HeadOptions(3))
    with pytest.raises(UsageError, match="needs a folder of its own"):
        api.export(str(source), ["safetensors"], None, task=TASK, options=options)
    half = ExportOptions("float16", head=HeadOptions(3))
    for formats, chosen in ((["onnx"], options), (["safetensors", "onnx"], options), (["safetensors"], half)):
        with pytest.raises(UsageError, match="unchanged safetensors only"):
            api.export(str(source), formats, tmp_path / "out", task=TASK, options=chosen)


def test_a_head_that_is_there_is_never_overwritten(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="has a head for text-classification already"):
        started(bundle, tmp_path / "out")


def test_a_base_model_with_a_hole_is_refused_all_the_same(source: Path, tmp_path: Path) -> None:
    tensors = torch.load(source / "pytorch_model.bin", weights_only=True)
    tensors.pop("bert.encoder.layer.1.output.dense.weight")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_bytes((source / "config.json").read_bytes())
    torch.save(tensors, tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(InputRefused, match=r"missing: bert\.encoder\.layer\.1\.output\.dense\.weight"):
        started(tmp_path / "model", tmp_path / "out")
