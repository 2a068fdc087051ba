"""Published weights that are the checkpoint's own, bit for bit, with the same configuration and pooling beside them.

What eager PyTorch computes with them is the reference itself: the same program on the same numbers. So they are
compared with the checkpoint, not computed with once more, where the reference of that dtype is computed anyhow.
"""

from __future__ import annotations

import re
from itertools import zip_longest
from pathlib import Path

from bertx.checkpoint import Checkpoint
from bertx.checkpoint.config import read_config
from bertx.checkpoint.tensors import TensorInfo, chunks
from bertx.checkpoint.weights import read_file
from bertx.errors import BertxError
from bertx.parity.judge import Subject

#: files beside the weights and their configuration that decide what is computed: how tokens are pooled
_MODULES = re.compile(r"modules\.json|\d+_[^/]+/(config\.json|model\.safetensors)")


def unchanged(subject: Subject, checkpoint: Checkpoint) -> bool:
    """Whether a safetensors file holds the checkpoint's tensors, all of them and no other, and would be
    computed with in the same way."""
    if subject.format != "safetensors":
        return False
    try:
        made = read_file(subject.path)
        if read_config(subject.path.parent).values != checkpoint.config.values:
            return False
        if made.keys() != checkpoint.weights.keys():
            return False
        return all(_same(made[name], info) for name, info in checkpoint.weights.items()) and all(
            _same_file(subject.path.parent / name, checkpoint.folder / name)
            for name in checkpoint.companions()
            if _MODULES.fullmatch(name)
        )
    except (BertxError, OSError):
        return False  # what cannot be read is for its runner to say


def _same(one: TensorInfo, other: TensorInfo) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return one.place == other.place or all(mine == theirs for mine, theirs in zip_longest(chunks(one), chunks(other)))


def _same_file(one: Path, other: Path) -> bool:
    return one.samefile(other) or one.read_bytes() == other.read_bytes()
