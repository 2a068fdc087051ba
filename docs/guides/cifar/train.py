"""Trains the three nets on generated images and exports each:  python train.py OUT [STEPS]"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from nets import Autoencoder, Convolutions, Dense
from torch.nn import functional

import bertx


def images(count: int, numbers: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """(count, 3, 32, 32) in 0 to 1 and their classes: stripes whose width, direction and colour tell the class."""
    classes = torch.randint(0, 10, (count,), generator=numbers)
    across = torch.arange(32.0).view(1, 1, 32).expand(count, 32, 32)
    wave = torch.where((classes % 2 == 0).view(-1, 1, 1), across, across.transpose(1, 2))
    stripes = (torch.sin(wave * (0.2 + 0.15 * (classes // 2).view(-1, 1, 1))) + 1) / 2
    colour = torch.stack([(classes % 3) / 2, (classes % 4) / 3, (classes % 5) / 4], dim=1).view(-1, 3, 1, 1)
    noise = torch.rand(count, 3, 32, 32, generator=numbers)
    return (0.6 * stripes.unsqueeze(1) * (0.4 + 0.6 * colour) + 0.4 * noise).clamp(0, 1), classes


def loss_of(net: torch.nn.Module, image: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of a classifier, squared error of an autoencoder."""
    found = net(image)
    if isinstance(found, dict):
        return functional.mse_loss(found["image_again"], image)
    return functional.cross_entropy(found, classes)


def train(net: torch.nn.Module, steps: int) -> tuple[float, float]:
    """(loss of the first step, loss of the last)"""
    numbers = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        loss = loss_of(net, *images(64, numbers))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[0], losses[-1]


def main() -> None:
    out, steps = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 60
    sample, _ = images(2, torch.Generator().manual_seed(1))
    for name, net in (("dense", Dense()), ("convolutions", Convolutions()), ("autoencoder", Autoencoder())):
        first, last = train(net, steps)
        made = bertx.export_module(
            net,
            inputs={"image": sample},
            dynamic={"image": {0: "batch"}},
            output=out / name,
            output_name="image_again" if name == "autoencoder" else None,
            formats=["safetensors", "torchscript", "onnx"],
        )
        sys.stdout.write(f"{name}: loss {first:.3f} -> {last:.3f}, {made.report.verdict}\n")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
