"""Lines that hurt Japanese tokenizers: real sentences and generated ones, always the same."""

from __future__ import annotations

import random

from bertx.tokenizer.golden import TEXTS

SENTENCES = (
    "機械学習のコア部分のロジックを、定型的な実装部分から切り離して定義できるようなインターフェースに工夫されています。",
    "そのためユーザーは、機械学習のコア部分のロジックの検討に集中することができます。",
    "東京都は日本の首都で、人口は約1,400万人です。",
    "すもももももももものうち。",
    "「はい」と答えた人は３５％、いいえは①②③でした。",
    "ＮＨＫの番組をＢＳで見た㈱サンプルの社長",
    "私はPythonでDeep Learningのコードを書いています！！",
    "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。",
)
_ODD = (
    *("\u0000", "\u001c", "\u001d", "\u001f", "\u0085", "\u00a0", "\u2028", "\u3000", "\t", "\n", "\r\n", " ", "   "),
    *("\u200b", "\ufeff", "\u00ad", "\u0301", "\u3099", "\u309a", "\u007f", "\u0007", "\u00a8", "\u2000", "\u180e"),
    *("[MASK]", "[SEP]", "[CLS]", "[UNK]", "[PAD]", "［ＭＡＳＫ］", "[mask]", "[[MASK]]", "[MASK", "##", "##る"),
    *(
        "🙂",
        "👩\u200d👩\u200d👧",
        "🇯🇵",
        "㈱",
        "㌔",
        "ﬁ",
        "①",
        "½",
        "ｶﾞ",
        "ＡＢＣ",
        "ａ１",
        "É",
        "Σ",
        "ΑΣ",
        "İ",
        "ß",
        "XYZ",
    ),
    *(
        "。",
        "、",
        "「",
        "」",
        "・",
        "ー",
        "〜",
        "—",
        "…",
        "?",
        "!",
        "@",
        "Ü",
        "Ж",
        "한국",
        "ा",
        "م",
        "𠮷",
        "𝔘",
        "\U0010fffd",
    ),
    *("x" * 101, "あ" * 101, "0" * 130, "é" * 101, "ア" * 100),
)
_HIRAGANA = [chr(c) for c in range(0x3041, 0x3097)]
_KATAKANA = [chr(c) for c in range(0x30A1, 0x30FB)]
_LATIN = "abcdefgXYZ0123456789"
_PLANES = ((0x0000, 0x2FFF), (0x3000, 0xD7FF), (0xE000, 0x1FFFF), (0x20000, 0x2FFFF))


def lines(count: int, words: list[str], seed: int = 7) -> list[str]:
    """Real lines and `count` generated ones of 0 to 14 pieces; `words` come from a vocabulary."""
    rng = random.Random(seed)

    def piece() -> str:
        chance = rng.random()
        if chance < 0.35:
            return rng.choice(words).removeprefix("##")
        if chance < 0.5:
            return "".join(rng.choices(_HIRAGANA, k=rng.randint(1, 5)))
        if chance < 0.6:
            return "".join(rng.choices(_KATAKANA, k=rng.randint(1, 6)))
        if chance < 0.7:
            return "".join(rng.choices(_LATIN, k=rng.randint(1, 8)))
        return chr(rng.randint(*rng.choice(_PLANES))) if chance < 0.78 else rng.choice(_ODD)

    generated = ["".join(piece() for _ in range(rng.randint(0, 14))) for _ in range(count)]
    joined = [first + second for first in SENTENCES for second in SENTENCES]
    return [*TEXTS, *SENTENCES, *joined, *generated]
