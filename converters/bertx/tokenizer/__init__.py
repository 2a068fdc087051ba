"""From text to ids without transformers: tokenizer.json by the `tokenizers` library, and MeCab before it where the
tokenizer is Japanese.

    tokenizer = open_tokenizer(folder)
    tokenizer.encode(["東京は日本の首都です。"])

`writer` makes the files that a bundle ships, `stock` asks transformers for comparison.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertx.checkpoint.config import locate, read_bounded
from bertx.errors import BertxError, InputRefused, escape
from bertx.runtimes.process import Limits
from bertx.tokenizer import japanese, mecab, stock
from bertx.tokenizer.mecab import Contract, Words
from bertx.tokenizer.settings import CONTRACT, TOKENIZER, Settings, has_tokenizer, lowered, read
from bertx.tokenizer.stock import Encoded, Texts

#: what a panic in Rust is called in Python
_PANIC = "PanicException"
#: bytes of the largest tokenizer.json that is read
MOST = 128 * 2**20


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer: a `tokenizers.Tokenizer` that neither pads nor cuts, and what text goes through before it.

    `special` are the ids of special tokens, `mask` is that of the mask token, `longest` the tokens of the longest
    sequence.
    """

    backend: Any
    words: Words | None
    special: tuple[int, ...]
    mask: int | None
    longest: int | None

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, special tokens included, no padding, cut at `longest`."""
        prepared = [self.prepared(text) for text in texts]
        with _refusing("does not encode a text"):
            found = [list(encoding.ids) for encoding in self.backend.encode_batch(prepared)]
        return [
            ids if self.longest is None or len(ids) <= self.longest else ids[: self.longest - 1] + ids[-1:]
            for ids in found
        ]

    def encoded(self, texts: Sequence[Texts], side: str) -> list[Encoded]:
        """Texts and pairs, cut at `longest` on the `side`."""
        if self.longest is not None:
            self.backend.enable_truncation(self.longest, direction=side)
        found = self.given(texts)
        self.backend.no_truncation()
        return found

    def given(self, texts: Sequence[Texts]) -> list[Encoded]:
        """Texts and pairs as the backend has them, whatever it pads or cuts. Raises InputRefused where it cannot."""
        with _refusing("does not encode a text"):
            found = [self.backend.encode(*map(self.prepared, each)) for each in texts]
        return [Encoded(tuple(encoding.ids), tuple(encoding.type_ids)) for encoding in found]

    def pair(self, first: str, second: str) -> tuple[list[int], list[int]]:
        """(ids, segment ids) of a pair of texts."""
        encoding = self.backend.encode(self.prepared(first), self.prepared(second))
        return list(encoding.ids), list(encoding.type_ids)

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """The tokens that ids stand for; models count further than their vocabulary goes."""
        named = [self.backend.id_to_token(number) for number in ids]
        return [f"(id {number})" if token is None else str(token) for number, token in zip(ids, named, strict=True)]

    def token(self, number: int) -> str:
        """The token that an id stands for."""
        return self.tokens([number])[0]

    def decode(self, ids: Sequence[int]) -> str:
        """Ids as a person reads them."""
        return str(self.backend.decode(list(ids)))

    def prepared(self, text: str) -> str:
        """The text as tokenizer.json takes it."""
        return text if self.words is None else self.words(text)


def open_tokenizer(folder: Path, dictionary: str | None = None) -> Tokenizer | None:
    """The tokenizer of a checkpoint's folder or of a bundle; None where there is none.

    `dictionary` is the MeCab dictionary where nothing in the folder names one. Raises InputRefused(E_TOKENIZER) where
    the tokenizer cannot be used, LocalProblem(E_DICTIONARY) where its dictionary is not here.
    """
    if not has_tokenizer(folder):
        return None
    settings = read(folder)
    contract = contract_in(settings, dictionary)
    return opened(text_of(settings, contract), settings, contract)


def contract_in(settings: Settings, dictionary: str | None = None) -> Contract | None:
    """The MeCab contract of a folder: a bundle's own, or what the checkpoint's files say; None for other tokenizers.

    Raises InputRefused(E_TOKENIZER) where they name another dictionary than the one that is asked for.
    """
    if not settings.japanese:
        return None
    if (settings.folder / CONTRACT).is_file():
        contract = mecab.read_contract(settings.folder)
        mecab.dictionary_name({"mecab_dic": contract.dictionary.name}, dictionary)
        mecab.check_dictionary(contract)
        return contract
    return mecab.contract_of(settings, dictionary)


def open_shipped(folder: Path) -> Tokenizer:
    """The tokenizer of a bundle as a reader finds it, padding and cutting included. Raises as `open_tokenizer`."""
    settings = read(folder)
    contract = contract_in(settings)
    return opened(text_of(settings, contract), settings, contract, shipped=True)


def opened(text: str, settings: Settings, contract: Contract | None, *, shipped: bool = False) -> Tokenizer:
    """A tokenizer from the text of a tokenizer.json; `shipped` leaves its padding and cutting as they are.

    Raises InputRefused(E_TOKENIZER) where the text is malformed.
    """
    import tokenizers

    with _refusing("cannot be read"):
        backend = tokenizers.Tokenizer.from_str(text)
        if settings.lower and not shipped:
            backend = tokenizers.Tokenizer.from_str(json.dumps(lowered(json.loads(text))))
    if not shipped:
        # Padding and truncation inside the file are a serving setting; texts must reach the model as they are.
        backend.no_padding()
        backend.no_truncation()
    added = backend.get_added_tokens_decoder()
    special = tuple(number for number, token in added.items() if token.special)
    named = settings.named.get("mask_token", "[MASK]")
    mask = next((number for number, token in added.items() if token.content == named), None)
    return Tokenizer(backend, Words(contract) if contract else None, special, mask, settings.limit)


def text_of(settings: Settings, contract: Contract | None) -> str:
    """The text of a tokenizer.json: the folder's own, or what is made of its vocabulary.

    Raises InputRefused(E_TOKENIZER) where there is neither.
    """
    if contract is not None and not (settings.folder / CONTRACT).is_file():
        return json.dumps(japanese.document(settings, contract))
    path = locate(settings.folder, TOKENIZER, "E_TOKENIZER")
    if path is None:
        return json.dumps(stock.ask(settings, [], Limits(), build=True).document)
    try:
        return read_bounded(path, MOST, "E_TOKENIZER").decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputRefused("E_TOKENIZER", f"{TOKENIZER} is not UTF-8", "save the tokenizer again") from error


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Turns what the library says of a malformed file into InputRefused; its panics are no Exception to Python."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, BertxError) or not (isinstance(error, Exception) or type(error).__name__ == _PANIC):
            raise
        hint = "save the tokenizer again"
        raise InputRefused("E_TOKENIZER", f"{TOKENIZER} {what}: {escape(error)}", hint) from error
