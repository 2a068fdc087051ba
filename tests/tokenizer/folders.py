"""Folders of checkpoints that hold a tokenizer and no weights."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

#: what every BertJapaneseTokenizer's configuration has here
JAPANESE = {"tokenizer_class": "BertJapaneseTokenizer", "model_max_length": 512, "word_tokenizer_type": "mecab"}
VOCABULARIES = {"ipadic": "bert-base-japanese-v1-ipadic", "unidic_lite": "bert-base-japanese-v3"}


def write(folder: Path, settings: Mapping[str, Any] | None, **config: Any) -> Path:
    """config.json of a BERT and a tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {"model_type": "bert", "vocab_size": 32768, "max_position_embeddings": 512, "pad_token_id": 0}
    (folder / "config.json").write_text(json.dumps({**sizes, **config}), "utf-8")
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    return folder


def data(name: str) -> Path:
    """A vocabulary of BERTX_TEST_DATA; skips the test where there is none."""
    root = os.environ.get("BERTX_TEST_DATA")
    if not root or not (Path(root) / name / "vocab.txt").is_file():
        pytest.skip("BERTX_TEST_DATA does not lead to the Japanese vocabularies")
    return Path(root) / name / "vocab.txt"


def japanese_folder(folder: Path, dictionary: str = "unidic_lite", **more: Any) -> Path:
    """A Japanese tokenizer with the vocabulary that goes with a dictionary; `more` goes into tokenizer_config.json."""
    write(folder, {**JAPANESE, "mecab_kwargs": {"mecab_dic": dictionary}, **more})
    shutil.copyfile(data(VOCABULARIES.get(dictionary, "bert-base-japanese-v3")), folder / "vocab.txt")
    return folder
