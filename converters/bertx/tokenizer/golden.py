"""Golden tokens: texts that hurt with the ids of the checkpoint's own tokenizer, for bindings in other languages.

One JSON object a line: `text` (and `pair`), `ids`, `type_ids`; of Japanese tokenizers also `words`, and `pair_words`,
which is what tokenizer.json takes after the MeCab contract.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bertx.errors import escape
from bertx.tokenizer.settings import Settings
from bertx.tokenizer.stock import Encoded, Texts

#: each is here because some tokenizer in some language gets it wrong
TEXTS = (
    *("", " ", "a", "The quick brown fox jumps over the lazy dog, twice.", "don't won't it's"),
    *("  spaces  before,  between\tand after \n", "one\ntwo\r\nthree\rfour\x0bfive\x0csix", "ALL CAPS and MiXeD"),
    *("Zürich, naïve café — déjà vu at 17:30?", "Zu\u0308rich e\u0301 o\u0302\u0323", "İstanbul ΣΊΣΥΦΟΣ ß ſ Ǆ ŉ"),
    *("機械学習のコア部分のロジックを、定型的な実装部分から切り離す。", "東京タワーは333mです", "か\u3099き\u3099"),
    *("ｶﾞｷﾞｸﾞ ＡＢＣ　１２３ ㈱ ㌔ ﬁ ½", "Москва слезам не верит. Ёлка", "한국어 문장과 emoji 🙂 together.", "한국어"),
    *("एक छोटा वाक्य।", "مرحبا بالعالم", "שלום", "ไม่มีช่องว่าง", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𠮷野家"),
    *("👩\u200d👩\u200d👧\u200d👦 🏳\ufe0f\u200d🌈 👍🏽 ❤\ufe0f", "\u200bzero\u200cwidth\u200d\ufeff"),
    *("soft\u00adhyphen non\u00a0break", "null\u0000 bell\u0007 esc\u001b del\u007f nel\u0085", "\ufffd \ue000"),
    *("sep\u001c\u001d\u001e\u001f line\u2028para\u2029", "x" * 101, "é" * 150, "１" * 120, "\U0010fffd"),
    *("word" + "-" * 40 + "word", "$€£¥ 1,234.56 +—× @#%^&*_|~`", "http://example.org/a?b=c&d=%20#e"),
    *('C++ <b>bold</b> {"json": [1, 2]}', "##ing un##related", "[mask] [ MASK ] [CLS"),
)
#: pairs; none with an empty second text, which transformers takes for no second text and every binding for one
PAIRS = (
    ("How do I reset my password?", "Click on “forgot”."),
    ("", "the first is empty"),
    ("東京は", "日本の首都です。"),
)
#: what is repeated until it is longer than any limit, and how often where nothing limits it
_LONG, _OFTEN = ("over and ", "東京の"), 600


@dataclass(frozen=True)
class Golden:
    """A text or pair and its encoding; `words` are what tokenizer.json takes of each text, where that differs."""

    texts: Texts
    encoded: Encoded
    words: Texts | None = None


def texts(settings: Settings) -> tuple[Texts, ...]:
    """The texts for a tokenizer: those for all, its special tokens inside text, and what is longer than its limit."""
    special = dict.fromkeys([*settings.named.values(), *settings.others[:8], "[MASK]"])
    inside = [form for token in special for form in (f"a {token} b", f"x{token}y", _wide(token))]
    count = (settings.limit or _OFTEN) + 8
    long = [piece * count for piece in _LONG]
    single = [(text,) for text in (*TEXTS, *inside, *long)]
    # Never both: of two that are cut, libraries and their versions differ in which keeps the odd token.
    cut = (long[0], "short"), ("short", long[1])
    return (*single, *PAIRS, *cut)


def dumps(lines: Sequence[Golden]) -> bytes:
    """golden_tokens.jsonl."""
    return "".join(json.dumps(_line(each), ensure_ascii=False) + "\n" for each in lines).encode()


def difference(
    asked: Sequence[Texts], made: Sequence[Encoded], wanted: Sequence[Encoded], token: Callable[[int], str]
) -> str | None:
    """The first text whose ids differ, with its first different token, in words; None where all are the same."""
    for each, ours, theirs in zip(asked, made, wanted, strict=True):
        if ours != theirs:
            return f"{_shown(each)} {_first(ours, theirs, token)}"
    return None


def _first(ours: Encoded, theirs: Encoded, token: Callable[[int], str]) -> str:
    if ours.ids == theirs.ids:
        return "has other type ids"
    longest = max(len(ours.ids), len(theirs.ids))
    pairs = [(_at(ours, k), _at(theirs, k)) for k in range(longest)]
    place = next(k for k, (a, b) in enumerate(pairs) if a != b)

    def named(number: int | None) -> str:
        return "nothing" if number is None else f"{escape(token(number), 40)} ({number})"

    return f"gives {named(pairs[place][0])} as token {place}, the checkpoint gives {named(pairs[place][1])}"


def _at(encoded: Encoded, place: int) -> int | None:
    return encoded.ids[place] if place < len(encoded.ids) else None


def _shown(each: Texts) -> str:
    return " with ".join(f"“{escape(text, 60)}”" for text in each)


def _line(each: Golden) -> dict[str, object]:
    names = dict(zip(("text", "pair"), each.texts, strict=False))
    words = dict(zip(("words", "pair_words"), each.words or (), strict=False))
    return {**names, **words, "ids": each.encoded.ids, "type_ids": each.encoded.type_ids}


def _wide(token: str) -> str:
    """A token in full-width characters, which normalisation turns into the token itself."""
    wide = "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in token)
    return f"a {wide if unicodedata.normalize('NFKC', wide) == token else token} b"
