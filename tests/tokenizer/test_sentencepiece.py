"""Checkpoints whose tokenizer is a SentencePiece model alone: tokenizer.json is made of it, and is transformers'."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from sentencepieces import KINDS, checkpoint, texts
from tokenizers import Tokenizer

from bertx.protobuf import opened
from bertx.runtimes.process import Limits
from bertx.tokenizer.pieces import beside
from bertx.tokenizer.writer import Made, make, plan
from program import Ran


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """kind -> a checkpoint's folder without weights, made once. Tests read it and do not write to it."""
    root = tmp_path_factory.mktemp("sentencepiece")
    return cache(lambda kind: checkpoint(kind, root / kind))


@pytest.fixture(scope="session")
def made(folder: Callable[[str], Path]) -> Callable[[str], Made]:
    """kind -> the files of a bundle."""

    @cache
    def written(kind: str) -> Made:
        planned = plan(folder(kind))
        assert planned is not None
        return make(planned, Limits())

    return written


def stock(folder: Path) -> Any:
    """The tokenizer that users train with."""
    import transformers

    return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)


@pytest.mark.parametrize("kind", KINDS)
def test_every_line_has_the_ids_that_transformers_gives(
    kind: str, folder: Callable[[str], Path], made: Callable[[str], Made]
) -> None:
    """Real lines and generated ones, special tokens and what is longer than the model among them."""
    theirs, ours = stock(folder(kind)), Tokenizer.from_str(made(kind).files["tokenizer.json"].decode())
    asked = [*texts(sorted(theirs.get_vocab())), "over and " * 600]
    assert len(asked) > 2000
    wanted = theirs(asked, truncation=True, max_length=made(kind).limit)["input_ids"]
    found = [encoding.ids for encoding in ours.encode_batch(asked)]
    assert [text for text, a, b in zip(asked, found, wanted, strict=True) if a != b] == []
    assert any(len(ids) == made(kind).limit for ids in found)


@pytest.mark.parametrize(
    ("kind", "otherwise"), [("xlm-roberta", 4), ("camembert", 4), ("albert", 4), ("deberta-v2", 10)]
)
def test_it_is_noted_what_the_sentencepiece_library_reads_otherwise(
    kind: str, otherwise: int, made: Callable[[str], Made]
) -> None:
    assert (made(kind).kind, made(kind).class_name) == ("built", KINDS[kind][1])
    (note,) = made(kind).notes
    assert note.startswith("the sentencepiece library reads ")
    assert abs(int(note.split()[4]) - otherwise) <= 3  # what is learnt of these pages moves with them
    assert note.endswith(" first: see docs/tokenizers.md")


#: texts that both read alike, and those that the library alone reads as the model was trained; docs/tokenizers.md
ALIKE = [
    *("Zürich, naïve café", "e\u0301", "ＡＢＣ　１２３ ㈱ ㌔ ﬁ ½", "don't  won't\u00a0it's"),
    *("one\ntwo\tthree", "東京は日本の首都です。"),
]
OTHERWISE = {
    "composed of 6 bytes or more": ["か\u3099", "ｶﾞ", "\u1112\u1161\u11ab"],
    "a mark after what was composed": ["o\u0302\u0323", "ﬁ\u0301"],
    "white space that the model keeps": ["a\u0085b"],
}


def test_what_is_otherwise_is_what_the_page_says(folder: Callable[[str], Path]) -> None:
    name = folder("xlm-roberta")
    model, loaded = name / KINDS["xlm-roberta"][0], stock(name)
    assert beside(model, loaded, ALIKE).otherwise == ()
    for why, each in OTHERWISE.items():
        assert beside(model, loaded, each).otherwise == tuple(each), why


def test_deberta_does_not_normalise_as_its_model_says(folder: Callable[[str], Path]) -> None:
    """transformers 5 gives it NFC in place of the model's own table."""
    name = folder("deberta-v2")
    found = beside(name / KINDS["deberta-v2"][0], stock(name), [*ALIKE, "a\u200bb"])
    assert found.otherwise == (ALIKE[2], ALIKE[3], "a\u200bb")


def test_what_a_class_does_to_a_text_first_is_no_difference(folder: Callable[[str], Path]) -> None:
    """ALBERT lower-cases and takes accents off before its model."""
    name = folder("albert")
    assert beside(name / KINDS["albert"][0], stock(name), ["Zürich, NAÏVE ``Café''"]).otherwise == ()


def test_special_tokens_are_not_asked_of_the_library(folder: Callable[[str], Path]) -> None:
    name = folder("xlm-roberta")
    found = beside(name / KINDS["xlm-roberta"][0], stock(name), ["a <mask> b", "a"])
    assert (found.texts, found.otherwise) == (1, ())


def test_such_a_checkpoint_is_exported_and_verified(
    folder: Callable[[str], Path], made: Callable[[str], Made], bertx: Callable[..., Ran], tmp_path: Path
) -> None:
    from families import make as model

    kind = "xlm-roberta"
    source = model(kind, tmp_path / kind, "fill-mask", vocab_size=1008)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (source / name).unlink()
    for name in (KINDS[kind][0], "tokenizer_config.json"):
        shutil.copyfile(folder(kind) / name, source / name)
    bundle = tmp_path / "bundle"
    told = bertx("tokenizer", source, "-o", bundle)
    assert (told.code, told.err) == (0, "")
    assert f"{KINDS[kind][1]}: tokenizer.json was made of the checkpoint's vocabulary; texts are cut at" in told.out
    assert f"\nnote: {made(kind).notes[0].split(' first')[0][:48]}" in told.out
    exported = bertx("to-onnx", source, "-o", bundle)
    assert exported.code == 0, exported.err
    verified = bertx("verify", bundle, "--runtime", "onnxruntime", "--json")
    assert verified.code == 0, verified.err
    rows = {row["name"]: row for row in verified.json["results"][0]["outputs"]}
    assert (rows["tokenizer"]["problem"], rows["tokenizer"]["compared"] > 500) == (None, True)


def test_a_model_that_is_cut_is_refused(folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Between two pieces, too, where what is left is protobuf still, and a model to those who read it."""
    from sentencepiece import SentencePieceProcessor

    from bertx.errors import InputRefused

    source = tmp_path / "cut"
    shutil.copytree(folder("xlm-roberta"), source)
    model = source / KINDS["xlm-roberta"][0]
    with opened(model) as (reader, whole):
        ends = [(field.number, field.end) for field in reader.fields(whole)]
    data = model.read_bytes()
    pieces = [end for number, end in ends if number == 1]
    trained = max(end for number, end in ends if number == 2)
    for end, told in (
        (pieces[500], "no trainer's settings and no rules"),
        (pieces[500] - 3, "cut short"),
        (trained, "no rules of how texts are normalised"),
        (0, "no pieces"),
    ):
        model.write_bytes(data[:end])
        with pytest.raises(InputRefused, match=told) as caught:
            plan(source)
        assert caught.value.code == "E_TOKENIZER"
    model.write_bytes(data[: pieces[500]])
    assert SentencePieceProcessor(model_file=str(model)).get_piece_size() == 501


def test_a_model_is_not_asked_for_where_there_is_a_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "spiece.model").write_bytes(b"")
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n", "utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "bert", "vocab_size": 6}', "utf-8")
    assert plan(tmp_path) is not None
