"""The MeCab contract: what happens to Japanese text before tokenizer.json gets it, with the dictionary's hashes.

BertJapaneseTokenizer has no form that a `tokenizers` binding loads. Its second half, words to subwords, has; the first
half, text to words, is MeCab, and is written down here so exactly that any program can do it. docs/tokenizers.md goes
through it step by step.
"""

from __future__ import annotations

import importlib
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import bertx.bundle as bundle
from bertx.checkpoint.config import MAX_CONFIG_BYTES, parse_json, read_bounded
from bertx.errors import InputRefused, LocalProblem, escape
from bertx.manifest import FileEntry
from bertx.tokenizer.settings import CONFIG, CONTRACT, Settings, content

SCHEMA = "bertx.mecab/1"
#: dictionary as transformers names it (and as its import package is called) -> how to install it
DICTIONARIES = {
    "ipadic": "pip install ipadic",
    "unidic_lite": "pip install unidic-lite",
    "unidic": "pip install unidic && python -m unidic download",
}
#: who named a dictionary that tokenizer_config.json does not name
ASKED = "--mecab-dictionary"
#: what MeCab reads of a dictionary
FILES = ("sys.dic", "unk.dic", "matrix.bin", "char.bin", "dicrc", "mecabrc")
#: BertJapaneseTokenizer's own special tokens
DEFAULTS = {f"{name.lower()}_token": f"[{name}]" for name in ("UNK", "SEP", "PAD", "CLS", "MASK")}
#: key of tokenizer_config.json -> what is supported of it, and last what transformers takes where it is missing
_KINDS: dict[str, tuple[Any, ...]] = {
    "word_tokenizer_type": ("mecab", "basic"),
    "subword_tokenizer_type": ("wordpiece", "character", "wordpiece"),
    "do_word_tokenize": (True, True),
    "do_subword_tokenize": (True, True),
}
_OPTIONS = {"mecab_dic", "mecab_option", "normalize_text"}
_ATTRIBUTES = ("lstrip", "rstrip", "single_word")
#: whitespace for Python's str.split, by which transformers splits words, but not for WhitespaceSplit
_SEPARATORS = re.compile("[\x1c-\x1f]")


@dataclass(frozen=True)
class Dictionary:
    """A MeCab dictionary: the package it came in, who named it, and its files by hash."""

    name: str
    version: str | None
    named_by: str
    files: Mapping[str, FileEntry]


@dataclass(frozen=True)
class Contract:
    """Text to words, as the checkpoint's tokenizer does it.

    `special` are split out before anything else; `keep_case` are words that `lower_case` leaves alone; `subwords` is
    "wordpiece" or "character".
    """

    special: tuple[str, ...]
    normalize: bool
    lower_case: bool
    keep_case: tuple[str, ...]
    subwords: str
    dictionary: Dictionary
    fugashi: str

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "special_tokens": list(self.special),
            "normalization": "NFKC" if self.normalize else None,
            "mecab": {
                "options": ["-d", "DICTIONARY", "-r", "DICTIONARY/mecabrc"],
                "fugashi": self.fugashi,
                "dictionary": {
                    "name": self.dictionary.name,
                    "version": self.dictionary.version,
                    "named_by": self.dictionary.named_by,
                    "files": {name: entry.to_json() for name, entry in self.dictionary.files.items()},
                },
            },
            "lower_case": self.lower_case,
            "never_split": list(self.keep_case),
            "subwords": self.subwords,
            "separator": " ",
        }


class Words:
    """Does what a contract says, by MeCab itself."""

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        ordered = sorted(contract.special, key=len, reverse=True)
        self._special = re.compile("({})".format("|".join(map(re.escape, ordered))) if ordered else "(?!)()")
        self._kept = frozenset((*contract.keep_case, *contract.special))

    def __call__(self, text: str) -> str:
        """The text as tokenizer.json takes it: words and special tokens with a space between them."""
        words: list[str] = []
        for number, part in enumerate(self._special.split(text)):
            words += [part] if number % 2 else self._split(part)
        return " ".join(words)

    def _split(self, part: str) -> list[str]:
        if not part:
            return []
        normal = unicodedata.normalize("NFKC", part) if self.contract.normalize else part
        words = [str(word.surface) for word in self._mecab(normal)]
        if self.contract.lower_case:
            words = [word if word in self._kept else word.lower() for word in words]
        if self.contract.subwords == "character":
            return [unicodedata.normalize("NFKC", word) for word in words]
        return [_SEPARATORS.sub(" ", word) for word in words]

    @cached_property
    def _mecab(self) -> Any:
        folder = _folder(self.contract.dictionary.name)
        return importlib.import_module("fugashi").GenericTagger(f'-d "{folder}" -r "{folder / "mecabrc"}"')


def contract_of(settings: Settings, dictionary: str | None = None) -> Contract:
    """The contract of a folder whose tokenizer is BertJapaneseTokenizer; `dictionary` where its files name none.

    Raises InputRefused(E_TOKENIZER) for what cannot be written down, LocalProblem(E_DICTIONARY) where the dictionary
    is not here.
    """
    config = settings.config
    for key, known in _KINDS.items():
        stated = config.get(key, known[-1])
        if stated not in known[:-1]:
            raise _refuse(f"{key} {escape(stated)} is not supported, only {' and '.join(map(str, known[:-1]))}")
    options = config.get("mecab_kwargs") or {}
    if not isinstance(options, dict) or options.get("mecab_option") or set(options) - _OPTIONS:
        raise _refuse(f"mecab_kwargs {escape(options)} has more than a dictionary and normalize_text")
    name = dictionary_name(options, dictionary)
    return Contract(
        special=special_tokens(settings),
        normalize=bool(options.get("normalize_text", True)),
        lower_case=bool(config.get("do_lower_case", False)),
        keep_case=tuple(map(str, config.get("never_split") or ())),
        subwords=str(config.get("subword_tokenizer_type", "wordpiece")),
        dictionary=find(name, CONFIG if options.get("mecab_dic") else ASKED),
        fugashi=_version("fugashi") or "unknown",
    )


def dictionary_name(options: Mapping[str, Any], asked: str | None) -> str:
    """The dictionary that `mecab_kwargs` name, else the one that was asked for.

    Raises InputRefused(E_TOKENIZER) where neither does: what transformers then takes has changed with its versions.
    """
    if "mecab_dic" in options and options["mecab_dic"] is None:
        raise _refuse("mecab_kwargs want a dictionary of the system, which no other machine has")
    name = options.get("mecab_dic", asked)
    if asked is not None and name != asked:
        raise _refuse(f"{CONFIG} names the MeCab dictionary {escape(name)}, not {escape(asked)}")
    if name is None:
        message = (
            f"{CONFIG} names no MeCab dictionary, and what transformers takes then moved from ipadic to unidic_lite"
        )
        hint = f"say which one it was trained with: {ASKED}"
        raise InputRefused("E_TOKENIZER", message, f"{hint} {'|'.join(DICTIONARIES)}")
    if name not in DICTIONARIES:
        raise _refuse(f"the MeCab dictionary {escape(name)} is not one of {', '.join(DICTIONARIES)}")
    return str(name)


def special_tokens(settings: Settings) -> tuple[str, ...]:
    """Every token that is split out of the text before anything else happens to it."""
    added = settings.config.get("added_tokens_decoder") or {}
    if any(isinstance(token, dict) and any(token.get(key) for key in _ATTRIBUTES) for token in added.values()):
        raise _refuse("an added token takes the space beside it (lstrip, rstrip or single_word)")
    listed = [text for token in added.values() if (text := content(token)) is not None]
    named = {**DEFAULTS, **settings.named}
    return tuple(dict.fromkeys([*named.values(), *settings.others, *listed]))


def find(name: str, named_by: str) -> Dictionary:
    """The installed dictionary of this name, hashed. Raises LocalProblem(E_DICTIONARY) where it is not installed."""
    folder = _folder(name)
    files = {file: FileEntry(bundle.sha256(folder / file), (folder / file).stat().st_size) for file in FILES}
    return Dictionary(name, _version(name.replace("_", "-")), named_by, files)


def read_contract(folder: Path) -> Contract:
    """The contract that lies in a bundle. Raises InputRefused(E_TOKENIZER) where it is malformed."""
    path = folder / CONTRACT
    document = parse_json(read_bounded(path, MAX_CONFIG_BYTES, "E_TOKENIZER"), path, "E_TOKENIZER")
    try:
        mecab, dictionary = document["mecab"], document["mecab"]["dictionary"]
        files = {name: FileEntry.from_json(entry, name) for name, entry in dictionary["files"].items()}
        made = Contract(
            special=tuple(document["special_tokens"]),
            normalize=document["normalization"] == "NFKC",
            lower_case=document["lower_case"],
            keep_case=tuple(document["never_split"]),
            subwords=document["subwords"],
            dictionary=Dictionary(dictionary["name"], dictionary["version"], dictionary["named_by"], files),
            fugashi=mecab["fugashi"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise _refuse(f"{CONTRACT} is malformed ({escape(error)})") from error
    if made.to_json() != document:
        raise _refuse(f"{CONTRACT} is not one that this version of bertx knows")
    return made


def asked_dictionary(folder: Path) -> str | None:
    """The dictionary that somebody named when a bundle was made; None where the checkpoint names it itself."""
    if not (folder / CONTRACT).is_file():
        return None
    dictionary = read_contract(folder).dictionary
    return dictionary.name if dictionary.named_by == ASKED else None


def place(contract: Contract) -> tuple[Path, Path | None]:
    """(the folder of a contract's dictionary, MeCab's library as fugashi brings it) for programs in other languages.

    The library is None where fugashi was built against the system's.
    """
    folder = _folder(contract.dictionary.name)
    package = Path(importlib.import_module("fugashi").__file__ or "").parent
    brought = [*package.parent.glob("fugashi.libs/libmecab*"), *package.glob(".dylibs/libmecab*")]
    return folder, next(iter(sorted(brought)), None)


def check_dictionary(contract: Contract) -> None:
    """Raises LocalProblem(E_DICTIONARY) where the installed dictionary is not the contract's, file by file."""
    stated = contract.dictionary
    folder = _folder(stated.name)
    different = [name for name, entry in stated.files.items() if not bundle.holds(folder / name, entry)]
    if different or set(stated.files) != set(FILES):
        told = f"version {stated.version}" if stated.version else "the same version"
        what = f"the installed MeCab dictionary {stated.name} is another than that of {CONTRACT}"
        raise LocalProblem("E_DICTIONARY", what, f"install {told}: {DICTIONARIES[stated.name]}")


def _folder(name: str) -> Path:
    """Where an installed dictionary lies."""
    if name not in DICTIONARIES:
        raise _refuse(f"the MeCab dictionary {escape(name)} is not one of {', '.join(DICTIONARIES)}")
    try:
        importlib.import_module("fugashi")
        folder = Path(importlib.import_module(name).DICDIR)
    except ModuleNotFoundError as error:
        missing, install = (name, DICTIONARIES[name]) if error.name != "fugashi" else ("fugashi", "pip install fugashi")
        raise LocalProblem("E_DICTIONARY", f"the tokenizer needs {missing}, which is not installed", install) from error
    if not all((folder / file).is_file() for file in FILES):
        message = f"the package of the MeCab dictionary {name} is installed, the dictionary itself is not"
        raise LocalProblem("E_DICTIONARY", message, DICTIONARIES[name])
    return folder


def _version(distribution: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _refuse(what: str) -> InputRefused:
    return InputRefused("E_TOKENIZER", what, "see docs/tokenizers.md for what is supported")
