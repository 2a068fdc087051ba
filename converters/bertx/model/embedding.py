"""Sentence embeddings as the reference computes them: a second, independent reading of the pooling modules.

The wrapper's pooling (`modules.build_pooling`) is a torch module made to be traced; this one is written row by row
with plain selections, so that a mistake in one does not hide in the other. A test holds both against
sentence-transformers itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertx.model.modules import Dense, read_pooling

if TYPE_CHECKING:
    import torch


def embedder(folder: Path) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """(token embeddings (batch, sequence, hidden), mask (batch, sequence)) -> (batch, dimension), as `folder` says."""
    import torch

    pooling = read_pooling(folder)
    weights = [layer.weights() for layer in pooling.dense]

    def embed(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        rows = [
            torch.cat([_pooled(mode, tokens[row], mask[row].bool()) for mode in pooling.modes])
            for row in range(tokens.shape[0])
        ]
        embedding = torch.stack(rows)
        for layer, tensors in zip(pooling.dense, weights, strict=True):
            embedding = _dense(layer, tensors, embedding)
        if pooling.normalize:
            embedding = embedding / embedding.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        return embedding

    return embed


def _pooled(mode: str, tokens: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    import torch

    valid = tokens[keep]
    if mode == "cls":
        return valid[0]
    if mode == "lasttoken":
        return valid[-1]
    if mode == "max":
        return valid.max(dim=0).values
    if mode == "mean":
        return valid.sum(dim=0) / valid.shape[0]
    if mode == "mean_sqrt_len_tokens":
        return valid.sum(dim=0) / valid.shape[0] ** 0.5
    places = torch.nonzero(keep).squeeze(-1)
    weight = (places - places[0] + 1).to(tokens.dtype).unsqueeze(-1)
    return (valid * weight).sum(dim=0) / weight.sum()


def _dense(layer: Dense, tensors: Mapping[str, Any], embedding: torch.Tensor) -> torch.Tensor:
    import torch

    weight = torch.as_tensor(tensors["linear.weight"]).to(embedding)
    made = embedding @ weight.T
    if layer.bias:
        made = made + torch.as_tensor(tensors["linear.bias"]).to(embedding)
    activation = {
        "Identity": lambda x: x,
        "Tanh": torch.tanh,
        "ReLU": torch.relu,
        "GELU": torch.nn.functional.gelu,
        "Sigmoid": torch.sigmoid,
    }
    return activation[layer.activation](made)
