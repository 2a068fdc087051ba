"""Sentence embeddings as the reference computes them: a second, independent reading of the pooling modules.

The wrapper's pooling (`modules.build_pooling`) is a torch module made to be traced; this one is written row by row
with plain selections, so that a mistake in one does not hide in the other. A test holds both against
sentence-transformers itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

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
    """One row: tokens (sequence, hidden), keep (sequence). A row without a token gives zeros: nothing defines it, but
    it must be a number.

    Half precision is summed in float32, as sentence-transformers does.
    """
    import torch

    valid = tokens[keep]
    if not len(valid):
        return torch.zeros_like(tokens[0])
    if mode == "cls":
        return valid[0]
    if mode == "lasttoken":
        return valid[-1]
    if mode == "max":
        return torch.amax(valid, dim=0)
    wide = valid.float() if valid.dtype in (torch.float16, torch.bfloat16) else valid
    if mode == "mean":
        return (wide.sum(dim=0) / len(wide)).to(tokens)
    if mode == "mean_sqrt_len_tokens":
        return (wide.sum(dim=0) / math.sqrt(len(wide))).to(tokens)
    places = torch.nonzero(keep).squeeze(-1)
    weight = (places - places[0] + 1).to(wide).unsqueeze(-1)
    return ((wide * weight).sum(dim=0) / weight.sum()).to(tokens)


def _dense(layer: Dense, tensors: Mapping[str, torch.Tensor], embedding: torch.Tensor) -> torch.Tensor:
    import torch

    made = embedding @ tensors["linear.weight"].to(embedding).T
    if layer.bias:
        made = made + tensors["linear.bias"].to(embedding)
    activation: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "Identity": lambda x: x,
        "Tanh": torch.tanh,
        "ReLU": torch.relu,
        "GELU": torch.nn.functional.gelu,
        "Sigmoid": torch.sigmoid,
    }
    return activation[layer.activation](made)
