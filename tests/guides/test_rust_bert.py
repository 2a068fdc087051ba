"""docs/guides/rust-bert: where `make rust-bert` has built it, rust-bert computes what eager PyTorch computes."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from bertx.cli.options import cache_folder
from program import ROOT, Ran


@pytest.fixture(scope="module")
def runner() -> str:
    program = cache_folder() / "rust-bert" / "target" / "release" / "rust-bert"
    if not program.is_file():
        pytest.skip("rust-bert is not built: make rust-bert")
    return f"safetensors={program}"


def test_a_converted_checkpoint_passes(runner: str, bertx: Callable[..., Ran], minilm_bundle: Path) -> None:
    ran = bertx("verify", minilm_bundle / "model.safetensors", "--runner", runner, "--device", "cpu", "--json")
    assert ran.code == 0, ran.err
    (theirs,) = [each for each in ran.results if each["runtime"] == "rust-bert"]
    assert (theirs["verdict"], theirs["device"]) == ("pass", "cpu")
    assert {row["name"] for row in theirs["outputs"]} >= {"last_hidden_state", "sentence_embedding"}
    assert [row["name"] for row in theirs["taps"]] == [f"hidden_states.{k}" for k in range(1, 7)]


def test_another_layer_norm_eps_than_that_of_rust_bert_fails(
    runner: str, bertx: Callable[..., Ran], tmp_path: Path
) -> None:
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    for eps in (1e-12, 1e-5):
        config = BertConfig(**sizes, intermediate_size=64, max_position_embeddings=40, layer_norm_eps=eps)
        folder = tmp_path / str(eps)
        BertModel(config).save_pretrained(folder)
        options = ("--against", folder, "--runner", runner, "--device", "cpu")
        ran = bertx("verify", folder / "model.safetensors", *options)
        assert ran.code == (0 if eps == 1e-12 else 1), ran.err
    assert "rust-bert" in ran.err


def test_the_program_reports_the_version_that_it_is_built_with() -> None:
    manifest = tomllib.loads((ROOT / "docs" / "guides" / "rust-bert" / "Cargo.toml").read_text("utf-8"))
    assert manifest["dependencies"]["rust-bert"]["version"] == f"={manifest['package']['version']}"
