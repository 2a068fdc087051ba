"""Text to ids by the checkpoint's own tokenizer, for cases and for `bertx try`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertx.errors import InputRefused, escape


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer of a folder: `encode` gives one list of ids per text, special tokens included, no padding."""

    backend: Any
    fast: bool
    special: tuple[int, ...]
    mask: int | None
    longest: int | None

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, truncated at the tokenizer's own longest length where it states one."""
        if self.fast:
            found = [list(encoding.ids) for encoding in self.backend.encode_batch(list(texts))]
        else:
            found = [list(self.backend(text)["input_ids"]) for text in texts]
        return [
            ids if self.longest is None else ids[: self.longest - 1] + ids[-1:] if len(ids) > self.longest else ids
            for ids in found
        ]

    def pair(self, first: str, second: str) -> tuple[list[int], list[int]]:
        """(ids, segment ids) of a pair of texts."""
        if self.fast:
            encoding = self.backend.encode(first, second)
            return list(encoding.ids), list(encoding.type_ids)
        found = self.backend(first, second, return_token_type_ids=True)
        return list(found["input_ids"]), list(found["token_type_ids"])

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """The tokens that ids stand for."""
        if self.fast:
            return [str(self.backend.id_to_token(i)) for i in ids]
        return [str(token) for token in self.backend.convert_ids_to_tokens(list(ids))]


def open_tokenizer(folder: Path) -> Tokenizer | None:
    """The folder's tokenizer: tokenizer.json without PyTorch, else transformers' class; None where there is none.

    Raises InputRefused(E_TOKENIZER) where there is one that cannot be used.
    """
    if (folder / "tokenizer.json").is_file():
        return _fast(folder)
    if any((folder / name).is_file() for name in ("vocab.txt", "vocab.json", "tokenizer_config.json")):
        return _slow(folder)
    return None


def _fast(folder: Path) -> Tokenizer:
    import tokenizers

    try:
        backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:
        raise InputRefused(
            "E_TOKENIZER", f"tokenizer.json cannot be read: {escape(error)}", "save the tokenizer again"
        ) from error
    # Padding and truncation inside the file are a serving setting; texts must reach the model as they are.
    backend.no_padding()
    backend.no_truncation()
    added = backend.get_added_tokens_decoder()
    special = tuple(i for i, token in added.items() if token.special)
    named = [i for i, token in added.items() if token.content == _config(folder).get("mask_token", "[MASK]")]
    return Tokenizer(backend, True, special, named[0] if named else None, _longest(folder))


def _slow(folder: Path) -> Tokenizer:
    from transformers import AutoTokenizer

    try:
        backend = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise InputRefused(
            "E_TOKENIZER", f"the tokenizer cannot be loaded: {escape(error)}", "check its files"
        ) from error
    return Tokenizer(backend, False, tuple(backend.all_special_ids), backend.mask_token_id, _longest(folder))


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    try:
        values = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise InputRefused(
            "E_TOKENIZER", f"tokenizer_config.json is malformed: {escape(error)}", "correct it"
        ) from error
    if isinstance(values.get("mask_token"), dict):
        values["mask_token"] = values["mask_token"].get("content")
    return dict(values)


def _longest(folder: Path) -> int | None:
    sentence = folder / "sentence_bert_config.json"
    try:
        stated = json.loads(sentence.read_text("utf-8")).get("max_seq_length") if sentence.is_file() else None
    except ValueError as error:
        raise InputRefused("E_TOKENIZER", "sentence_bert_config.json is malformed", "correct it") from error
    stated = stated or _config(folder).get("model_max_length")
    return stated if isinstance(stated, int) and 2 < stated < 1_000_000 else None
