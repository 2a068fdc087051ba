"""The names under which tensors are written: one of several that a tensor has, LayerNorm's in one of two spellings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bertx.checkpoint.tensors import TensorInfo, listed
from bertx.errors import InputRefused

#: spelling -> (the ends that are replaced, what replaces them): "torch" is today's, "legacy" that of TensorFlow's BERT
SPELLINGS: Mapping[str, Mapping[str, str]] = {
    "torch": {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
    "legacy": {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"},
}
#: ends of names of output layers, which transformers ties to the input embeddings again at load
_OUTPUTS = re.compile(r"(^|\.)(decoder|lm_head|vocab_projector|generator_lm_head|pred_layer\.proj)\.weight$")


def distinct(
    weights: Mapping[str, TensorInfo], config: Mapping[str, Any]
) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """(tensors to write, {alias: the name that is written instead}).

    safetensors cannot hold one tensor under two names. Where a tensor has several, those of output layers
    (`decoder.weight`, `lm_head.weight`, …) are left out, and the first of the others, that of the input embeddings, is
    kept: transformers ties them again at load. What it would not tie, since config.json says `tie_word_embeddings`
    false or since no name is an output layer's, is written once under each name.
    """
    if config.get("tie_word_embeddings") is False:
        return dict(weights), {}
    names: dict[tuple[object, ...], list[str]] = {}
    for name, info in weights.items():
        if info.nbytes:
            names.setdefault(info.place, []).append(name)
    aliases: dict[str, str] = {}
    for group in names.values():
        kept = [name for name in group if not _OUTPUTS.search(name)]
        aliases |= {name: kept[0] for name in group if kept and name not in kept}
    return {name: info for name, info in weights.items() if name not in aliases}, aliases


def spelled(weights: Mapping[str, TensorInfo], spelling: str | None) -> dict[str, TensorInfo]:
    """The tensors under names in one spelling; None leaves all names as they are.

    Raises InputRefused("E_WEIGHTS") where two tensors would get one name.
    """
    found: dict[str, TensorInfo] = {}
    for name, info in weights.items():
        new = respelled(name, spelling)
        if new in found:
            raise InputRefused("E_WEIGHTS", f"two tensors would be named {listed([new])}", "leave --rename out")
        found[new] = info
    return found


def respelled(name: str, spelling: str | None) -> str:
    """One name in a spelling."""
    for old, new in (SPELLINGS[spelling] if spelling else {}).items():
        stem = name.removesuffix(old)
        if stem != name and (not stem or stem.endswith(".")):
            return stem + new
    return name
