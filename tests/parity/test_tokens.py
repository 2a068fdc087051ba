"""The tokenizer beside an artifact against the checkpoint's: one other id, and the artifact is not right."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bertx import api
from bertx.checkpoint import Checkpoint, open_folder
from bertx.parity.compare import Row
from bertx.parity.tokens import compare_tokens, text_folder
from bertx.runtimes.process import Limits


@pytest.fixture(scope="module")
def source(minilm: Path) -> Checkpoint:
    return open_folder(minilm)


@pytest.fixture
def home(source: Checkpoint, tmp_path: Path) -> Path:
    """A bundle with the tokenizer of all-MiniLM-L6-v2."""
    return api.tokenizer(source, tmp_path / "home").folder


def look(home: Path | None, source: Checkpoint, *texts: str) -> Row | None:
    return compare_tokens(home, source, texts, Limits(), None)


def edit(home: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    document = json.loads((home / "tokenizer.json").read_text("utf-8"))
    change(document)
    (home / "tokenizer.json").write_text(json.dumps(document), "utf-8")


def problem(home: Path, source: Checkpoint) -> str:
    row = look(home, source)
    assert row is not None
    assert not row.passed
    assert row.problem is not None
    return row.problem


def test_the_same_ids_pass_and_are_counted(home: Path, source: Checkpoint) -> None:
    row = look(home, source)
    assert row is not None
    assert row.passed
    assert row.cases[0].count > 1500


def test_texts_of_the_user_are_compared_too(home: Path, source: Checkpoint) -> None:
    rows = [look(home, source), look(home, source, "one more text")]
    counts = [row.cases[0].count for row in rows if row is not None]
    assert counts[1] == counts[0] + 5


def test_lower_casing_that_is_flipped_names_the_text_and_the_token(home: Path, source: Checkpoint) -> None:
    edit(home, lambda document: document["normalizer"].update(lowercase=False))
    told = "“The quick brown fox jumps over the lazy dog, twice.” gives [UNK] (100) as token 1, "
    assert problem(home, source) == f"{told}the checkpoint gives the (1996)"


WRONG: dict[str, Callable[[dict[str, Any]], Any]] = {
    "accents": lambda document: document["normalizer"].update(strip_accents=False),
    "control characters": lambda document: document["normalizer"].update(clean_text=False),
    "Chinese characters": lambda document: document["normalizer"].update(handle_chinese_chars=False),
    "punctuation": lambda document: document.update(pre_tokenizer={"type": "WhitespaceSplit"}),
    "long words": lambda document: document["model"].update(max_input_chars_per_word=1000),
    "special tokens in text": lambda document: document["added_tokens"].pop(),
    "template": lambda document: document["post_processor"]["single"].pop(),
    "type ids": lambda document: document["post_processor"]["pair"][-1]["SpecialToken"].update(type_id=0),
    "cut too early": lambda document: document["truncation"].update(max_length=128),
    "not cut": lambda document: document.update(truncation=None),
    "cut on the left": lambda document: document["truncation"].update(direction="Left"),
    "swapped ids": lambda document: document["model"]["vocab"].update(the=1997, of=1996),
    "padding": lambda document: document.update(
        padding={"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None}
        | {"pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_tokenizer_fails(name: str, home: Path, source: Checkpoint) -> None:
    edit(home, WRONG[name])
    assert "the checkpoint gives" in problem(home, source) or name == "type ids"


def test_a_tokenizer_that_is_gone_fails(home: Path, source: Checkpoint) -> None:
    (home / "tokenizer.json").unlink()
    assert problem(home, source) == "tokenizer.json is missing"


def test_a_tokenizer_that_cannot_be_read_fails(home: Path, source: Checkpoint) -> None:
    (home / "tokenizer.json").write_text("{", "utf-8")
    assert problem(home, source).startswith("tokenizer.json cannot be read")
    assert text_folder([home], source) == source.folder


def test_a_tokenizer_that_refuses_texts_fails(home: Path, source: Checkpoint) -> None:
    edit(home, lambda document: document["truncation"].update(strategy="OnlySecond"))
    assert problem(home, source).startswith("tokenizer.json does not encode a text: Truncation error")


def test_padding_in_the_folder_of_somebody_else_is_no_fault(source: Checkpoint, tmp_path: Path) -> None:
    """The checkpoint itself pads; what transformers makes of it does not."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "sentence_bert_config.json"):
        shutil.copyfile(source.folder / name, tmp_path / name)
    row = look(tmp_path, source)
    assert row is not None
    assert row.passed
    edit(tmp_path, lambda document: document["normalizer"].update(lowercase=False))
    assert "“The quick brown fox" in problem(tmp_path, source)


def test_what_has_no_tokenizer_has_no_row(source: Checkpoint, tiny: Path, home: Path, tmp_path: Path) -> None:
    assert look(None, source) is None
    assert look(tmp_path, source) is None
    assert look(home, open_folder(tiny)) is None


def test_texts_are_encoded_by_what_lies_beside_the_artifact(home: Path, source: Checkpoint) -> None:
    assert text_folder([None, home], source) == home
    assert text_folder([None], source) == source.folder
