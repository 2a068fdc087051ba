"""A net with two images in and two outputs, and the bundle of it: made once, read by all tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import bertx
from bertx.parity.options import VerifyOptions

SAMPLES = {
    name: torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(seed)) for seed, name in enumerate("ab")
}
DYNAMIC = {name: {0: "batch", 2: "height", 3: "width"} for name in SAMPLES}


class Net(nn.Module):
    """Of two images a map and its means."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect", bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.right = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> dict[str, torch.Tensor]:
        left, right = torch.relu(self.norm(self.left(a))), torch.tanh(self.right(b))
        return {"map": left - 0.5 * right, "means": left.mean(dim=(2, 3)) * right.mean(dim=(2, 3))}


def trained() -> Net:
    """A net in training mode, with gradients and batch statistics."""
    torch.manual_seed(3)
    net = Net().train()
    net(*(2 * sample + 1 for sample in SAMPLES.values()))["map"].square().mean().backward()
    return net


@dataclass(frozen=True)
class Made:
    """A net and what bertx made of it."""

    net: Net
    export: bertx.Export
    options: VerifyOptions

    @property
    def folder(self) -> Path:
        return self.export.folder


@pytest.fixture(scope="session")
def options(tmp_path_factory: pytest.TempPathFactory) -> VerifyOptions:
    """On the CPU, in the two runtimes that need nothing built."""
    cache = tmp_path_factory.mktemp("cache")
    return VerifyOptions(device="cpu", cache=cache, runtimes=("torchscript", "onnxruntime"))


@pytest.fixture(scope="session")
def arguments(options: VerifyOptions) -> dict[str, Any]:
    """How the net is exported."""
    return {"inputs": SAMPLES, "dynamic": DYNAMIC, "output_name": "map", "verify": options}


@pytest.fixture(scope="session")
def made(arguments: dict[str, Any], options: VerifyOptions, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The bundle in all three formats. Tests read it and do not write to it."""
    net = trained()
    return Made(net, bertx.export_module(net, output=tmp_path_factory.mktemp("module") / "net", **arguments), options)
