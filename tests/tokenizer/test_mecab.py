"""BertJapaneseTokenizer: the MeCab contract and tokenizer.json together give transformers' ids."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from folders import japanese_folder
from lines import lines

from bertx.errors import InputRefused, LocalProblem
from bertx.runtimes.process import Limits
from bertx.tokenizer import Tokenizer, contract_in, open_tokenizer, opened, stock, text_of
from bertx.tokenizer.mecab import Contract, Words, check_dictionary, read_contract
from bertx.tokenizer.settings import read
from bertx.tokenizer.writer import make, plan
from program import ROOT

PUBLISHED = (
    "機械学習のコア部分のロジックを、定型的な実装部分から切り離して定義できるような"
    "インターフェースに工夫されています。 "
    "そのためユーザーは、機械学習のコア部分のロジックの検討に集中することができます。"
)
PUBLISHED_IDS = (
    "2 2943 4293 5 6759 972 5 138 17394 11 6 23398 81 18 6561 972 40 24547 16 2279 392 124 18 23953 7 9909 26 20 16 21 "
    "2610 8 59 82 4502 9 6 2943 4293 5 6759 972 5 138 17394 5 3249 7 4155 34 45 14 203 2610 8 3"
)
LOWER = {"do_lower_case": True, "never_split": ["XYZ"]}


def asked(folder: Path, count: int) -> tuple[Tokenizer, list[tuple[str, ...]], tuple[stock.Encoded, ...]]:
    """A folder's tokenizer, lines and pairs for it, and what transformers makes of them."""
    words = [word for word in (folder / "vocab.txt").read_text("utf-8").split("\n") if word and word[0] != "["]
    texts = lines(count, words)
    both = [*((text,) for text in texts), *zip(texts[:100], texts[100:200], strict=True)]
    tokenizer = open_tokenizer(folder)
    assert tokenizer is not None
    return tokenizer, both, stock.ask(read(folder), both, Limits()).encodings


def test_the_published_ids_of_the_first_model_are_given(japanese: Callable[..., Path]) -> None:
    """Its dictionary is ipadic; its authors' readme has these ids."""
    tokenizer = open_tokenizer(japanese("ipadic", do_lower_case=False))
    assert tokenizer is not None
    assert tokenizer.encode([PUBLISHED]) == [list(map(int, PUBLISHED_IDS.split()))]


@pytest.mark.parametrize(
    ("dictionary", "more", "count"),
    [
        ("unidic_lite", {}, 2000),
        ("ipadic", {}, 2000),
        ("ipadic", {"subword_tokenizer_type": "character"}, 600),
        ("unidic_lite", LOWER, 600),
        ("unidic_lite", {**LOWER, "subword_tokenizer_type": "character"}, 600),
        ("ipadic", {"mecab_kwargs": {"mecab_dic": "ipadic", "normalize_text": False}}, 600),
    ],
    ids=["unidic_lite", "ipadic", "character", "lower-case", "lower-case-character", "not-normalised"],
)
def test_every_line_has_the_ids_of_the_slow_tokenizer(
    dictionary: str, more: dict[str, Any], count: int, japanese: Callable[..., Path]
) -> None:
    tokenizer, texts, wanted = asked(japanese(dictionary, **more), count)
    found = tokenizer.encoded(texts, "right")
    assert [(text, f.ids, w.ids) for text, f, w in zip(texts, found, wanted, strict=True) if f != w] == []
    assert len(texts) > count


def without_step(contract: Contract, step: str) -> Words:
    """What does all of a contract but one step."""
    if step == "special tokens":
        return Words(replace(contract, special=()))
    if step == "normalization":
        return Words(replace(contract, normalize=not contract.normalize))
    if step == "lower case":
        return Words(replace(contract, lower_case=False))
    if step == "never split":
        return Words(replace(contract, keep_case=()))
    if step == "separators":
        return Words(replace(contract, subwords="character"))
    return Words(replace(contract, dictionary=replace(contract.dictionary, name="ipadic")))


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[str, ...]], Any]:
    made = japanese_folder(tmp_path_factory.mktemp("compared"), "unidic_lite", **LOWER)
    return made, *asked(made, 300)[1:]


@pytest.mark.parametrize(
    "step", ["special tokens", "normalization", "lower case", "never split", "separators", "dictionary"]
)
def test_no_step_of_the_contract_can_be_left_out(step: str, compared: tuple[Path, list[tuple[str, ...]], Any]) -> None:
    folder, texts, wanted = compared
    settings = read(folder)
    contract = contract_in(settings)
    assert contract is not None
    whole = opened(text_of(settings, contract), settings, contract)
    assert tuple(whole.encoded(texts, "right")) == wanted
    assert tuple(replace(whole, words=without_step(contract, step)).encoded(texts, "right")) != wanted


def test_another_dictionary_of_the_same_name_is_refused(japanese: Callable[..., Path]) -> None:
    contract = contract_in(read(japanese()))
    assert contract is not None
    check_dictionary(contract)
    entry = replace(contract.dictionary.files["char.bin"], sha256="0" * 64)
    files = {**contract.dictionary.files, "char.bin": entry}
    with pytest.raises(LocalProblem, match="is another than that of mecab_contract") as caught:
        check_dictionary(replace(contract, dictionary=replace(contract.dictionary, files=files)))
    assert (caught.value.code, caught.value.exit_code) == ("E_DICTIONARY", 5)
    assert caught.value.hint == "install version 1.0.8: pip install unidic-lite"


@pytest.mark.skipif(importlib.util.find_spec("unidic") is not None, reason="the dictionary unidic is installed here")
def test_a_missing_dictionary_says_what_to_install(japanese: Callable[..., Path]) -> None:
    with pytest.raises(LocalProblem) as caught:
        plan(japanese("unidic"))
    assert (caught.value.code, caught.value.hint) == (
        "E_DICTIONARY",
        "pip install unidic && python -m unidic download",
    )


def test_a_dictionary_that_was_never_downloaded_says_how(
    japanese: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package unidic 1.1.0 is a path to a folder that only its own download makes."""
    (tmp_path / "path").mkdir()
    text = "import os\nDICDIR = os.path.join(os.path.dirname(__file__), 'dicdir')\nVERSION = '0'\n"
    path = tmp_path / "path" / "unidic.py"
    path.write_text(text, "utf-8")
    spec = importlib.util.spec_from_file_location("unidic", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "unidic", module)
    with pytest.raises(LocalProblem, match="is installed, the dictionary itself is not") as caught:
        plan(japanese("unidic"))
    assert (caught.value.code, caught.value.hint) == ("E_DICTIONARY", "pip install unidic && python -m unidic download")


def test_the_whole_unidic_is_taken_by_its_name(japanese: Callable[..., Path], tmp_path: Path) -> None:
    """A package unidic, as far as MeCab and transformers look at it, with the files of the small one."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "unidic.py").write_text("from unidic_lite import DICDIR\n", "utf-8")
    code = (
        "import sys; from pathlib import Path; from bertx.tokenizer.writer import make, plan; "
        "from bertx.runtimes.process import Limits; "
        "made = make(plan(Path(sys.argv[1])), Limits()); print(made.contract.dictionary.name, made.compared > 1000)"
    )
    path = f"{tmp_path / 'path'}:{ROOT / 'converters'}"
    ended = subprocess.run(
        [sys.executable, "-c", code, japanese("unidic")],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert (ended.stdout, ended.stderr) == ("unidic True\n", "")


@pytest.mark.parametrize("stated", [None, {}, {"normalize_text": True}])
def test_a_dictionary_that_nobody_named_is_asked_for(stated: Any, japanese: Callable[..., Path]) -> None:
    folder = japanese("ipadic", mecab_kwargs=stated)
    with pytest.raises(InputRefused, match="names no MeCab dictionary") as caught:
        plan(folder)
    assert "--mecab-dictionary ipadic|unidic_lite|unidic" in caught.value.hint
    planned = plan(folder, "ipadic")
    assert planned is not None
    assert planned.contract is not None
    assert planned.contract.dictionary.named_by == "--mecab-dictionary"
    assert planned.settings.config["mecab_kwargs"]["mecab_dic"] == "ipadic"


def test_a_dictionary_that_the_checkpoint_names_is_not_overruled(japanese: Callable[..., Path]) -> None:
    with pytest.raises(InputRefused, match="names the MeCab dictionary ipadic, not unidic_lite"):
        plan(japanese("ipadic"), "unidic_lite")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"word_tokenizer_type": "sudachi"}, "word_tokenizer_type sudachi is not supported, only mecab"),
        ({"word_tokenizer_type": "jumanpp"}, "word_tokenizer_type jumanpp is not supported"),
        ({"word_tokenizer_type": "basic"}, "word_tokenizer_type basic is not supported"),
        ({"subword_tokenizer_type": "sentencepiece"}, "subword_tokenizer_type sentencepiece is not supported"),
        ({"do_word_tokenize": False}, "do_word_tokenize False is not supported, only True"),
        ({"mecab_kwargs": {"mecab_dic": "ipadic", "mecab_option": "-o /tmp/x"}}, "has more than a dictionary"),
        ({"mecab_kwargs": {"mecab_dic": None}}, "want a dictionary of the system"),
        ({"mecab_kwargs": {"mecab_dic": "/etc"}}, "the MeCab dictionary /etc is not one of"),
        ({"additional_special_tokens": ["<new>"]}, "vocab.txt lacks the special token <new>"),
        ({"added_tokens_decoder": {"4": {"content": "[MASK]", "lstrip": True}}}, "takes the space beside it"),
    ],
)
def test_what_cannot_be_written_down_is_refused_in_one_line(
    more: dict[str, Any], told: str, japanese: Callable[..., Path]
) -> None:
    with pytest.raises(InputRefused) as caught:
        planned = plan(japanese("ipadic", **more))
        assert planned is not None
        make(planned, Limits())
    assert caught.value.code == "E_TOKENIZER"
    assert told in caught.value.message


def test_the_contract_is_read_as_it_was_written(japanese: Callable[..., Path]) -> None:
    folder = japanese("ipadic", **LOWER)
    contract = contract_in(read(folder))
    assert contract is not None
    (folder / "mecab_contract.json").write_text(json.dumps(contract.to_json()), "utf-8")
    assert read_contract(folder) == contract
    (folder / "mecab_contract.json").write_text(json.dumps({**contract.to_json(), "extra": 1}), "utf-8")
    with pytest.raises(InputRefused, match="is not one that this version of bertx knows"):
        read_contract(folder)


def test_the_worked_example_of_the_page_is_what_happens(japanese: Callable[..., Path]) -> None:
    page = (ROOT / "docs" / "tokenizers.md").read_text("utf-8")
    (text,) = re.findall(r"on 「(.+)」:", page)
    rows = dict(re.findall(r"(?m)^\| `?([1-6]|tokenizer\.json)`? \| (`.*`) \|$", page))
    tokenizer = open_tokenizer(japanese())
    assert tokenizer is not None
    assert rows["6"].strip("`") == tokenizer.prepared(text)
    assert re.findall(r"`([^`]+)`", rows["tokenizer.json"]) == tokenizer.tokens(tokenizer.encode([text])[0])
    assert re.findall(r"`([^`]+)`", rows["3"]) == tokenizer.prepared(text).split(" ")
