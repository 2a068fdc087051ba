"""Three nets for images of 3×32×32: dense layers, convolutions with max-pooling, an autoencoder."""

from __future__ import annotations

import torch
from torch import nn


class Dense(nn.Module):
    """Two hidden layers over all pixels -> 10 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(3 * 32 * 32, 128),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(128, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layers(image)


class Convolutions(nn.Module):
    """Two convolutions, each with batch normalisation and max-pooling -> 10 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1, padding_mode="reflect"),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classes = nn.Linear(32 * 8 * 8, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.classes(self.features(image).flatten(1))


class Autoencoder(nn.Module):
    """Convolutions down to 16×8×8 numbers, transposed convolutions back: (the image again, its code)."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, stride=2, padding=1),
        )
        self.up = nn.Sequential(
            nn.ReLU(),
            nn.ConvTranspose2d(16, 16, 2, stride=2),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 3, 2, stride=2),
            nn.Sigmoid(),
        )

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        code = self.down(image)
        return {"image_again": self.up(code), "code": code}
