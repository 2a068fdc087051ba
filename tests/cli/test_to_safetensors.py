"""bertx to-safetensors: from whatever weights lie in, without PyTorch, to what other programs load."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from documents import checked
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bertx import api
from bertx.errors import InputRefused
from families import make, make_class
from program import Ran, package_folder

WORDS, DECODER = "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    """A BertForPreTraining as the Hub's old ones are: pytorch_model.bin alone, the decoder tied and written out."""
    folder = make_class("BertForPreTraining", tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors |= {DECODER: tensors[WORDS], "bert.embeddings.position_ids": torch.arange(64)[None]}
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def manifest(bundle: Path) -> Any:
    return json.loads((bundle / "bertx.json").read_text("utf-8"))


def test_a_torch_save_file_becomes_safetensors_with_its_names_and_bytes(
    bertx: Callable[..., Ran], binary: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "out"
    ran = bertx("to-safetensors", binary, "-o", bundle, "--json")
    assert (ran.code, ran.err) == (0, "")
    assert checked(ran.json)["report"]["verdict"] == "pass"
    source, made = torch.load(binary / "pytorch_model.bin", weights_only=True), load_file(bundle / "model.safetensors")
    assert made.keys() == source.keys() - {DECODER}
    assert all(torch.equal(made[name], source[name]) and made[name].dtype == source[name].dtype for name in made)
    written = manifest(bundle)
    assert written["artifacts"][0]["options"]["aliases"] == {DECODER: WORDS}
    with safe_open(bundle / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", DECODER: WORDS}
    for listed, folder in ((written["source"]["files"], binary), (written["files"], bundle)):
        for name, entry in listed.items():
            content = (folder / name).read_bytes()
            assert entry == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (tmp_path / "plain").touch()
    for file in bundle.iterdir():
        assert file.stat().st_mode == (tmp_path / "plain").stat().st_mode
    loaded = transformers_model(bundle)
    assert loaded.cls.predictions.decoder.weight is loaded.bert.embeddings.word_embeddings.weight


def transformers_model(folder: Path) -> Any:
    from transformers import BertForPreTraining

    return BertForPreTraining.from_pretrained(folder)


def test_nothing_heavy_is_imported(binary: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    program = """
import sys
from bertx.cli import run
assert run() == 0
heavy = {"torch", "transformers", "safetensors", "numpy"} & set(sys.modules)
assert not heavy, heavy
"""
    for command in (["to-safetensors", binary, "-o", tmp_path / "out", "-q"], ["inspect", binary]):
        line = [sys.executable, "-c", program, *map(str, command)]
        ended = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=60)
        assert ended.returncode == 0, ended.stderr


def test_shards_are_one_artifact_that_is_verified_fetched_and_replaced(
    bertx: Callable[..., Ran], binary: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "out"
    assert bertx("to-safetensors", binary, "-o", bundle, "-q").code == 0
    ran = bertx("to-safetensors", binary, "-o", bundle, "--max-shard-size", "20KB", "--json")
    assert (ran.code, ran.err) == (0, "")
    shards = sorted(bundle.glob("model-*.safetensors"))
    assert len(shards) > 2
    assert [file.name for file in shards] == [
        f"model-{k:05}-of-{len(shards):05}.safetensors" for k in range(1, len(shards) + 1)
    ]
    held = [load_file(file).values() for file in shards]
    assert all(len(tensors) == 1 or sum(tensor.nbytes for tensor in tensors) <= 20_000 for tensors in held)
    assert not (bundle / "model.safetensors").exists()
    assert [entry["path"] for entry in manifest(bundle)["artifacts"]] == ["model.safetensors.index.json"]
    assert {file.name for file in bundle.iterdir()} == {*manifest(bundle)["files"], "bertx.json"}
    assert checked(bertx("inspect", bundle, "--json").json)["artifacts"][0]["bytes"] > 40_000
    transformers_model(bundle)
    binary.rename(tmp_path / "elsewhere")
    ran = bertx("verify", bundle, "--json")
    assert (ran.code, ran.json["reference"]["origin"]) == (0, "bundle")
    (tmp_path / "elsewhere").rename(binary)
    shards[0].write_bytes(shards[0].read_bytes()[:-1] + b"\x00")
    changed = bertx("verify", bundle, "--json")
    assert changed.code == 1
    assert "model.safetensors.index.json is not the file that bertx.json lists" in changed.err
    assert bertx("to-safetensors", binary, "-o", bundle, "-q").code == 0
    assert [entry["path"] for entry in manifest(bundle)["artifacts"]] == ["model.safetensors"]
    assert list(bundle.glob("model-*")) == []


def test_layer_norms_are_respelled_and_compared_with_the_source(
    bertx: Callable[..., Ran], binary: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "out"
    assert bertx("to-safetensors", binary, "-o", bundle, "--rename", "legacy", "-q").code == 0
    names = set(load_file(bundle / "model.safetensors"))
    assert {"bert.embeddings.LayerNorm.gamma", "bert.embeddings.LayerNorm.beta"} <= names
    assert not any(name.endswith("LayerNorm.weight") for name in names)
    assert manifest(bundle)["artifacts"][0]["options"]["names"] == "legacy"
    ran = bertx("verify", bundle, "--json")
    rows = {row["name"]: row for row in ran.json["results"][0]["outputs"]}
    assert (ran.code, rows["weights"]["compared"]) == (0, sum(t.numel() for t in transformers_state(bundle)))


def transformers_state(bundle: Path) -> list[torch.Tensor]:
    return [tensor for tensor in load_file(bundle / "model.safetensors").values() if tensor.is_floating_point()]


@pytest.mark.parametrize("size", ["0", "-1", "many", "5XB", "1.5GB", ""])
def test_what_is_no_size_is_a_usage_error(bertx: Callable[..., Ran], binary: Path, size: str) -> None:
    ran = bertx("to-safetensors", binary, "--max-shard-size", size)
    assert ran.code == 2
    assert "no size such as 500MB or 2GiB" in ran.err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--init-head",), "--num-labels is missing"),
        (("--num-labels", "3"), "--init-head is missing"),
        (("--seed", "3"), "--init-head is missing"),
        (("--init-head", "--num-labels", "3", "--task", "text-classification"), "needs a folder of its own"),
    ],
)
def test_half_a_wish_for_a_head_is_a_usage_error(
    bertx: Callable[..., Ran], binary: Path, options: tuple[str, ...], says: str
) -> None:
    ran = bertx("to-safetensors", binary, *options)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert says in ran.err


# What every exporter refuses.


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object], tmp_path: Path, lies: str) -> Path:
    """A copy of a checkpoint with changed tensors, as safetensors or as torch.save writes them."""
    copy = tmp_path / "faulty"
    shutil.copytree(folder, copy)
    tensors = load_file(copy / "model.safetensors")
    edit(tensors)
    if lies == "bin":
        torch.save(tensors, copy / "pytorch_model.bin")
        (copy / "model.safetensors").unlink()
    else:
        save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


DENSE = "encoder.layer.1.output.dense.weight"
FAULTS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], str]] = {
    "missing": (lambda t: t.pop(DENSE), f"missing: {DENSE}"),
    "extra": (lambda t: t.update({"adapter.weight": torch.ones(2)}), "adapter.weight"),
    "misshapen": (lambda t: t.update({DENSE: torch.ones(32, 47)}), f"{DENSE} is (32, 47), the model needs (32, 48)"),
    "not finite": (lambda t: t[DENSE].view(-1)[7].fill_(float("nan")), DENSE),
    "integers": (lambda t: t.update({DENSE: t[DENSE].to(torch.int32)}), DENSE),
    "prefixed": (
        lambda t: [t.update({f"module.{name}": t.pop(name)}) for name in list(t)],
        "embeddings.LayerNorm.bias",
    ),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("bert", tmp_path_factory.mktemp("whole") / "model")


@pytest.mark.parametrize("format_name", ["safetensors", "torchscript", "onnx"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_refused_by_name_through_every_exporter(
    whole: Path, tmp_path: Path, fault: str, format_name: str
) -> None:
    edit, says = FAULTS[fault]
    folder = change(whole, edit, tmp_path, "safetensors" if format_name == "torchscript" else "bin")
    with pytest.raises(InputRefused) as caught:
        api.export(str(folder), [format_name], tmp_path / "out", verify=None)
    assert caught.value.code == "E_WEIGHTS"
    assert says in caught.value.message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format_name", ["safetensors", "torchscript", "onnx"])
def test_a_masked_lm_asked_for_a_pooled_head_is_refused_by_name(tmp_path: Path, format_name: str) -> None:
    folder = make("bert", tmp_path / "model", "fill-mask")
    with pytest.raises(InputRefused, match=r"missing: bert\.pooler\.dense\.bias"):
        api.export(str(folder), [format_name], tmp_path / "out", task="text-classification", verify=None)


# Real ones.


def test_the_splade_model_goes_through_every_command(bertx: Callable[..., Ran], tmp_path: Path) -> None:
    """gamma/beta names, a masked-LM head whose tied decoder is left out."""
    source, bundle = package_folder("cognition", "model"), tmp_path / "splade"
    ran = bertx("to-safetensors", source, "-o", bundle, "--json")
    assert (ran.code, checked(ran.json)["report"]["verdict"]) == (0, "pass"), ran.err
    for command in ("trace", "to-onnx"):
        ran = bertx(command, source, "-o", bundle, "--no-verify", "-q")  # `verify` below compares all of them at once
        assert (ran.code, ran.err) == (0, "bertx: warning: nothing was compared: --no-verify\n")
    names = set(load_file(bundle / "model.safetensors"))
    assert names == set(load_file(source / "model.safetensors"))
    assert any(name.endswith("LayerNorm.gamma") for name in names)
    assert checked(bertx("inspect", bundle, "--json").json)["task"] == "fill-mask"
    ran = bertx("verify", bundle, "--json")
    assert ran.code == 0
    assert {result["verdict"] for result in ran.results} == {"pass"}
