"""What a folder says of its tokenizer beside tokenizer.json: class, special tokens, the longest sequence.

Read without transformers. Like config.json, these files come from outside: what would run code is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertx.checkpoint.config import MAX_CONFIG_BYTES, locate, parse_json, read_bounded, read_config
from bertx.errors import InputRefused
from bertx.model.positions import positions

TOKENIZER, CONFIG, SPECIAL = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
CONTRACT, GOLDEN = "mecab_contract.json", "golden_tokens.jsonl"
#: tokens that transformers knows by name, in its own order
NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
#: what vocabularies lie in, where there is no tokenizer.json
VOCABULARIES = ("vocab.txt", "vocab.json", "bpe.codes")
#: more tokens than any text has: transformers writes 1e30 for "no limit"
_ENDLESS = 10_000_000


@dataclass(frozen=True)
class Settings:
    """A folder's tokenizer files. `config` is tokenizer_config.json without what would run code (`dropped`).

    `named` are special tokens by name, `others` the additional ones; `model` are the values of config.json.
    """

    folder: Path
    config: Mapping[str, Any]
    dropped: tuple[str, ...]
    named: Mapping[str, str]
    others: tuple[str, ...]
    model: Mapping[str, Any]
    sentence: Mapping[str, Any]

    @property
    def class_name(self) -> str | None:
        """The tokenizer's class, without "Fast"; None where nothing states one."""
        stated = self.config.get("tokenizer_class") or self.model.get("tokenizer_class")
        return stated.removesuffix("Fast") if isinstance(stated, str) else None

    @property
    def japanese(self) -> bool:
        return self.class_name == "BertJapaneseTokenizer"

    @property
    def lower(self) -> bool:
        """Whether sentence-transformers lower-cases texts before a tokenizer that does not."""
        return bool(self.sentence.get("do_lower_case"))

    @property
    def stated_limit(self) -> int | None:
        """model_max_length, where it is one."""
        return _size(self.config.get("model_max_length"))

    @property
    def limit(self) -> int | None:
        """The tokens of the longest sequence: as sentence-transformers says, else as the tokenizer does, and never
        more than the model has positions. None where nothing limits it."""
        stated = _size(self.sentence.get("max_seq_length")) or self.stated_limit
        found = [size for size in (stated, _size(positions(self.model))) if size is not None]
        return min(found) if found else None

    @property
    def side(self) -> str | None:
        """Where texts are cut, as tokenizer_config.json says: "left" or "right"."""
        stated = self.config.get("truncation_side")
        return stated if stated in ("left", "right") else None


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has tokenizer.json or a vocabulary that one can be made from."""
    names = (TOKENIZER, *VOCABULARIES)
    return any((folder / name).is_file() for name in names) or any(folder.glob("*.model"))


def read(folder: Path) -> Settings:
    """Reads the small files of a tokenizer. Raises InputRefused(E_TOKENIZER) where one is malformed."""
    stated = _document(folder, CONFIG)
    dropped = tuple(f"{CONFIG}: {key}" for key in stated if key == "auto_map")
    config = {key: value for key, value in stated.items() if key != "auto_map"}
    listed = _document(folder, SPECIAL)
    named = {name: token for name in NAMES if (token := content(config.get(name, listed.get(name)))) is not None}
    others = [*_listed(config), *_listed(listed)]
    sentence = _document(folder, "sentence_bert_config.json")
    model = read_config(folder).values
    return Settings(folder, config, dropped, named, tuple(dict.fromkeys(others)), model, sentence)


def lowered(document: Mapping[str, Any]) -> dict[str, Any]:
    """A tokenizer.json that lower-cases, as sentence-transformers makes one: first of all, if nothing does yet."""
    normalizer = document.get("normalizer")
    if _lowers(normalizer):
        return dict(document)
    kept = normalizer["normalizers"] if normalizer and normalizer["type"] == "Sequence" else [normalizer]
    first = {"type": "Lowercase"}
    return {**document, "normalizer": {"type": "Sequence", "normalizers": [first, *(each for each in kept if each)]}}


def _lowers(normalizer: Any) -> bool:
    if not normalizer:
        return False
    if normalizer["type"] == "Sequence":
        return any(map(_lowers, normalizer["normalizers"]))
    return bool(normalizer["type"] == "Lowercase" or normalizer.get("lowercase"))


def content(token: Any) -> str | None:
    """The text of a token, which files write as text or as an object."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) and text else None


def _document(folder: Path, name: str) -> dict[str, Any]:
    path = locate(folder, name, "E_TOKENIZER")
    return {} if path is None else parse_json(read_bounded(path, MAX_CONFIG_BYTES, "E_TOKENIZER"), path, "E_TOKENIZER")


def _listed(values: Mapping[str, Any]) -> list[str]:
    """Special tokens without a name of their own: transformers 4 and 5 call them differently."""
    found: list[str] = []
    for key in ("additional_special_tokens", "extra_special_tokens"):
        stated = values.get(key) or ()
        each = stated.values() if isinstance(stated, dict) else stated
        if not isinstance(stated, dict | list | tuple) or any(content(token) is None for token in each):
            raise InputRefused("E_TOKENIZER", f"{key} is no list of tokens", f"correct {CONFIG}")
        found += [text for token in each if (text := content(token)) is not None]
    return found


def _size(value: Any) -> int | None:
    whole = isinstance(value, int | float) and not isinstance(value, bool) and 2 < value <= _ENDLESS
    return int(value) if whole else None
