"""The subword half of BertJapaneseTokenizer as a tokenizer.json: what comes after the MeCab contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bertx.checkpoint.config import locate
from bertx.errors import InputRefused, escape
from bertx.tokenizer.mecab import DEFAULTS, Contract
from bertx.tokenizer.settings import Settings

#: words of more characters are unknown, as in transformers' WordpieceTokenizer
LONGEST_WORD = 100
#: bytes of the largest vocabulary that is read
_MOST = 64 * 2**20


def document(settings: Settings, contract: Contract) -> dict[str, Any]:
    """tokenizer.json for text that went through the contract: words with a space between them."""
    vocabulary = _vocabulary(settings)
    named = {**DEFAULTS, **settings.named}
    ids = {token: _id(token, vocabulary, settings) for token in contract.special}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(token, number) for token, number in sorted(ids.items(), key=lambda each: each[1])],
        "normalizer": None,
        "pre_tokenizer": _pre_tokenizer(contract.subwords),
        "post_processor": template(named["cls_token"], named["sep_token"], ids),
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": False},
        "model": _model(contract.subwords, named["unk_token"], vocabulary),
    }


def _vocabulary(settings: Settings) -> dict[str, int]:
    """Token -> id of vocab.txt, its lines divided as transformers does (Python's universal newlines)."""
    path = locate(settings.folder, "vocab.txt", "E_TOKENIZER")
    if path is None:
        raise InputRefused("E_TOKENIZER", "there is no vocab.txt", "put the checkpoint's vocab.txt there")
    if path.stat().st_size > _MOST:
        raise InputRefused("E_TOKENIZER", f"vocab.txt is larger than {_MOST:,} bytes", "download it again")
    try:
        with path.open("r", encoding="utf-8") as lines:
            return {line.rstrip("\n"): number for number, line in enumerate(lines)}
    except UnicodeDecodeError as error:
        raise InputRefused("E_TOKENIZER", "vocab.txt is not UTF-8", "download it again") from error


def _id(token: str, vocabulary: Mapping[str, int], settings: Settings) -> int:
    added = settings.config.get("added_tokens_decoder") or {}
    stated = [key for key, each in added.items() if isinstance(each, dict) and each.get("content") == token]
    if stated and stated[0].isdecimal():
        return int(stated[0])
    if token not in vocabulary:
        raise InputRefused(
            "E_TOKENIZER", f"vocab.txt lacks the special token {escape(token)}", "save the tokenizer again"
        )
    return vocabulary[token]


def _added(token: str, number: int) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": number, "content": token, **plain}


def _pre_tokenizer(subwords: str) -> dict[str, Any]:
    if subwords == "wordpiece":
        return {"type": "WhitespaceSplit"}
    # Only the separator goes: any other whitespace is a character like all others, as in transformers. It is an
    # expression because transformers.js keeps the pieces that a text is removed by.
    words = {"type": "Split", "pattern": {"Regex": " "}, "behavior": "Removed", "invert": False}
    characters = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [words, characters]}


def _model(subwords: str, unknown: str, vocabulary: Mapping[str, int]) -> dict[str, Any]:
    if subwords == "character":
        return {"type": "WordLevel", "vocab": dict(vocabulary), "unk_token": unknown}
    return {
        "type": "WordPiece",
        "unk_token": unknown,
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": LONGEST_WORD,
        "vocab": dict(vocabulary),
    }


def template(start: str, end: str, ids: Mapping[str, int]) -> dict[str, Any]:
    """BERT's: [CLS] A [SEP] and [CLS] A [SEP] B [SEP], the second text with type id 1."""

    def special(token: str, kind: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": token, "type_id": kind}}

    def text(name: str, kind: int) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": kind}}

    single = [special(start, 0), text("A", 0), special(end, 0)]
    tokens = {token: {"id": token, "ids": [ids[token]], "tokens": [token]} for token in dict.fromkeys((start, end))}
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, text("B", 1), special(end, 1)],
        "special_tokens": tokens,
    }
